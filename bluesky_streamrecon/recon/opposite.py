"""The rotation axis from opposite views: what one sees at column t, the other sees at 2 a - t.

Nothing is assumed about what lies outside the detector: only the columns that both views see are compared, so a sample
that reaches out of view does no harm. It takes views from more than a half turn. Angles are radians, lengths detector
pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEAST_PAIRS", "locate_by_opposite", "opposite_evidence", "opposite_pairs"]

LEAST_PAIRS = 8
"""Pairs of opposite views below which nothing is concluded."""

MOST_PAIRS = 128
"""Pairs that are looked at, spread over all there are."""

UNEVEN = 2.2
"""Largest distance between neighbouring views over their mean distance: 2.1 in optimized interleaved order."""

LEAST_OVERLAP = 1 / 12
"""Columns that both views must see, as a share of the detector's."""

UNLIKE = 0.25
"""Part of what both views show that may differ between them at the axis."""

AHEAD = 0.5
"""The same relative to the best other axis (more than 3 pixels away)."""

_NARROWEST = 12
_RIVAL_DISTANCE = 6  # half pixels


def opposite_pairs(angles: Sequence[float] | NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return pairs of views that look from opposite sides, to within half of their mean distance in a full turn.

    In a half turn that is the whole of their mean distance, and the first and the last view are a pair; where views are
    not even yet, the nearest to that is taken.

    Examples
    --------
    >>> opposite_pairs(np.radians([0, 90, 180, 45, 271]))
    [(0, 2), (1, 4)]
    >>> opposite_pairs(np.radians([*range(0, 120, 2), *range(120, 180, 3)]))
    [(0, 79)]
    """
    turned = np.mod(np.asarray(angles, np.float64), 2 * math.pi)
    near = math.pi / max(len(turned), 1) * (1 + 1e-6)
    off: dict[tuple[int, int], float] = {}
    for view, angle in enumerate(turned):
        away = np.abs(np.mod(turned - angle, 2 * math.pi) - math.pi)
        other = int(away.argmin())
        off[min(view, other), max(view, other)] = float(away[other])
    pairs = {pair for pair, away in off.items() if away <= near}
    if not pairs and off and min(off.values()) <= UNEVEN * near:
        pairs = {min(off, key=lambda pair: off[pair])}
    found = sorted(pairs)
    return [found[place] for place in np.linspace(0, len(found) - 1, min(len(found), MOST_PAIRS)).round().astype(int)]


def opposite_evidence(
    views: Sequence[NDArray[np.float32] | None], pairs: Sequence[tuple[int, int]], rows: int, columns: int
) -> NDArray[np.float64]:
    """Return what may be added up over ranks and handed to `locate_by_opposite`.

    Parameters
    ----------
    views : sequence of ndarray of float32, shape (R, C), or None
        Line integrals of the rows that are looked at; None or rows with NaN: not measured.
    pairs : sequence of (int, int)
        Places of opposite views in `views`.
    rows, columns : int
        R, which may be 0, and C.

    Returns
    -------
    ndarray of float64, shape (3, 2 C - 1)
        For each axis k / 2: covariance of one view with the mirrored other one over the columns that both see, and the
        variances of both, summed over rows and pairs.
    """
    found = np.zeros((3, 2 * columns - 1))
    if not rows:
        return found
    first, last = _overlap(columns)
    number = last - first + 1

    def summed(values: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.cumsum(np.pad(values, ((0, 0), (1, 0))), axis=1)
        return sums[:, last + 1] - sums[:, first]

    for one, other in pairs:
        a, b = views[one], views[other]
        if a is None or b is None:
            continue
        measured = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
        p, q = a[measured].astype(np.float64), b[measured].astype(np.float64)
        product = np.fft.rfft(p, 2 * columns, axis=1) * np.fft.rfft(q, 2 * columns, axis=1)
        mirrored = np.fft.irfft(product, 2 * columns, axis=1)[:, : 2 * columns - 1]
        sum_p, sum_q = summed(p), summed(q)
        found[0] += (mirrored - sum_p * sum_q / number).sum(axis=0)
        found[1] += (summed(p * p) - sum_p**2 / number).sum(axis=0)
        found[2] += (summed(q * q) - sum_q**2 / number).sum(axis=0)
    return found


def locate_by_opposite(evidence: NDArray[np.float64], columns: int) -> tuple[float, float, float] | None:
    """Find the axis about which opposite views are mirror images of each other.

    Parameters
    ----------
    evidence : ndarray of float64, shape (3, 2 C - 1)
        Sum over rows of what `opposite_evidence` returns.
    columns : int
        Detector columns C.

    Returns
    -------
    (float, float, float) or None
        Axis, uncertainty and separation, as of `AxisEstimate`; None where no axis is much better than all others.
    """
    covariance, one, other = evidence
    first, last = _overlap(columns)
    number = last - first + 1
    variance = one + other
    enough = (number >= max(_NARROWEST, LEAST_OVERLAP * columns)) & (variance > 0)
    if not enough.any():
        return None
    differing = np.full(len(number), math.inf)
    differing[enough] = 1 - 2 * covariance[enough] / variance[enough]
    best = int(np.argmin(differing))
    low, least, high = differing[max(best - 1, 0)], differing[best], differing[min(best + 1, len(differing) - 1)]
    curvature = low - 2 * least + high
    if not (np.isfinite(curvature) and curvature > 0):  # at the end of what can be looked at
        return None
    valleys = np.flatnonzero((differing[1:-1] < differing[:-2]) & (differing[1:-1] <= differing[2:])) + 1
    rivals = differing[valleys[np.abs(valleys - best) > _RIVAL_DISTANCE]]
    rival = float(rivals.min()) if rivals.size else 1.0
    if least > UNLIKE or least > AHEAD * rival:
        return None
    axis = (best + (low - high) / (2 * curvature)) / 2
    # Least squares: `variance * differing` is a sum of squares over so many independent differences.
    freedom = max(float(number[best]), 1.0)
    uncertainty = math.sqrt(max(float(least), 1e-9) / freedom / float(curvature)) / 2
    separation = math.sqrt(freedom * (rival - float(least)) / max(float(least), 1e-9))
    return round(float(axis), 3), uncertainty, separation


def _overlap(columns: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the first and last column that two opposite views both see, for axes at every half pixel."""
    twice = np.arange(2 * columns - 1)
    return np.maximum(0, twice - (columns - 1)), np.minimum(columns - 1, twice)
