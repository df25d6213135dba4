"""Loops over differences of frames: their power as white noise, and over some columns. All values are finite."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.jit import loops

__all__ = ["powers"]


@loops
def powers(
    frames: NDArray[np.float64], these: NDArray[np.intp], others: NDArray[np.intp], columns: int
) -> tuple[float, float]:
    """Return the power of ``frames[these[i]] - frames[others[i]]`` as white noise, and over so many columns.

    The first is computed from second differences along the row. Of white noise, the two are equal.
    """
    count, width = len(these), frames.shape[1]
    difference = np.empty(width)
    sums = np.empty(width + 1)
    white = 0.0
    smooth = 0.0
    sums[0] = 0.0
    for i in range(count):
        frame, other = frames[these[i]], frames[others[i]]
        for j in range(width):
            difference[j] = frame[j] - other[j]
        total = 0.0
        for j in range(width):
            total += difference[j]
            sums[j + 1] = total
        left, middle, right = difference[: width - 2], difference[1 : width - 1], difference[2:]
        row_white = 0.0
        for j in range(width - 2):
            second = left[j] - 2.0 * middle[j] + right[j]
            row_white += second * second
        early, late = sums[: width + 1 - columns], sums[columns:]
        row_smooth = 0.0
        for j in range(width + 1 - columns):
            step = late[j] - early[j]
            row_smooth += step * step
        white += row_white
        smooth += row_smooth
    return white / (6.0 * count * (width - 2)), smooth / (columns * count * (width + 1 - columns))
