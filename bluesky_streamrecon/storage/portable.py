"""A stored run as one file that can be carried away: raw frames in a layout that others read, and all we know of them.

The raw scan is an NXtomo or DXchange file like any other. Beside it stands the group ``streamrecon``, which others
ignore: the documents of the run and of its reconstruction as JSON, the columns of their streams, and the image.
Angles are degrees.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import DataError, StorageError
from bluesky_streamrecon.hdf5 import open_hdf5
from bluesky_streamrecon.storage.details import scan_details
from bluesky_streamrecon.storage.dxfile import copy_frames, read_dxfile, write_dxfile
from bluesky_streamrecon.storage.listing import find_run
from bluesky_streamrecon.storage.nxtomo import has_nxtomo, read_nxtomo, write_nxtomo
from bluesky_streamrecon.storage.plain import plain
from bluesky_streamrecon.storage.run_streams import RunStreams
from bluesky_streamrecon.storage.runs import (
    IMAGES,
    RunKeys,
    find_raw_run,
    find_reconstruction,
    finished_images,
    run_keys,
    scan_of,
)
from bluesky_streamrecon.storage.scan import TomoScan
from bluesky_streamrecon.storage.stored_run import StoredRun, StoredStream
from bluesky_streamrecon.storage.tiff_stack import read_tiff_scan
from bluesky_streamrecon.storage.volume_files import LAYOUTS, chosen_layout

__all__ = [
    "GROUP",
    "PortableRun",
    "PortableScan",
    "described",
    "export_run",
    "read_scan",
]

GROUP = "streamrecon"
VERSION = 1
NUMBER = {"dtype": "number", "dtype_numpy": "<f8", "shape": []}
FRAMES = ("dark", "flat")
"""Streams that hold nothing but frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortableRun:
    """What was exported or imported.

    Parameters
    ----------
    run_uid : str
        Of the raw run.
    recon_uid : str or None
        Of its reconstruction, if there is one.
    file : str
        That was written or read.
    layout : str
        One of `LAYOUTS`, or ``"tiff"``, which is read only.
    projections, flats, darks : int
        Frames.
    rows, columns : int
        Of a frame.
    problems : tuple of str
        What is doubtful about the data, and what was left out of them.
    """

    run_uid: str
    recon_uid: str | None
    file: str
    layout: str
    projections: int
    flats: int
    darks: int
    rows: int
    columns: int
    problems: tuple[str, ...] = ()

    def summary(self) -> str:
        """Return the frames in words."""
        count = f"{self.projections} projections, {self.flats} flats, {self.darks} darks"
        return f"{count} of {self.rows} x {self.columns} pixels"


@dataclass(frozen=True, slots=True)
class PortableScan:
    """A file that was read.

    Parameters
    ----------
    layout : str
        One of `LAYOUTS`, or ``"tiff"``.
    frames : TomoScan
        The raw scan; frames stay in the file until they are sliced.
    run, reconstruction : StoredRun or None
        If the file is one of ours; and its reconstruction, if it has one.
    keys : RunKeys or None
        Which data keys of `run` frames and angles were.
    images : mapping of str to str
        Datasets of the reconstruction, (rows, N, N), by stream: ``image``, and ``volume`` if it was finished.
    """

    layout: str
    frames: TomoScan
    run: StoredRun | None = None
    reconstruction: StoredRun | None = None
    keys: RunKeys | None = None
    images: Mapping[str, str] = field(default_factory=dict)


