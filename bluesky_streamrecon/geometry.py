"""Where a ray hits the detector: parallel beam, one rotation axis.

A point of the image at column x and row y (rows count downwards) is seen at angle theta by detector column

    t = axis + (x - h) cos(theta) + (y - h) sin(theta),      h = (size - 1) / 2.

Lengths are detector pixels, angles radians. Nothing here computes an image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError, GeometryError

__all__ = [
    "FULL_TURN",
    "TomoGeometry",
    "check_range",
    "image_size",
    "is_off_the_middle",
    "widest_image",
]

FULL_TURN = 342.0
"""Degrees from which on a scan is one over a full turn: what one view does not see, the opposite one does."""

OFF_THE_MIDDLE = 1 / 8
"""Distance of the axis from the middle of the detector, as a share of its width, from which on a full turn is taken for
half acquisition, where it is not known how far the sample reaches."""

MARGIN = 1.25
"""Width of the image over that of the view, where the sample reaches out of it: what is beyond has to lie somewhere,
and would make a bright rim."""

_WIDEST, _SMALL = 8, 4096
"""An image has at most so many times the detector's columns, or so many pixels: one beyond would only take memory."""


def check_range(start: object, stop: object, where: str) -> None:
    """Refuse a range of angles that is none: it would be taken for a half turn.

    Parameters
    ----------
    start, stop : object
        Degrees, or None where they are not said: both or none.
    where : str
        Who says them, for the error.

    Raises
    ------
    ConfigError
        If they are no finite numbers with start < stop.

    Examples
    --------
    >>> check_range(None, None, "[follow]")
    >>> check_range(360, 0, "[follow]")
    Traceback (most recent call last):
    bluesky_streamrecon.errors.ConfigError: [follow]: got start=360, stop=0, expected finite degrees...
    """
    if start is None and stop is None:
        return
    if not (isinstance(start, Real) and isinstance(stop, Real) and 0 < float(stop) - float(start) < math.inf):
        raise ConfigError(
            f"{where}: got start={start!r}, stop={stop!r}, expected finite degrees with start < stop, in whatever "
            "order they are visited, or neither"
        )


def is_off_the_middle(columns: int, axis: float) -> bool:
    """Return whether an axis is so far from the middle of the detector that a full turn means half acquisition."""
    return abs(axis - (columns - 1) / 2) > OFF_THE_MIDDLE * columns


def image_size(columns: int, axis: float, *, full_turn: bool = False, edges: int | None = None) -> int:
    """Return how wide an image shows all that a scan sees.

    Parameters
    ----------
    columns : int
        Detector columns C.
    axis : float
        Detector column of the rotation axis.
    full_turn : bool, optional
        Views come from all around, so that one side of the axis suffices.
    edges : int, optional
        Edges of the detector, 0 to 2, at which the sample reaches out of view; None: not known.

    Returns
    -------
    int
        Side N, pixels: C where the sample fits, twice the far side of the axis in half acquisition, and a quarter more
        than what is seen where the sample reaches out of that, too.

    Examples
    --------
    >>> image_size(256, 32, full_turn=True), image_size(256, 32), image_size(256, 32, full_turn=True, edges=0)
    (447, 256, 256)
    >>> image_size(256, 130, edges=2)
    320
    """
    aside = abs(axis - (columns - 1) / 2)
    wide = bool(edges) if edges is not None else is_off_the_middle(columns, axis)
    size = max(columns, 2 * math.ceil(aside + (columns - 1) / 2) + 1) if full_turn and wide and aside >= 1 else columns
    beyond = edges == 2 or (edges == 1 and not full_turn)
    return math.ceil(MARGIN * size) if beyond else size


def widest_image(columns: int) -> int:
    """Return how wide the image can become by half acquisition of a sample that reaches out of view."""
    return math.ceil(MARGIN * 2 * columns)


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
        If a size is too small, or so large that nothing could be seen there, or the axis is not finite or too far away.
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
        largest = max(_WIDEST * self.columns, _SMALL)
        if not 2 <= self.size <= largest:
            raise GeometryError(
                f"image size: got {self.size}, expected 2 to {largest} pixels for {self.columns} detector columns"
            )
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

    def chords(self) -> NDArray[np.int64]:
        """Return the half-open range of pixels of each row that are reconstructed, shape (N, 2); as of each column."""
        mask = self.mask()
        inside = mask.any(axis=1)
        first = np.where(inside, mask.argmax(axis=1), 0)
        stop = np.where(inside, self.size - mask[:, ::-1].argmax(axis=1), 0)
        return np.stack((first, stop), axis=1).astype(np.int64)
