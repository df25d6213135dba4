"""What depends on the angles only: shifts, weights, detector bins, and how much of each pixel is seen.

Angles come sorted: first those that shift rows (steep rays, abs(cos) >= abs(sin)), then those that shift columns.
Line r of the first is image row r, of the others image column r. For angle theta with d the larger of cos and sin,
and slope the smaller over the larger, line r is shifted by (r - h) slope, rounded to k whole pixels and `odd` halves.
Coordinate j of the odd lines, halves apart from the even ones, lies at detector column axis + (j + odd / 2 - h) d,
and its cell of width abs(d) overlaps at most two detector bins.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from bluesky_streamrecon.jit import kernel
from bluesky_streamrecon.recon.kernels.simd import address_of, load, store, width

__all__ = ["Tables", "sensitivity_gains", "shear_path", "shear_tables", "unseen_share"]

Array = np.ndarray[Any, Any]


class Tables(NamedTuple):
    """What the kernels look up, filled by `shear_tables`.

    Parameters
    ----------
    steep : int
        So many of the sorted angles, the first, shift rows.
    origin : int
        Index of coordinate 0.
    shifts : int32 (A, L)
        k.
    offsets, odd : int32, float32 (A, L)
        Vectors from pixel (0, 0) to where each line starts after its shift, and whether it is an odd one (1 or 0), for
        the forward projection.
    middle : int32 (A, L / group)
        Shift of the middle line of each group.
    back_offsets : int32 (L, A)
        Vector in the sheared lines that image pixel 0 of line r comes from, for the back projection.
    bins : int32 (A, 2, J)
        First of a coordinate's two detector bins, plus 1: 0 is a bin before the detector. Even lines come first.
    bin_weights : float32 (A, 2, J, 2)
        Fractions of the cell in both; 0 where there is no detector.
    seen : int32 (A, 2)
        Half-open range of indices that reach the detector at all.
    complete : int32 (A, 2)
        Half-open range of indices that fall on the detector completely.
    """

    steep: int
    origin: int
    shifts: Array
    offsets: Array
    odd: Array
    middle: Array
    back_offsets: Array
    bins: Array
    bin_weights: Array
    seen: Array
    complete: Array


@kernel
def shear_tables(
    cosines: Array, sines: Array, half: float, axis: float, columns: int, stride: int, group: int, tables: Tables
) -> None:
    """Fill `tables`.

    Parameters
    ----------
    cosines, sines : float64 (A,)
        Of the sorted angles.
    half : float
        h, middle of the image.
    axis : float
        Detector column of the rotation axis.
    columns : int
        C.
    stride : int
        Vectors between image rows.
    group : int
        Lines per group of the forward projection.
    """
    steep, origin = tables.steep, tables.origin
    shifts, offsets, odd, middle = tables.shifts, tables.offsets, tables.odd, tables.middle
    back_offsets, bins, bin_weights = tables.back_offsets, tables.bins, tables.bin_weights
    seen, complete = tables.seen, tables.complete
    angles, lines = shifts.shape
    length = bins.shape[2]
    for a in range(angles):
        if a < steep:
            large, small, line_step, pixel_step = cosines[a], sines[a], stride, 1
        else:
            large, small, line_step, pixel_step = sines[a], cosines[a], 1, stride
        slope = small / large
        for r in range(lines):
            halves = math.floor(2 * (r - half) * slope + 0.5)
            k = halves // 2
            shifts[a, r] = k
            offsets[a, r] = r * line_step - k * pixel_step
            odd[a, r] = halves % 2
            back_offsets[r, a] = (2 * a + halves % 2) * length + k + origin
            if r % group == group // 2:
                middle[a, r // group] = k
        cell = abs(large)
        first_seen = length
        stop_seen = 0
        complete[a, 0] = 0
        complete[a, 1] = length
        for late in range(2):
            first_complete = length
            stop_complete = 0
            for j in range(length):
                left = axis + (j + 0.5 * late - origin - half) * large - cell / 2
                k = math.floor(left + 0.5)
                second = min(max((left + cell - (k + 0.5)) / cell, 0.0), 1.0)
                inside = 0 <= k < columns
                inside_next = 0 <= k + 1 < columns
                weight0 = 1.0 - second if inside else 0.0
                weight1 = second if inside_next else 0.0
                bins[a, late, j] = min(max(k, -1), columns - 1) + 1
                bin_weights[a, late, j, 0] = weight0
                bin_weights[a, late, j, 1] = weight1
                if weight0 + weight1 > 0:
                    first_seen = min(first_seen, j)
                    stop_seen = max(stop_seen, j + 1)
                if inside and inside_next:
                    first_complete = min(first_complete, j)
                    stop_complete = j + 1
            complete[a, 0] = max(complete[a, 0], min(first_complete, stop_complete))
            complete[a, 1] = min(complete[a, 1], stop_complete)
        complete[a, 1] = max(complete[a, 1], complete[a, 0])
        seen[a, 0] = min(first_seen, stop_seen)
        seen[a, 1] = stop_seen


@kernel
def unseen_share(lanes: Any, tables: Tables, weights: Array, chords: Array, by_rows: Array, by_columns: Array) -> None:
    """Add up, for each pixel and over all angles, the part of it that misses the detector, by the angle's weight.

    Parameters
    ----------
    lanes : Lanes
        Vector width: here along the line.
    weights : float32 (A,)
        Of angles.
    chords : int64 (N, 2)
        Half-open range of pixels of each line that are reconstructed.
    by_rows : float32 (L, L + W)
        Share lost by steep angles, at [row, column]; added to. What is outside the chord has no meaning.
    by_columns : float32 (L, L + W)
        Share lost by flat angles, at [column, row]; added to.
    """
    shifts, odd, bin_weights, complete = tables.shifts, tables.odd, tables.bin_weights, tables.complete
    angles = shifts.shape[0]
    length = bin_weights.shape[2]
    count = width(lanes) // 4
    missing = np.empty((angles, 2, length), np.float32)
    for a in range(angles):
        for late in range(2):
            for j in range(length):
                seen = bin_weights[a, late, j, 0] + bin_weights[a, late, j, 1]
                missing[a, late, j] = weights[a] * (np.float32(1) - seen)
    for r in range(len(chords)):
        first, stop = chords[r]
        for a in range(angles):
            line = address_of(by_rows if a < tables.steep else by_columns) + r * by_rows.shape[1] * 4
            base = shifts[a, r] + tables.origin
            source = address_of(missing) + ((2 * a + int(odd[a, r])) * length + base) * 4
            before = min(max(complete[a, 0] - base, first), stop)
            after = max(min(complete[a, 1] - base, stop), before)
            if after - before < count:
                before = after = stop
            for part in range(2):
                begin, end = (first, before) if part == 0 else (after, stop)
                for at in range(begin * 4, end * 4, count * 4):
                    store(line + at, load(lanes, line + at) + load(lanes, source + at))


@kernel
def sensitivity_gains(
    total: float,
    half: float,
    radius: float,
    chords: Array,
    by_rows: Array,
    by_columns: Array,
    least: float,
    gains: Array,
) -> None:
    """Invert the sensitivity: gains = 1 / (total - by_rows - by_columns'), NaN where it is not above `least`.

    Pixels closer than `radius` to the rotation axis are seen completely from everywhere.
    """
    size = len(chords)
    block = 32
    inner = np.float32(1) / np.float32(total) if total > 0 else np.float32(0)
    turned = np.empty((block, block), np.float32)
    for y0 in range(0, size, block):
        rows = min(block, size - y0)
        farthest = max(abs(y0 - half), abs(y0 + rows - 1 - half))
        for x0 in range(0, size, block):
            columns = min(block, size - x0)
            far = max(abs(x0 - half), abs(x0 + columns - 1 - half))
            if far * far + farthest * farthest < radius * radius:
                for y in range(y0, y0 + rows):
                    gains[y, x0 : x0 + columns] = inner
                continue
            for x in range(columns):
                column = by_columns[x0 + x, y0 : y0 + rows]
                for y in range(rows):
                    turned[y, x] = column[y]
            for y in range(rows):
                lost = by_rows[y0 + y, x0 : x0 + columns]
                also_lost = turned[y]
                result = gains[y0 + y, x0 : x0 + columns]
                for x in range(columns):
                    sensitivity = np.float32(total) - lost[x] - also_lost[x]
                    result[x] = np.float32(1) / sensitivity if sensitivity > np.float32(least) else np.float32(np.nan)
        for y in range(y0, y0 + rows):
            gains[y, : chords[y, 0]] = np.nan
            gains[y, chords[y, 1] :] = np.nan


@kernel
def shear_path(tables: Tables, chords: Array, path: Array) -> None:
    """Project an image of ones: path (A, C + 2), with a bin before and one after the detector, is overwritten.

    A line of ones, shifted, is a box; the sum of boxes is the running sum of where they begin and end.
    """
    shifts, odd, bins, bin_weights, seen = tables.shifts, tables.odd, tables.bins, tables.bin_weights, tables.seen
    origin, length = tables.origin, bins.shape[2]
    changes = np.empty((2, length + 1), np.float64)
    for a in range(shifts.shape[0]):
        changes[:, :] = 0
        for r in range(len(chords)):
            first, stop = chords[r]
            if stop <= first:
                continue
            late = int(odd[a, r])
            changes[late, shifts[a, r] + origin + first] += 1
            changes[late, shifts[a, r] + origin + stop] -= 1
        path[a, :] = 0
        for late in range(2):
            total = 0.0
            for j in range(length):
                total += changes[late, j]
                if seen[a, 0] <= j < seen[a, 1]:
                    path[a, bins[a, late, j]] += bin_weights[a, late, j, 0] * total
                    path[a, bins[a, late, j] + 1] += bin_weights[a, late, j, 1] * total
