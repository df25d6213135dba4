"""Between sheared lines (groups, A, 2, J, 4) and detector (groups, A, C, 4), and what is compared there.

Line integrals lie as they come, (slots, 4 groups, C). Each coordinate falls on at most two detector bins.
"""

from __future__ import annotations

import math

import numpy as np

from bluesky_streamrecon.recon.cuda.sizes import REPEAT
from bluesky_streamrecon.recon.cuda.tables import near_bin, share_of
from bluesky_streamrecon.recon.cuda.toolkit import cuda, device, kernel
from bluesky_streamrecon.recon.cuda.vector import load4, peek, scale4, store4, zero4

__all__ = ["DIFFERENCE", "PREDICTED", "QUOTIENT", "compare", "spread"]

QUOTIENT, DIFFERENCE, PREDICTED = 0, 1, 2


@device
def _quotient(measured, predicted, floor, relaxation, rest):
    quotient = max(measured, np.float32(0)) / max(predicted, floor)
    relaxed = quotient * relaxation + rest
    return relaxed if measured == measured else np.float32(1)  # noqa: PLR0124 - NaN: not measured


@device
def _difference(measured, predicted, weight):
    difference = (measured - predicted) * weight
    return difference if measured == measured else np.float32(0)  # noqa: PLR0124 - NaN: not measured


@kernel()
def compare(
    kind: int, lines, data, slots, larges, angles: int, half: float, axis: float, columns: int, groups: int, origin:
    int, length: int, least: float, relaxation: float, weights, result,
) -> None:  # fmt: skip
    """Bin the lines of the way forward, and compare them with what was measured.

    Grid (C / threads, A, groups / `REPEAT`).

    Parameters
    ----------
    kind : int
        `QUOTIENT`: 1 + relaxation (max(measured, 0) / max(predicted, least) - 1), 1 where nothing was measured;
        `DIFFERENCE`: (measured - predicted) weights, 0 where nothing was measured; `PREDICTED`: predicted.
    data : float32 (slots, 4 groups, C)
        Line integrals.
    slots : float64 (A,)
        Where those of each angle lie.
    weights : float32 (A, C)
        For a difference.
    result : float32 (groups, A, C, 4)
        Written.
    """
    c = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    a = cuda.blockIdx.y
    if c >= columns:
        return
    large = larges[a]
    cell = abs(large)
    even, odd, step = near_bin(c, large, half, axis, origin, length)
    low, high = c - 0.5, c + 0.5
    e0 = np.float32(share_of(step + even * large, cell, low, high))
    e1 = np.float32(share_of(step + (even + 1) * large, cell, low, high))
    e2 = np.float32(share_of(step + (even + 2) * large, cell, low, high))
    o0 = np.float32(share_of(step + (odd + 0.5) * large, cell, low, high))
    o1 = np.float32(share_of(step + (odd + 1.5) * large, cell, low, high))
    o2 = np.float32(share_of(step + (odd + 2.5) * large, cell, low, high))
    floor, share = np.float32(least), np.float32(relaxation)
    rest = np.float32(1) - share
    weight = peek(weights, a * columns + c) if kind == DIFFERENCE else np.float32(0)
    slot = np.int64(slots[a])
    first = cuda.blockIdx.z * REPEAT
    for group in range(first, min(groups, first + REPEAT)):
        at = ((group * angles + a) * 2 * length + even) * 4
        other = (((group * angles + a) * 2 + 1) * length + odd) * 4
        total = scale4(load4(lines, at), e0, zero4())
        total = scale4(load4(lines, at + 4), e1, total)
        total = scale4(load4(lines, at + 8), e2, total)
        total = scale4(load4(lines, other), o0, total)
        total = scale4(load4(lines, other + 4), o1, total)
        total = scale4(load4(lines, other + 8), o2, total)
        source = (slot * groups + group) * 4 * columns + c
        if kind == QUOTIENT:
            total = (
                _quotient(peek(data, source), total[0], floor, share, rest),
                _quotient(peek(data, source + columns), total[1], floor, share, rest),
                _quotient(peek(data, source + 2 * columns), total[2], floor, share, rest),
                _quotient(peek(data, source + 3 * columns), total[3], floor, share, rest),
            )
        elif kind == DIFFERENCE:
            total = (
                _difference(peek(data, source), total[0], weight),
                _difference(peek(data, source + columns), total[1], weight),
                _difference(peek(data, source + 2 * columns), total[2], weight),
                _difference(peek(data, source + 3 * columns), total[3], weight),
            )
        store4(result, ((group * angles + a) * columns + c) * 4, total)


@kernel()
def spread(
    sinogram, larges, angles: int, half: float, axis: float, columns: int, groups: int, origin: int, length: int,
    seen, back, forward,
) -> None:  # fmt: skip
    """Spread a sinogram to the lines of the way back, and clear those of the way forward for the next time.

    Grid (longest range of `seen` / threads, 2 A, groups / `REPEAT`).
    """
    a = cuda.blockIdx.y // 2
    late = cuda.blockIdx.y % 2
    j = seen[2 * a] + cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if j >= seen[2 * a + 1]:
        return
    large = larges[a]
    cell = abs(large)
    place = axis - (origin + half) * large + (j + 0.5 * late) * large
    c = int(math.floor(place - cell / 2 + 0.5))
    first = np.float32(share_of(place, cell, c - 0.5, c + 0.5) if c >= 0 and c < columns else 0.0)
    second = np.float32(share_of(place, cell, c + 0.5, c + 1.5) if c + 1 >= 0 and c + 1 < columns else 0.0)
    left = min(max(c, 0), columns - 1)
    right = min(max(c + 1, 0), columns - 1)
    begin = cuda.blockIdx.z * REPEAT
    for group in range(begin, min(groups, begin + REPEAT)):
        source = (group * angles + a) * columns
        at = (((group * angles + a) * 2 + late) * length + j) * 4
        value = scale4(load4(sinogram, (source + left) * 4), first, zero4())
        store4(back, at, scale4(load4(sinogram, (source + right) * 4), second, value))
        store4(forward, at, zero4())
