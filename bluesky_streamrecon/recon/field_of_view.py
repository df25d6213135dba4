"""Whether the sample fits the detector's width, judged by both ends of its views.

Line integrals are unitless, lengths detector pixels.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["ENDS", "ends_of", "reaches_out", "reaching_out"]

ENDS = 6
"""Sums that `ends_of` returns."""

REACHES_OUT = 0.25
"""Difference between both ends of a view, over the spread of values within it (each root mean square), from which on
the sample reaches out of view. Scans with air on both sides stay below 0.01, with a drifting beam below 0.15."""

_SURE = 4.0


def ends_of(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sums over rows: product of two differences between both ends, spread within, levels, noise, and number.

    Products are of values of different pixels, so that noise adds nothing to them on average.
    """
    width = max(2, rows.shape[1] // 128)
    outer = rows[:, :width].mean(axis=1) - rows[:, -width:].mean(axis=1)
    left, right = rows[:, width : 2 * width].mean(axis=1), rows[:, -2 * width : -width].mean(axis=1)
    inner = rows - rows.mean(axis=1, keepdims=True)
    spread = (inner[:, :-1] * inner[:, 1:]).mean(axis=1)
    steps = np.diff(rows[:, np.r_[: 2 * width, -2 * width : 0]], axis=1)
    noise = np.delete(steps, 2 * width - 1, axis=1) ** 2 / 2
    products = outer * (left - right)
    return np.array(
        [products.sum(), spread.sum(), left.sum(), right.sum(), 2 / width * noise.mean(axis=1).sum(), len(rows)]
    )


def reaches_out(projections: NDArray[np.float32]) -> str:
    """Return where the sample reaches out of view, in words; empty where it fits.

    Parameters
    ----------
    projections : ndarray of float32, shape (A, rows, C)
        Line integrals; rows with NaN are left aside.
    """
    rows = projections.reshape(-1, projections.shape[2])
    return reaching_out(ends_of(rows[np.isfinite(rows).all(axis=1)].astype(np.float64)))


def reaching_out(ends: NDArray[np.float64]) -> str:
    """Return where the sample reaches out of view, in words, from what `ends_of` returns; empty where it fits."""
    differing, spread, left, right, noise, number = ends[:ENDS]
    by_chance = _SURE * noise / math.sqrt(max(number, 1.0))
    if differing <= REACHES_OUT**2 * max(spread, 0.0) + by_chance:
        return ""
    levels = {"left": abs(left) / number, "right": abs(right) / number}
    least = min(REACHES_OUT * math.sqrt(max(spread, 0.0) / number), max(levels.values()))
    edges = " and ".join(side for side, level in levels.items() if level >= least)
    return f"the sample reaches out of view at the {edges} edge of the detector"
