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

__all__ = ["Projector", "ProjectorFactory", "check_angles", "get_projector", "projector_names", "projectors"]


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


ProjectorFactory = Callable[[TomoGeometry, NDArray[np.float64]], Projector]
"""Makes a projector from the geometry and the angles (radians, any order and range)."""

projectors: Registry[ProjectorFactory] = Registry(
    "projector",
    "bluesky_streamrecon.projectors",
    {
        "shear": "bluesky_streamrecon.recon.shear:ShearProjector",
        "siddon": "bluesky_streamrecon.recon.siddon:SiddonProjector",
    },
)


def projector_names() -> tuple[str, ...]:
    """Return the names of all projectors, ours and those of installed packages."""
    return projectors.names()


def get_projector(name: str) -> ProjectorFactory:
    """Return the projector registered as `name`.

    Raises
    ------
    ConfigError
        If there is none of that name; the message lists those there are.
    """
    return projectors.get(name)


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
