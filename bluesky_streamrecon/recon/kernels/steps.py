"""Loops of the preparation steps, over line integrals (rows, columns), float32."""

from __future__ import annotations

from typing import Any

import numpy as np

from bluesky_streamrecon.jit import kernel, loops

__all__ = ["median_of_seven", "move_levels", "replace_zingers", "sum_rows"]

Array = np.ndarray[Any, Any]


@loops
def median_of_seven(line: Array, padded: Array, medians: Array) -> None:
    """Overwrite `medians` (C,) by those of seven neighbours; `padded` (C + 6,) is overwritten, too. C is at least 3."""
    size = len(line)
    padded[3 : size + 3] = line
    for i in range(3):
        padded[2 - i] = line[i]
        padded[size + 3 + i] = line[size - 1 - i]
    for x in range(size):  # Devillard's network of 13 exchanges, without branches
        a, b, c, d = padded[x], padded[x + 1], padded[x + 2], padded[x + 3]
        e, f, g = padded[x + 4], padded[x + 5], padded[x + 6]
        a, f = min(a, f), max(a, f)
        a, d = min(a, d), max(a, d)
        b, g = min(b, g), max(b, g)
        c, e = min(c, e), max(c, e)
        b = max(a, b)
        d, f = min(d, f), max(d, f)
        c, g = min(c, g), max(c, g)
        c, d = min(c, d), max(c, d)
        d = min(d, g)
        e = min(e, f)
        b, e = min(b, e), max(b, e)
        d = min(max(b, d), e)
        medians[x] = d


@kernel
def replace_zingers(values: Array, least: float, deviations: float, around: int) -> int:
    """Replace what is too bright by the median of its row's seven neighbours, in place; return how many were.

    Too bright: below the median by more than `least`, and by more than `deviations` times the noise, from the median of
    what 2 `around` + 1 neighbours differ from their medians. Rows that begin with NaN are left.
    """
    rows, size = values.shape
    padded, medians = np.empty(size + 6, np.float32), np.empty(size, np.float32)
    away, near = np.empty(size, np.float32), np.empty(2 * around + 1, np.float32)
    least_away = np.float32(least)
    found = 0
    for row in range(rows):
        line = values[row]
        if not np.isfinite(line[0]):
            continue
        median_of_seven(line, padded, medians)
        most = np.float32(0)
        for x in range(size):
            away[x] = medians[x] - line[x]
            most = max(most, away[x])
        if most <= least_away:
            continue
        for x in range(size):
            if away[x] > least_away:
                first, stop = max(0, x - around), min(size, x + around + 1)
                for i in range(first, stop):
                    near[i - first] = abs(away[i])
                noise = 1.4826 * np.median(near[: stop - first])
                if away[x] > deviations * noise:
                    line[x] = medians[x]
                    found += 1
    return found


@kernel
def move_levels(values: Array, levels: Array, shifts: Array) -> None:
    """Add to each value the shift of its level, in place.

    `levels` and `shifts` are (rows, Q, columns), ascending along Q; in between a shift is interpolated, beyond the
    ends it is the end's.
    """
    rows, columns = values.shape
    number = levels.shape[1]
    for row in range(rows):
        for x in range(columns):
            value = values[row, x]
            if value <= levels[row, 0, x]:
                values[row, x] = value + shifts[row, 0, x]
                continue
            if value >= levels[row, number - 1, x]:
                values[row, x] = value + shifts[row, number - 1, x]
                continue
            q = 1
            while levels[row, q, x] <= value:
                q += 1
            low, high = levels[row, q - 1, x], levels[row, q, x]
            share = (value - low) / (high - low)
            values[row, x] = value + shifts[row, q - 1, x] + share * (shifts[row, q, x] - shifts[row, q - 1, x])


@loops
def sum_rows(lines: Array, taps: Array, sums: Array) -> None:
    """Overwrite `sums` (N, C) by those of the rows of `lines` around each, weighted by `taps` (H + 1, C).

    A row of `sums` is H rows further down in `lines` (N + 2 H, C); its tap is `taps` 0, that of the rows n away n.
    """
    halo = len(taps) - 1
    number, size = sums.shape
    for n in range(number):
        total, middle, tap = sums[n], lines[n + halo], taps[0]
        for x in range(size):
            total[x] = tap[x] * middle[x]
        for away in range(1, halo + 1):
            above, below, tap = lines[n + halo - away], lines[n + halo + away], taps[away]
            for x in range(size):
                total[x] += tap[x] * (above[x] + below[x])
