"""Slices in and out of the image (groups, N, N, 4). A slice is a plain array, (N, N)."""

from __future__ import annotations

import numpy as np

from bluesky_streamrecon.recon.cuda.toolkit import cuda, kernel

__all__ = ["fill_slices", "put_slice", "take_slices"]


@kernel()
def take_slices(image, rows, area: int, target) -> None:
    """Copy some slices to an array, one after the other. Grid (area / threads, rows)."""
    pixel = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if pixel < area:
        row = np.int64(rows[cuda.blockIdx.y])
        target[cuda.blockIdx.y * np.int64(area) + pixel] = image[(row // 4 * area + pixel) * 4 + row % 4]


@kernel()
def put_slice(image, row: int, area: int, source) -> None:
    """Copy an array to a slice. Grid (area / threads)."""
    pixel = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if pixel < area:
        image[(row // 4 * area + pixel) * 4 + row % 4] = source[pixel]


@kernel()
def fill_slices(image, size: int, chords, values) -> None:
    """Make every slice uniform where it is reconstructed, zero elsewhere. Grid (N / threads, N, 4 groups)."""
    x = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    y = cuda.blockIdx.y
    row = cuda.blockIdx.z
    if x < size:
        inside = chords[2 * y] <= x and x < chords[2 * y + 1]
        at = (np.int64(row // 4) * size + y) * size + x
        image[at * 4 + row % 4] = values[row] if inside else np.float32(0)
