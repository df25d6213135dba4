"""The beamline and the job that plans use when they are called without devices; made at first use, never at import."""

from __future__ import annotations

import atexit
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from bluesky.utils import MsgGenerator

from bluesky_streamrecon.beamline import ReconJob, RunRecord
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.registry import Registry

if TYPE_CHECKING:
    from bluesky_streamrecon.storage import Storage

__all__ = [
    "Beamline",
    "around_sample",
    "beamline_of",
    "compose_with_storage",
    "current_beamline",
    "current_job",
    "current_storage",
    "detectors_in_use",
    "devices_in_use",
    "monitor_of",
    "use_beamline",
    "with_settings",
]

P = ParamSpec("P")
R = TypeVar("R")


class Beamline(Protocol):
    """What a plan needs to take a tomogram; `bluesky_streamrecon.sim_devices.SimBeamline` is one.

    It may also have ``angles`` (degrees, of a recorded scan), ``directory`` (of the detector's files), ``monitor`` (of
    the beam) and ``devices`` (to be connected).
    """

    @property
    def stage(self) -> Any:
        """Rotation stage; degrees."""

    @property
    def detector(self) -> Any:
        """Sees the sample."""

    @property
    def shutter(self) -> Any:
        """Opens and closes the beam."""

    @property
    def table(self) -> Any:
        """Takes the sample into and out of the beam."""


beamlines: Registry[Callable[[], Beamline]] = Registry("beamline", "bluesky_streamrecon.beamlines")
"""What makes a beamline, by entry point: plans know no devices; our simulated ones have registered theirs."""

_beamline: Beamline | None = None
_simulated: Beamline | None = None
_job: ReconJob | None = None
_storage: Storage | None = None


def use_beamline(beamline: Beamline | None, job: ReconJob | None = None, *, storage: Storage | None = None) -> None:
    """Set what plans use that are called without devices; None for what is made at first use.

    A job that has no directory for its results gets one beside the detector's files.

    Parameters
    ----------
    beamline : Beamline or None
        Its devices; shutter and sample table are also used with other detectors.
    job : ReconJob, optional
        The reconstruction job.
    storage : Storage, optional
        From `bluesky_streamrecon.storage.open_storage`; where `references` of plans are looked up.

    Examples
    --------
    >>> use_beamline(None)
    """
    global _beamline, _simulated, _job, _storage
    _beamline, _simulated, _job, _storage = beamline, None, job, storage
    if beamline is not None and job is not None:
        _place_results(job, beamline)


def beamline_of(names: Mapping[str, Any]) -> Beamline:
    """Return the beamline that startup files have made.

    Parameters
    ----------
    names : mapping of str to object
        What they define: `stage` and `detector`, and `shutter`, `sample_table` and `monitor` where there are some. If
        the first four are the devices of `beamline`, that is returned, with all that it has beside them.

    Raises
    ------
    ConfigError
        If there is no stage or no detector.

    Examples
    --------
    >>> beamline_of({"stage": "rot", "detector": "camera"}).table is None
    True
    """
    own = SimpleNamespace(
        stage=names.get("stage"),
        detector=names.get("detector"),
        shutter=names.get("shutter"),
        table=names.get("sample_table"),
    )
    if own.stage is None or own.detector is None:
        raise ConfigError("devices: got no stage, or no detector; expected both, under these names")
    beamline: Beamline | None = names.get("beamline")
    same = all(getattr(beamline, name, None) is device for name, device in vars(own).items())
    own.monitor = names.get("monitor")
    return beamline if beamline is not None and same else own


def with_settings(plan: Callable[P, MsgGenerator[R]], settings: Mapping[str, Any]) -> Callable[P, MsgGenerator[R]]:
    """Return a plan that has these defaults; what it is called with counts more.

    Parameters
    ----------
    plan : callable
        Such as `stream_tomo_plan`.
    settings : mapping of str to object
        Keyword arguments, such as `ConfigFile.plan_settings` gives.

    Raises
    ------
    ConfigError
        If the plan has no such argument.

    Examples
    --------
    >>> def scan(*, num: int = 180): yield
    >>> inspect.signature(with_settings(scan, {"num": 90})).parameters["num"].default
    90
    """
    signature = inspect.signature(plan)
    takes_any = any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values())
    unknown = sorted(set(settings) - set(signature.parameters))
    if unknown and not takes_any:
        raise ConfigError(f"settings: {getattr(plan, '__name__', plan)} has no argument {unknown[0]!r}")

    @functools.wraps(plan)
    def configured(*args: P.args, **kwargs: P.kwargs) -> MsgGenerator[R]:
        # A generator function itself: queue servers take nothing else for a plan.
        return (yield from plan(*args, **{**settings, **kwargs}))

    shown = [each.replace(default=settings.get(name, each.default)) for name, each in signature.parameters.items()]
    configured.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
    return configured


