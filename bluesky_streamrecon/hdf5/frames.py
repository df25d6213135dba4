"""Frames and numbers of HDF5 datasets, at their true values; what was never written is an error, not a zero."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.hdf5.gaps import GAPS_ARE_FINAL, NotWrittenError, find_gaps
from bluesky_streamrecon.hdf5.opening import HDF5_ERRORS, find_dataset, open_hdf5, require_filters
from bluesky_streamrecon.pixels import exactly, mean_dtype, plain_dtype

__all__ = ["ChosenFrames", "FrameStack", "LazyFrames", "read_checked", "read_numbers", "usable_frames"]


def read_checked(dataset: h5py.Dataset, frames: slice | int | NDArray[np.intp], *rest: Any) -> NDArray[Any]:
    """Read frames of a dataset, or parts of them.

    Parameters
    ----------
    dataset : h5py.Dataset
        Its first axis counts frames.
    frames : int, slice with a step of 1, or ascending ndarray of int
        Which; not negative.
    *rest
        Indices of the other axes.

    Raises
    ------
    NotWrittenError, DataLostError
        If some of the frames were never written, or can not be read any more.
    MissingFilterError
        If they are compressed by a filter that is not installed.
    DataError
        If they can not be read for another reason.
    """
    wanted = np.arange(frames.start, frames.stop) if isinstance(frames, slice) else np.atleast_1d(frames)

    def require_written(error: Exception | None) -> None:
        gaps = find_gaps(dataset, int(wanted[0]), int(wanted[-1]) + 1)
        if gaps.missing[wanted - wanted[0]].any():
            raise gaps.error(dataset) from error

    try:
        values = np.asarray(dataset[(frames.tolist() if isinstance(frames, np.ndarray) else frames, *rest)])
    except HDF5_ERRORS as error:
        require_filters(dataset)
        require_written(error)
        raise DataError(
            f"{dataset.file.filename}: {dataset.name}: frames {wanted[0]} to {wanted[-1]} can not be read ({error}); "
            "is the file damaged?"
        ) from error
    if np.any(_is_fill(values, dataset)):
        require_written(None)
    return values


def _is_fill(values: NDArray[Any], dataset: h5py.Dataset) -> NDArray[np.bool_]:
    """Return where values are what HDF5 gives for those that were never written."""
    fill = dataset.fillvalue
    found: NDArray[np.bool_] = np.isnan(values) if np.isnan(fill) else np.equal(values, fill)
    return found


def usable_frames(
    path: Path, name: str, *, may_be_dark: NDArray[np.bool_] | bool = False, may_be_lost: bool = False
) -> NDArray[np.intp]:
    """Return which frames of a dataset can be used: those before its end, where some were never written.

    Frames at the end all of whose pixels have the fill value count as never written, too: detectors allocate a file
    for all frames that are planned, and a scan that is aborted leaves the rest as it was.

    Parameters
    ----------
    path : Path
        HDF5 file.
    name : str
        Of the dataset in it.
    may_be_dark : bool or ndarray of bool, optional
        All frames, or those where it is True, may be empty although they were written.
    may_be_lost : bool, optional
        Leave out frames that the file itself says were lost on their way to it.

    Returns
    -------
    ndarray of int
        Their numbers, ascending; without gaps unless frames may be lost.

    Raises
    ------
    NotWrittenError
        If frames are missing elsewhere than at the end.
    DataLostError
        If frames are kept in files that are gone or cut short.
    DataError
        If there is no such dataset, or it is not a stack of frames.
    """
    with open_hdf5(path) as file:
        source = find_dataset(file, name)
        _require_frames(source)
        require_filters(source)
        count = int(source.shape[0])
        gaps = find_gaps(source, 0, count)
        if gaps.lost:
            raise gaps.error(source)
        while count and gaps.missing[count - 1]:
            count -= 1
        if gaps.missing[:count].any() and not (may_be_lost and source.attrs.get(GAPS_ARE_FINAL)):
            gaps.missing[count:] = False
            raise gaps.error(source)
        dark = np.broadcast_to(may_be_dark, gaps.missing.shape)
        while count and (gaps.missing[count - 1] or not dark[count - 1]):
            if not gaps.missing[count - 1] and not _is_fill(read_checked(source, count - 1), source).all():
                break
            count -= 1
    return np.flatnonzero(~gaps.missing[:count])


def read_numbers(file: h5py.File, name: str, *, missing: float = np.nan) -> NDArray[Any]:
    """Read a column of numbers, such as angles; those that were never written become `missing`.

    Raises
    ------
    DataLostError
        If it is kept in a file that is gone.
    DataError
        If there is no such dataset, or it has no numbers.
    """
    source = find_dataset(file, name)
    if source.dtype.kind not in "biuf":
        raise DataError(f"{file.filename}: {name} has {source.dtype}, expected numbers")
    if source.ndim == 0:
        return np.asarray(source[()]).reshape(1)
    try:
        return read_checked(source, slice(0, source.shape[0])).reshape(-1)
    except NotWrittenError:
        gaps = find_gaps(source, 0, source.shape[0])
        values = np.asarray(source[()])
        values = values.astype(np.result_type(values, missing))
        values[gaps.missing] = missing
        return values.reshape(-1)


def _require_frames(source: h5py.Dataset) -> None:
    where, shape = f"{source.file.filename}: {source.name}", source.shape
    if shape is not None and len(shape) == 4 and shape[-1] in (3, 4):
        raise DataError(
            f"{where} has frames in colour, {shape}, expected one intensity per pixel (frames, rows, columns)"
        )
    if source.ndim != 3 or source.dtype.kind not in "biuf":
        raise DataError(f"{where} is {shape} of {source.dtype}, expected numbers (frames, rows, columns)")


class FrameStack(ABC):
    """A stack of frames that are read when it is sliced, at their true values.

    Parameters
    ----------
    shape : tuple of int
        (frames, rows, columns).
    dtype : dtype
        Of the pixels.
    name : str
        What to call it in errors.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> None:
        self.shape, self.dtype, self._name = shape, dtype, name

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Read frames, or parts of frames, as NumPy's basic slicing has it."""
        frames, *rest = key if isinstance(key, tuple) else (key,)
        numbers = np.arange(len(self))[frames]
        if np.ndim(numbers) and numbers.size == 0:
            return np.empty((0, *self.shape[1:]), self.dtype)[(slice(None), *rest)]
        return exactly(self._read(numbers, rest), self.dtype, self._name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Read all frames."""
        whole = self[:]
        return whole if dtype is None else exactly(whole, np.dtype(dtype), self._name)

    @abstractmethod
    def _read(self, numbers: Any, rest: list[Any]) -> NDArray[Any]:
        """Return frames by their numbers, or one by its number, and of each what `rest` selects."""

    @staticmethod
    def _sliced(numbers: Any) -> int | slice:
        """Return the same numbers, which are as many apart, for a stack that takes slices only."""
        if np.ndim(numbers) == 0:
            return int(numbers)
        step = int(numbers[1] - numbers[0]) if len(numbers) > 1 else 1
        if not np.all(np.diff(numbers) == step):
            raise DataError(
                f"frames {numbers}: expected them equally far apart, here they can be read in no other order"
            )
        stop = int(numbers[-1]) + (1 if step > 0 else -1)
        return slice(int(numbers[0]), stop if stop >= 0 else None, step)


class ChosenFrames(FrameStack):
    """Some frames of a stack, which stay where they are.

    Parameters
    ----------
    frames : ndarray or FrameStack
        The stack.
    index : ndarray of int
        Which frames, in their order.
    """

    def __init__(self, frames: Any, index: NDArray[np.intp]) -> None:
        self._frames, self._index = frames, index
        super().__init__((len(index), *frames.shape[1:]), np.dtype(frames.dtype), "frames")

    def _read(self, numbers: Any, rest: list[Any]) -> NDArray[Any]:
        return np.asarray(self._frames[(self._index[numbers], *rest)])


class LazyFrames(FrameStack):
    """The frames of an HDF5 dataset, read when they are asked for; no file stays open.

    They come out in the type that `plain_dtype` names, and checked as by `read_checked`.

    Parameters
    ----------
    path : Path
        HDF5 file.
    dataset : str
        Path of the dataset (frames, rows, columns) inside.
    exposures : int, optional
        Frames of the dataset that are one frame of the stack, their mean.

    Raises
    ------
    DataError
        If the dataset is not a stack of frames.
    """

    def __init__(self, path: Path, dataset: str, *, exposures: int = 1) -> None:
        self.path = path
        self.dataset = dataset
        self._exposures = exposures
        with open_hdf5(path) as file:
            source = find_dataset(file, dataset)
            _require_frames(source)
            require_filters(source)
            dtype = plain_dtype(source.dtype) if exposures == 1 else mean_dtype(source.dtype)
            super().__init__((source.shape[0] // exposures, *source.shape[1:]), dtype, f"{path}: {dataset}")

    def _read(self, numbers: Any, rest: list[Any]) -> NDArray[Any]:
        with open_hdf5(self.path) as file:
            source = find_dataset(file, self.dataset)
            if self._exposures == 1:
                return self._checked(source, numbers, rest)
            each = (np.asarray(numbers)[..., None] * self._exposures + np.arange(self._exposures)).reshape(-1)
            taken = self._checked(source, each, rest)
            values = taken.reshape((-1, self._exposures, *taken.shape[1:])).mean(axis=1, dtype=np.float64)
            return values if np.ndim(numbers) else np.asarray(values[0])

    @staticmethod
    def _checked(source: h5py.Dataset, wanted: Any, rest: list[Any]) -> NDArray[Any]:
        if np.ndim(wanted) == 0:
            return read_checked(source, int(wanted), *rest)
        if np.all(np.diff(wanted) == 1):
            return read_checked(source, slice(int(wanted[0]), int(wanted[-1]) + 1), *rest)
        # h5py wants ascending lists; put the frames back into the order that was asked for.
        order, back = np.unique(wanted, return_inverse=True)
        return read_checked(source, order, *rest)[back]
