"""Runs read back from a catalogue: a raw run as a scan, a reconstruction as an array.

Angles are degrees. Frames stay on the server until they are sliced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import DataError, StorageError
from bluesky_streamrecon.storage.scan import Frames, TomoScan, empty_frames

__all__ = [
    "CatalogFrames",
    "RunKeys",
    "load_reconstruction",
    "load_run",
    "load_scores",
    "read_columns",
    "run_keys",
]


class CatalogFrames:
    """Frames of one stream of a stored run, fetched when they are asked for; `StorageError` if the server can not.

    Parameters
    ----------
    array : tiled.client.array.ArrayClient
        Of shape (frames, rows, columns), or with one frame per event (frames, 1, rows, columns).
    name : str
        What to call it in errors.
    stop : int, optional
        Frames to give at most.
    """

    def __init__(self, array: Any, name: str, stop: int | None = None) -> None:
        shape = tuple(array.shape)
        self._inner = len(shape) == 4 and shape[1] == 1
        if not (len(shape) == 3 or self._inner):
            raise DataError(f"{name}: got shape {shape}, expected one frame (rows, columns) per event")
        self._array = array
        self._name = name
        count = shape[0] if stop is None else min(stop, shape[0])
        self._shape: tuple[int, int, int] = (count, shape[-2], shape[-1])
        self._dtype: np.dtype[Any] = np.dtype(array.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """(frames, rows, columns)."""
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels."""
        return self._dtype

    def __len__(self) -> int:
        return self._shape[0]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Fetch frames, or parts of frames, as NumPy's basic slicing has it."""
        frames, *rest = key if isinstance(key, tuple) else (key,)
        if isinstance(frames, slice):
            frames = slice(*frames.indices(len(self)))
            if frames.start >= frames.stop:
                return np.empty((0, *self._shape[1:]), self.dtype)[(slice(None), *rest)]
        else:
            frames = range(len(self))[int(frames)]
        with _fetching(self._name):
            return np.asarray(self._array[(frames, 0, *rest) if self._inner else (frames, *rest)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Fetch all frames."""
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype)


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


def run_keys(run: Any, uid: str, *, detector: str | None = None, stage: str | None = None) -> RunKeys:
    """Find the data keys of frames and angles; parameters and errors as for `load_run`."""
    start, streams = run.metadata["start"], set(run)
    if "primary" not in streams:
        raise DataError(f"run {uid}: no stream 'primary', only {sorted(streams)}; was it stopped before a projection?")
    primary = set(run["primary"])
    detector = detector or _first(start, "detectors", uid)
    told = start.get("streamrecon", {}).get("angle")
    stage = stage or (told if told in primary else _first(start, "motors", uid))
    missing = {detector, stage} - primary
    if missing:
        raise DataError(f"run {uid}: stream 'primary' has no {sorted(missing)}, only {sorted(primary)}")
    return RunKeys(detector, stage)


def load_run(catalog: Any, uid: str, *, detector: str | None = None, stage: str | None = None) -> TomoScan:
    """Read a raw run as a scan.

    Parameters
    ----------
    catalog : CatalogOfBlueskyRuns
        From `open_catalog`.
    uid : str
        Of the run, or its first characters.
    detector, stage : str, optional
        Data keys of frames and angle. By default the first of ``detectors`` in the start document, and the ``angle`` of
        its ``streamrecon`` block (fly scans: what has recorded it) or the first of ``motors``.

    Returns
    -------
    TomoScan
        Projections in the order they were taken (stream ``primary``), flats and darks (streams ``flat``, ``dark``).

    Raises
    ------
    StorageError
        If the catalogue has no such run.
    DataError
        If the run has no projections, or fewer frames than angles.
    """
    run = _run(catalog, uid)
    keys = run_keys(run, uid, detector=detector, stage=stage)
    detector, streams, primary = keys.detector, set(run), run["primary"]
    angles = np.asarray(primary[keys.angle].read(), dtype=np.float64).reshape(-1)
    projections = CatalogFrames(primary[detector], f"run {uid}, primary", stop=angles.size)
    if len(projections) < angles.size:
        raise DataError(
            f"run {uid}: {len(projections)} frames for {angles.size} angles; is the detector's file complete?"
        )

    def frames(stream: str) -> Frames:
        if stream in streams and detector in set(run[stream]):
            return CatalogFrames(run[stream][detector], f"run {uid}, {stream}")
        return empty_frames(projections)

    return TomoScan(projections, frames("flat"), frames("dark"), angles)


def load_reconstruction(catalog: Any, uid: str) -> NDArray[np.float32]:
    """Read the image of a reconstruction.

    Parameters
    ----------
    catalog : CatalogOfBlueskyRuns
        From `open_catalog`.
    uid : str
        Of the reconstruction, or of its raw run.

    Returns
    -------
    ndarray of float32, shape (rows, N, N)
        Attenuation per pixel.

    Raises
    ------
    StorageError
        If the catalogue has no such run, or a raw run without a stored reconstruction, or can not read its file.
    """
    image = _reconstruction(catalog, uid)["image"]["image"]
    with _fetching(f"run {uid}, image"):
        return np.asarray(image.read(), dtype=np.float32)


def load_scores(catalog: Any, uid: str) -> dict[str, NDArray[Any]]:
    """Read the scores' table of a reconstruction; see `load_reconstruction`.

    Returns
    -------
    dict of ndarray
        Columns by name, all of one length; empty if no score was given.
    """
    run = _reconstruction(catalog, uid)
    if "scores" not in set(run):
        return {}
    return read_columns(run["scores"], lambda name: name not in {"time", "seq_num"} and not name.startswith("ts_"))


@contextmanager
def _fetching(name: str) -> Iterator[None]:
    """Say which pixels the server could not give, and why that is likely: its own answer is but a number."""
    import httpx

    try:
        yield
    except httpx.HTTPStatusError as error:
        answer, url = error.response.status_code, error.request.url
        raise StorageError(
            f"{name}: Tiled at {url.scheme}://{url.netloc.decode()} can not read the file (answer {answer}); is it "
            f"still there, and in a directory that the server may read (--readable DIR, or open_storage(readable=...))?"
        ) from error


def _run(catalog: Any, uid: str) -> Any:
    try:
        return catalog[uid]
    except (KeyError, ValueError) as error:
        raise StorageError(f"run {uid}: not in the catalogue {catalog.uri} ({error})") from error


def _reconstruction(catalog: Any, uid: str) -> Any:
    run = _run(catalog, uid)
    if "image" in set(run):
        return run
    recon_uid = run.metadata["start"].get("streamrecon", {}).get("recon_uid")
    if recon_uid is None:
        raise StorageError(f"run {uid}: neither a reconstruction nor a run that names one")
    return _run(catalog, recon_uid)


def _first(start: Any, field: str, uid: str) -> str:
    names = start.get(field)
    if not names:
        raise DataError(f"run {uid}: its start document has no {field!r}; say which data key to take")
    return str(names[0])


def read_columns(stream: Any, wanted: Callable[[str], bool]) -> dict[str, NDArray[Any]]:
    """Read columns of a stream's tables, each table at once: a column by itself costs several requests.

    Parameters
    ----------
    stream : CompositeClient
        One stream of a run.
    wanted : callable
        Tells of a column's name whether it is wanted.
    """
    found: dict[str, NDArray[Any]] = {}
    for part in stream.base.values():
        names = [name for name in getattr(part, "columns", ()) if wanted(name)]
        if names:
            frame = part.read(names)
            found |= {name: np.asarray(frame[name]) for name in names}
    return found
