"""Recorded scans into the catalogue, as runs like any other: replayed, read and plotted by what reads runs.

Frames are copied to where the catalogue's server can read them. A file that `export_run` has written becomes the run
that it was, with its reconstruction; any other becomes a new run. Angles are degrees.
"""

from __future__ import annotations

import time as clock
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from event_model import compose_run

from bluesky_streamrecon.errors import DataError, StorageError
from bluesky_streamrecon.hdf5 import find_dataset, open_hdf5
from bluesky_streamrecon.pixels import plain_dtype
from bluesky_streamrecon.storage.catalog import Storage
from bluesky_streamrecon.storage.dxfile import copy_frames, new_hdf5
from bluesky_streamrecon.storage.portable import (
    PortableRun,
    PortableScan,
    StoredRun,
    StoredStream,
    described,
    read_scan,
)
from bluesky_streamrecon.storage.runs import RunKeys
from bluesky_streamrecon.storage.scan import Frames, TomoScan

__all__ = ["import_scan"]

Document = tuple[str, dict[str, Any]]
PLAIN = RunKeys("detector", "stage")
STORE_SECONDS = 600.0  # that the catalogue may take


def import_scan(
    storage: Storage,
    path: str | Path,
    *,
    frames: str | Path | None = None,
    sample: str = "",
    angle_units: str | None = None,
) -> PortableRun:
    """Put a recorded scan (NXtomo or DXchange) into a catalogue.

    Parameters
    ----------
    storage : Storage
        From `open_storage`.
    path : str or Path
        The file; it is not needed any more afterwards.
    frames : str or Path, optional
        Directory to copy its frames to, which the catalogue's server can read; that of the detectors by default.
    sample : str, optional
        Name of the sample, for a file that is not one of ours.
    angle_units : str, optional
        Units of its angles, in place of those that it states; see `bluesky_streamrecon.angle_units.UNITS`.

    Returns
    -------
    PortableRun
        With the uid that the run has in the catalogue.

    Raises
    ------
    StorageError
        If there is no such file, the run is in the catalogue already, or can not be stored.
    DataError
        If the file is not a scan.
    """
    path = Path(path)
    scan = read_scan(path, angle_units=angle_units)
    run = scan.run or _new_run(scan, path, sample)
    keys = scan.keys or PLAIN
    uid, recon_uid = str(run.start["uid"]), None
    runs = [run] if scan.reconstruction is None else [run, scan.reconstruction]
    for known in runs:
        if known.start["uid"] in storage.catalog:
            raise StorageError(f"{path}: run {known.start['uid']} is in the catalogue already; it is not overwritten")
    target = Path(storage.detector_directory if frames is None else frames).resolve() / f"{uid}.h5"
    stacks = {"dark": scan.frames.darks, "flat": scan.frames.flats, "primary": scan.frames.projections}
    # All of them, before anything is written: a file that was changed by hand must not leave half a run.
    documents = list(_raw_documents(run, keys, scan.frames, stacks, target))
    if scan.reconstruction is not None and scan.image is not None:
        recon_uid = str(scan.reconstruction.start["uid"])
        documents += _reconstruction_documents(scan.reconstruction, path, scan.image, target)
    _copy(scan, stacks, path, target)
    try:
        _store(storage, documents)
    except BaseException:
        if uid not in storage.catalog:
            target.unlink(missing_ok=True)
        raise
    return described(path, scan.layout, scan.frames, uid, recon_uid)


def _new_run(scan: PortableScan, path: Path, sample: str) -> StoredRun:
    """Make the documents of a scan that somebody else has taken."""
    angles = scan.frames.angles_deg
    start = {
        "uid": str(uuid4()),
        "time": clock.time(),
        "plan_name": "import",
        "imported_from": path.name,
        "detectors": [PLAIN.detector],
        "motors": [PLAIN.angle],
        "num_points": len(angles),
        "num_intervals": len(angles) - 1,
        "hints": {"dimensions": [[[PLAIN.angle], "primary"]]},
        "streamrecon": {"projections": len(angles), "detector": PLAIN.detector, "angle": PLAIN.angle},
    }
    if sample:
        start["sample"] = sample
    if scan.frames.problems:
        start["problems"] = list(scan.frames.problems)
    hints = {PLAIN.angle: {"fields": [PLAIN.angle]}}
    return StoredRun(start, {}, {"primary": StoredStream({}, {}, hints, {})})


def _copy(scan: PortableScan, stacks: Mapping[str, Frames], path: Path, target: Path) -> None:
    with new_hdf5(target) as file:
        for name, frames in stacks.items():
            copy_frames(file, name, frames)
        if scan.image is not None:
            with open_hdf5(path) as source:
                copy_frames(file, "image", find_dataset(source, scan.image))


