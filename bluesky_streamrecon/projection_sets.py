"""Line integrals of a few detector rows from all angles of a scan, in a bounded number of views.

A scan of any length passes through the same memory: as long as there are few views, each is kept as it came; above a
limit neighbours in angle are averaged, as a detector would have that exposes for longer. Angles are radians, line
integrals unitless.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Sequence
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


@dataclass(slots=True)
class _View:
    """A view that is held: the mean of the projections in one cell, or a single one."""

    values: NDArray[np.float32]
    weights: NDArray[np.int64]  # projections that were measured, by row
    angle: float
    count: int
    key: int  # cell of the finest level

    def merge(self, other: _View) -> None:
        """Take in what stands for other projections in the same cell."""
        for row in np.flatnonzero(other.weights):
            mean, weight = self.values[row], other.weights[row]
            if self.weights[row] == 0:
                mean[:] = other.values[row]
            else:
                mean += (other.values[row] - mean) * np.float32(weight / (self.weights[row] + weight))
            self.weights[row] += weight
        self.count += other.count
        turn = (other.angle - self.angle + math.pi) % math.tau - math.pi
        self.angle += turn * other.count / self.count


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
        self._level: int | None = None  # binary logarithm of the number of cells, once there are cells
        self._views: dict[int, _View] = {}  # by cell, or by number as long as there are no cells

    def __len__(self) -> int:
        return len(self._views)

    @property
    def exact(self) -> bool:
        """Nothing was averaged: the views are the projections, in the order of arrival."""
        return len(self) == self.taken

    def append(self, values: NDArray[np.float32], angle: float, count: int = 1) -> None:
        """Take a projection in, shape (rows, C), or a view that stands for several."""
        self.taken += count
        weights = np.where(np.isfinite(values).all(axis=1), count, 0)
        key = min(int(angle % math.tau / math.tau * 2**FINEST), 2**FINEST - 1)
        while len(self) == self._most and self._cell(key) not in self._views:
            self._coarsen()
        self._put(_View(np.array(values, np.float32), weights, angle, count, key))

    def extend(self, views: ProjectionSet) -> None:
        """Take all of these in."""
        for values, angle, count in zip(views.values, views.angles, views.counts, strict=True):
            self.append(values, float(angle), int(count))

    def views(self) -> ProjectionSet:
        """Return what is held, as copies."""
        return _set_of(self._views.values())

    def _cell(self, key: int) -> int:
        return len(self) if self._level is None else key >> FINEST - self._level

    def _put(self, view: _View) -> None:
        cell = self._cell(view.key)
        if cell in self._views:
            self._views[cell].merge(view)
        else:
            self._views[cell] = view

    def _coarsen(self, level: int | None = None) -> None:
        """Cut the turn into half as many cells, until there is room; or into 2 ** `level`."""
        held = list(self._views.values())
        if level is None:
            level = FINEST if self._level is None else self._level - 1
            while len({view.key >> FINEST - level for view in held}) == self._most:
                level -= 1
        self._level, self._views = level, {}
        for view in held:
            self._put(view)


def aligned(stores: Sequence[ProjectionStore]) -> list[ProjectionSet]:
    """Return the views that several stores of one scan have in common: of each store those in the same cells.

    Stores that were filled from different sources may differ by what came last.
    """
    level = min(FINEST if store._level is None else store._level for store in stores)
    cut = [copy.deepcopy(store) for store in stores]
    for store in cut:
        store._coarsen(level)
    shared = [cell for cell in cut[0]._views if all(cell in store._views for store in cut)]
    return [_set_of([store._views[cell] for cell in shared]) for store in cut]


def _set_of(views: Collection[_View]) -> ProjectionSet:
    values = [view.values for view in views]
    return ProjectionSet(
        np.stack(values) if values else np.empty((0, 0, 0), np.float32),
        np.array([view.angle for view in views], np.float64),
        np.array([view.count for view in views], np.int64),
    )
