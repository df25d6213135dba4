"""Samples to put in the beam: values that say what they are made of, without size or position.

A sample becomes a `Body` when the detector's rows and the radius that it may fill are known. Samples of ellipses are
solids: each detector row cuts them at another height, so rows differ. Lengths inside are fractions of the radius.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.sim_devices.ellipses import Ellipses
from bluesky_streamrecon.sim_devices.kinds import KINDS, Kind

__all__ = ["SAMPLES", "Body", "Discs", "Foam", "Sample", "SheppLogan", "crack", "sample_named"]


class Body(Protocol):
    """A sample of known size in a stack of detector rows, and what a parallel beam sees of it.

    Coordinates (u, v) have the rotation axis as origin; v points downwards, as image rows do. Lengths are pixels.
    """

    @property
    def rows(self) -> int:
        """Detector rows of the stack."""
        ...

    @property
    def radius(self) -> float:
        """Largest distance from the rotation axis that it can reach."""
        ...

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean attenuation of each row within the radius, 1/pixel, shape (rows,)."""
        ...

    def taken_from(self, sources: NDArray[np.intp]) -> Body:
        """Return a stack each row of which is the row of this one that `sources` names, shape (rows,)."""
        ...

    def projection(
        self, angle: float, columns: int, axis: float | NDArray[np.float64], *, shift: tuple[float, float] = (0.0, 0.0)
    ) -> NDArray[np.float32]:
        """Return the line integrals that each detector pixel sees, averaged over its width.

        Parameters
        ----------
        angle : float
            Radians.
        columns : int
            Detector columns C.
        axis : float or ndarray of float64, shape (rows,)
            Detector column of the rotation axis, in each row if it is tilted.
        shift : (float, float), optional
            How far the whole sample has moved on its mount, (u, v).

        Returns
        -------
        ndarray of float32, shape (rows, C)
            Unitless.
        """
        ...

    def image(self, size: int) -> NDArray[np.float32]:
        """Return the mean attenuation of each pixel, 1/pixel, shape (rows, N, N) for a side N of `size` pixels.

        Pixel (h, h) with h = (N - 1) / 2 lies on the rotation axis.
        """
        ...


@runtime_checkable
class Sample(Protocol):
    """Anything that can be cut into detector rows."""

    def body(self, rows: int, radius: float) -> Body:
        """Cut the sample for a detector.

        Parameters
        ----------
        rows : int
            Detector rows.
        radius : float
            Distance from the rotation axis that the sample may reach, pixels.

        Returns
        -------
        Body
            What each row sees.
        """
        ...


@dataclass(frozen=True, slots=True)
class Foam:
    """A cylinder with round pores that do not touch, and a few dense grains.

    Parameters
    ----------
    pores : int
        Pores that a row cuts through, about; fewer if no more fit.
    absorption : float
        Line integral through the middle of the full cylinder (unitless).
    seed : int
        Another seed, another foam.
    """

    pores: int = 40
    absorption: float = 1.5
    seed: int = 0

    def body(self, rows: int, radius: float) -> Ellipses:
        """Cut the foam; see `Sample.body`."""
        rng = np.random.default_rng([self.seed, 1])
        density = self.absorption / (2 * radius)
        spheres = _packed_spheres(rng, self.pores, rows, radius, sizes=(0.03, 0.11), room=0.93)
        fill = np.where(rng.random(len(spheres)) < 0.08, density, -density)
        return _stack(rows, radius, [(radius, density)], spheres, fill)


@dataclass(frozen=True, slots=True)
class Discs:
    """A thin cylinder of matrix with balls of many densities.

    Parameters
    ----------
    balls : int
        Balls that a row cuts through, about.
    absorption : float
        Line integral through a ball's worth of the densest material as wide as the sample (unitless).
    seed : int
        Another seed, another sample.
    """

    balls: int = 25
    absorption: float = 4.5
    seed: int = 0

    def body(self, rows: int, radius: float) -> Ellipses:
        """Cut the balls; see `Sample.body`."""
        rng = np.random.default_rng([self.seed, 2])
        density = self.absorption / (2 * radius)
        spheres = _packed_spheres(rng, self.balls, rows, radius, sizes=(0.04, 0.16), room=0.9)
        fill = density * rng.uniform(0.15, 0.85, len(spheres))
        return _stack(rows, radius, [(0.97 * radius, 0.15 * density)], spheres, fill)


# Density, semi-axes a and b, centre u and v (upwards), tilt in degrees: Shepp and Logan (IEEE Trans. Nucl. Sci.
# 21(3), 1974) with the contrasts raised by Toft (thesis, DTU 1996) so that they can be seen.
_SHEPP_LOGAN = (
    (1.0, 0.69, 0.92, 0.0, 0.0, 0.0),
    (-0.8, 0.6624, 0.874, 0.0, -0.0184, 0.0),
    (-0.2, 0.11, 0.31, 0.22, 0.0, -18.0),
    (-0.2, 0.16, 0.41, -0.22, 0.0, 18.0),
    (0.1, 0.21, 0.25, 0.0, 0.35, 0.0),
    (0.1, 0.046, 0.046, 0.0, 0.1, 0.0),
    (0.1, 0.046, 0.046, 0.0, -0.1, 0.0),
    (0.1, 0.046, 0.023, -0.08, -0.605, 0.0),
    (0.1, 0.023, 0.023, 0.0, -0.606, 0.0),
    (0.1, 0.023, 0.046, 0.06, -0.605, 0.0),
)


