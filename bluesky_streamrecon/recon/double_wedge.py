"""The rotation axis from the spectrum of a half turn's sinogram: outside a double wedge there is nothing.

A half turn and its mirror image about the axis make a full turn. A point at distance r from the axis moves along the
detector with the angle, so at frequency w (radians per pixel) angular harmonics above w r vanish: the two-dimensional
spectrum of a full turn is a double wedge [1]_. Mirrored about a wrong axis, the two halves do not fit together at their
ends, and there is something outside. A sample that reaches out of view does little harm, for the two ends have to fit
together all the same. Angles are radians, lengths detector pixels.

References
----------
.. [1] N. T. Vo et al., Optics Express 22(16), 19078, 2014, :doi:`10.1364/OE.22.019078`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.directions import find_directions

__all__ = ["even_views", "locate_by_wedge", "wedge_evidence"]

FEWEST_VIEWS = 40
"""Evenly spread views below which the wedge fills nearly all of the spectrum."""

MOST_VIEWS = 180
"""Views that are looked at, evenly spread over all there are."""

SPARE_HARMONICS = 3
"""Harmonics beside the wedge that are left aside: it has soft edges."""

BELOW_NYQUIST = 0.9
"""Highest harmonic that is looked at, as a share of the number of views."""

HIGHEST_FREQUENCY = math.pi / 2
"""Radians per pixel; above it there is mostly noise."""

SHARP = 0.2
"""Depth of the minimum below the best other axis, as a share of that below the median."""

DEEP = 0.03
"""Depth of the minimum below the median, as a share of it: 0.07 and more with a sample, up to 0.015 with noise."""

_PADDING = 2
_RIVAL_DISTANCE, _OF_COLUMNS = 3.0, 1 / 64
_COARSE, _FINE = 0.25, 0.02


def even_views(angles: Sequence[float] | NDArray[np.float64]) -> NDArray[np.intp]:
    """Return views that are evenly spread over a half turn, as many as the largest gap allows; none if these are few.

    Examples
    --------
    >>> views = even_views(np.radians([*range(0, 180, 2), 1, 3, 5, 7]))
    >>> len(views), int(views.max())
    (90, 89)
    >>> len(even_views(np.radians(range(100)))), len(even_views(np.radians(range(-88, 93, 2))))
    (0, 90)
    """
    turned = np.mod(np.asarray(angles, np.float64), 2 * math.pi)
    if len(turned) < FEWEST_VIEWS:
        return np.empty(0, np.intp)
    around = np.sort(turned)
    start = around[(np.argmax(np.diff(around, append=around[0] + 2 * math.pi)) + 1) % len(around)]
    turned = np.mod(turned - start + 1e-9, 2 * math.pi)
    # Opposite views show the other side of a sample that reaches out of view: half of a full turn is taken.
    first = np.flatnonzero(turned < math.pi * (1 - 1e-6))
    order = first[np.argsort(turned[first], kind="stable")]
    at = turned[order]
    gap = float(np.diff(at, append=at[0] + math.pi).max())
    number = min(math.floor(math.pi / gap * (1 + 1e-6)), MOST_VIEWS)
    if number < FEWEST_VIEWS:
        return np.empty(0, np.intp)
    grid = at[0] + math.pi / number * np.arange(number)
    after = np.clip(np.searchsorted(at, grid), 1, len(at) - 1)
    nearest = np.where(grid - at[after - 1] < at[after] - grid, after - 1, after)
    return np.asarray(order[np.unique(nearest)])


def wedge_evidence(
    views: Sequence[NDArray[np.float32] | None], angles: NDArray[np.float64], rows: int, columns: int
) -> NDArray[np.float64]:
    """Return what may be added up over ranks and handed to `locate_by_wedge`.

    Parameters
    ----------
    views : sequence of ndarray of float32, shape (R, C), or None
        Line integrals of the rows that are looked at, evenly spread over a half turn; None or rows with NaN: not
        measured, and a row that misses a view is left aside.
    angles : ndarray of float64, shape (A,)
        Radians.
    rows, columns : int
        R, which may be 0, and C.

    Returns
    -------
    ndarray of float64, shape (3, F)
        Per frequency: what is outside the wedge for any axis, and what turns with the axis (real, imaginary).
    """
    omega = _frequencies(columns)
    found = np.zeros((3, len(omega)))
    if not rows or any(view is None for view in views):
        return found
    harmonics = np.arange(1, len(angles) + 1)
    cells = find_directions(angles).cells
    turns = np.exp(-1j * np.outer(harmonics, angles)) * cells
    outside = harmonics[:, None] > omega * (columns / 2) + SPARE_HARMONICS
    outside &= harmonics[:, None] <= BELOW_NYQUIST * len(angles)
    used = int(outside.any(axis=0).sum())  # above that the wedge fills all that so many views can show
    omega, outside = omega[:used], outside[:, :used]
    signs = np.where(harmonics % 2, -1.0, 1.0)[:, None]
    # The spectrum of differences, whose first lies between columns 0 and 1: no step at the ends of the detector.
    shift = np.exp(-0.5j * omega)
    for row in range(rows):
        lines = np.stack([view[row] for view in views if view is not None]).astype(np.float64)
        if not np.isfinite(lines).all():
            continue
        spectra = np.fft.rfft(np.diff(lines, axis=1), _PADDING * columns, axis=1)[:, 1 : used + 1] * shift
        ahead, back = turns @ spectra, turns.conj() @ spectra
        found[0, :used] += ((np.abs(ahead) ** 2 + np.abs(back) ** 2) * outside).sum(axis=0)
        # A mirrored line has the conjugate spectrum, and differences of the other sign.
        turning = -2 * (signs * ahead * back * outside).sum(axis=0)
        found[1:, :used] += turning.real, turning.imag
    return found


def locate_by_wedge(evidence: NDArray[np.float64], columns: int) -> float | None:
    """Return the axis for which least lies outside the double wedge; None where none is much better than all others.

    Parameters
    ----------
    evidence : ndarray of float64, shape (3, F)
        Sum over rows of what `wedge_evidence` returns.
    columns : int
        Detector columns C.
    """
    total, turning, omega = float(evidence[0].sum()), evidence[1] + 1j * evidence[2], _frequencies(columns)
    if total <= 0:
        return None

    def outside(axes: NDArray[np.float64]) -> NDArray[np.float64]:
        turned = turning * np.exp(2j * omega * axes[:, None])
        return np.asarray(total + turned.real.sum(axis=1), np.float64)

    coarse = np.arange(columns / 12, columns * 11 / 12, _COARSE)
    values = outside(coarse)
    best = float(coarse[values.argmin()])
    least, usual = float(values.min()), float(np.median(values))
    rival = float(values[np.abs(coarse - best) > max(_RIVAL_DISTANCE, _OF_COLUMNS * columns)].min())
    if usual - least < DEEP * usual or rival - least < SHARP * (usual - least):
        return None
    fine = best + np.arange(-_COARSE, _COARSE + _FINE / 2, _FINE)
    return round(float(fine[outside(fine).argmin()]), 2)


def _frequencies(columns: int) -> NDArray[np.float64]:
    """Return the frequencies that are looked at, radians per pixel, shape (F,)."""
    length = _PADDING * columns
    highest = int(HIGHEST_FREQUENCY / (2 * math.pi) * length)
    return np.asarray(2 * math.pi / length * np.arange(1, highest + 1), np.float64)
