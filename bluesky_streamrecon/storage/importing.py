"""Recorded scans into the catalogue, as runs like any other: replayed, read and plotted by what reads runs.

Frames are copied to where the catalogue's server can read them. A file that `export_run` has written becomes the run
that it was, with its reconstruction; any other becomes a new run. Angles are degrees.
"""

from __future__ import annotations

import time as clock
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from bluesky_streamrecon.errors import StorageError
from bluesky_streamrecon.hdf5 import find_dataset, open_hdf5
from bluesky_streamrecon.pixels import plain_dtype
from bluesky_streamrecon.storage.catalog import Storage
from bluesky_streamrecon.storage.dxfile import copy_frames, new_hdf5
from bluesky_streamrecon.storage.portable import PortableRun, PortableScan, described, read_scan
from bluesky_streamrecon.storage.runs import RunKeys
from bluesky_streamrecon.storage.scan import Frames, TomoScan
from bluesky_streamrecon.storage.stored_run import Document, FramesInFile, StoredRun, StoredStream, run_documents

__all__ = ["import_scan"]

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
    if scan.reconstruction is not None and scan.images:
        recon_uid = str(scan.reconstruction.start["uid"])
        documents += _reconstruction_documents(scan.reconstruction, path, scan.images, target)
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
    return StoredRun(start, {}, {"primary": StoredStream(hints=hints)})


def _copy(scan: PortableScan, stacks: Mapping[str, Frames], path: Path, target: Path) -> None:
    with new_hdf5(target) as file:
        for name, frames in stacks.items():
            copy_frames(file, name, frames)
        if scan.images:
            with open_hdf5(path) as source:
                for name, dataset in scan.images.items():
                    copy_frames(file, name, find_dataset(source, dataset))


def _store(storage: Storage, documents: Sequence[Document]) -> None:
    for name, doc in documents:
        storage.writer(name, doc)
    uids = [str(doc["uid"]) for name, doc in documents if name == "start"]
    if not storage.writer.flush(STORE_SECONDS):
        raise StorageError(f"run {uids[0]}: not in the catalogue after {STORE_SECONDS:g} s; is its server busy?")
    for uid in uids:
        if (why := storage.writer.failed.get(uid)) is not None:
            raise StorageError(f"run {uid}: can not be stored in the catalogue ({why})")


def _raw_documents(
    run: StoredRun, keys: RunKeys, frames: TomoScan, stacks: Mapping[str, Frames], target: Path
) -> Iterator[Document]:
    """Return the documents of a raw run; angles become a column, wherever they were."""
    angle = {"source": "encoder", "dtype": "number", "dtype_numpy": "<f8", "shape": [], "units": "deg"}
    streams, files = {}, {}
    for name, stack in stacks.items():
        if len(stack):
            streams[name] = run.streams.get(name, StoredStream())
            files[name] = _copied(stack, name, keys.detector, target, "counts")
    if (primary := streams.get("primary")) is not None:
        streams["primary"] = replace(
            primary,
            data_keys={**primary.data_keys, keys.angle: angle},
            columns={**primary.columns, keys.angle: frames.angles_deg},
        )
    others = {name: stream for name, stream in run.streams.items() if name not in stacks}
    return run_documents(replace(run, streams=streams | others), files)


def _reconstruction_documents(
    run: StoredRun, path: Path, images: Mapping[str, str], target: Path
) -> Iterator[Document]:
    with open_hdf5(path) as file:
        stored = {name: find_dataset(file, dataset) for name, dataset in images.items()}
        frames = {name: _copied(data, name, name, target, "1/pixel") for name, data in stored.items()}
    return run_documents(run, frames)


def _copied(stack: Frames, name: str, data_key: str, target: Path, units: str) -> FramesInFile:
    """Return where a stack will be once it has been copied."""
    shape, dtype = tuple(stack.shape), plain_dtype(stack.dtype).str
    return FramesInFile(data_key=data_key, file=target, dataset=f"/{name}", shape=shape, dtype=dtype, units=units)
