"""HDF5 files that grow by one frame, or one number, at a time, and can be read meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py._objects import phil
from numpy.typing import ArrayLike

from bluesky_streamrecon.hdf5.gaps import GAPS_ARE_FINAL

__all__ = ["DATASET", "NUMBERS", "FrameWriter", "write_chunk"]

DATASET = "/entry/data/data"
"""Where frames lie in a detector's file."""

NUMBERS = 1024
"""In a chunk of numbers."""


class FrameWriter:
    """Write an HDF5 file that grows by one frame at a time and can be read meanwhile.

    Each frame is a chunk of its own and has reached the file when `append` or `put` returns (single writer, multiple
    readers). Any thread may write; frames that come after `close` are dropped.

    Parameters
    ----------
    path : Path
        Must not exist yet; its directory is made.
    shape : tuple of int
        Detector (rows, columns), or () for a number.
    dtype : dtype
        Of the pixels.
    numbers : mapping of str to dtype, optional
        Datasets that have a number for each frame, by their path.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        numbers: Mapping[str, np.dtype[Any]] | None = None,
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = threading.Lock()
        self._file: h5py.File | None = h5py.File(path, "x", libver="latest")
        self.chunk = (1, *shape) if shape else (NUMBERS,)
        self._data = self._file.create_dataset(
            DATASET, shape=(0, *shape), maxshape=(None, *shape), chunks=self.chunk, dtype=dtype
        )
        self._data.attrs[GAPS_ARE_FINAL] = True
        self._numbers = {
            name: self._file.create_dataset(
                name, (0,), kind, maxshape=(None,), chunks=(NUMBERS,), fillvalue=np.nan if kind.kind == "f" else None
            )
            for name, kind in (numbers or {}).items()
        }
        self._file.swmr_mode = True

    def append(self, frame: ArrayLike) -> int:
        """Write a frame of the file's shape, and return how many there are now."""
        return self.put(len(self), frame)

    def __len__(self) -> int:
        with self._lock:
            return 0 if self._file is None else int(self._data.shape[0])

    def put(self, index: int, frame: ArrayLike, numbers: Mapping[str, float] | None = None) -> int:
        """Write a frame at its place, with its numbers, and return how many places there are now.

        Places before it that have no frame yet are left as never written, which readers can tell.
        """
        with self._lock:
            if self._file is None:
                return 0
            for name, value in (numbers or {}).items():
                column = self._numbers[name]
                column.resize(max(len(column), index + 1), axis=0)
                column[index] = value
                column.flush()
            count = max(int(self._data.shape[0]), index + 1)
            self._data.resize(count, axis=0)
            pixels = np.asarray(frame)
            if pixels.ndim and pixels.flags.c_contiguous and pixels.dtype == self._data.dtype:
                write_chunk(self._data, (index, *[0] * pixels.ndim), pixels)  # as it is, without a copy
            else:
                self._data[index] = pixels
            self._data.flush()
            return count

    def leave(self, count: int) -> int:
        """Leave the next frames unwritten, up to `count` in all; return how many places the file has now."""
        with self._lock:
            if self._file is None:
                return 0
            for dataset in (*self._numbers.values(), self._data):
                dataset.resize(max(int(dataset.shape[0]), count), axis=0)
                dataset.flush()
            return int(self._data.shape[0])

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None


def write_chunk(dataset: h5py.Dataset, place: tuple[int, ...], chunk: Any) -> None:
    """Write a chunk as it is, while no other thread is in HDF5; h5py 3.14 and older do not see to that."""
    with phil:
        dataset.id.write_direct_chunk(place, chunk)
