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

from bluesky_streamrecon.errors import GeometryError
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon.kernels.siddon import siddon_back, siddon_forward
from bluesky_streamrecon.recon.projector import check_angles

__all__ = ["SiddonProjector"]


class SiddonProjector:
    """Line-integral projector and its exact adjoint.

    Parameters
    ----------
    geometry : TomoGeometry
        Detector, axis, image size and mask.
    angles : ndarray of float64, shape (A,)
        Radians, any order and range.

    Raises
    ------
    GeometryError
        If the angles are not finite.
    """

    def __init__(self, geometry: TomoGeometry, angles: NDArray[np.float64]) -> None:
        self.geometry = geometry
        self.angles = check_angles(angles)
        self._mask = geometry.mask()

    @property
    def domain_shape(self) -> tuple[int, int]:
        """Shape of one slice's image, (N, N)."""
        return (self.geometry.size, self.geometry.size)

    @property
    def range_shape(self) -> tuple[int, int]:
        """Shape of one slice's line integrals, (A, C)."""
        return (len(self.angles), self.geometry.columns)

    def forward(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Integrate (N, N, S) along all rays, giving (A, C, S).

        Raises
        ------
        GeometryError
            If the image has another shape.
        """
        if image.shape[:2] != self.domain_shape or image.ndim != 3:
            raise GeometryError(f"image: got shape {image.shape}, expected {(*self.domain_shape, 'slices')}")
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
        if sinogram.shape[:2] != self.range_shape or sinogram.ndim != 3:
            raise GeometryError(f"sinogram: got shape {sinogram.shape}, expected {(*self.range_shape, 'slices')}")
        image = np.zeros((*self.domain_shape, sinogram.shape[2]), np.float64)
        siddon_back(np.ascontiguousarray(sinogram, np.float32), self.angles, self.geometry.axis, image)
        image *= self._mask[:, :, None]
        return image.astype(np.float32)
