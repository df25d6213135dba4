"""Flats and darks of an earlier run, made ready for a scan; and `take_references_plan`, which takes them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from bluesky.utils import MsgGenerator, maybe_await

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.plans.defaults import around_sample, current_storage, detectors_in_use, monitor_of
from bluesky_streamrecon.plans.parts import answer, attempt, check_metadata, connected
from bluesky_streamrecon.plans.reference_frames import Detectors, Positioner, ReferenceFrames, tomogram
from bluesky_streamrecon.plans.signature import readable_signature

if TYPE_CHECKING:
    from bluesky_streamrecon.storage import StoredReferences

__all__ = ["find_references", "reference_documents", "take_references_plan"]


@readable_signature
def take_references_plan(
    detectors: Detectors = None,
    *,
    flats: int = 10,
    darks: int = 10,
    shutter: Positioner = None,
    sample_table: Positioner = None,
    shutter_words: Sequence[str | float] | None = None,
    table_words: Sequence[str | float] | None = None,
    take_flats: Any = None,
    take_darks: Any = None,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[str | None]:
    """Take flats and darks in a run of their own, for scans with ``references="last"`` or the run's uid.

    The sample is back in the beam then, and the shutter closed: a plan of your own opens it.

    Parameters
    ----------
    detectors : device or sequence of devices, optional
        That of the beamline in use by default (`use_beamline`), a simulated one if there is none, and its monitor.
    flats : int, optional
        Frames without the sample.
    darks : int, optional
        Frames without the beam.
    md : mapping, optional
        More metadata.

    Returns
    -------
    str
        Uid of the run.

    Raises
    ------
    ConfigError
        If an argument can not work.

    Examples
    --------
    In the morning ``RE(take_references_plan())``; then ``RE(stream_tomo_plan(references="last"))``, or, with the
    shutter open, ``RE(streaming_wrapper(bp.scan([detector], stage, 0, 179, 180), references="last"))``.
    """
    check_metadata(md)
    devices, beamline, around = detectors_in_use(detectors)
    devices += monitor_of(beamline)
    yield from connected(getattr(beamline, "devices", ()))
    given = {"shutter": shutter, "sample_table": sample_table, "take_flats": take_flats, "take_darks": take_darks}
    words: dict[str, Any] = {"shutter_words": shutter_words, "table_words": table_words}
    frames = ReferenceFrames(flats=flats, darks=darks, **words, **around_sample(around, given)).resolved()
    frames = yield from frames.with_words()
    about = {
        "plan_name": "take_references_plan",
        "detectors": [device.name for device in devices],
        "plan_args": {"detectors": [repr(device) for device in devices], **frames.as_metadata()},
    }
    return (yield from tomogram(devices, frames, {**about, **(md or {})}))


def find_references(
    wanted: str, name: str | None, detector: Any, monitor: str | None = None
) -> MsgGenerator[StoredReferences]:
    """Plan stub: fetch flats and darks of an earlier run, and see that they are of the detector as it is now.

    Parameters
    ----------
    wanted : str
        Uid of the run, or ``"last"``.
    name : str or None
        The detector's.
    detector : device or None
        If it is known.
    monitor : str, optional
        The setting.

    Raises
    ------
    ConfigError
        If there are none, or the detector's configuration or region of interest is another.
    """
    from bluesky_streamrecon.storage import load_references

    if name is None:
        raise ConfigError(f"references={wanted!r}: of which detector? expected detector=")
    storage = current_storage()

    def load() -> StoredReferences:
        storage.flush()  # the last run may still be on its way
        return load_references(storage.catalog, wanted, name, monitor=monitor)

    found: StoredReferences = yield from answer(partial(asyncio.to_thread, load))
    changed = found.changed((yield from _configuration(detector)))
    shape = yield from _frame_shape(detector, found.data_key)
    if shape is not None and shape != found.flats.shape[-2:]:
        changed.append(f"its frames were of {found.flats.shape[-2:]} pixels, are of {shape}")
    if changed:
        raise ConfigError(
            f"references={wanted!r}: {name} has changed since run {found.uid[:8]}: {'; '.join(changed)}; take new ones "
            "with RE(take_references_plan())"
        )
    return found


def _configuration(detector: Any) -> MsgGenerator[Mapping[str, Any]]:
    if not hasattr(detector, "read_configuration"):
        return {}
    reading = yield from answer(detector.read_configuration, unanswered={})
    return {name: value["value"] for name, value in reading.items()}


def _frame_shape(detector: Any, key: str) -> MsgGenerator[tuple[int, int] | None]:
    """Ask a detector for the shape of its frames; None where it knows only when it is armed."""

    async def shape() -> tuple[int, int]:
        described = await maybe_await(detector.describe())
        rows, columns = described[key]["shape"][-2:]
        return int(rows), int(columns)

    found, _ = yield from attempt(shape, unanswered=None)  # a frame of another shape is refused when it comes, too
    return found  # type: ignore[no-any-return]


def reference_documents(found: StoredReferences, run_uid: str, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield documents that bring flats and darks to the job as if the run had taken them.

    Parameters
    ----------
    found : StoredReferences
        What to bring.
    run_uid : str
        The run that needs them.
    name : str
        Name of its detector.
    """
    now = time.time()
    for stream, frames in (("dark", found.darks), ("flat", found.flats)):
        if not len(frames):
            continue
        descriptor = str(uuid4())
        image = {"source": found.uid, "dtype": "array", "shape": list(frames.shape[-2:])}
        keys: dict[str, Any] = {found.data_key: {**image, "dtype_numpy": frames.dtype.str}}
        readings = found.readings if stream == "flat" else {}
        keys |= {name: {"source": found.uid, "dtype": "number", "shape": []} for name in readings}
        yield (
            "descriptor",
            {
                "uid": descriptor,
                "run_start": run_uid,
                "name": stream,
                "time": now,
                "data_keys": keys,
                "object_keys": {name: [found.data_key]},
                "hints": {},
                "configuration": {},
            },
        )
        for number, frame in enumerate(frames, 1):
            data = {found.data_key: frame} | {name: float(values[number - 1]) for name, values in readings.items()}
            yield "event", {"uid": str(uuid4()), "descriptor": descriptor, "seq_num": number, "time": now, "data": data}
