"""Runs read back from a catalogue: a raw run as a scan, a reconstruction as an array.

Angles are degrees. Frames stay in the detector's file, or on the server, until they are sliced. A file that is on this
computer is read as the live stream and `read_scan` read it; only frames in events, and files of a server elsewhere,
come through Tiled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.angle_units import angles_in_degrees
from bluesky_streamrecon.data_keys import frame_layout, image_key, number_keys, saturation_of
from bluesky_streamrecon.errors import DataError, StorageError
from bluesky_streamrecon.file_uris import file_path
from bluesky_streamrecon.hdf5 import (
    ChosenFrames,
    FrameStack,
    LazyFrames,
    find_dataset,
    open_hdf5,
    read_numbers,
    usable_frames,
)
from bluesky_streamrecon.hdf5.results import IMAGES
from bluesky_streamrecon.pixels import mean_dtype, plain_dtype
from bluesky_streamrecon.storage.listing import find_run
from bluesky_streamrecon.storage.proxies import reaches_loopback
from bluesky_streamrecon.storage.run_streams import RunStreams, StreamContents
from bluesky_streamrecon.storage.scan import Frames, TomoScan, empty_frames

__all__ = [
    "IMAGES",
    "CatalogFrames",
    "RunKeys",
    "as_live",
    "find_raw_run",
    "find_reconstruction",
    "finished_images",
    "first_references",
    "load_reconstruction",
    "load_run",
    "load_scores",
    "recorded_angles",
    "run_keys",
    "scan_of",
    "stored_dataset",
    "stored_frames",
    "stored_readings",
]


IN_ONE_FILE = (
    "flats, darks and projections are in one file of the detector, and the catalogue has all in the first stream; a "
    "plan is to stage its detector for each of its streams anew (the file itself is complete)"
)
"""What Tiled's writer makes of a StreamResource that several streams share."""

NO_END = (
    "it has no stop document: it is not over yet, or its process was killed before its events were sent; frames are in "
    "the detector's files, and the angles that were planned in its start document"
)
"""Why there may be less in the catalogue than was taken: events are sent in batches."""


class CatalogFrames(FrameStack):
    """Frames of one stream of a stored run, fetched when they are asked for; `StorageError` if the server can not.

    Parameters
    ----------
    array : tiled.client.array.ArrayClient
        Of shape (frames, rows, columns), or with several exposures per event (frames, exposures, rows, columns), of
        which the mean is taken.
    name : str
        What to call it in errors.
    stop : int, optional
        Frames to return at most.
    """

    def __init__(self, array: Any, name: str, stop: int | None = None) -> None:
        if len(array.shape) not in (3, 4):
            raise DataError(f"{name}: got shape {tuple(array.shape)}, expected frames of (rows, columns)")
        count, *inner, rows, columns = array.shape
        self._array = array
        self._exposures: int | None = inner[0] if inner else None
        dtype = plain_dtype(array.dtype) if self._exposures in (None, 1) else mean_dtype(array.dtype)
        super().__init__((count if stop is None else min(stop, count), rows, columns), dtype, name)

    def _read(self, numbers: Any, rest: list[Any]) -> NDArray[Any]:
        frames = self._sliced(numbers)
        with _fetching(self._name):
            if self._exposures is None:
                return np.asarray(self._array[(frames, *rest)])
            if self._exposures == 1:
                return np.asarray(self._array[(frames, 0, *rest)])
            values = np.asarray(self._array[(frames, slice(None), *rest)])
            return np.asarray(values.mean(axis=1 if np.ndim(numbers) else 0, dtype=np.float64))


@dataclass(frozen=True, slots=True)
class RunKeys:
    """Data keys of a run's stream ``primary``.

    Parameters
    ----------
    detector, angle : str
        Of the frames, and of the angles.
    """

    detector: str
    angle: str


def run_keys(run: RunStreams, uid: str) -> RunKeys:
    """Find the data keys of frames and angles; errors as for `load_run`.

    They are the ``detector`` of the start document's ``streamrecon`` block or the first of its ``detectors``, and the
    ``angle`` of the block (fly scans: what has recorded it) or the first of ``motors``.
    """
    start, streams = run.metadata["start"], set(run)
    if "primary" not in streams:
        raise DataError(f"run {uid}: no stream 'primary', only {sorted(streams)}; was it stopped before a projection?")
    primary = set(run["primary"])
    block, descriptor = start.get("streamrecon", {}), run["primary"].metadata
    detector, recorded = block.get("detector") or _first(start, "detectors", uid), block.get("angle")
    if detector not in primary:
        detector = image_key({**descriptor, "name": "primary"}, detector)
    stage = recorded if recorded in primary else _first(start, "motors", uid)
    missing = {detector, stage} - primary
    if detector in missing and any(detector in run[stream] for stream in streams & {"flat", "dark"}):
        raise DataError(f"run {uid}: stream 'primary' has no frames of {detector!r}; {IN_ONE_FILE}")
    if missing:
        why = "" if run.metadata.get("stop") else f"; {NO_END}"
        raise DataError(f"run {uid}: stream 'primary' has no {sorted(missing)}, only {sorted(primary)}{why}")
    return RunKeys(detector, stage)


