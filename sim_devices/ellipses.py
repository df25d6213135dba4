"""Ellipses, and what a parallel beam sees of them: line integrals in closed form.

A sample is a list of ellipses, each in one detector row. Their projections are exact and averaged over the width
of a detector pixel, so that a reconstruction is judged against something that no projector of ours has made.

Sample coordinates (u, v) have the rotation axis as origin; v points downwards, as image rows do. Lengths are
detector pixels, densities 1/pixel (attenuation), angles radians.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import GeometryError

__all__ = ["Ellipses"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ellipses:
    """Ellipses in a stack of detector rows; where they overlap, densities add.

    Parameters
    ----------
    rows : int
        Detector rows of the stack.
    row : ndarray of int, shape (K,)
        Detector row that each ellipse lies in.
    u, v : ndarray of float64, shape (K,)
        Centres, pixels from the rotation axis.
    a, b : ndarray of float64, shape (K,)
        Semi-axes, pixels, positive.
    phi : ndarray of float64, shape (K,)
        Angle from the u axis to semi-axis `a`, turning towards v, radians.
    density : ndarray of float64, shape (K,)
        Attenuation per pixel; negative for a hole.

    Raises
    ------
    GeometryError
        If the arrays differ in length, a row lies outside the stack or a semi-axis is not positive.
    """

    rows: int
    row: NDArray[np.intp]
    u: Floats
    v: Floats
    a: Floats
    b: Floats
    phi: Floats
    density: Floats

    def __post_init__(self) -> None:
        shapes = {name: getattr(self, name).shape for name in ("row", "u", "v", "a", "b", "phi", "density")}
        if len(set(shapes.values())) != 1 or self.row.ndim != 1:
            raise GeometryError(f"ellipses: expected seven arrays of one shape (K,), got {shapes}")
        if self.rows < 1 or (self.row.size and not 0 <= self.row.min() <= self.row.max() < self.rows):
            raise GeometryError(
                f"ellipses: rows {self.row.min(initial=0)}..{self.row.max(initial=0)} are not all in "
                f"a stack of {self.rows}"
            )
        if self.row.size and min(self.a.min(), self.b.min()) <= 0:
            raise GeometryError("ellipses: a semi-axis is zero or negative; leave such an ellipse out")

    @property
    def radius(self) -> float:
        """Largest distance from the rotation axis that any ellipse can reach, pixels."""
        if not self.row.size:
            return 0.0
        return float(np.max(np.hypot(self.u, self.v) + np.maximum(self.a, self.b)))

    @property
    def mean(self) -> Floats:
        """Mean attenuation of each row within the radius; see `Body.mean`."""
        mass = np.bincount(self.row, self.density * self.a * self.b, self.rows)
        return np.asarray(mass / self.radius**2, np.float64)

    def taken_from(self, sources: NDArray[np.intp]) -> Ellipses:
        """Return other rows of the stack; see `Body.taken_from`."""
        of_row = [np.flatnonzero(self.row == source) for source in sources]
        chosen = np.concatenate(of_row)
        row = np.repeat(np.arange(len(sources)), [len(found) for found in of_row])
        values = (each[chosen] for each in (self.u, self.v, self.a, self.b, self.phi, self.density))
        return Ellipses(len(sources), row, *values)

    def projection(
        self, angle: float, columns: int, axis: float | Floats, *, shift: tuple[float, float] = (0.0, 0.0)
    ) -> NDArray[np.float32]:
        """Return the line integrals that each detector pixel sees; see `Body.projection`."""
        cosine, sine = np.cos(angle), np.sin(angle)
        half_width = np.hypot(self.a * np.cos(angle - self.phi), self.b * np.sin(angle - self.phi))
        centre = np.broadcast_to(axis, self.rows)[self.row] + (self.u + shift[0]) * cosine + (self.v + shift[1]) * sine
        first = np.clip(np.ceil(centre - half_width - 0.5), 0, columns).astype(np.intp)
        last = np.clip(np.floor(centre + half_width + 0.5), -1, columns - 1).astype(np.intp)
        width = np.maximum(last - first + 1, 0)

        # One flat list of pixel edges, ellipse after ellipse: only the columns in an ellipse's shadow are computed.
        edges = width + 1
        owner = np.repeat(np.arange(width.size), edges)
        begin = np.cumsum(edges) - edges
        column = np.arange(owner.size) - (begin - first)[owner]
        area = _circle_area(np.clip((column - 0.5 - centre[owner]) / half_width[owner], -1.0, 1.0))
        values = np.diff(area, append=0.0) * (2.0 * self.density * self.a * self.b)[owner]
        values[begin + width] = 0.0  # an ellipse's last edge begins no pixel
        pixels = self.rows * columns
        flat = np.bincount(self.row[owner] * columns + column, weights=values, minlength=pixels + 1)[:pixels]
        return flat.reshape(self.rows, columns).astype(np.float32)

    def image(self, size: int, *, oversample: int = 4) -> NDArray[np.float32]:
        """Return the mean of `oversample` x `oversample` points of each pixel; see `Body.image`."""
        points = (np.arange(size * oversample) + 0.5) / oversample - size / 2
        fine = np.zeros((size * oversample, size * oversample))
        stack = np.zeros((self.rows, size, size), dtype=np.float32)
        for row in range(self.rows):
            fine[:] = 0.0
            for k in np.flatnonzero(self.row == row):
                reach = max(self.a[k], self.b[k])
                ys = slice(*np.searchsorted(points, [self.v[k] - reach, self.v[k] + reach]))
                xs = slice(*np.searchsorted(points, [self.u[k] - reach, self.u[k] + reach]))
                du, dv = points[xs][None, :] - self.u[k], points[ys][:, None] - self.v[k]
                cosine, sine = np.cos(self.phi[k]), np.sin(self.phi[k])
                inside = ((du * cosine + dv * sine) / self.a[k]) ** 2 + (
                    (dv * cosine - du * sine) / self.b[k]
                ) ** 2 <= 1
                fine[ys, xs] += self.density[k] * inside
            stack[row] = fine.reshape(size, oversample, size, oversample).mean(axis=(1, 3))
        return stack


def _circle_area(x: Floats) -> Floats:
    """Integrate sqrt(1 - x^2) from 0 to `x`, for x in [-1, 1]."""
    return np.asarray(0.5 * (x * np.sqrt(np.maximum(1.0 - x * x, 0.0)) + np.arcsin(x)))
