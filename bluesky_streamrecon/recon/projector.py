"""What a projector is, and which there are.

A projector is a linear map A from an image to line integrals, and its exact adjoint. Images are (N, N, S) and
sinograms (A, C, S) float32 with the S slices innermost: all slices share the geometry, so every weight is
computed once and applied to S values that lie side by side. Lengths are detector pixels, angles radians.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import GeometryError
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.registry import Registry

__all__ = [
    "GeometryProjector",
    "Projector",
    "ProjectorFactory",
    "check_angles",
    "projectors",
]


class Projector(Protocol):
    """Forward and back projection for one set of angles; ``<A x, y> == <x, back(y)>`` for all x, y."""

    @property
    def domain_shape(self) -> tuple[int, int]:
        """Shape of one slice's image, (N, N)."""

    @property
    def range_shape(self) -> tuple[int, int]:
        """Shape of one slice's line integrals, (A, C)."""

    def forward(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Project (N, N, S), 1/pixel, to line integrals (A, C, S); pixels outside the mask count as zero."""

    def back(self, sinogram: NDArray[np.float32]) -> NDArray[np.float32]:
        """Apply the adjoint to (A, C, S), giving (N, N, S), zero outside the mask."""


class GeometryProjector:
    """What projectors that come with the package have in common.

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

    @property
    def domain_shape(self) -> tuple[int, int]:
        """Shape of one slice's image, (N, N)."""
        return (self.geometry.size, self.geometry.size)

    @property
    def range_shape(self) -> tuple[int, int]:
        """Shape of one slice's line integrals, (A, C)."""
        return (len(self.angles), self.geometry.columns)

    def _check_image(self, image: NDArray[np.float32]) -> None:
        if image.ndim != 3 or image.shape[:2] != self.domain_shape:
            raise GeometryError(f"image: got shape {image.shape}, expected {(*self.domain_shape, 'slices')}")

    def _check_sinogram(self, sinogram: NDArray[np.float32]) -> None:
        if sinogram.ndim != 3 or sinogram.shape[:2] != self.range_shape:
            raise GeometryError(f"sinogram: got shape {sinogram.shape}, expected {(*self.range_shape, 'slices')}")


ProjectorFactory = Callable[[TomoGeometry, NDArray[np.float64]], Projector]
"""Makes a projector from the geometry and the angles (radians, any order and range)."""

projectors: Registry[ProjectorFactory] = Registry(
    "projector",
    "bluesky_streamrecon.projectors",
    {"shear": "bluesky_streamrecon.recon.shear_slab:ShearProjector"},
)


def check_angles(angles: NDArray[np.float64] | list[float]) -> NDArray[np.float64]:
    """Return `angles` as a float64 array.

    Raises
    ------
    GeometryError
        If they are not a list of finite numbers.
    """
    values = np.array(angles, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise GeometryError(f"angles: got {angles!r}, expected a one-dimensional list of finite angles in radians")
    return values
