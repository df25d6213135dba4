"""Rays through a grid of pixels, slices innermost.

A ray that is steeper than 45 degrees crosses at most two pixels of each image row, a flatter one at most two of
each column, so the lengths of one row (or column) follow from where the ray enters and leaves it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bluesky_streamrecon.jit import kernel

__all__ = ["siddon_back", "siddon_forward"]

Array = np.ndarray[Any, Any]


@kernel
def _crossing(
    steep: bool, cosine: float, sine: float, column: float, half: float, line: int
) -> tuple[int, float, float]:
    """Return (pixel, length in it, length in the next one) of a ray in row `line` (or column, if not steep)."""
    across, along = (cosine, sine) if steep else (sine, cosine)
    slope = -along / across
    middle = half + column / across + (line - half) * slope
    spread = abs(slope) / 2
    enter = middle - spread
    pixel = math.floor(enter + 0.5)
    length = 1 / abs(across)
    beyond = middle + spread - (pixel + 0.5)
    if beyond <= 0:
        return pixel, length, 0.0
    second = length * beyond / (2 * spread)
    return pixel, length - second, second


@kernel
def siddon_forward(image: Array, angles: Array, axis: float, sinogram: Array) -> None:
    """Integrate image (N, N, S) into sinogram (A, C, S), which is overwritten."""
    size, _, slices = image.shape
    half = (size - 1) / 2
    total = np.empty(slices, np.float64)
    for a in range(sinogram.shape[0]):
        cosine = math.cos(angles[a])
        sine = math.sin(angles[a])
        steep = abs(cosine) >= abs(sine)
        for c in range(sinogram.shape[1]):
            total[:] = 0
            for line in range(size):
                pixel, first, second = _crossing(steep, cosine, sine, c - axis, half, line)
                for step in range(2):
                    at = pixel + step
                    weight = first if step == 0 else second
                    if 0 <= at < size and weight > 0:
                        for s in range(slices):
                            total[s] += weight * (image[line, at, s] if steep else image[at, line, s])
            for s in range(slices):
                sinogram[a, c, s] = total[s]


@kernel
def siddon_back(sinogram: Array, angles: Array, axis: float, image: Array) -> None:
    """Add the adjoint of sinogram (A, C, S) to image (N, N, S), float64."""
    size, _, slices = image.shape
    half = (size - 1) / 2
    for a in range(sinogram.shape[0]):
        cosine = math.cos(angles[a])
        sine = math.sin(angles[a])
        steep = abs(cosine) >= abs(sine)
        for c in range(sinogram.shape[1]):
            for line in range(size):
                pixel, first, second = _crossing(steep, cosine, sine, c - axis, half, line)
                for step in range(2):
                    at = pixel + step
                    weight = first if step == 0 else second
                    if 0 <= at < size and weight > 0:
                        for s in range(slices):
                            if steep:
                                image[line, at, s] += weight * sinogram[a, c, s]
                            else:
                                image[at, line, s] += weight * sinogram[a, c, s]
