"""Exact line integrals: the slow projector that the fast one is compared with.

Each detector column is one ray through its middle; a pixel weighs with the length of the ray inside it [1]_. A ray that
is steeper than 45 degrees crosses at most two pixels of each image row, a flatter one at most two of each column, so
the lengths of one row (or column) follow from where the ray enters and leaves it. Lengths are detector pixels, angles
radians.

References
----------
.. [1] R. L. Siddon, Med. Phys. 12(2), 252-255, 1985, :doi:`10.1118/1.595715`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.jit import kernel
from bluesky_streamrecon.recon.projector import GeometryProjector

__all__ = ["SiddonProjector"]

Array = np.ndarray[Any, Any]


class SiddonProjector(GeometryProjector):
    """Line-integral projector and its exact adjoint. Parameters as of `GeometryProjector`."""

    def __init__(self, geometry: TomoGeometry, angles: NDArray[np.float64]) -> None:
        super().__init__(geometry, angles)
        self._mask = geometry.mask()

    def forward(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Integrate (N, N, S) along all rays, giving (A, C, S).

        Raises
        ------
        GeometryError
            If the image has another shape.
        """
        self._check_image(image)
        masked = np.where(self._mask[:, :, None], image, np.float32(0)).astype(np.float32)
        sinogram = np.zeros((*self.range_shape, image.shape[2]), np.float32)
        _integrate(masked, self.angles, self.geometry.axis, sinogram)
        return sinogram

    def back(self, sinogram: NDArray[np.float32]) -> NDArray[np.float32]:
        """Spread (A, C, S) back along all rays, giving (N, N, S).

        Raises
        ------
        GeometryError
            If the sinogram has another shape.
        """
        self._check_sinogram(sinogram)
        image = np.zeros((*self.domain_shape, sinogram.shape[2]), np.float64)
        _spread(np.ascontiguousarray(sinogram, np.float32), self.angles, self.geometry.axis, image)
        image *= self._mask[:, :, None]
        return image.astype(np.float32)


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
def _integrate(image: Array, angles: Array, axis: float, sinogram: Array) -> None:
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
def _spread(sinogram: Array, angles: Array, axis: float, image: Array) -> None:
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
