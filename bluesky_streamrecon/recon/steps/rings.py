"""Rings: detector pixels whose response differs from their neighbours' draw stripes in sinograms, and rings in slices.

The combination of algorithms 3 to 6 of [1]_, which rests on sorting: sorted along the angle, neighbouring columns of a
sinogram hardly differ, and what differs is the pixel's. All of it is a map of the values of each column that keeps
their order, so it can be found from the projections so far and be applied to the next one.

References
----------
.. [1] Vo, Atwood and Drakopoulos, Opt. Express 26(22), 28396, 2018, :doi:`10.1364/OE.26.028396`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from bluesky_streamrecon.directions import crowded
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.preparation_steps import Step
from bluesky_streamrecon.recon.bridging import Gaps

__all__ = ["Rings", "remove_stripes"]

LEAST = 12
"""Projections below which nothing is done: too few would take the sample away."""

GROWTH = 2
"""Stripes are looked for anew whenever there are so many times the projections."""

MOST = 256
"""Projections that are remembered; from then on every second, and so on, so that they cover the whole scan."""

PER_LEVEL, LEVELS = 12, 6
"""Projections from which each level of a pixel's response is estimated at least, and levels at most."""

SMOOTHED = 10
"""Projections over which a responsive pixel's signal is smooth."""

TRIM = 0.05
"""Share of the sorted values that is left out at each end when stripes are detected."""

Sinogram = NDArray[np.float32]
T = TypeVar("T", np.float32, np.float64)


