"""A tomographic scan as it was measured: raw frames and angles, in memory or still in their file.

Angles are degrees; frames are detector counts, (frames, rows, columns). Nothing is corrected here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import DataError, StorageError

__all__ = ["Frames", "LazyFrames", "TomoScan"]


class Frames(Protocol):
    """A stack of frames that can be sliced: an ndarray, or one that is still in a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(frames, rows, columns)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> Any: ...


class LazyFrames:
    """Some frames of an HDF5 dataset, read when they are asked for; no file stays open.

    Parameters
    ----------
    path : Path
        HDF5 file.
    dataset : str
        Path of the dataset (frames, rows, columns) inside.
    index : ndarray of int, optional
        Frames that belong to the stack, ascending; all by default.

    Raises
    ------
    DataError
        If the dataset is not a stack of frames.
    """

    def __init__(self, path: Path, dataset: str, index: NDArray[np.intp] | None = None) -> None:
        self.path = path
        self.dataset = dataset
        with open_hdf5(path) as file:
            source = find_dataset(file, dataset)
            if source.ndim != 3 or source.dtype.kind not in "uif":
                raise DataError(
                    f"{path}: {dataset} is {source.shape} of {source.dtype}, expected numbers (frames, rows, columns)"
                )
            self._index = np.arange(source.shape[0]) if index is None else index
            self._frame_shape: tuple[int, int] = source.shape[1:]
            self._dtype: np.dtype[Any] = source.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """(frames, rows, columns)."""
        return (self._index.size, *self._frame_shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels."""
        return self._dtype

    def __len__(self) -> int:
        return int(self._index.size)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Read frames, or parts of frames, as NumPy's basic slicing has it."""
        frames, *rest = key if isinstance(key, tuple) else (key,)
        wanted = self._index[frames]
        with open_hdf5(self.path) as file:
            source = find_dataset(file, self.dataset)
            if np.ndim(wanted) == 0:
                return np.asarray(source[(int(wanted), *rest)])
            if wanted.size == 0:
                return np.empty((0, *self._frame_shape), self._dtype)[(slice(None), *rest)]
            steps = np.diff(wanted)
            if np.all(steps == 1):
                return np.asarray(source[(slice(int(wanted[0]), int(wanted[-1]) + 1), *rest)])
            # h5py wants ascending lists; put the frames back into the order that was asked for.
            order, back = np.unique(wanted, return_inverse=True)
            return np.asarray(source[(order.tolist(), *rest)])[back]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Read all frames."""
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype)


@dataclass(frozen=True, eq=False)
class TomoScan:
    """Projections with their angles, flats and darks.

    Parameters
    ----------
    projections : Frames
        Shape (A, rows, columns), detector counts.
    flats, darks : Frames
        Shape (F, rows, columns) and (D, rows, columns); F and D may be 0.
    angles_deg : ndarray of float64, shape (A,)
        Degrees, in the order of the projections, whatever that is.

    Raises
    ------
    DataError
        If shapes do not fit together or an angle is not finite.
    """

    projections: Frames
    flats: Frames
    darks: Frames
    angles_deg: NDArray[np.float64]

    @property
    def angles(self) -> NDArray[np.float64]:
        """Angles in radians, as reconstruction takes them, shape (A,)."""
        return np.deg2rad(self.angles_deg)

    def __post_init__(self) -> None:
        shapes = {name: tuple(getattr(self, name).shape) for name in ("projections", "flats", "darks")}
        if any(len(shape) != 3 for shape in shapes.values()) or len({shape[1:] for shape in shapes.values()}) != 1:
            raise DataError(f"scan: got {shapes}, expected (frames, rows, columns) with the same rows and columns")
        if self.angles_deg.shape != (len(self.projections),):
            raise DataError(
                f"scan: got {self.angles_deg.shape} angles for {len(self.projections)} projections, expected one each"
            )
        if not np.all(np.isfinite(self.angles_deg)):
            bad = int(np.flatnonzero(~np.isfinite(self.angles_deg))[0])
            raise DataError(f"scan: the angle of projection {bad} is {self.angles_deg[bad]}, expected finite degrees")


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading, or say why not."""
    if not path.is_file():
        raise StorageError(f"{path}: no such file")
    try:
        return h5py.File(path, "r", swmr=True, libver="latest")
    except OSError as error:
        raise DataError(f"{path}: not a readable HDF5 file ({error})") from error


def find_dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """Give the dataset at `name`, or say what the file has instead."""
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        group = file
        for part in name.strip("/").split("/"):
            below = group.get(part)
            if not isinstance(below, h5py.Group):
                break
            group = below
        raise DataError(f"{file.filename}: no dataset {name}; {group.name} has {sorted(group) or 'nothing'}")
    return found


def empty_frames(like: Frames) -> NDArray[Any]:
    """Give a stack of no frames, of the same rows, columns and type."""
    return np.empty((0, *like.shape[1:]), dtype=like.dtype)