def load_run(catalog: Any, uid: str, *, angle_units: str | None = None) -> TomoScan:
    """Read a raw run as a scan.

    Parameters
    ----------
    catalog : CatalogOfBlueskyRuns
        From `open_catalog`.
    uid : str
        Of the run, or its first characters.
    angle_units : str, optional
        Units of the angles, in place of those of their data key; see `bluesky_streamrecon.angle_units.UNITS`.

    Returns
    -------
    TomoScan
        Projections in the order they were taken (stream ``primary``), flats and darks (streams ``flat``, ``dark``; of
        the earlier run that the run used, if it took none itself).

    Raises
    ------
    StorageError
        If the catalogue has no such run.
    DataError
        If the run has no projections, fewer frames than angles, or data that are not all there.
    """
    run = RunStreams(find_run(catalog, uid))
    return scan_of(run, catalog, uid, angle_units=angle_units)


def scan_of(run: RunStreams, catalog: Any, uid: str, *, angle_units: str | None = None) -> TomoScan:
    """Read a raw run as a scan; see `load_run`."""
    detector, primary = run_keys(run, uid).detector, run["primary"]
    problems = [str(text) for text in run.metadata["start"].get("problems", ())]
    angles, doubts = recorded_angles(run, uid, angle_units=angle_units)
    problems.extend(doubts)
    projections, numbers = stored_frames(run, "primary", detector, uid, problems, stop=angles.size)
    borrowed = run.metadata["start"].get("streamrecon", {}).get("references", {}).get("uid")
    if "flat" in run:  # as in one that was exported with them
        borrowed = None
    source = run if borrowed is None else RunStreams(find_run(catalog, borrowed))

    def references(stream: str) -> tuple[Frames, NDArray[np.intp]]:
        if stream in source and detector in source[stream]:
            return stored_frames(source, stream, detector, borrowed or uid, problems)
        return empty_frames(projections), numbers[:0]

    (flats, of_flats), (darks, _) = references("flat"), references("dark")
    monitor = run.metadata["start"].get("streamrecon", {}).get("recon", {}).get("monitor")
    readings = stored_readings(run, "primary", monitor, uid, numbers)
    with_flats = stored_readings(source, "flat", monitor, borrowed or uid, of_flats)
    if monitor is not None and (readings is None or with_flats is None):
        stream = "primary" if readings is None else "flat"
        problems.append(
            f"run {uid}: stream {stream!r} has no reading of the monitor {monitor!r} for each of its frames"
        )
        readings = with_flats = None
    distinct = tuple(dict.fromkeys(problems))
    level = saturation_of(primary.metadata, detector)
    return TomoScan(projections, flats, darks, angles[numbers], distinct, readings, with_flats, level, numbers)


