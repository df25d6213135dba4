"""A rotation axis that is tilted in the detector's plane: rows are shifted until it is upright. Lengths are pixels.

Rows are shifted along themselves, by as much as the axis is aside. What is neglected is that a pixel beside the axis
sees another height of the sample than one on it: by sin(tilt) times its distance from the axis, 4 rows at 500 pixels
and half a degree. A rank has no rows but its own; so images at that distance are blurred across so many slices.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.partition import RowBlock

__all__ = ["row_shifts", "upright"]


def row_shifts(block: RowBlock, detector_rows: int, tilt: float) -> NDArray[np.float64]:
    """Return how far right of its place in the middle row the axis is, shape (rows of the block,).

    Parameters
    ----------
    block : RowBlock
        Rows of a rank.
    detector_rows : int
        Of the whole detector.
    tilt : float
        Degrees; positive: further right in lower rows, which have larger numbers.

    Examples
    --------
    >>> row_shifts(RowBlock(0, 3, 0, 0, 1), 3, 45.0).round(6).tolist()
    [-1.0, 0.0, 1.0]
    """
    rows = np.arange(block.first, block.stop)
    return np.asarray(math.tan(math.radians(tilt)) * (rows - (detector_rows - 1) / 2))


def upright(projection: NDArray[np.float32], shifts: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return a projection whose rows are shifted to the left, by cubic convolution [1]_.

    Parameters
    ----------
    projection : ndarray of float32, shape (rows, C)
        Line integrals; beyond both ends a row goes on with its last value.
    shifts : ndarray of float64, shape (rows,)
        Pixels.

    References
    ----------
    .. [1] R. G. Keys, IEEE Trans. Acoust. Speech Signal Process. 29(6), 1981, :doi:`10.1109/TASSP.1981.1163711`.
    """
    columns = projection.shape[1]
    margin = math.ceil(float(np.abs(shifts).max(initial=0.0))) + 2
    padded = np.pad(projection, ((0, 0), (margin, margin)), mode="edge")
    moved = np.empty_like(projection)
    for row, shift in enumerate(shifts):
        whole = math.floor(shift)
        t = shift - whole
        taps = (
            ((2 - t) * t - 1) * t / 2,
            ((3 * t - 5) * t * t + 2) / 2,
            ((4 - 3 * t) * t + 1) * t / 2,
            (t - 1) * t * t / 2,
        )
        first = margin + whole - 1
        moved[row] = sum(
            np.float32(tap) * padded[row, first + k : first + k + columns] for k, tap in enumerate(taps) if tap
        )
    return moved
