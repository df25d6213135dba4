"""Between sheared lines (A, 2, J, W) and the detector (A, C + 2, W), and what is compared there.

The detector has one bin more at each end that takes what misses it; both are kept at zero. Coordinates map to at
most two bins each (`tables`). Each function works on the half-open range `first` to `stop` of angles.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bluesky_streamrecon.jit import kernel
from bluesky_streamrecon.recon.kernels.simd import (
    address_of,
    broadcast,
    fma,
    load,
    maximum,
    select_nan,
    store,
    width,
    zeros,
)
from bluesky_streamrecon.recon.kernels.tables import Tables

__all__ = ["bins_to_lines", "compare_difference", "compare_ratio", "lines_to_bins"]

Array = np.ndarray[Any, Any]


@kernel
def lines_to_bins(lanes: Any, lines: Array, tables: Tables, first: int, stop: int, predicted: Array) -> None:
    """Overwrite `predicted` by the sheared lines, binned."""
    bins, bin_weights, seen = tables.bins, tables.bin_weights, tables.seen
    size = width(lanes)
    length = lines.shape[2]
    columns = predicted.shape[1]
    source = address_of(lines)
    target = address_of(predicted)
    for a in range(first, stop):
        row = target + a * columns * size
        for place in range(row, row + columns * size, size):
            store(place, zeros(lanes))
        for late in range(2):
            for j in range(seen[a, 0], seen[a, 1]):
                value = load(lanes, source + ((2 * a + late) * length + j) * size)
                place = row + bins[a, late, j] * size
                store(place, fma(value, broadcast(lanes, bin_weights[a, late, j, 0]), load(lanes, place)))
                place += size
                store(place, fma(value, broadcast(lanes, bin_weights[a, late, j, 1]), load(lanes, place)))
        store(row, zeros(lanes))
        store(row + (columns - 1) * size, zeros(lanes))


@kernel
def bins_to_lines(lanes: Any, predicted: Array, tables: Tables, first: int, stop: int, lines: Array) -> None:
    """Overwrite `lines` by the adjoint of `lines_to_bins`."""
    bins, bin_weights, seen = tables.bins, tables.bin_weights, tables.seen
    size = width(lanes)
    length = lines.shape[2]
    columns = predicted.shape[1]
    source = address_of(predicted)
    target = address_of(lines)
    for a in range(first, stop):
        for late in range(2):
            row = target + (2 * a + late) * length * size
            for j in range(seen[a, 0]):
                store(row + j * size, zeros(lanes))
            for j in range(seen[a, 1], length):
                store(row + j * size, zeros(lanes))
            for j in range(seen[a, 0], seen[a, 1]):
                place = source + (a * columns + bins[a, late, j]) * size
                value = load(lanes, place) * broadcast(lanes, bin_weights[a, late, j, 0])
                further = broadcast(lanes, bin_weights[a, late, j, 1])
                store(row + j * size, fma(load(lanes, place + size), further, value))


@kernel
def compare_ratio(lanes: Any, predicted: Array, data: Array, slots: Array, floor: float, first: int, stop: int) -> None:
    """Replace predicted by max(measured, 0) / max(predicted, floor), 1 where measured is NaN."""
    size = width(lanes)
    columns = data.shape[1]
    measured = address_of(data)
    target = address_of(predicted)
    least = broadcast(lanes, np.float32(floor))
    one = broadcast(lanes, np.float32(1))
    for a in range(first, stop):
        source = measured + slots[a] * columns * size
        row = target + (a * (columns + 2) + 1) * size
        for at in range(0, columns * size, size):
            value = load(lanes, source + at)
            quotient = maximum(value, zeros(lanes)) / maximum(load(lanes, row + at), least)
            store(row + at, select_nan(value, one, quotient))


@kernel
def compare_difference(
    lanes: Any, predicted: Array, data: Array, slots: Array, per_length: Array, first: int, stop: int
) -> None:
    """Replace predicted by (measured - predicted) * per_length (A, C), 0 where measured is NaN."""
    size = width(lanes)
    columns = data.shape[1]
    measured = address_of(data)
    target = address_of(predicted)
    for a in range(first, stop):
        source = measured + slots[a] * columns * size
        row = target + (a * (columns + 2) + 1) * size
        for c in range(columns):
            at = c * size
            value = load(lanes, source + at)
            difference = (value - load(lanes, row + at)) * broadcast(lanes, per_length[a, c])
            store(row + at, select_nan(value, zeros(lanes), difference))
