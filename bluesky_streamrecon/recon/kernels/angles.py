"""Which projections a window keeps and takes: sorting and counting of angles, in microseconds for some thousand.

The definitions are those of `window.redundant_view` and `window.spread_views`; angles are radians.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bluesky_streamrecon.jit import kernel

__all__ = ["redundant", "spread"]

Array = np.ndarray[Any, Any]

_SAME_GAP = 1e-9
"""Equal steps of the stage differ by rounding, which must not decide."""


@kernel
def _ordered(angles: Array, period: float) -> tuple[Array, Array]:
    """Return the order of angles modulo `period`, ties as they came, and the reduced angles.

    Angles are dealt to as many bins as there are angles, and sorted by insertion within each.
    """
    count = len(angles)
    reduced = np.empty(count)
    for place in range(count):
        angle = angles[place]
        reduced[place] = angle if 0 <= angle < period else angle % period
    low, high = reduced.min(), reduced.max()
    scale = (count - 1) / (high - low) if high > low else 0.0
    starts = np.zeros(count + 1, np.int64)
    bins = np.empty(count, np.int64)
    for place in range(count):
        found = int((reduced[place] - low) * scale)
        bins[place] = found
        starts[found + 1] += 1
    for found in range(count):
        starts[found + 1] += starts[found]
    stops = starts[:count].copy()
    order = np.empty(count, np.int64)
    for place in range(count):
        found = bins[place]
        at = stops[found]
        stops[found] += 1
        while at > starts[found] and reduced[order[at - 1]] > reduced[place]:
            order[at] = order[at - 1]
            at -= 1
        order[at] = place
    return order, reduced


@kernel
def redundant(angles: Array, candidates: int) -> int:
    """Return the place of the projection whose neighbours on the full turn are closest together; see `window`."""
    turn = 2 * math.pi
    order, reduced = _ordered(angles, turn)
    count = len(order)
    best, least = 0, np.inf
    for rank in range(count):
        place = order[rank]
        gap = reduced[order[(rank + 1) % count]] - reduced[order[rank - 1]]
        if rank == 0 or rank == count - 1:
            gap += turn
        gap = np.rint(gap / _SAME_GAP)
        if place < candidates and (gap < least or (gap == least and place < best)):
            best, least = place, gap
    return best


@kernel
def spread(angles: Array, newest: int, wanted: int, share: float) -> Array:
    """Return the places of `wanted` older projections, one of each stratum by angle, and of the `newest`, ascending.

    `share`, 0 to 1, is the place within each stratum.
    """
    count = len(angles) - newest
    result = np.empty(wanted + newest, np.int64)
    order, _ = _ordered(angles[:count], math.pi)
    for number in range(wanted):
        begin, end = number * count // wanted, (number + 1) * count // wanted
        place = order[begin + math.floor(share * (end - begin))]
        at = number
        while at > 0 and result[at - 1] > place:
            result[at] = result[at - 1]
            at -= 1
        result[at] = place
    for number in range(newest):
        result[wanted + number] = count + number
    return result