def export_run(
    catalog: Any,
    uid: str,
    path: str | Path,
    *,
    layout: str | None = None,
    known: Mapping[str, Any] | None = None,
    projections: tuple[int, int] | None = None,
) -> PortableRun:
    """Write a stored run, with its reconstruction if there is one, into one file.

    Parameters
    ----------
    catalog : CatalogOfBlueskyRuns
        From `open_catalog`.
    uid : str
        Of the raw run or of its reconstruction, or its first characters.
    path : str or Path
        Must not exist yet; it is complete or absent, never half-written under this name.
    layout : str, optional
        ``"nxtomo"`` or ``"dxchange"``; by default what the file's suffix says.
    known : mapping, optional
        Fields of `ScanDetails`, in place of what the run says of how it was taken.
    projections : (int, int), optional
        Only the projections ``[first, stop)``, counted from 0, with flats and darks, as a scan of its own: without the
        run's documents and reconstruction.

    Raises
    ------
    ConfigError
        If there is no such layout.
    StorageError
        If there is no such run, the file exists, or can not be written.
    DataError
        If the run is no scan, or a time series in which frames were lost, and all of it is asked for.
    """
    path = Path(path)
    layout = chosen_layout(path, layout, LAYOUTS)
    uid = find_run(catalog, uid).metadata["start"]["uid"]  # -1 may be another one in a moment
    raw, reconstruction = RunStreams(find_raw_run(catalog, uid)), None
    with suppress(StorageError):  # it has none, or none yet
        found = RunStreams(find_reconstruction(catalog, uid))
        reconstruction = found if "image" in found else None
    start = raw.metadata["start"]
    scan, keys = scan_of(raw, catalog, start["uid"]), run_keys(raw, start["uid"])
    monitor = start.get("streamrecon", {}).get("recon", {}).get("monitor")
    readings: dict[str, dict[str, Any]] = {}
    if scan.monitor is not None:
        readings = {"flat": {monitor: scan.flat_monitor}, "primary": {monitor: scan.monitor}}
    details = replace(scan_details(raw, reconstruction), **(known or {}))
    if projections is not None:
        scan = scan.part(*projections)
    elif start.get("streamrecon", {}).get("per_volume") and len(scan.places) <= max(scan.places, default=-1):
        raise DataError(
            f"run {uid}: some frames of this time series were lost, so that in a file nobody could tell which "
            "projection is of which volume; export its volumes one by one (--volume)"
        )

    def more(file: h5py.File) -> None:
        group = file.create_group(GROUP)
        group.attrs["version"] = VERSION
        group.attrs["detector"], group.attrs["angle"] = keys.detector, keys.angle
        if layout == "nxtomo":
            group.attrs["NX_class"] = "NXcollection"
        without = keys.detector, keys.angle
        _write_run(group.create_group("run"), raw, without=without, more=readings, primary=scan.numbers)
        if reconstruction is not None:
            below = group.create_group("reconstruction")
            _write_run(below, reconstruction, without=IMAGES)
            for name in finished_images(reconstruction, uid):
                copy_frames(below, name, reconstruction[name][name]).attrs["units"] = "1/pixel"

    write: Callable[..., None] = write_nxtomo if layout == "nxtomo" else write_dxfile
    write(path, scan, details=details, more=more if projections is None else None)
    recon_uid = None if reconstruction is None else reconstruction.metadata["start"]["uid"]
    return described(path, layout, scan, start["uid"], recon_uid)


def read_scan(path: str | Path, *, angle_units: str | None = None) -> PortableScan:
    """Open a recorded scan: NXtomo, DXchange with what `export_run` has put beside it, or TIFF stacks by a TOML file.

    Parameters
    ----------
    path : str or Path
        The file.
    angle_units : str, optional
        Units of its angles, in place of those that it states; see `bluesky_streamrecon.angle_units.UNITS`.

    Raises
    ------
    StorageError
        If there is no such file.
    DataError
        If it is not a scan, or its group ``streamrecon`` can not be read.
    """
    path = Path(path)
    if path.suffix == ".toml":
        return PortableScan("tiff", read_tiff_scan(path, angle_units=angle_units))
    with open_hdf5(path) as file:
        if has_nxtomo(file):
            layout = "nxtomo"
        elif isinstance(file.get("exchange"), h5py.Group) and "data" in set(file["exchange"]):
            layout = "dxchange"
        else:
            raise DataError(
                f"{path}: not a recorded scan: expected an NXtomo entry, or the dataset exchange/data of DXchange; the "
                f"file has {sorted(file) or 'nothing'}"
            )
        ours = GROUP in file and "run" in file[GROUP]
    read = read_nxtomo if layout == "nxtomo" else read_dxfile
    frames = read(path, angle_units=angle_units)
    if not len(frames.projections):
        raise DataError(" ".join([f"{path}: got no projections, expected at least one.", *frames.problems]))
    if not ours:
        return PortableScan(layout, frames)
    with open_hdf5(path) as file:
        group = file[GROUP]
        try:
            version = int(group.attrs["version"])
            if version != VERSION:
                raise DataError(f"{path}: group {GROUP!r} has version {version}, expected {VERSION}")
            keys = RunKeys(str(group.attrs["detector"]), str(group.attrs["angle"]))
            run = _read_run(group["run"])
            below = group.get("reconstruction")
            reconstruction = None if below is None else _read_run(below)
            images = {name: below[name].name for name in IMAGES if below is not None and name in below}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path}: group {GROUP!r} can not be read ({error}); was it changed by hand?") from error
    monitor = run.start.get("streamrecon", {}).get("recon", {}).get("monitor")
    with_each = [run.streams[name].columns.get(monitor) for name in ("primary", "flat") if name in run.streams]
    if len(with_each) == 2 and all(readings is not None for readings in with_each):
        frames = replace(frames, monitor=with_each[0], flat_monitor=with_each[1])
    return PortableScan(layout, frames, run, reconstruction, keys, images)


