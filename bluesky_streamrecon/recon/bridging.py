"""Pixels that measured nothing take the value between their neighbours in the row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Gaps"]


class Gaps:
    """Horizontal runs of pixels that are to be replaced.

    Parameters
    ----------
    mask : ndarray of bool, shape (rows, columns)
        These pixels.
    """

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        self._shape = rows, columns = mask.shape
        # One more column, so that the end of a row is not beside the beginning of the next one.
        places = np.flatnonzero(np.concatenate((mask, np.zeros((rows, 1), bool)), axis=1))
        begins = np.diff(places, prepend=-2) != 1
        self._rows, self._columns = np.divmod(places, columns + 1)
        self._run = np.cumsum(begins) - 1
        self._length = np.diff(np.flatnonzero(begins), append=len(places))
        self._row, first = self._rows[begins], self._columns[begins]
        stop = first + self._length
        self._left = np.where(first == 0, np.minimum(stop, columns - 1), first - 1)
        self._right = np.where(stop == columns, self._left, np.minimum(stop, columns - 1))
        self._whole = self._length == columns
        place = self._columns - first[self._run]
        self._share = ((place + 1) / (self._length[self._run] + 1)).astype(np.float32)

    def bridge(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Replace the pixels, in place, by the line between the neighbours of their run; a whole row by zeros."""
        left, right = (
            np.where(self._whole, np.float32(0), values[self._row, column]) for column in (self._left, self._right)
        )
        values[self._rows, self._columns] = left[self._run] + self._share * (right - left)[self._run]
        return values

    def longer_than(self, longest: int) -> NDArray[np.bool_]:
        """Return the pixels of runs that are longer than this, shape (rows, columns)."""
        marked = np.zeros(self._shape, bool)
        marked[self._rows, self._columns] = (self._length > longest)[self._run]
        return marked
