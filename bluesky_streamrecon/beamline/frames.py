"""Where the pixels of a projection are: in a detector's HDF5 file, in a file of their own, or in the event itself.

A frame is read when the wire needs it, in the wire's threads, maybe more than once; making one costs nothing.
Every frame comes out as a 2-D array (rows, columns) in a pixel type of the wire, at its true value or not at all, after
the reduction that the settings ask for.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import DataError, StorageError
from bluesky_streamrecon.file_uris import file_path
from bluesky_streamrecon.pixels import mean_dtype, plain_dtype
from bluesky_streamrecon.wire.fields import PIXEL_TYPES

__all__ = ["FrameFile", "wire_dtype"]

logger = logging.getLogger(__name__)

HDF5_TYPES = ("application/x-hdf5", "application/x-hdf", "application/x-hdf5;type=swmr")


def wire_dtype(dtype: Any, *, averaged: bool = False) -> str:
    """Return the pixel type that frames of `dtype` travel in.

    Parameters
    ----------
    dtype : dtype or str
        As in a data key's ``dtype_numpy``.
    averaged : bool, optional
        Several values are averaged into one.

    Returns
    -------
    str
        One of `PIXEL_TYPES`: the same type in little-endian where there is one, else one that holds all values
        (64-bit integers go as float64); float32 for averaged integers.

    Raises
    ------
    DataError
        If pixels of this type are not intensities (complex numbers, text, records).
    """
    plain = mean_dtype(dtype) if averaged else plain_dtype(dtype)
    wider = {"|i1": "<i2", "<f2": "<f4"}.get(plain.str, plain.str)
    return wider if wider in PIXEL_TYPES else "<f8"


class FrameFile:
    """Frames that a detector writes to a file, or to a file each, read while they are being written.

    A file that its detector keeps to itself while it writes (HDF5 not in SWMR mode) is waited for until the detector
    lets go of it: until `run_ended`, and then as long as for anything else. All that has not come so long after the end
    is missing, and not waited for one by one.

    Parameters
    ----------
    uri : str
        ``file://host/path`` as in a StreamResource; the host is not looked at.
    mimetype : str
        HDF5, or a file per frame (``multipart/related``) of TIFF, JPEG or NumPy's ``npy``.
    parameters : mapping
        Of the StreamResource: ``dataset`` is the path inside an HDF5 file, the first axis of which counts frames;
        ``template`` makes the name of the file of a frame.
    patience : float, optional
        How long a frame that is not there yet is waited for (file systems over a network are late), seconds.
    clock, wait : callable, optional
        Time in seconds and how to wait for it.

    Raises
    ------
    DataError
        If the file is of another kind, or not a local file.
    """

    def __init__(
        self,
        uri: str,
        mimetype: str,
        parameters: Mapping[str, Any],
        *,
        patience: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        scheme = urlsplit(uri).scheme
        if scheme != "file":
            raise DataError(f"detector file {uri}: got scheme {scheme!r}, expected file://; is it on this computer?")
        self.uri = uri
        self.path = file_path(uri)
        self._frames = _frames_in(uri, self.path, mimetype, parameters)
        self._patience = patience
        self._clock = clock
        self._wait = wait or threading.Event().wait
        self._lock = threading.Lock()
        self._ended: float | None = None
        self._kept_back = False  # it is there, and can not be opened

    @property
    def where(self) -> str:
        """File and place in it, for messages."""
        return self._frames.where

    def read(self, first: int, stop: int, *, patience: float | None = None) -> NDArray[np.generic]:
        """Read frames ``[first, stop)``, shape (stop - first, rows, columns).

        Parameters
        ----------
        first, stop : int
            Which.
        patience : float, optional
            In place of the file's, whoever has the file.

        Raises
        ------
        DataError
            If the file can not be opened, or the frames have not come after `patience` seconds; at once if they were
            lost, or are compressed by a filter that is not installed.
        """
        from bluesky_streamrecon.hdf5 import HDF5_ERRORS, FrameLostError, MissingFilterError

        limit = self._patience if patience is None else patience
        began = self._clock()
        with self._lock:
            while True:
                try:
                    pixels, found = self._frames.read(first, stop)
                    self._kept_back = False
                    if pixels is not None:
                        return pixels
                except (FrameLostError, MissingFilterError):
                    self._frames.close()
                    raise
                except (*HDF5_ERRORS, StorageError) as error:
                    kept_back = self._frames.unopened and self.path.is_file()
                    self._frames.close()
                    found = f"can not be read: {error}"
                    if kept_back and not self._kept_back and self._ended is None and patience is None:
                        logger.warning("%s %s: its frames are read when the detector closes it", self.where, found)
                    self._kept_back = kept_back
                waits = self._kept_back and patience is None
                since = self._ended if waits else began if self._ended is None else min(began, self._ended)
                if since is not None and self._clock() >= since + limit:
                    raise DataError(
                        f"frames {first} to {stop - 1} of {self.where}: the file {found} after {limit:g} s; is the "
                        "detector's file system mounted here, and does it write in SWMR mode?"
                    )
                self._wait(0.01)

    def run_ended(self) -> None:
        """Note that the detector writes no more: from now on patience ends for whatever is not there."""
        if self._ended is None:
            self._ended = self._clock()

    def close(self) -> None:
        """Close the file; a later `read` opens it again."""
        with self._lock:
            self._frames.close()


class _DatasetFrames:
    """Frames in one dataset of an HDF5 file; ``unopened``: it could not be opened."""

    def __init__(self, path: Path, dataset: str) -> None:
        self.where = f"{path}:{dataset}"
        self._path, self._dataset = path, dataset
        self._file: Any = None
        self._data: Any = None

    @property
    def unopened(self) -> bool:
        return self._data is None

    def read(self, first: int, stop: int) -> tuple[NDArray[np.generic] | None, str]:
        """Return frames, or None and what is there instead."""
        from bluesky_streamrecon.hdf5 import find_dataset, open_hdf5, read_checked

        if self._data is None:
            self._file = open_hdf5(self._path)
            self._data = find_dataset(self._file, self._dataset)
        else:
            self._data.id.refresh()
        count = self._data.shape[0]
        if count >= stop:
            return read_checked(self._data, slice(first, stop)), ""
        self.close()  # where it is not written in SWMR mode, only opening it anew shows more
        return None, f"has {count} frames"

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(Exception):
                self._file.close()
        self._file = self._data = None


class _FileSeries:
    """Frames in a file each, named by a template."""

    unopened = False

    def __init__(self, path: Path, template: str, filename: str, read_one: Callable[[Path], Any]) -> None:
        self.where = f"{path}: {template} of {filename}" if filename else f"{path}: {template}"
        self._path, self._template, self._filename = path, template, filename
        self._read_one = read_one

    def read(self, first: int, stop: int) -> tuple[NDArray[np.generic] | None, str]:
        from bluesky_tiled_plugins.utils import compile_template

        frames = []
        for number in range(first, stop):
            name = compile_template(self._template, self._filename).format(number)
            # The template follows a directory, or the beginning of a name.
            path = self._path / name.lstrip("/") if self._path.is_dir() else Path(f"{self._path}{name}")
            if not path.is_file():
                return None, f"{path.name} is not there"
            frames.append(np.asarray(self._read_one(path)))
        return np.stack(frames), ""

    def close(self) -> None:
        """Nothing is open."""


def _read_tiff(path: Path) -> Any:
    import tifffile

    return tifffile.imread(path)


def _read_jpeg(path: Path) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image)


def _read_npy(path: Path) -> Any:
    return np.load(path, allow_pickle=False)


SERIES: Final[dict[str, tuple[Callable[[Path], Any], str]]] = {
    "multipart/related;type=image/tiff": (_read_tiff, ""),
    "multipart/related;type=image/jpeg": (_read_jpeg, ""),
    "multipart/related;type=application/x-npy": (_read_npy, "%s_%d.npy"),
}
"""How a file per frame is read, and its name where the resource has no template, by mimetype."""


def _frames_in(uri: str, path: Path, mimetype: str, parameters: Mapping[str, Any]) -> _DatasetFrames | _FileSeries:
    if mimetype in HDF5_TYPES:
        dataset = parameters.get("dataset") or parameters.get("path")
        if not dataset:
            raise DataError(f"detector file {uri}: its parameters {dict(parameters)} name no dataset")
        return _DatasetFrames(path, str(dataset))
    if mimetype not in SERIES:
        raise DataError(
            f"detector file {uri}: got mimetype {mimetype!r}, expected HDF5 ({HDF5_TYPES[0]}), or "
            f"{', '.join(SERIES)}; set the detector to write one of these, or to put its frames into the event"
        )
    read_one, template = SERIES[mimetype]
    template = str(parameters.get("template") or template)
    if not template:
        raise DataError(f"detector file {uri}: its parameters {dict(parameters)} have no template")
    return _FileSeries(path, template, str(parameters.get("filename", "")), read_one)