@dataclass
class Rings(Step):
    """Remove large, dead, fluctuating and small stripes.

    While a scan goes on, each projection is corrected once, with what is known when it arrives, so the result does not
    depend on timing; a pixel's response is then described by a few levels. The finished volume is made from sinograms
    that are corrected as a whole, as published.

    Parameters
    ----------
    large, small : int or None
        Columns that the medians span, odd: twice the widest stripe or more, and twice the many small ones. Wider ones
        smooth the sample, too. None: a 40th of the columns, 15 to 51, and a 100th, 5 to 21.
    snr : float
        How far a column must stand out to be a large, dead or fluctuating stripe; greater: fewer are found.
    """

    remembers = True

    large: Annotated[int, Meta(ge=3)] | None = None
    small: Annotated[int, Meta(ge=3)] | None = None
    snr: Annotated[float, Meta(gt=1)] = 3.0
    _angles: list[float] = field(init=False, default_factory=list, repr=False)
    _seen: int = field(init=False, default=0, repr=False)
    _every: int = field(init=False, default=1, repr=False)
    _next: int = field(init=False, default=LEAST, repr=False)

    def __post_init__(self) -> None:
        for name in ("large", "small"):
            width = getattr(self, name)
            if width is not None and width % 2 == 0:
                raise ConfigError(f"preparation step 'rings': got {name}={width}, expected an odd number of columns")

    def check(self, rows: int, columns: int) -> None:  # noqa: ARG002
        """Refuse a detector that is too narrow."""
        if columns < 8:
            raise ConfigError(f"preparation step 'rings': got {columns} detector columns, expected at least 8")

    def begin(self, rows: int, columns: int) -> None:
        """Make room for what is remembered."""
        from bluesky_streamrecon.recon.kernels.steps import move_levels

        self._widths = (
            self.large or min(max(columns // 40, 15), 51) | 1,
            self.small or min(max(columns // 100, 5), 21) | 1,
        )
        self._known = np.zeros((rows, MOST, columns), np.float32)
        self._dead = np.zeros((rows, columns), bool)
        self._gaps = Gaps(self._dead)
        self._levels = np.zeros((rows, 1, columns), np.float32)
        self._shifts = np.zeros((rows, 1, columns), np.float32)
        move_levels(np.zeros((1, columns), np.float32), self._levels[:1], self._shifts[:1])

    def apply(self, projection: NDArray[np.float32], angle: float) -> NDArray[np.float32]:
        """Return the projection without the stripes that are known so far, it included."""
        from bluesky_streamrecon.recon.kernels.steps import move_levels

        self._remember(projection, angle)
        if len(self._angles) >= self._next and not crowded(np.asarray(self._angles)):
            self._look_for_stripes()
            self._next = math.ceil(GROWTH * len(self._angles))
        self._gaps.bridge(projection)
        move_levels(projection, self._levels, self._shifts)
        return projection

    def apply_to_all(self, projections: NDArray[np.float32], angles: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return all projections of some rows, each row's sinogram corrected as a whole."""
        order = np.argsort(angles, kind="stable")
        for row in range(projections.shape[1]):
            lit = order[np.isfinite(projections[order, row, 0])]
            if len(lit) >= LEAST:
                sinogram = projections[lit, row]
                projections[lit, row] = remove_stripes(sinogram, *self._widths, self.snr)
        return projections

    def _remember(self, projection: NDArray[np.float32], angle: float) -> None:
        if self._seen % self._every == 0:
            if len(self._angles) == MOST:
                self._known[:, : MOST // 2] = self._known[:, ::2].copy()
                self._angles = self._angles[::2]
                self._every *= 2
                self._next = min(self._next, MOST - 1)
            if self._seen % self._every == 0:
                self._known[:, len(self._angles)] = projection
                self._angles.append(angle)
        self._seen += 1

    def _look_for_stripes(self) -> None:
        rows, _, columns = self._known.shape
        number = len(self._angles)
        order = np.argsort(self._angles, kind="stable")
        levels = min(max(number // PER_LEVEL, 1), LEVELS)
        self._levels = np.zeros((rows, levels, columns), np.float32)
        self._shifts = np.zeros((rows, levels, columns), np.float32)
        for row in range(rows):
            sinogram = self._known[row, :number][order]
            sinogram = sinogram[np.isfinite(sinogram[:, 0])]
            if len(sinogram) < LEAST:
                continue
            if len(sinogram) >= 2 * LEAST:
                self._dead[row] = _fluctuating(sinogram, self._widths[0], self.snr)
                Gaps(np.broadcast_to(self._dead[row], sinogram.shape)).bridge(sinogram)
            ranked = np.sort(np.ascontiguousarray(sinogram.T), axis=1)
            bounds = np.linspace(0, len(sinogram), levels + 1).astype(int)
            means = (np.add.reduceat(ranked, bounds[:-1], axis=1).T / np.diff(bounds)[:, None]).astype(np.float32)
            self._levels[row] = means
            self._shifts[row] = _smooth(means, 0, *self._widths, self.snr) - means
        self._gaps = Gaps(self._dead)


def remove_stripes(sinogram: Sinogram, large: int = 51, small: int = 21, snr: float = 3.0) -> Sinogram:
    """Return a sinogram, shape (angles, columns), without stripes; the angles in order."""
    mended = sinogram.copy()
    Gaps(np.broadcast_to(_fluctuating(mended, large, snr), mended.shape)).bridge(mended)
    order = np.argsort(mended, axis=0, kind="stable")
    ranked = np.take_along_axis(mended, order, axis=0)
    smooth = _smooth(ranked, int(TRIM * len(ranked)), large, small, snr)
    np.put_along_axis(mended, order, smooth, axis=0)
    return mended


def _smooth(ranked: Sinogram, trim: int, large: int, small: int, snr: float) -> Sinogram:
    """Return values of columns sorted along axis 0, or levels of them, without stripes: algorithms 5 and 3."""
    wide = _running_median(ranked, large)
    kept = slice(trim, len(ranked) - trim)
    own, usual = ranked[kept].mean(axis=0), wide[kept].mean(axis=0)
    factor = np.divide(own, usual, out=np.ones_like(own), where=usual != 0)
    stripes = _widened(_outliers(factor, snr))
    factor[factor <= 0] = 1  # of air, where the mean is as good as zero; the order of values must stay
    return _running_median(np.where(stripes, wide, ranked / factor), small)


def _fluctuating(sinogram: Sinogram, large: int, snr: float) -> NDArray[np.bool_]:
    """Return which columns change too much or too little from angle to angle: the detection of algorithm 6."""
    mirrored = np.pad(sinogram, ((SMOOTHED // 2, (SMOOTHED - 1) // 2), (0, 0)), "symmetric")
    near = np.zeros_like(sinogram)
    for first in range(SMOOTHED):
        near += mirrored[first : first + len(sinogram)]
    change = np.abs(sinogram - near / SMOOTHED).sum(axis=0, dtype=np.float64)
    usual = _running_median(change[None], large)[0]
    usual[usual == 0] = float(usual.mean()) or 1.0
    found = _widened(_outliers(change / usual, snr))
    found[:2] = found[-2:] = False
    return found if np.count_nonzero(found) < len(found) // 3 else np.zeros_like(found)


def _outliers(values: NDArray[np.floating], snr: float) -> NDArray[np.bool_]:
    """Return which values stand out: algorithm 4.

    A line is fitted to the middle half of the sorted values; what it spans is their noise.
    """
    number = len(values)
    ranked = np.sort(values)
    quarter = number // 4
    places = np.arange(number)[quarter : number - quarter - 1]
    usual = ranked[quarter : number - quarter - 1].astype(np.float64)
    off_middle = places - places.mean()
    slope = float(off_middle @ usual / (off_middle @ off_middle))
    low = usual.mean() - slope * places.mean()
    high = low + slope * (number - 1)
    noise = max(abs(high - low), 1e-6)
    found = np.zeros(number, bool)
    if ranked[-1] - high >= snr * noise:
        found |= values > high + snr * noise / 2
    if low - ranked[0] >= snr * noise:
        found |= values <= low - snr * noise / 2
    return found


def _widened(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    wider = mask.copy()
    wider[1:] |= mask[:-1]
    wider[:-1] |= mask[1:]
    return wider


def _running_median(lines: NDArray[T], width: int) -> NDArray[T]:
    from scipy.ndimage import median_filter  # which takes long to import

    columns = lines.shape[1]
    width = min(width, columns - 1 + columns % 2)
    # One after the other, mirrored at their edges: of one long line SciPy computes running medians, not each anew.
    mirrored = np.pad(lines, ((0, 0), (width // 2, width // 2)), "symmetric")
    medians = median_filter(mirrored.ravel(), width).reshape(mirrored.shape)
    return np.asarray(medians[:, width // 2 : width // 2 + columns])