@dataclass(frozen=True, slots=True)
class SheppLogan:
    """The Shepp-Logan head with raised contrast, its ellipses turned into ellipsoids.

    Parameters
    ----------
    absorption : float
        Line integral along the longest chord of a head of skull throughout (unitless).
    """

    absorption: float = 5.0

    def body(self, rows: int, radius: float) -> Ellipses:
        """Cut the head; see `Sample.body`."""
        scale = radius / 0.93
        density = self.absorption / (2 * 0.92 * scale)
        table = np.array(_SHEPP_LOGAN)
        heights = np.arange(rows) - (rows - 1) / 2
        # An ellipsoid's third semi-axis is the mean of the two that are known.
        third = scale * np.sqrt(table[:, 1] * table[:, 2])
        shrink = np.sqrt(np.maximum(1 - (heights[:, None] / third[None, :]) ** 2, 0.0))
        row, k = np.nonzero(shrink > 0)
        s = scale * shrink[row, k]
        return Ellipses(
            rows=rows,
            row=row,
            u=scale * table[k, 3],
            v=-scale * table[k, 4],
            a=s * table[k, 1],
            b=s * table[k, 2],
            phi=-np.deg2rad(table[k, 5]),
            density=density * table[k, 0],
        )


SAMPLES: dict[str, Callable[[int], Sample]] = {
    "foam": lambda seed: Foam(seed=seed),
    "discs": lambda seed: Discs(seed=seed),
    "shepp-logan": lambda seed: SheppLogan(),  # noqa: ARG005 - it is one
    **{name: partial(Kind, name) for name in KINDS},
}
"""What makes a sample that is known by name, of a seed."""


def sample_named(name: str, *, seed: int = 0) -> Sample:
    """Return the sample called `name`, built from `seed` where it is a random one.

    Raises
    ------
    ConfigError
        If no sample has this name; the message lists those there are.
    """
    if name not in SAMPLES:
        raise ConfigError(
            f"sample: got {name!r}, expected one of {', '.join(SAMPLES)}, the path of a scan, or a Sample"
        )
    return SAMPLES[name](seed)


def crack(sample: Body) -> Ellipses:
    """Return a crack through a sample, to be added to it: two thirds of its radius long, and 3 % of that wide.

    It is as empty as the sample is dense on average, off the middle, and lies another way in each row.
    """
    radius, rows, ones = sample.radius, np.arange(sample.rows, dtype=np.intp), np.ones(sample.rows)
    return Ellipses(
        rows=sample.rows,
        row=rows,
        u=0.25 * radius * ones,
        v=-0.1 * radius * ones,
        a=radius / 3 * ones,
        b=0.015 * radius * ones,
        phi=0.6 * ones + 0.02 * rows,
        density=-sample.mean,
    )


def _packed_spheres(
    rng: np.random.Generator, per_row: int, rows: int, radius: float, *, sizes: tuple[float, float], room: float
) -> NDArray[np.float64]:
    """Throw spheres that do not overlap into a cylinder until a row cuts `per_row`; shape (K, 4): u, v, z, r."""
    low, high = sizes[0] * radius, sizes[1] * radius
    span = rows + 2 * high
    placed = np.empty((0, 4))
    wanted = per_row * span
    cut = 0.0
    for _ in range(60 * per_row + 20 * rows):
        if cut >= wanted:
            break
        r = low * (high / low) ** rng.random()
        distance, turn = (room * radius - r) * np.sqrt(rng.random()), 2 * np.pi * rng.random()
        z = -high + span * rng.random()
        new = np.array([distance * np.cos(turn), distance * np.sin(turn), z, r])
        gaps = np.sqrt(((placed[:, :3] - new[:3]) ** 2).sum(axis=1)) - placed[:, 3] - r
        if placed.size and gaps.min() < 0.01 * radius:
            continue
        placed = np.vstack([placed, new])
        cut += 2 * r
    return placed


def _stack(
    rows: int,
    radius: float,
    cylinders: list[tuple[float, float]],
    spheres: NDArray[np.float64],
    fill: NDArray[np.float64],
) -> Ellipses:
    """Cut centred cylinders (radius, density) and spheres into rows."""
    height = np.arange(rows)[:, None] - spheres[None, :, 2]
    cut = spheres[None, :, 3] ** 2 - height**2
    row, k = np.nonzero(cut > (1e-3 * radius) ** 2)
    r = np.sqrt(cut[row, k])
    each = np.repeat(np.arange(rows), len(cylinders))
    cylinder_r, cylinder_density = (np.tile([c[i] for c in cylinders], rows) for i in (0, 1))
    zeros = np.zeros(each.size)
    a = np.concatenate([cylinder_r, r])
    return Ellipses(
        rows=rows,
        row=np.concatenate([each, row]),
        u=np.concatenate([zeros, spheres[k, 0]]),
        v=np.concatenate([zeros, spheres[k, 1]]),
        a=a,
        b=a,
        phi=np.zeros(a.size),
        density=np.concatenate([cylinder_density, fill[k]]),
    )
