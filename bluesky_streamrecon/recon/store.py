"""Where the line integrals of a block of rows lie: in slots, of which `window` keeps account.

Line integrals are unitless. What is not finite is a missing value, and is read as NaN.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["HostStore", "SlabRows", "Store"]


@dataclass(frozen=True, slots=True)
class SlabRows:
    """Rows of a block that are reconstructed together: `count` from `first` on, stored `width` wide."""

    first: int
    count: int
    width: int


class Store(ABC):
    """Projections in numbered slots."""

    @abstractmethod
    def write(self, slot: int, projection: NDArray[np.float32]) -> None:
        """Copy a projection, shape (rows, C), into a slot."""

    @abstractmethod
    def projection(self, slot: int) -> NDArray[np.float32]:
        """Return a copy of the projection in a slot, shape (rows, C)."""

    @abstractmethod
    def read(self, slab: int, slots: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return a copy of what a slab's rows have in some slots, shape (A, C, count)."""

    @abstractmethod
    def grow(self, more: int) -> None:
        """Add empty slots."""


class HostStore(Store):
    """Arrays in the host's memory, slices innermost.

    Parameters
    ----------
    slabs : sequence of SlabRows
        How the rows are grouped.
    columns : int
        Detector columns C.
    capacity : int
        Slots.

    Attributes
    ----------
    data : list of ndarray of float32, shape (slots, C, width)
        Line integrals, one array per slab; lanes without a row stay zero.
    """

    def __init__(self, slabs: Sequence[SlabRows], columns: int, capacity: int) -> None:
        self._slabs = tuple(slabs)
        self._shape = (sum(slab.count for slab in slabs), columns)
        self.data = [np.zeros((capacity, columns, slab.width), np.float32) for slab in slabs]

    def write(self, slot: int, projection: NDArray[np.float32]) -> None:
        """Copy a projection, shape (rows, C), into a slot."""
        for slab, data in zip(self._slabs, self.data, strict=True):
            part = data[slot, :, : slab.count]
            part[...] = projection[slab.first : slab.first + slab.count].T
            if not np.isfinite(part).all():
                part[~np.isfinite(part)] = np.nan

    def projection(self, slot: int) -> NDArray[np.float32]:
        """Return a copy of the projection in a slot, shape (rows, C)."""
        projection = np.empty(self._shape, np.float32)
        for slab, data in zip(self._slabs, self.data, strict=True):
            projection[slab.first : slab.first + slab.count] = data[slot, :, : slab.count].T
        return projection

    def read(self, slab: int, slots: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return a copy of what a slab's rows have in some slots, shape (A, C, count)."""
        return self.data[slab][slots, :, : self._slabs[slab].count]

    def grow(self, more: int) -> None:
        """Add empty slots."""
        for index, data in enumerate(self.data):
            self.data[index] = np.concatenate((data, np.zeros((more, *data.shape[1:]), np.float32)))
