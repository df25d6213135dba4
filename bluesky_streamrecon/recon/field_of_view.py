"""Whether the sample fits the detector's width, judged by both ends of its views.

Line integrals are unitless, lengths detector pixels.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.geometry import TomoGeometry, image_size

__all__ = ["ENDS", "SIDES", "ends_of", "field_of_view", "in_words", "reaches_out", "reaching_out"]

ENDS = 6
"""Sums that `ends_of` returns."""

SIDES = ("left", "right")
"""Names of the detector's edges."""

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


def reaches_out(projections: NDArray[np.float32]) -> tuple[str, ...]:
    """Return the sides on which the sample reaches out of view; none where it fits.

    Parameters
    ----------
    projections : ndarray of float32, shape (A, rows, C)
        Line integrals; rows with NaN are left aside.
    """
    rows = projections.reshape(-1, projections.shape[2])
    return reaching_out(ends_of(rows[np.isfinite(rows).all(axis=1)].astype(np.float64)))


def in_words(sides: tuple[str, ...]) -> str:
    """Return where the sample reaches out of view as a sentence; empty where it fits.

    Examples
    --------
    >>> in_words(("left", "right"))
    'the sample reaches out of view at the left and right edge of the detector'
    """
    return f"the sample reaches out of view at the {' and '.join(sides)} edge of the detector" if sides else ""


def field_of_view(geometry: TomoGeometry, sides: tuple[str, ...], *, full_turn: bool) -> str:
    """Return what to know of an image if the sample reaches out of view on these sides; empty if it fits."""
    columns, axis = geometry.columns, geometry.axis
    needed = image_size(columns, axis, full_turn=full_turn, edges=len(sides))
    if not sides:
        return ""
    if geometry.size < needed:
        return (
            f"field of view: {in_words(sides)}; the image ends in it, and its values are not to be relied on; "
            f"size={needed} shows all that is seen"
        )
    if full_turn and len(sides) == 1:
        return (
            f"field of view: half acquisition: {in_words(sides)}, and the opposite views see the rest; the image has "
            f"{geometry.size} x {geometry.size} pixels"
        )
    edges = axis + 0.5, columns - 0.5 - axis
    radius = math.floor(max(edges) if full_turn else min(edges))
    return (
        f"field of view: {in_words(sides)}; only what is less than {radius} pixels from the axis is seen from all "
        "sides, and its attenuation may be off by a constant"
    )


def reaching_out(ends: NDArray[np.float64]) -> tuple[str, ...]:
    """Return the sides on which the sample reaches out of view, from sums of what `ends_of` returns."""
    differing, spread, left, right, noise, number = ends[:ENDS]
    by_chance = _SURE * noise / math.sqrt(max(number, 1.0))
    if differing <= REACHES_OUT**2 * max(spread, 0.0) + by_chance:
        return ()
    levels = dict(zip(SIDES, (abs(left) / number, abs(right) / number), strict=True))
    least = min(REACHES_OUT * math.sqrt(max(spread, 0.0) / number), max(levels.values()))
    return tuple(side for side, level in levels.items() if level >= least)
