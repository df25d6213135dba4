"""From which directions a scan looks: views of one direction, repeated or opposite, count as one.

Parallel beam: a view from the back sees what the view from the front saw. Angles are radians.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Directions", "crowded", "find_directions"]

SAME_DIRECTION = 1e-3
"""Radians between views of one direction, at most: a pixel at the edge of an image of 2000."""

CROWDED = 0.25
"""Share of the half turn that one view stands for, from which on the others are too much on one side."""

SAME_SHARE = 0.1
"""The same as a share of the views' mean distance, where that is less."""


@dataclass(frozen=True, slots=True, eq=False)
class Directions:
    """Directions of views, each once however many views it has.

    Parameters
    ----------
    of_view : ndarray of int, shape (n,)
        Direction of each view, counted by angle.
    gaps : ndarray of float64, shape (m,)
        Angle from each direction to the next, radians; the last one holds what is left at both ends.
    """

    of_view: NDArray[np.intp]
    gaps: NDArray[np.float64]

    @property
    def cells(self) -> NDArray[np.float64]:
        """Angle that each view stands for, shape (n,): half the gaps on both sides, shared within a direction."""
        views = np.bincount(self.of_view, minlength=len(self.gaps))
        cells = (self.gaps + np.roll(self.gaps, 1)) / 2 / views
        return np.asarray(cells[self.of_view])


def find_directions(angles: NDArray[np.float64], span: float = math.pi, *, cyclic: bool = True) -> Directions:
    """Return the directions of views.

    Parameters
    ----------
    angles : ndarray of float64, shape (n,)
        In any order; anything if `cyclic`, else from 0 to `span`.
    span : float, optional
        Angle that there is to cover, radians; a half turn by default.
    cyclic : bool, optional
        The two ends are neighbours, and angles count modulo `span`.

    Examples
    --------
    >>> found = find_directions(np.radians([0, 180, 90, 270, 45]))
    >>> found.of_view.tolist(), np.degrees(found.gaps).round().tolist()
    ([0, 0, 2, 2, 1], [45.0, 45.0, 90.0])
    >>> np.degrees(found.cells).round(2).tolist()
    [33.75, 33.75, 33.75, 33.75, 45.0]
    """
    folded = np.mod(angles, span) if cyclic else angles
    order = np.argsort(folded, kind="stable")
    ordered = folded[order]
    same = min(SAME_DIRECTION, SAME_SHARE * span / max(len(ordered), 1))
    new = np.diff(ordered, prepend=-math.inf) > same
    place = np.cumsum(new) - 1
    at = ordered[new]
    if cyclic and len(at) > 1 and at[0] + span - ordered[-1] <= same:  # the two ends are one direction
        place[place == place[-1]] = 0
        at = at[:-1]
    of_view = np.empty(len(ordered), np.intp)
    of_view[order] = place
    return Directions(of_view, np.diff(at, append=at[:1] + span))


def crowded(angles: NDArray[np.float64]) -> bool:
    """Return whether one view stands for too large a part of the half turn; angles of shape (n,), radians."""
    return float(find_directions(angles).cells.max()) / math.pi > CROWDED
