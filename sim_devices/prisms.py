"""Samples that are the same in every detector row, with their line integrals: none by a projector of the package.

Polygons are projected in closed form; a random field is turned by cubic splines on pixels half as wide as the
detector's. Lengths are detector pixels, angles radians, attenuation 1/pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["FINER", "Field", "Floats", "Polygons", "Prism"]

Floats = NDArray[np.float64]

FINER = 2
"""Pixels of a random field along a detector pixel."""

OVERSAMPLED = 4
"""Points along a pixel by which the image of polygons is made."""

STEEPEST = 1e5
"""Slope of an edge that is taken for parallel to the rays."""


@dataclass(frozen=True, slots=True, eq=False)
class Polygons:
    """Polygons whose attenuation adds where they overlap.

    Parameters
    ----------
    corners : tuple of ndarray, each of shape (k, 2)
        x, y from the axis, counter-clockwise.
    values : tuple of float
        Attenuation of each.
    """

    corners: tuple[Floats, ...]
    values: tuple[float, ...]

    @property
    def mass(self) -> float:
        """Sum of attenuation over the plane, pixels."""
        doubled = (corners * np.roll(corners, -1, axis=0)[:, ::-1] * (1, -1) for corners in self.corners)
        return float(sum(value * each.sum() / 2 for value, each in zip(self.values, doubled, strict=True)))

    def projection(self, angle: float, columns: int, axis: float) -> NDArray[np.float32]:
        """Return line integrals: a polygon's is linear between its corners, so corners alone say what each pixel sees.

        Its second derivative is a sum of peaks, one at each corner. Integrated thrice, from moments of the corners
        before each pixel's edge, it is exact. An edge along the rays is a jump, which is integrated once.
        """
        along, across = (np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)]))
        starts = np.concatenate(self.corners)
        ends = np.concatenate([np.roll(corners, -1, axis=0) for corners in self.corners])
        values = np.repeat(self.values, [len(corners) for corners in self.corners])
        s, step, rise = starts @ along, (ends - starts) @ along, (ends - starts) @ across
        jumps = np.abs(rise) > STEEPEST * np.abs(step)
        slope = -values * rise / np.where(jumps | (step == 0), np.inf, step)
        edges = np.arange(columns + 1, dtype=np.float64) - 0.5 - axis
        zeroth, first, second = _moments(np.concatenate([s, s + step]), np.concatenate([slope, -slope]), edges, 3)
        integral = (edges**2 * zeroth - 2 * edges * first + second) / 2
        zeroth, first = _moments((s + step / 2)[jumps], (-values * rise)[jumps], edges, 2)
        return np.asarray(np.diff(integral + edges * zeroth - first), np.float32)

    def image(self, size: int) -> NDArray[np.float32]:
        """Return the mean attenuation of each pixel."""
        from skimage.draw import polygon

        fine = np.zeros((size * OVERSAMPLED, size * OVERSAMPLED))
        for corners, value in zip(self.corners, self.values, strict=True):
            x, y = ((corners + size / 2) * OVERSAMPLED - 0.5).T
            rows, columns = polygon(y, x, fine.shape)
            fine[rows, columns] += value
        return _binned(fine, OVERSAMPLED)


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """A sample that is known by pixels, finer than the detector's.

    Parameters
    ----------
    fine : ndarray, shape (k, k)
        Attenuation, the axis in the middle.
    """

    fine: Floats

    @property
    def mass(self) -> float:
        """Sum of attenuation over the plane, pixels."""
        return float(self.fine.sum()) / FINER**2

    def projection(self, angle: float, columns: int, axis: float) -> NDArray[np.float32]:
        """Return line integrals: sums of the turned field."""
        from scipy.ndimage import affine_transform

        middle = (len(self.fine) - 1) / 2
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])  # (y, x) of (t, s)
        first = np.array([-middle, (-0.5 - axis) * FINER + 0.5])
        shape = (len(self.fine), columns * FINER)
        turned = affine_transform(self.fine, turn, middle + turn @ first, shape, order=3, prefilter=False)
        return np.asarray(turned.sum(axis=0).reshape(columns, FINER).sum(axis=1) / FINER**2, np.float32)

    def image(self, size: int) -> NDArray[np.float32]:
        """Return the mean attenuation of each pixel."""
        from scipy.ndimage import convolve1d

        values = self.fine
        for along in (0, 1):  # what splines make of their coefficients
            values = convolve1d(values, [1 / 6, 4 / 6, 1 / 6], axis=along, mode="constant")
        return _binned(_cropped(values, size * FINER), FINER)


def _moments(places: Floats, weights: Floats, edges: Floats, number: int) -> list[Floats]:
    """Return the first so many moments of all weights whose places are before each edge."""
    order = np.argsort(places)
    places, weights = places[order], weights[order]
    before = np.searchsorted(places, edges)
    return [np.concatenate([[0.0], np.cumsum(weights * places**power)])[before] for power in range(number)]


def _binned(fine: Floats, by: int) -> NDArray[np.float32]:
    size = len(fine) // by
    return np.asarray(fine.reshape(size, by, size, by).mean(axis=(1, 3)), np.float32)


def _cropped(values: Floats, size: int) -> Floats:
    away = (size - len(values)) // 2
    return np.pad(values, away) if away >= 0 else values[-away:away, -away:away]


@dataclass(frozen=True, slots=True, eq=False)
class Prism:
    """The same in every row.

    Parameters
    ----------
    rows : int
        Detector rows.
    radius : float
        Largest distance from the rotation axis that it can reach, pixels.
    row : Polygons or Field
        What each row sees.
    """

    rows: int
    radius: float
    row: Polygons | Field

    @property
    def mean(self) -> Floats:
        """Mean attenuation of each row within the radius; see `Body.mean`."""
        return np.full(self.rows, self.row.mass / (math.pi * self.radius**2))

    def projection(
        self, angle: float, columns: int, axis: float | Floats, *, shift: tuple[float, float] = (0.0, 0.0)
    ) -> NDArray[np.float32]:
        """Return the line integrals that each detector pixel sees; see `Body.projection`."""
        moved = shift[0] * math.cos(angle) + shift[1] * math.sin(angle)
        axes, which = np.unique(np.broadcast_to(axis, self.rows) + moved, return_inverse=True)
        return np.stack([self.row.projection(angle, columns, each) for each in axes.tolist()])[which]

    def image(self, size: int) -> NDArray[np.float32]:
        """Return the mean attenuation of each pixel; see `Body.image`."""
        return np.repeat(self.row.image(size)[None], self.rows, axis=0)

    def taken_from(self, sources: NDArray[np.intp]) -> Prism:
        """Return as many rows as `sources` names; see `Body.taken_from`."""
        return Prism(len(sources), self.radius, self.row)
