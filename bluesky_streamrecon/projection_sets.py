"""Line integrals of a few detector rows from all angles of a scan, in a bounded number of views.

A scan of any length passes through the same memory: as long as there are few views, each is kept as it came; above a
limit neighbours in angle are averaged, as a detector would have that exposes for longer. Angles are radians, line
integrals unitless.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ProjectionSet", "ProjectionStore", "aligned", "most_views"]

FEWEST = 1024
PER_COLUMN = 1.5
"""Views per detector column; at about 1.6 of a half turn each, pixels at the image's edge are one view apart."""

FINEST = 24
"""Binary logarithm of the most cells that a turn is cut into."""


def most_views(columns: int) -> int:
    """Return the number of views that are held one by one, for a detector of so many columns.

    Examples
    --------
    >>> most_views(512), most_views(2048)
    (1024, 3072)
    """
    return max(FEWEST, math.ceil(PER_COLUMN * columns))


@dataclass(frozen=True, slots=True, eq=False)
class ProjectionSet:
    """Projections in the order in which the first projection of each came.

    Parameters
    ----------
    values : ndarray of float32, shape (n, rows, C)
        Line integrals, means of the projections that were measured; a row that is NaN was not.
    angles : ndarray of float64, shape (n,)
        Means of the projections' angles, radians.
    counts : ndarray of int64, shape (n,)
        Projections, those not measured among them.
    """

    values: NDArray[np.float32]
    angles: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def single(self) -> bool:
        """Each view is one projection."""
        return bool((self.counts == 1).all())


class ProjectionStore:
    """Views of one scan, at most so many.

    Projections are kept one by one until there are more than `most`. Then the turn is cut into cells of equal angle,
    as fine as leaves fewer than `most` of them with anything in it, and projections in the same cell are averaged.
    What cells there are depends on the angles alone: stores of other rows of the same scan have the same.

    Parameters
    ----------
    most : int
        Projections held.

    Attributes
    ----------
    taken : int
        Projections in the store.
    """

    def __init__(self, most: int) -> None:
        self.taken = 0
        self._most = most
        self._held = 0
        self._level: int | None = None
        self._places: dict[int, int] = {}  # by cell, once there are cells
        self._values = np.empty((0, 0, 0), np.float32)
        self._angles = np.empty(0, np.float64)
        self._keys = np.empty(0, np.int64)  # cells of the finest level
        self._counts = np.empty(0, np.int64)
        self._weights = np.empty((0, 0), np.int64)  # projections that were measured, by row

    def __len__(self) -> int:
        return self._held

    @property
    def exact(self) -> bool:
        """Nothing was averaged: the views are the projections, in the order of arrival."""
        return self._held == self.taken

    def append(self, values: NDArray[np.float32], angle: float, count: int = 1) -> None:
        """Take a projection in, shape (rows, C), or a view that stands for several."""
        self.taken += count
        weights = np.where(np.isfinite(values).all(axis=1), count, 0)
        key = min(int(angle % math.tau / math.tau * 2**FINEST), 2**FINEST - 1)
        while self._held == self._most and self._place(key) is None:
            self._coarsen()
        place = self._place(key)
        if place is not None:
            self._merge(place, values, weights, angle, count)
            return
        if self._held == len(self._angles):
            self._grow(values.shape)
        place = self._held
        self._held += 1
        self._values[place], self._weights[place] = values, weights
        self._angles[place], self._counts[place], self._keys[place] = angle, count, key
        if self._level is not None:
            self._places[key >> FINEST - self._level] = place

    def extend(self, views: ProjectionSet) -> None:
        """Take all of these in."""
        for values, angle, count in zip(views.values, views.angles, views.counts, strict=True):
            self.append(values, float(angle), int(count))

    def views(self) -> ProjectionSet:
        """Return what is held, as copies."""
        held = self._held
        return ProjectionSet(self._values[:held].copy(), self._angles[:held].copy(), self._counts[:held].copy())

    def _place(self, key: int) -> int | None:
        return None if self._level is None else self._places.get(key >> FINEST - self._level)

    def _grow(self, shape: tuple[int, ...]) -> None:
        new = min(max(2 * self._held, 16), self._most)
        arrays = {"_values": shape, "_angles": (), "_keys": (), "_counts": (), "_weights": shape[:1]}
        for name, each in arrays.items():
            old = getattr(self, name)
            grown = np.empty((new, *each), old.dtype)
            if self._held:
                grown[: self._held] = old[: self._held]
            setattr(self, name, grown)

    def _coarsen(self, level: int | None = None) -> None:
        """Cut the turn into half as many cells, until there is room; or into 2 ** `level`."""
        if level is None:
            level = FINEST if self._level is None else self._level - 1
            while len(np.unique(self._keys[: self._held] >> FINEST - level)) == self._most:
                level -= 1
        self._level, self._places = level, {}
        held, self._held = self._held, 0
        for old in range(held):
            cell = int(self._keys[old]) >> FINEST - level
            if cell in self._places:
                angle, count = float(self._angles[old]), int(self._counts[old])
                self._merge(self._places[cell], self._values[old], self._weights[old], angle, count)
                continue
            place = self._places[cell] = self._held
            self._held += 1
            for array in (self._values, self._weights, self._angles, self._keys, self._counts):
                array[place] = array[old]

    def _merge(
        self, place: int, values: NDArray[np.float32], weights: NDArray[np.int64], angle: float, count: int
    ) -> None:
        for row in np.flatnonzero(weights):
            mean, weight = self._values[place, row], weights[row]
            if self._weights[place, row] == 0:
                mean[:] = values[row]
            else:
                mean += (values[row] - mean) * np.float32(weight / (self._weights[place, row] + weight))
            self._weights[place, row] += weight
        self._counts[place] += count
        turn = (angle - self._angles[place] + math.pi) % math.tau - math.pi
        self._angles[place] += turn * count / self._counts[place]


def aligned(stores: Sequence[ProjectionStore]) -> list[ProjectionSet]:
    """Return the views that several stores of one scan have in common: of each store those in the same cells.

    Stores that were filled from different sources may differ by what came last.
    """
    level = min(FINEST if store._level is None else store._level for store in stores)
    cut = [copy.deepcopy(store) for store in stores]
    for store in cut:
        store._coarsen(level)
    shared = [cell for cell in cut[0]._places if all(cell in store._places for store in cut)]
    parts = []
    for store in cut:
        at = [store._places[cell] for cell in shared]
        parts.append(ProjectionSet(store._values[at], store._angles[at], store._counts[at]))
    return parts