def recorded_angles(
    run: RunStreams, uid: str, *, angle_units: str | None = None
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return the angles of all projections of a run, also of those without a frame, and what is doubtful about them."""
    key = run_keys(run, uid).angle
    units = run["primary"].metadata["data_keys"].get(key, {}).get("units")
    raw = _numbers(run["primary"], key, uid, "angles")
    return angles_in_degrees(raw, units, f"run {uid}, {key}", angle_units=angle_units)


def stored_readings(
    run: RunStreams, stream: str, monitor: str | None, uid: str, numbers: NDArray[np.intp]
) -> NDArray[np.float64] | None:
    """Return what a monitor has read with frames of a stream, by their numbers from 0; None where it has not."""
    if monitor is None or stream not in run:
        return None
    keys = number_keys(dict(run[stream].metadata), monitor)
    values = _numbers(run[stream], keys[0], uid, "readings") if keys and keys[0] in run[stream] else None
    return None if values is None or len(values) <= numbers.max(initial=-1) else values[numbers]


def first_references(start: Mapping[str, Any], scan: TomoScan) -> tuple[int, int]:
    """Return how many of a run's flats and darks are of before its first projection: live images know no others.

    The run says 0 where they are borrowed, and nothing if a plan of one's own took them: then all are.
    """
    block = start.get("streamrecon") or {}
    flats, darks = (int(block.get(name) or len(had)) for name, had in (("flats", scan.flats), ("darks", scan.darks)))
    return min(flats, len(scan.flats)), min(darks, len(scan.darks))


def as_live(start: Mapping[str, Any], scan: TomoScan) -> TomoScan:
    """Return a run's scan with the flats and darks that its live images were made with."""
    flats, darks = first_references(start, scan)
    readings = None if scan.flat_monitor is None else scan.flat_monitor[:flats]
    return replace(scan, flats=scan.flats[:flats], darks=scan.darks[:darks], flat_monitor=readings)


def stored_frames(
    run: RunStreams, stream: str, key: str, uid: str, problems: list[str], *, stop: int | None = None
) -> tuple[Frames, NDArray[np.intp]]:
    """Return the frames of a stream, from their file where that is on this computer, and their numbers, below `stop`.

    Raises
    ------
    DataError
        If there are fewer than `stop`, or they are not all there.
    """
    client = run[stream]
    array, descriptor = client[key], dict(client.metadata)
    name = f"run {uid}, {stream}"
    layout = frame_layout({**descriptor, "name": stream}, key)
    counted = ((run.metadata.get("stop") or {}).get("num_events") or {}).get(stream)
    if counted and array.shape[0] > counted:
        raise DataError(f"{name}: {array.shape[0]} frames of {key!r} for {counted} events; {IN_ONE_FILE}")
    source = _source(array)
    if source is None or not source[0].is_file():
        if source is not None:
            problems.append(
                f"{name}: {source[0]} is not on this computer, its frames come through the Tiled server: frames that "
                "were never written can not be distinguished from zeros there"
            )
        _require_as_many(int(array.shape[0]), stop, uid)
        frames = CatalogFrames(array, name, stop)
        return frames, np.arange(len(frames))
    path, dataset = source
    events = int(array.shape[0]) if stop is None else min(stop, int(array.shape[0]))
    with open_hdf5(path) as file:
        stored = find_dataset(file, dataset)
        shape, dtype = stored.shape, stored.dtype
    if shape[1:] != layout.shape:
        raise DataError(
            f"{name}: {path}: {dataset} has frames of shape {shape[1:]}, expected {layout.shape} as its data key says"
        )
    announced = descriptor["data_keys"][key].get("dtype_numpy")
    if announced and plain_dtype(announced) != plain_dtype(dtype):
        problems.append(
            f"{name}: {path}: {dataset} has values of {dtype.name}, its data key says {announced}: they are read as "
            "they are"
        )
    if shape[0] > events * layout.exposures and events:
        problems.append(
            f"{name}: {path}: {dataset} has {shape[0]} frames, the run names {events * layout.exposures}: the first "
            "are taken; was an exposure repeated?"
        )
    count = min(events, shape[0] // layout.exposures)
    _require_as_many(count, stop, uid)
    there = np.zeros(count * layout.exposures, bool)
    usable = usable_frames(path, dataset, may_be_dark=stream == "dark", may_be_lost=True)
    there[usable[usable < there.size]] = True
    numbers = np.flatnonzero(there.reshape(count, layout.exposures).all(axis=1))
    last = int(numbers[-1]) + 1 if numbers.size else 0
    for left_out, what in (
        (count - last, f"the last {count - last} of {count} frames in {path}: {dataset} were never written"),
        (last - numbers.size, f"{last - numbers.size} of {count} frames were lost on their way to {path}: {dataset}"),
    ):
        if left_out:
            problems.append(f"{name}: {what}: left out")
    return ChosenFrames(LazyFrames(path, dataset, exposures=layout.exposures), numbers), numbers


def _require_as_many(count: int, angles: int | None, uid: str) -> None:
    if angles is not None and count < angles:
        raise DataError(f"run {uid}: {count} frames for {angles} angles; is the detector's file complete?")


def _numbers(stream: StreamContents, key: str, uid: str, what: str) -> NDArray[np.float64]:
    """Return angles or readings as they were recorded, from their file where that is on this computer."""
    with _fetching(f"run {uid}, {what}"):
        if (values := stream.column(key)) is None:
            array = stream[key]
            if (source := stored_dataset(array)) is None:
                values = np.asarray(array.read()).reshape(-1)
            else:
                with open_hdf5(source[0]) as file:
                    values = read_numbers(file, source[1])[: int(array.shape[0])]
    if values.dtype.kind not in "biuf":
        raise DataError(f"run {uid}: its {what} are {values.dtype}, expected numbers")
    return values.astype(np.float64)


def _source(array: Any) -> tuple[Path, str] | None:
    """Return the HDF5 file and the dataset that a stored array is, unless it is something else."""
    found = array.data_sources() if hasattr(array, "data_sources") else None
    if not found or len(found) != 1 or found[0].mimetype != "application/x-hdf5" or len(found[0].assets) != 1:
        return None
    parameters = dict(found[0].parameters)
    uri = found[0].assets[0].data_uri
    if not uri.startswith("file:") or "dataset" not in parameters or parameters.keys() & {"slice", "squeeze"}:
        return None
    return file_path(uri), str(parameters["dataset"])


def load_reconstruction(catalog: Any, uid: str, *, live: bool = False) -> NDArray[np.float32]:
    """Read a reconstruction: the volume finished from all projections if there is one, else the last live image.

    Parameters
    ----------
    catalog : CatalogOfBlueskyRuns
        From `open_catalog`.
    uid : str
        Of the reconstruction, or of its raw run.
    live : bool, optional
        Read the last live image in any case.

    Returns
    -------
    ndarray of float32, shape (rows, N, N)
        Attenuation per pixel.

    Raises
    ------
    StorageError
        If the catalogue has no such run, or a raw run without a stored reconstruction, or can not read its file.
    """
    run = RunStreams(find_reconstruction(catalog, uid))
    name = IMAGES[0] if live else finished_images(run, uid)[-1]
    with _fetching(f"run {uid}, {name}"):
        return np.asarray(run[name][name].read(), dtype=np.float32)


def find_raw_run(catalog: Any, uid: str) -> Any:
    """Return a scan's run, found by its own uid or by that of its reconstruction, as `find_run` takes them."""
    run = find_run(catalog, uid)
    raw_uid = run.metadata["start"].get("raw_run_uid")
    if raw_uid is None:
        return run
    try:
        return find_run(catalog, raw_uid)
    except StorageError as error:
        raise StorageError(
            f"run {uid}: is the reconstruction of {raw_uid}, which is not in the catalogue {catalog.uri}"
        ) from error


def find_reconstruction(catalog: Any, uid: str) -> Any:
    """Return the run of a reconstruction, found by its own uid or by that of its scan, as `find_run` takes them."""
    run = find_run(catalog, uid)
    if "image" in set(run):
        return run
    recon_uid = run.metadata["start"].get("streamrecon", {}).get("recon_uid")
    if recon_uid is None:
        raise StorageError(f"run {uid}: neither a reconstruction nor a run that names one")
    try:
        return find_run(catalog, recon_uid)
    except StorageError as error:
        ended = (run.metadata.get("stop") or {}).get("exit_status")
        why = "the scan is not over yet" if ended is None else f"the scan ended as {ended!r}"
        raise StorageError(
            f"run {uid}: its reconstruction {recon_uid} is not in the catalogue ({why}); a scan that was aborted has "
            "none, but its frames are stored: `streamrecon replay`, `streamrecon export`"
        ) from error


def finished_images(run: Mapping[str, Any], uid: str) -> tuple[str, ...]:
    """Return which of `IMAGES` a reconstruction has: a volume that is not finished yet is NaN."""
    image, volume = IMAGES
    if volume not in run or volume not in run[volume]:
        return (image,)
    with _fetching(f"run {uid}, {volume}"):
        return (image,) if np.isnan(np.asarray(run[volume][volume][0])).all() else IMAGES


def stored_dataset(array: Any) -> tuple[Path, str] | None:
    """Return the HDF5 file and the dataset that a stored array is, if it is one on this computer."""
    source = _source(array)
    return source if source is not None and source[0].is_file() else None


def load_scores(catalog: Any, uid: str) -> dict[str, NDArray[Any]]:
    """Read the scores' table of a reconstruction; see `load_reconstruction`.

    Returns
    -------
    dict of ndarray
        Columns by name, all of one length; empty if no score was given.
    """
    run = RunStreams(find_reconstruction(catalog, uid))
    if "scores" not in run:
        return {}
    return run["scores"].columns(lambda name: name not in {"time", "seq_num"} and not name.startswith("ts_"))


@contextmanager
def _fetching(name: str) -> Iterator[None]:
    """Raise an error with the likely reason where the server does not send pixels: its own answer is but a number."""
    import httpx

    try:
        yield
    except httpx.HTTPStatusError as error:
        answer, url = error.response.status_code, error.request.url
        ours = "--readable DIR, or open_storage(readable=...)"
        raise StorageError(
            f"{name}: Tiled at {url.scheme}://{url.netloc.decode()} did not send the data (HTTP status {answer}); is "
            "the file still there, and in a directory that the server may read "
            f"({ours if reaches_loopback(str(url)) else 'a setting of that server'})?"
        ) from error


def _first(start: Any, field: str, uid: str) -> str:
    names = start.get(field)
    if not names:
        raise DataError(f"run {uid}: its start document has no {field!r}: which data are which is not known")
    return str(names[0])
