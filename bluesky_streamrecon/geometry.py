"""Where a ray hits the detector: parallel beam, one rotation axis.

A point of the image at column x and row y (rows count downwards) is seen at angle theta by detector column

    t = axis + (x - h) cos(theta) + (y - h) sin(theta),      h = (size - 1) / 2.

Lengths are detector pixels, angles radians. Nothing here computes an image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import GeometryError

__all__ = ["TomoGeometry"]


@dataclass(frozen=True, slots=True)
class TomoGeometry:
    """Parallel-beam geometry that all slices of a scan share.

    Parameters
    ----------
    columns : int
        Detector columns C, at least 2.
    axis : float, optional
        Detector column of the rotation axis, sub-pixel; the middle ``(columns - 1) / 2`` by default. It may lie
        outside the detector by up to one detector width (truncated field of view).
    size : int, optional
        Side N of the square image in pixels; `columns` by default.
    disc : bool, optional
        Update only the disc inscribed in the image; the corners stay zero.

    Raises
    ------
    GeometryError
        If a size is too small or the axis is not finite or too far away.
    """

    columns: int
    axis: float = math.nan
    size: int = 0
    disc: bool = False

    def __post_init__(self) -> None:
        if self.columns < 2:
            raise GeometryError(f"detector columns: got {self.columns}, expected at least 2")
        if self.size == 0:
            object.__setattr__(self, "size", self.columns)
        if self.size < 2:
            raise GeometryError(f"image size: got {self.size}, expected at least 2 pixels")
        if math.isnan(self.axis):
            object.__setattr__(self, "axis", (self.columns - 1) / 2)
        if not -self.columns <= self.axis <= 2 * self.columns:
            raise GeometryError(
                f"rotation axis: got column {self.axis}, expected within one detector width of the "
                f"{self.columns} columns; is it given in millimetres or for the full, uncropped detector?"
            )

    @property
    def half(self) -> float:
        """Centre of the image in pixels, h = (N - 1) / 2."""
        return (self.size - 1) / 2

    def detector_column(
        self, x: NDArray[np.float64] | float, y: NDArray[np.float64] | float, angle: float
    ) -> NDArray[np.float64] | float:
        """Return the detector column that sees image point (x, y) at `angle`.

        Parameters
        ----------
        x, y : float or ndarray of float64
            Image column and row, pixels.
        angle : float
            Radians.

        Returns
        -------
        float or ndarray of float64
            Detector column, sub-pixel; outside ``[-0.5, columns - 0.5)`` the point is not seen.
        """
        return self.axis + (x - self.half) * math.cos(angle) + (y - self.half) * math.sin(angle)

    def mask(self) -> NDArray[np.bool_]:
        """Return the pixels that are reconstructed, shape (N, N): all, or the inscribed disc."""
        if not self.disc:
            return np.ones((self.size, self.size), dtype=bool)
        r = np.arange(self.size) - self.half
        return np.asarray(r[:, None] ** 2 + r[None, :] ** 2 <= (self.size / 2) ** 2)
