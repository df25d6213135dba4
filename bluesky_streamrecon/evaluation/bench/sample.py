"""A sample that costs nothing to make: discs whose line integrals are known. Lengths are detector pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.ordering import make_order

__all__ = ["DARK_COUNT", "FLAT_COUNT", "counts_of", "disc_projections", "scan_angles"]

DARK_COUNT = 100
FLAT_COUNT = 40_000

_DISCS = ((0.0, 0.0, 0.42, 1.0), (0.18, -0.1, 0.12, 0.8), (-0.15, 0.2, 0.07, -0.6))
_THICKEST = 1.5


def scan_angles(num: int) -> NDArray[np.float64]:
    """Give `num` angles of a half turn, optimized interleaved, radians."""
    return np.radians(np.asarray(make_order("optimized-interleaved", num=num).angles, np.float64))


def disc_projections(geometry: TomoGeometry, angles: NDArray[np.float64], rows: int) -> NDArray[np.float32]:
    """Give line integrals of discs that differ a little from row to row.

    Parameters
    ----------
    geometry : TomoGeometry
        Detector and image.
    angles : ndarray of float64, shape (A,)
        Radians.
    rows : int
        Detector rows.

    Returns
    -------
    ndarray of float32, shape (A, rows, C)
        Line integrals, unitless, at least 0.
    """
    size = geometry.size
    columns = np.arange(geometry.columns)
    total = np.zeros((len(angles), geometry.columns))
    for x, y, radius, density in _DISCS:
        at = (geometry.half + x * size, geometry.half + y * size)
        middle = np.array([geometry.detector_column(*at, angle) for angle in angles])
        inside = (radius * size) ** 2 - (columns - middle[:, None]) ** 2
        total += density * 2 * np.sqrt(np.maximum(inside, 0))
    total *= _THICKEST / total.max()
    rows_scale = 1 - 0.3 * np.arange(rows) / rows
    return (np.maximum(total, 0)[:, None, :] * rows_scale[:, None]).astype(np.float32)


def counts_of(projections: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Give what a detector counts for these line integrals, without noise."""
    return np.asarray(np.rint(DARK_COUNT + (FLAT_COUNT - DARK_COUNT) * np.exp(-projections)), np.uint16)
