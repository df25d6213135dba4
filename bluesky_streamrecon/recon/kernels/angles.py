"""Which projections a window keeps and takes: counting of angles that are in order, in microseconds for some thousand.

The definitions are those of `window.redundant_view` and `window.spread_views`; angles are radians.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bluesky_streamrecon.jit import kernel

__all__ = ["insert", "redundant", "remove", "spread"]

Array = np.ndarray[Any, Any]

_SAME_GAP = 1e-9
"""Equal steps of the stage differ by rounding, which must not decide."""


@kernel
def insert(angles: Array, keys: Array, count: int, angle: float, key: int) -> None:
    """Put an angle and its key where they belong among the first `count`, which ascend; after those that are equal."""
    at = count
    while at > 0 and angles[at - 1] > angle:
        angles[at] = angles[at - 1]
        keys[at] = keys[at - 1]
        at -= 1
    angles[at] = angle
    keys[at] = key


@kernel
def remove(angles: Array, keys: Array, count: int, key: int) -> None:
    """Take a key, which is among the first `count`, and its angle out."""
    at = 0
    while keys[at] != key:
        at += 1
    for place in range(at, count - 1):
        angles[place] = angles[place + 1]
        keys[place] = keys[place + 1]


@kernel
def redundant(angles: Array, keys: Array, arrived: Array, candidates: int) -> int:
    """Return the place in `arrived` whose neighbours on the full turn are closest together; see `window`.

    Angles ascend from 0 to a full turn; `keys` go with them; the same keys ascend in `arrived`, the oldest first.
    """
    count = len(angles)
    youngest = arrived[candidates - 1]
    best, least = arrived[0], np.inf
    before = angles[count - 1] - 2 * math.pi
    for rank in range(count):
        after = angles[rank + 1] if rank + 1 < count else angles[0] + 2 * math.pi
        gap = np.rint((after - before) / _SAME_GAP)
        before = angles[rank]
        key = keys[rank]
        if key <= youngest and (gap < least or (gap == least and key < best)):
            best, least = key, gap
    return np.searchsorted(arrived, best)  # type: ignore[no-any-return]


@kernel
def spread(keys: Array, arrived: Array, newest: int, wanted: int, share: float) -> Array:
    """Return the places in `arrived` of `wanted` older ones, one of each stratum by angle, and of the `newest`.

    They ascend. `keys` are in the order of the angles, the same ascend in `arrived`; `share`, 0 to 1, is the place
    within each stratum.
    """
    count = len(keys) - newest
    older = np.empty(count, np.int64)
    found = 0
    for rank in range(len(keys)):
        if keys[rank] < arrived[count]:
            older[found] = keys[rank]
            found += 1
    result = np.empty(wanted + newest, np.int64)
    for number in range(wanted):
        begin, end = number * count // wanted, (number + 1) * count // wanted
        result[number] = np.searchsorted(arrived, older[begin + math.floor(share * (end - begin))])
    result[:wanted].sort()
    for number in range(newest):
        result[wanted + number] = count + number
    return result
