"""HDF5 files of simulated detectors: they grow by one frame, or one number, at a time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike

__all__ = ["DATASET", "FrameFile"]

DATASET = "/entry/data/data"
"""Where frames lie in a detector's file."""

NUMBERS = 1024  # in a chunk


class FrameFile:
    """An HDF5 file that grows by one frame at a time and can be read meanwhile.

    Each frame is a chunk of its own and has reached the file when `append` returns (single writer, multiple
    readers). Any thread may append; frames that come after `close` are dropped.

    Parameters
    ----------
    path : Path
        Must not exist yet; its directory is made.
    shape : tuple of int
        Detector (rows, columns), or () for a number.
    dtype : dtype
        Of the pixels.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._file: h5py.File | None = h5py.File(path, "x", libver="latest")
        self.chunk = (1, *shape) if shape else (NUMBERS,)
        self._data = self._file.create_dataset(
            DATASET, shape=(0, *shape), maxshape=(None, *shape), chunks=self.chunk, dtype=dtype
        )
        self._file.swmr_mode = True

    def append(self, frame: ArrayLike) -> int:
        """Write a frame of the file's shape, and give how many there are now."""
        with self._lock:
            if self._file is None:
                return 0
            count = int(self._data.shape[0])
            self._data.resize(count + 1, axis=0)
            self._data[count] = frame
            self._data.flush()
            return count + 1

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None