def _store(storage: Storage, documents: Sequence[Document]) -> None:
    for name, doc in documents:
        storage.writer(name, doc)
    uids = [str(doc["uid"]) for name, doc in documents if name == "start"]
    if not storage.writer.flush(STORE_SECONDS):
        raise StorageError(f"run {uids[0]}: not in the catalogue after {STORE_SECONDS:g} s; is its server busy?")
    for uid in uids:
        if (why := storage.writer.failed.get(uid)) is not None:
            raise StorageError(f"run {uid}: can not be stored in the catalogue ({why})")


@dataclass(frozen=True, slots=True)
class _InFile:
    """A data key whose values are in the copied file."""

    data_key: str
    file: Path
    dataset: str
    shape: tuple[int, ...]  # of all of them
    dtype: str
    units: str
    frame_shape: tuple[int, ...]  # as the data key has it


def _raw_documents(
    run: StoredRun, keys: RunKeys, frames: TomoScan, stacks: Mapping[str, Frames], target: Path
) -> Iterator[Document]:
    """Return the documents of a raw run; angles become a column, wherever they were."""
    angle = {"source": "encoder", "dtype": "number", "dtype_numpy": "<f8", "shape": [], "units": "deg"}
    bundle = _composed(run)
    yield "start", dict(bundle.start_doc)
    for name, stack in stacks.items():
        stored = run.streams.get(name, StoredStream({}, {}, {}, {}))
        if name == "primary":
            columns = {**stored.columns, keys.angle: frames.angles_deg}
            stored = StoredStream({**stored.data_keys, keys.angle: angle}, stored.configuration, stored.hints, columns)
        if len(stack):
            shape, dtype = tuple(stack.shape), plain_dtype(stack.dtype).str
            image = _InFile(keys.detector, target, f"/{name}", shape, dtype, "counts", (1, *shape[1:]))
            yield from _stream(bundle, name, stored, image)
    for name, stored in run.streams.items():
        if name not in stacks and stored.data_keys:
            yield from _stream(bundle, name, stored, None)
    yield "stop", _stop(bundle, run)


def _reconstruction_documents(run: StoredRun, path: Path, image_at: str, target: Path) -> Iterator[Document]:
    with open_hdf5(path) as file:
        stored_image = find_dataset(file, image_at)
        shape, dtype = tuple(stored_image.shape), plain_dtype(stored_image.dtype).str
    image = _InFile("image", target, "/image", shape, dtype, "1/pixel", shape[1:])
    bundle = _composed(run)
    yield "start", dict(bundle.start_doc)
    for name, stored in run.streams.items():
        yield from _stream(bundle, name, stored, image if name == "image" else None)
    yield "stop", _stop(bundle, run)


def _composed(run: StoredRun) -> Any:
    known = {key: value for key, value in run.start.items() if key not in ("uid", "time")}
    return compose_run(uid=run.start["uid"], time=run.start["time"], metadata=known)


def _stop(bundle: Any, run: StoredRun) -> dict[str, Any]:
    stop = run.stop
    return dict(
        bundle.compose_stop(
            exit_status=stop.get("exit_status", "success"),
            reason=stop.get("reason", ""),
            time=stop.get("time", run.start["time"]),
        )
    )


def _stream(bundle: Any, name: str, stored: StoredStream, inside: _InFile | None) -> Iterator[Document]:
    """Return descriptor, file and events of one stream."""
    data_keys = dict(stored.data_keys)
    lengths = {len(stored.columns[key]) for key in data_keys} | ({inside.shape[0]} if inside else set())
    if len(lengths) != 1:
        raise DataError(f"stream {name!r}: its columns have {sorted(lengths)} values, expected as many of each")
    (count,) = lengths
    if inside is not None:
        uri = f"file://localhost{inside.file.as_posix()}"
        data_keys[inside.data_key] = {
            "source": uri,
            "dtype": "array",
            "dtype_numpy": inside.dtype,
            "shape": list(inside.frame_shape),
            "external": "STREAM:",
            "units": inside.units,
        }
    descriptor = bundle.compose_descriptor(
        name=name,
        data_keys=data_keys,
        configuration=stored.configuration,
        hints={device: hint for device, hint in stored.hints.items() if set(hint.get("fields", ())) <= set(data_keys)},
    )
    yield "descriptor", dict(descriptor.descriptor_doc)
    if inside is not None:
        resource = bundle.compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=uri,
            data_key=inside.data_key,
            parameters={"dataset": inside.dataset, "chunk_shape": [1, *inside.shape[1:]], "swmr": False},
        )
        yield "stream_resource", dict(resource.stream_resource_doc)
        datum = resource.compose_stream_datum(
            indices={"start": 0, "stop": count},
            seq_nums={"start": 1, "stop": count + 1},
            descriptor=descriptor.descriptor_doc,
        )
        yield "stream_datum", dict(datum)
    times = stored.columns.get("time", np.full(count, bundle.start_doc["time"]))
    columns = {key: stored.columns[key].tolist() for key in stored.data_keys}
    for number in range(count):
        when = float(times[number])
        data = {key: columns[key][number] for key in columns}
        event = descriptor.compose_event(data=data, timestamps=dict.fromkeys(data, when), time=when)
        yield "event", dict(event)
