"""Exact line integrals: the slow projector that the fast one is checked against, and one for offline work.

Each detector column is one ray through its middle; a pixel weighs with the length of the ray inside it [1]_.
Lengths are detector pixels, angles radians.

References
----------
.. [1] R. L. Siddon, Med. Phys. 12(2), 252-255, 1985, :doi:`10.1118/1.595715`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon.kernels.siddon import siddon_back, siddon_forward
from bluesky_streamrecon.recon.projector import GeometryProjector

__all__ = ["SiddonProjector"]


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
        siddon_forward(masked, self.angles, self.geometry.axis, sinogram)
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
        siddon_back(np.ascontiguousarray(sinogram, np.float32), self.angles, self.geometry.axis, image)
        image *= self._mask[:, :, None]
        return image.astype(np.float32)
