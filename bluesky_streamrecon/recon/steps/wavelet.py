"""Weak rings all over a slice, of gains that differ a little from pixel to pixel: a wavelet–Fourier filter.

A stripe is constant along the angle and narrow across. The filter of [1]_ damps, in the details of a wavelet transform
across the columns, the lowest frequencies along the angle. Here it damps the constant alone: the mean over all
directions, so the filter is linear, and holds for scans in any order that are not over. Damping more changed the sample
more than it gained (``docs/explanations/performance.md``).

References
----------
.. [1] Münch, Trtik, Marone and Stampanoni, Opt. Express 17(10), 8567, 2009, :doi:`10.1364/OE.17.008567`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from bluesky_streamrecon.directions import crowded, find_directions
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.preparation_steps import Step

__all__ = ["WaveletRings"]

LEAST = 12
"""Projections below which nothing is done: too few would take the sample away."""

GROWTH = 1.1
"""Stripes are found anew whenever there are so many times the projections."""

WAVELET = "db5"

WIDE = 512
"""Columns from which on a stripe is narrow up to three levels, else two."""


@dataclass
class WaveletRings(Step):
    """Remove what is constant along the angle and narrow across the columns.

    Parameters
    ----------
    levels : int or None
        Of the wavelet transform; each takes stripes twice as wide, and more of the sample. None: 2, or 3 from 512
        columns on.
    """

    remembers = True

    levels: Annotated[int, Meta(ge=1, le=6)] | None = None
    _angles: list[float] = field(init=False, default_factory=list, repr=False)
    _next: int = field(init=False, default=LEAST, repr=False)

    def check(self, rows: int, columns: int) -> None:  # noqa: ARG002
        """Refuse a detector that is too narrow."""
        levels = self._levels_of(columns)
        if columns < 8 * 2**levels:
            raise ConfigError(
                f"preparation step 'wavelet-rings': got {columns} detector columns, expected at least {8 * 2**levels} "
                f"for levels={levels}"
            )

    def begin(self, rows: int, columns: int) -> None:
        """Make room for the sum of all projections."""
        self._sums = np.zeros((rows, columns))
        self._numbers = np.zeros((rows, 1), int)
        self._stripes = np.zeros((rows, columns), np.float32)

    def apply(self, projection: NDArray[np.float32], angle: float) -> NDArray[np.float32]:
        """Return the projection without the stripes that are known so far, it included."""
        lit = np.isfinite(projection[:, 0])
        self._sums[lit] += projection[lit]
        self._numbers[lit] += 1
        self._angles.append(angle)
        if len(self._angles) >= self._next and not crowded(np.asarray(self._angles)):
            found = self._stripes_of(self._sums / np.maximum(self._numbers, 1))
            self._stripes = np.where(self._numbers >= LEAST, found, np.float32(0))
            self._next = math.ceil(GROWTH * len(self._angles))
        return projection - self._stripes

    def apply_to_all(self, projections: NDArray[np.float32], angles: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return all projections of some rows without their stripes; each counts by the angle that it stands for."""
        cells = find_directions(angles).cells
        for row in range(projections.shape[1]):
            lit = np.isfinite(projections[:, row, 0])
            if np.count_nonzero(lit) >= LEAST:
                mean = np.average(projections[lit, row], axis=0, weights=cells[lit])
                projections[lit, row] -= self._stripes_of(mean[None])[0]
        return projections

    def _stripes_of(self, means: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the details of rows, shape (rows, columns), without what is smooth across the columns."""
        import pywt

        columns = means.shape[1]
        levels = self._levels_of(columns)
        edge = 8 * 2**levels
        coefficients = pywt.wavedec(np.pad(means, ((0, 0), (edge, edge)), mode="edge"), WAVELET, level=levels, axis=1)
        smooth = pywt.waverec([coefficients[0], *(np.zeros_like(each) for each in coefficients[1:])], WAVELET, axis=1)
        return np.asarray(means - smooth[:, edge : edge + columns], np.float32)

    def _levels_of(self, columns: int) -> int:
        return self.levels or (3 if columns >= WIDE else 2)