def current_beamline() -> Beamline:
    """Return the beamline in use: the one that was set, or a simulated one that is made now."""
    global _simulated  # noqa: PLW0603
    if _beamline is not None:
        return _beamline
    if _simulated is None:
        _simulated = beamlines.get("simulated")()
    return _simulated


def current_job(beamline: Beamline | None = None) -> ReconJob:
    """Return the job in use: the one that was set, or a local one that is made now."""
    global _job  # noqa: PLW0603
    if _job is None:
        _job = ReconJob()
        atexit.register(_job.close)
    if beamline is not None:
        _place_results(_job, beamline)
    return _job


def current_storage() -> Storage:
    """Return the storage in use.

    Raises
    ------
    ConfigError
        If none was set.
    """
    if _storage is None:
        raise ConfigError(
            "references: no catalogue to look them up in; expected use_beamline(..., storage=open_storage()) before, "
            "as the installed profile does it where its catalogue can be opened"
        )
    return _storage


def devices_in_use(
    detectors: Any, stage: Any, reconstruct: str | None = None
) -> tuple[list[Any], Any, Beamline | None, Beamline | None]:
    """Find the devices of a scan.

    Parameters
    ----------
    detectors : device, sequence of devices or None
        What the plan was called with.
    stage : device or None
        The same.
    reconstruct : str or None, optional
        Name of the detector whose frames are reconstructed.

    Returns
    -------
    devices : list of devices
        Detectors, the one that is reconstructed first.
    stage : device
        Rotation stage.
    beamline : Beamline or None
        Whose they are, if none were given.
    around : Beamline or None
        Whose shutter and sample table are used where none are given.

    Raises
    ------
    ConfigError
        If one of them is missing, or none has that name.
    """
    if (detectors is None) != (stage is None):
        raise ConfigError("detectors and stage: got one of them, expected both, or none for the beamline in use")
    devices, beamline, around = detectors_in_use(detectors)
    if reconstruct is not None:
        names = [device.name for device in devices]
        if reconstruct not in names:
            raise ConfigError(f"reconstruct: got {reconstruct!r}, expected the name of a detector: {', '.join(names)}")
        devices.sort(key=lambda device: device.name != reconstruct)
    stage = stage if beamline is None else beamline.stage
    _check_settable("stage", stage)
    return devices, stage, beamline, around


def around_sample(beamline: Beamline | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is given, and shutter and sample table of a beamline in place of what is None, by names in plans."""
    found = {"shutter": getattr(beamline, "shutter", None), "sample_table": getattr(beamline, "table", None)}
    switches = tuple(found)
    found |= {name: value for name, value in given.items() if value is not None}
    found = {name: value for name, value in found.items() if value is not None}
    for role in switches:
        if role in found:
            _check_settable(role, found[role])
    return found


def _check_settable(role: str, device: Any) -> None:
    if not hasattr(device, "name") or not callable(getattr(device, "set", None)):
        raise ConfigError(f"{role}: got {device!r}, expected a device that can be set; is it the object, not its name?")


def monitor_of(beamline: Beamline | None) -> list[Any]:
    """Return the monitor of a beamline, where it has one."""
    monitor = getattr(beamline, "monitor", None)
    return [] if monitor is None else [monitor]


def detectors_in_use(detectors: Any) -> tuple[list[Any], Beamline | None, Beamline | None]:
    """Find the detectors of a scan, the beamline they are of, and the one around; see `devices_in_use`."""
    if detectors is None:
        beamline = current_beamline()
        return [beamline.detector], beamline, beamline
    devices = list(detectors) if isinstance(detectors, Iterable) and not isinstance(detectors, str) else [detectors]
    if not devices:
        raise ConfigError("detectors: got none, expected at least one")
    for device in devices:
        if not hasattr(device, "name"):
            raise ConfigError(f"detectors: got {device!r}, expected a device; is it the object, not its name?")
    return devices, None, _beamline


def compose_with_storage(record: RunRecord) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the documents of a reconstruction, as a run of its own that names the raw run."""
    from bluesky_streamrecon import storage

    documents: Iterable[tuple[str, dict[str, Any]]] = storage.compose_reconstruction(record)
    yield from documents


def _place_results(job: ReconJob, beamline: Beamline) -> None:
    directory = getattr(beamline, "directory", None)
    if job.options.output is None and directory is not None:
        job.options.output = Path(directory) / "reconstructions"
