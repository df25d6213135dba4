"""The beamline and the job that plans use when they are called without devices; made at first use, never at import."""

from __future__ import annotations

import atexit
import functools
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

from bluesky_streamrecon.beamline import ReconJob, RunRecord
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.registry import Registry

__all__ = ["Beamline", "compose_with_storage", "current_beamline", "current_job", "use_beamline", "with_settings"]

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger(__name__)


class Beamline(Protocol):
    """What a plan needs to take a tomogram; `bluesky_streamrecon.sim_devices.SimBeamline` is one.

    It may also have ``angles`` (degrees, of a recorded scan), ``directory`` (of the detector's files) and
    ``devices`` (to be connected).
    """

    @property
    def stage(self) -> Any:
        """Rotation stage; degrees."""

    @property
    def detector(self) -> Any:
        """Sees the sample."""

    @property
    def shutter(self) -> Any:
        """Takes ``"open"`` and ``"closed"``."""

    @property
    def table(self) -> Any:
        """Takes the sample ``"in"`` and ``"out"``."""


beamlines: Registry[Callable[[], Beamline]] = Registry("beamline", "bluesky_streamrecon.beamlines")
"""What makes a beamline, by entry point: plans know no devices; our simulated ones have registered theirs."""

_beamline: Beamline | None = None
_job: ReconJob | None = None


def use_beamline(beamline: Beamline | None, job: ReconJob | None = None) -> None:
    """Have plans that are called without devices use these; None for what is made at first use.

    A job that has no directory for its results gets one beside the detector's files.

    Examples
    --------
    >>> use_beamline(None)
    """
    global _beamline, _job
    _beamline, _job = beamline, job
    if beamline is not None and job is not None:
        _place_results(job, beamline)


def with_settings(plan: Callable[P, R], settings: Mapping[str, Any]) -> Callable[P, R]:
    """Give a plan that has these defaults; what it is called with counts more.

    Parameters
    ----------
    plan : callable
        Such as `stream_tomo_plan`.
    settings : mapping of str to object
        Keyword arguments, such as `Configuration.plan_settings` gives.

    Raises
    ------
    ConfigError
        If the plan has no such argument.

    Examples
    --------
    >>> inspect.signature(with_settings(use_beamline, {"job": None}))
    <Signature (beamline: 'Beamline | None', job: 'ReconJob | None' = None) -> 'None'>
    """
    signature = inspect.signature(plan)
    takes_any = any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values())
    unknown = sorted(set(settings) - set(signature.parameters))
    if unknown and not takes_any:
        raise ConfigError(f"settings: {getattr(plan, '__name__', plan)} has no argument {unknown[0]!r}")

    @functools.wraps(plan)
    def configured(*args: P.args, **kwargs: P.kwargs) -> R:
        return plan(*args, **{**settings, **kwargs})

    told = [each.replace(default=settings.get(name, each.default)) for name, each in signature.parameters.items()]
    configured.__signature__ = signature.replace(parameters=told)  # type: ignore[attr-defined]
    return configured


def current_beamline() -> Beamline:
    """Give the beamline in use: the one that was set, or a simulated one that is made now."""
    global _beamline  # noqa: PLW0603
    if _beamline is None:
        _beamline = beamlines.get("simulated")()
    return _beamline


def current_job(beamline: Beamline | None = None) -> ReconJob:
    """Give the job in use: the one that was set, or a local one that is made now."""
    global _job  # noqa: PLW0603
    if _job is None:
        _job = ReconJob()
        atexit.register(_job.close)
    if beamline is not None:
        _place_results(_job, beamline)
    return _job


def compose_with_storage(record: RunRecord) -> Iterator[tuple[str, dict[str, Any]]]:
    """Make the documents of a reconstruction, as a run of its own that names the raw run."""
    from bluesky_streamrecon import storage

    documents: Iterable[tuple[str, dict[str, Any]]] = storage.compose_reconstruction(record)
    yield from documents


def recorded_angles(beamline: Beamline) -> tuple[float, ...] | None:
    """Give the angles that a beamline can show, degrees, if it replays a recording."""
    angles = getattr(beamline, "angles", None)
    return None if angles is None else tuple(float(angle) for angle in angles)


def _place_results(job: ReconJob, beamline: Beamline) -> None:
    directory = getattr(beamline, "directory", None)
    if job.options.output is None and directory is not None:
        job.options.output = Path(directory) / "reconstructions"