def described(path: Path, layout: str, scan: TomoScan, run_uid: str, recon_uid: str | None) -> PortableRun:
    """Return what a file has."""
    count, rows, columns = scan.projections.shape
    return PortableRun(
        run_uid=run_uid,
        recon_uid=recon_uid,
        file=str(path),
        layout=layout,
        projections=count,
        flats=len(scan.flats),
        darks=len(scan.darks),
        rows=rows,
        columns=columns,
        problems=scan.problems,
    )


def _write_run(
    group: h5py.Group,
    run: RunStreams,
    *,
    without: Sequence[str],
    more: Mapping[str, Mapping[str, Any]] | None = None,
    primary: NDArray[np.intp] | None = None,
) -> None:
    """Write documents and columns.

    `more` are columns of numbers, by stream, wherever they were; of the stream ``primary`` only some events are wanted.
    """
    group["start"] = _as_json(run.metadata["start"])
    group["stop"] = _as_json(run.metadata.get("stop") or {})
    streams = group.create_group("streams")
    more = more or {}
    for name in dict.fromkeys([*run, *more]):
        found: dict[str, Any] = dict(more.get(name, {}))
        if name in FRAMES and not found:
            continue
        keys: dict[str, Any] = {key: {"source": "monitor", **NUMBER} for key in found}
        about: dict[str, Any] = {}
        if name not in FRAMES:
            about = dict(run[name].metadata)
            internal = {
                key: value
                for key, value in about["data_keys"].items()
                if key not in without and key not in found and not value.get("external")
            }
            chosen = primary if name == "primary" and primary is not None else slice(None)
            found |= {key: each[chosen] for key, each in run[name].columns({*internal, "time"}.__contains__).items()}
            keys |= {key: value for key, value in internal.items() if key in found}
        below = streams.create_group(name)
        for part in ("configuration", "hints"):
            below[part] = _as_json(about.get(part) or {})
        below["data_keys"] = _as_json(keys)
        columns = below.create_group("columns")
        for key, values in found.items():
            if values.dtype.kind in "USO":
                text = [value.decode() if isinstance(value, bytes) else str(value) for value in values.tolist()]
                columns.create_dataset(key, data=text, dtype=h5py.string_dtype())
            else:
                columns[key] = values


def _read_run(group: h5py.Group) -> StoredRun:
    streams = {}
    for name, below in group["streams"].items():
        columns = {
            key: np.asarray(column.asstr()[()] if h5py.check_string_dtype(column.dtype) else column[()])
            for key, column in below["columns"].items()
        }
        streams[name] = StoredStream(
            _from_json(below["data_keys"]), _from_json(below["configuration"]), _from_json(below["hints"]), columns
        )
    return StoredRun(_from_json(group["start"]), _from_json(group["stop"]), streams)


def _as_json(value: Any) -> str:
    return json.dumps(plain(value))


def _from_json(dataset: h5py.Dataset) -> dict[str, Any]:
    found = json.loads(dataset.asstr()[()])
    if not isinstance(found, dict):
        raise TypeError(f"{dataset.name} is {type(found).__name__}, expected an object")
    return found
