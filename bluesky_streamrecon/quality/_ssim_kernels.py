"""Loops of MS-SSIM on one level of one slice. Only loops: shapes, ranges and NaN are the caller's care.

Both images are held as their sum p = x + y and difference q = x - y, of which four Gaussian means suffice where
x and y need five. With the variances P of p and Q of q,

    var x + var y = (P + Q) / 2,    2 cov(x, y) = (P - Q) / 2,

so one minus contrast-structure is Q / ((P + Q) / 2 + C2), and one minus luminance is the same in the squared means
with C1. What differs from 1 is computed, so equal images give exactly 1 and float32 is enough near it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.jit import loops

__all__ = ["halve", "level_deficits", "means", "sum_and_difference"]

Array = NDArray[np.floating]


@loops
def means(x: Array, y: Array) -> tuple[float, float]:
    """Return the mean of each image, summed row by row."""
    rows, columns = x.shape
    total_x = 0.0
    total_y = 0.0
    for i in range(rows):
        row_x = 0.0
        row_y = 0.0
        for j in range(columns):
            row_x += x[i, j]
            row_y += y[i, j]
        total_x += row_x
        total_y += row_y
    count = rows * columns
    return total_x / count, total_y / count


@loops
def sum_and_difference(
    x: Array, y: Array, mean_x: float, mean_y: float, scale: float, total: Array, difference: Array
) -> None:
    """Write scaled x + y and x - y, each image without its mean."""
    rows, columns = x.shape
    for i in range(rows):
        for j in range(columns):
            u = (x[i, j] - mean_x) * scale
            v = (y[i, j] - mean_y) * scale
            total[i, j] = u + v
            difference[i, j] = u - v


@loops
def halve(image: Array, columns: int, half: Array) -> None:
    """Write the means of 2 x 2 pixels; an odd last row or column has no partner and is left out."""
    rows = half.shape[0]
    quarter = image.dtype.type(0.25)
    for i in range(rows):
        upper = image[2 * i]
        lower = image[2 * i + 1]
        for j in range(columns // 2):
            half[i, j] = quarter * ((upper[2 * j] + upper[2 * j + 1]) + (lower[2 * j] + lower[2 * j + 1]))


@loops
def _filter_down(image: Array, i: int, taps: Array, mean: Array, square: Array) -> None:
    """Filter rows i to i + 10 of the image, and of its square, into one row each, as long as `mean`."""
    g0, g1, g2, g3, g4, g5 = taps[0], taps[1], taps[2], taps[3], taps[4], taps[5]
    r0, r1, r2, r3, r4, r5 = image[i], image[i + 1], image[i + 2], image[i + 3], image[i + 4], image[i + 5]
    r6, r7, r8, r9, r10 = image[i + 6], image[i + 7], image[i + 8], image[i + 9], image[i + 10]
    for j in range(mean.shape[0]):
        m = g0 * (r0[j] + r10[j]) + g1 * (r1[j] + r9[j]) + g2 * (r2[j] + r8[j])
        m += g3 * (r3[j] + r7[j]) + g4 * (r4[j] + r6[j]) + g5 * r5[j]
        s = g0 * (r0[j] * r0[j] + r10[j] * r10[j]) + g1 * (r1[j] * r1[j] + r9[j] * r9[j])
        s += g2 * (r2[j] * r2[j] + r8[j] * r8[j]) + g3 * (r3[j] * r3[j] + r7[j] * r7[j])
        s += g4 * (r4[j] * r4[j] + r6[j] * r6[j]) + g5 * (r5[j] * r5[j])
        mean[j] = m
        square[j] = s


@loops
def _filter_across(row: Array, taps: Array, out: Array) -> None:
    """Filter one row; `out` is 10 pixels shorter."""
    n = out.shape[0]
    g0, g1, g2, g3, g4, g5 = taps[0], taps[1], taps[2], taps[3], taps[4], taps[5]
    # Slices of the row, not row[j + 3]: so the compiler sees that no index wraps around, and vectorises.
    c0, c1, c2, c3, c4, c5 = row[:n], row[1 : n + 1], row[2 : n + 2], row[3 : n + 3], row[4 : n + 4], row[5 : n + 5]
    c6, c7, c8, c9, c10 = row[6 : n + 6], row[7 : n + 7], row[8 : n + 8], row[9 : n + 9], row[10 : n + 10]
    for j in range(n):
        m = g0 * (c0[j] + c10[j]) + g1 * (c1[j] + c9[j]) + g2 * (c2[j] + c8[j])
        out[j] = m + g3 * (c3[j] + c7[j]) + g4 * (c4[j] + c6[j]) + g5 * c5[j]


@loops
def level_deficits(
    total: Array,
    difference: Array,
    columns: int,
    mean_total: float,
    mean_difference: float,
    taps: Array,
    c1: float,
    c2: float,
    coarsest: bool,
) -> tuple[float, float]:
    """Return 1 - contrast-structure and 1 - SSIM, each a mean over the valid region; the latter is 0 unless `coarsest`.

    Of each row `columns` pixels count. `mean_total` and `mean_difference` are the means that were subtracted before.
    Rows are summed in the type of the images, their sums in float64.
    """
    rows = total.shape[0]
    n = columns - 10
    kind = total.dtype.type
    zero = kind(0.0)
    half = kind(0.5)
    k1 = kind(c1)
    k2 = kind(c2)
    offset_p = kind(mean_total)
    offset_q = kind(mean_difference)
    mean = np.empty(columns, total.dtype)
    square = np.empty(columns, total.dtype)
    mean_p = np.empty(n, total.dtype)
    square_p = np.empty(n, total.dtype)
    mean_q = np.empty(n, total.dtype)
    square_q = np.empty(n, total.dtype)
    structure = 0.0
    similarity = 0.0
    for i in range(rows - 10):
        _filter_down(total, i, taps, mean, square)
        _filter_across(mean, taps, mean_p)
        _filter_across(square, taps, square_p)
        _filter_down(difference, i, taps, mean, square)
        _filter_across(mean, taps, mean_q)
        _filter_across(square, taps, square_q)
        row_structure = zero
        if coarsest:
            row_similarity = zero
            for j in range(n):
                p = mean_p[j]
                q = mean_q[j]
                variance_p = max(square_p[j] - p * p, zero)
                variance_q = max(square_q[j] - q * q, zero)
                s = variance_q / (half * (variance_p + variance_q) + k2)
                p += offset_p
                q += offset_q
                m = q * q / (half * (p * p + q * q) + k1)
                row_structure += s
                row_similarity += s + m - s * m
            similarity += float(row_similarity)
        else:
            for j in range(n):
                variance_p = max(square_p[j] - mean_p[j] * mean_p[j], zero)
                variance_q = max(square_q[j] - mean_q[j] * mean_q[j], zero)
                row_structure += variance_q / (half * (variance_p + variance_q) + k2)
        structure += float(row_structure)
    count = n * (rows - 10)
    return structure / count, similarity / count
