"""`check_devices_plan`: try each device of a tomogram before the first scan, and say what does not work and why.

Nothing is moved and no run is opened; each detector is armed and takes one exposure. Angles are degrees.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.protocols import WritesStreamAssets
from bluesky.utils import FailedStatus, MsgGenerator, RunEngineControlException, maybe_collect_asset_docs

from bluesky_streamrecon.beamline.documents import StreamDocuments
from bluesky_streamrecon.beamline.frames import FrameFile
from bluesky_streamrecon.check_item import CheckItem
from bluesky_streamrecon.data_keys import frame_layout, image_key, number_keys
from bluesky_streamrecon.errors import ConfigError, DataError, GeometryError
from bluesky_streamrecon.plans.defaults import around_sample, devices_in_use
from bluesky_streamrecon.plans.motion import rotation_of
from bluesky_streamrecon.plans.parts import answer, attempt, check_frames, connected
from bluesky_streamrecon.plans.reference_frames import Detectors, Positioner, find_words
from bluesky_streamrecon.plans.signature import readable_signature
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings

__all__ = ["check_devices_plan", "judge_detectors", "try_devices"]

CONNECT_SECONDS = 10.0
EXPOSURE_SECONDS = 30.0  # for arming and one exposure
READ_SECONDS = 5.0  # for a frame to be readable while the detector is armed


@readable_signature
def check_devices_plan(
    detectors: Detectors = None,
    stage: Positioner = None,
    *,
    start: float = 0.0,
    stop: float = 180.0,
    shutter: Positioner = None,
    sample_table: Positioner = None,
) -> MsgGenerator[list[CheckItem]]:
    """Try the devices of a tomogram: connected, read back, units, limits, words, and one exposure of each detector.

    Nothing moves, and the shutter stays as it is. A line per check is printed as soon as it is known.

    Parameters
    ----------
    detectors : device or sequence of devices, optional
        As for `stream_tomo_plan`; without `detectors` and `stage`, those of the beamline in use.
    stage : device, optional
        Rotation stage.
    start : float, optional
        First angle that is wanted, degrees.
    stop : float, optional
        Last angle that is wanted, degrees.
    shutter : device, optional
        That of the beamline in use by default.
    sample_table : device, optional
        That of the beamline in use by default.

    Returns
    -------
    list of CheckItem
        In the order in which they were tried.

    Examples
    --------
    At the prompt: ``RE(check_devices_plan([camera], rotation, shutter=shutter, sample_table=table))``.
    """
    around = {"shutter": shutter, "sample_table": sample_table}
    return (yield from try_devices(detectors, stage, angles=(start, stop), show=print, **around))


def try_devices(
    detectors: Detectors,
    stage: Positioner,
    *,
    angles: tuple[float, float],
    shutter: Positioner,
    sample_table: Positioner,
    show: Callable[[str], object],
) -> MsgGenerator[list[CheckItem]]:
    """Do as `check_devices_plan`; `show` is called with each line."""
    devices, stage, beamline, around = devices_in_use(detectors, stage)
    yield from connected(getattr(beamline, "devices", ()))
    given = {"shutter": shutter, "sample_table": sample_table}
    switches = around_sample(around, given)
    found: list[CheckItem] = []

    def tried(role: str, device: Any, check: Generator[Any, Any, str]) -> MsgGenerator[None]:
        name = f"{role} {getattr(device, 'name', device)}"
        try:
            yield from answer(partial(_connected, device), unanswered=None)
            item = CheckItem(name, "OK", (yield from check))
        except RunEngineControlException:
            raise
        except FailedStatus as failed:
            item = CheckItem(name, "ERROR", _text(failed.args[0].exception() if failed.args else failed))
        except Exception as error:  # noqa: BLE001 - a device of anybody's: what it raises is what was to be found
            item = CheckItem(name, "ERROR", _text(error))
        found.append(item)
        show(f"{item.status:>7}  {item.name}: {item.hint}")

    yield from tried("stage", stage, _stage(stage, angles))
    for role in given:
        if role in switches:
            yield from tried(role, switches[role], _words(role, switches[role]))
    for detector in devices:
        yield from tried("detector", detector, _exposure(detector))
    return found


def judge_detectors(
    detectors: Sequence[Any], recon: ReconSettings, steering: SteeringSettings, *, local: bool
) -> MsgGenerator[None]:
    """Plan stub: refuse detectors now whose own descriptions say that their frames can not be reconstructed.

    Parameters
    ----------
    detectors : sequence of devices
        Frames of the first one are reconstructed. Most describe them only when they are armed.
    recon, steering : ReconSettings, SteeringSettings
        What is wanted of the frames.
    local : bool
        The job has our own installation.

    Raises
    ------
    ConfigError
        If it says so.
    """
    yield from _judge_frames(detectors[0], recon, steering, local=local)
    if recon.monitor is None:
        return
    numbers: list[str] = []
    for detector in detectors:
        keys = yield from _described(detector)
        if keys is None:
            return
        about = {"data_keys": keys, "object_keys": {detector.name: list(keys)}}
        numbers += number_keys(about, detector.name)
        if number_keys(about, recon.monitor):
            return
    raise ConfigError(
        f"monitor: got {recon.monitor!r}, expected a number that is read with each flat and each projection; those of "
        f"the detectors are {', '.join(map(repr, numbers)) or 'none'}; add its device, as in detectors=[camera, i0]"
    )


def _judge_frames(
    detector: Any, recon: ReconSettings, steering: SteeringSettings, *, local: bool
) -> MsgGenerator[None]:
    if hasattr(detector, "collect_asset_docs") and not isinstance(detector, WritesStreamAssets):
        # Its documents are of classic ophyd: what makes stream ones of them is not to be imported within the scan.
        await_import = partial(asyncio.to_thread, importlib.import_module, "bluesky_tiled_plugins.writing.tiled_writer")
        yield from answer(await_import, unanswered=None)
    keys = yield from _described(detector)
    if keys is None:
        return
    if not _images(keys):
        if keys and not hasattr(detector, "collect_asset_docs"):
            raise ConfigError(
                f"detector {detector.name}: no image among its data keys {', '.join(map(repr, keys))}; expected one "
                "with two or three dimensions"
            )
        return
    name = detector.name
    described = {"name": "primary", "data_keys": keys, "object_keys": {name: list(keys)}}
    described |= {"configuration": {}, "hints": {name: getattr(detector, "hints", None) or {}}}
    try:
        check_frames(frame_layout(described, image_key(described, name)), recon, steering, local=local)
    except (ConfigError, DataError, GeometryError) as error:
        raise ConfigError(f"detector {name}, as it describes its frames: {error}") from None


def _described(device: Any) -> MsgGenerator[Mapping[str, Any] | None]:
    """Plan stub: return the data keys of a device; None where it does not say."""
    if not callable(getattr(device, "describe", None)):
        return None
    keys, _ = yield from attempt(device.describe, unanswered=None)  # an error: it is not armed
    return keys  # type: ignore[no-any-return]


def _images(keys: Mapping[str, Any]) -> list[str]:
    return [key for key, about in keys.items() if len(about.get("shape") or ()) >= 2 and min(about["shape"][-2:]) > 1]


async def _connected(device: Any) -> None:
    if inspect.iscoroutinefunction(getattr(device, "connect", None)):
        await device.connect(timeout=CONNECT_SECONDS)
    elif callable(getattr(device, "wait_for_connection", None)):
        await asyncio.to_thread(device.wait_for_connection, timeout=CONNECT_SECONDS)


def _stage(stage: Any, angles: tuple[float, float]) -> Generator[Any, Any, str]:
    reading = yield from answer(stage.read, unanswered={})
    rotation = yield from rotation_of(stage)
    yield from rotation.within_limits(angles)
    hinted = (getattr(stage, "hints", None) or {}).get("fields", ())
    values = [each["value"] for key, each in reading.items() if key in hinted] or [
        each["value"] for each in reading.values()
    ]
    if not values or not isinstance(values[0], int | float) or not math.isfinite(values[0]):
        raise DataError(f"reads back {values[:1] or 'nothing'}, expected a finite number; is its readback hinted?")
    unit = "in degrees" if rotation.degrees == 1.0 else f"a unit is {rotation.degrees:g} degrees"
    at = values[0] * rotation.degrees
    slow = "" if getattr(stage, "velocity", None) is not None else "; has no velocity: moves may take 5 min"
    return f"is at {at:.4g} degrees ({unit}), may go from {angles[0]:g} to {angles[1]:g}{slow}"


def _words(role: str, device: Any) -> Generator[Any, Any, str]:
    words = yield from find_words(role, device, None, f"{'table' if role != 'shutter' else role}_words")
    return f"is set to {' and '.join(repr(getattr(word, 'value', word)) for word in words or ())}"


def _exposure(detector: Any) -> Generator[Any, Any, str]:
    """Arm a detector, take one exposure, and look at what it says of it and where it is."""
    found: list[str] = []

    def look() -> MsgGenerator[None]:
        yield from bps.trigger(detector, group="check", wait=False)
        yield from bps.wait("check", timeout=EXPOSURE_SECONDS)
        keys = yield from answer(detector.describe, unanswered={})
        reading = yield from answer(detector.read, unanswered={})
        documents = yield from answer(partial(_asset_documents, detector), unanswered=[])
        found.append((yield from answer(partial(_frames, detector, keys, reading, documents), unanswered="")))

    yield from bpp.stage_wrapper(look(), [detector])
    return "; ".join(found)


async def _asset_documents(detector: Any) -> list[Any]:
    return [each async for each in maybe_collect_asset_docs(None, detector)]


async def _frames(
    detector: Any, keys: dict[str, Any], reading: dict[str, Any], documents: Iterable[tuple[str, dict[str, Any]]]
) -> str:
    """Return, for each image, where it is and whether it can be read now."""
    images = _images(keys)
    if not images:
        raise DataError(
            f"no image among its data keys {sorted(keys)}; expected one with two or three dimensions; is its file "
            "plugin among those that are read?"
        )
    descriptor = {"uid": "check", "name": "check", "data_keys": keys, "object_keys": {detector.name: list(keys)}}
    found = []
    files = _files(descriptor, reading, documents)
    for key in images:
        layout = frame_layout(descriptor, key)
        shape = f"{key}: {layout.rows} x {layout.columns} {keys[key].get('dtype_numpy', '(type not given)')}"
        if not keys[key].get("external"):
            found.append(f"{shape}, in the event")
            continue
        if key not in files:
            raise DataError(f"{key}: is in a file, and no document says which; does the detector write while armed?")
        file, mimetype, index = files[key]
        try:
            first = index * layout.exposures
            pixels = await asyncio.to_thread(file.read, first, first + layout.exposures, patience=READ_SECONDS)
        except DataError as error:
            raise DataError(
                f"{shape}, {mimetype}: can not be read here while the detector is armed, so that the scan can not be "
                f"steered: {error}"
            ) from error
        found.append(f"{shape}, {mimetype}, read here as {pixels.dtype}, from {file.where}")
    return "; ".join(found)


def _files(
    descriptor: dict[str, Any], reading: dict[str, Any], documents: Iterable[tuple[str, dict[str, Any]]]
) -> dict[str, tuple[FrameFile, str, int]]:
    """Return file, mimetype and index of the last frame, by data key."""
    resources: dict[str, Any] = {}
    indices: dict[str, int] = {}

    def take(name: str, doc: Any) -> None:
        if name == "stream_resource":
            resources[doc["uid"]] = doc
        elif name == "stream_datum":
            indices[doc["stream_resource"]] = doc["indices"]["stop"] - 1

    stream = StreamDocuments(take)
    stream("descriptor", {**descriptor, "run_start": "check", "time": 0.0, "configuration": {}, "hints": {}})
    for name, doc in documents:
        stream(name, {**doc, "descriptor": "check"} if name == "stream_datum" else doc)
    values = {key: each["value"] for key, each in reading.items()}
    times = {key: each["timestamp"] for key, each in reading.items()}
    event = {"uid": "event", "descriptor": "check", "seq_num": 1, "time": 0.0, "data": values, "timestamps": times}
    stream("event", event)
    return {
        doc["data_key"]: (FrameFile(doc["uri"], doc["mimetype"], doc["parameters"]), doc["mimetype"], indices[uid])
        for uid, doc in resources.items()
        if uid in indices
    }


def _text(error: Any) -> str:
    """Return an error as people read it: its own words if they are ours."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ConfigError | DataError) else f"{type(error).__name__}: {text}"
