"""Changes of the sample in a time series: each view is compared with the same view one turn before it.

Such views differ by noise alone, as long as the sample stays as it is, so no image and no model is needed. What counts
is the power of the difference over some columns, relative to that of the noise between neighbouring columns; a factor
and a gradient, as of a beam that fades or drifts, are taken out before. Line integrals are unitless, angles radians,
projections counted from 1 where they are reported.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.quality.data_checks import SMOOTH
from bluesky_streamrecon.wire import OpenRun, Preview

__all__ = ["ChangeDetector", "structure"]

SPIKE = 4.0
"""Standard deviations from its neighbours, above which a single pixel is a zinger."""

MOST = 8.0
"""What a single view may count, standard deviations: a flash of the beam is no change yet."""

SLACK = 0.4
"""Standard deviations by which a view has to be above the usual to count for a change."""

ENOUGH = 22.0
"""Sum of what views count, from which on the sample has changed; see docs/studies/change.py for what that means."""

LEARNED = 16
"""Compared views after which the usual difference is that of this series, and not of white noise."""

UNLEARNED = 2.0
"""Times what white noise gives, that is taken for usual before that, at most."""

REMEMBERED = 1000
"""Views that the usual difference is measured on, the newest of them without a change."""

QUIET = 0.5
"""Share of a volume without a difference, after which a change is over."""

_NOISE_VIEWS = 400

Rows = NDArray[np.float32]


def structure(new: Rows, before: Rows) -> NDArray[np.float64]:
    """Return by how much two views of the same direction differ beyond noise: about 1 in each row if they do not.

    Parameters
    ----------
    new, before : ndarray of float32, shape (..., columns)
        Line integrals, unitless.

    Returns
    -------
    ndarray of float64, shape (...)
        Power of the difference over `SMOOTH` columns, over that of white noise; NaN where there is no noise, or a value
        is missing.
    """
    # What Poisson noise of the beam gives: then every column has the same noise, and clear ones count most.
    scale = np.exp(-np.clip((new.astype(np.float64) + before) / 4, 0, 10))
    difference = _without_spikes(np.asarray((new - before) * scale, np.float64))
    column = np.linspace(-1, 1, new.shape[-1])
    level = scale / np.linalg.norm(scale, axis=-1, keepdims=True)
    slope = scale * column
    slope -= level * (level * slope).sum(axis=-1, keepdims=True)
    slope /= np.linalg.norm(slope, axis=-1, keepdims=True)
    for known in (level, slope):
        difference -= known * (known * difference).sum(axis=-1, keepdims=True)
    white = np.mean(np.diff(difference, axis=-1) ** 2, axis=-1) / 2
    sums = np.cumsum(difference, axis=-1)
    smooth = np.mean((sums[..., SMOOTH:] - sums[..., :-SMOOTH]) ** 2, axis=-1) / SMOOTH
    return np.asarray(np.where(white > 0, smooth / np.where(white > 0, white, 1), np.nan))


def _without_spikes(difference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rows in which single pixels that stick out are as the middle one of their neighbours."""
    steps = np.abs(np.diff(difference, axis=-1))
    noise = np.median(steps, axis=-1, keepdims=True) / (0.6745 * math.sqrt(2))
    middle = difference.copy()
    left, own, right = difference[..., :-2], difference[..., 1:-1], difference[..., 2:]
    middle[..., 1:-1] = np.maximum(np.minimum(left, own), np.minimum(np.maximum(left, own), right))
    return np.where(np.abs(difference - middle) > SPIKE * noise, middle, difference)


class ChangeDetector:
    """Looks for changes in the line integrals of a time series, as they come.

    Parameters
    ----------
    run : OpenRun
        Of a time series, with its preview rows.

    Attributes
    ----------
    began : int or None
        Projection at which the newest change has begun, about.
    over : int or None
        Projection at which it was known to be over; None while it goes on.
    marks : int
        Changes found so far.
    level : float or None
        How much speaks for a change just now; 1 is enough. None before any view could be compared.
    """

    def __init__(self, run: OpenRun) -> None:
        self.began: int | None = None
        self.over: int | None = None
        self.marks = 0
        self.level: float | None = None
        self._per_volume = run.per_volume
        self._rows = len(dict.fromkeys(run.preview_rows))
        self._near = math.pi / max(run.per_volume, 2) / 2
        self._blocks: dict[tuple[int, ...], _Block] = {}
        self._found: dict[int, list[NDArray[np.float64]]] = {}  # by projection, from 0, until all rows are here
        columns = run.detector_shape[1]
        random = np.random.default_rng(0)
        noise = structure(*random.normal(0, 1e-3, (2, _NOISE_VIEWS, columns)).astype(np.float32))
        self._white, self._spread = float(noise.mean()), float(noise.std() / math.sqrt(self._rows))
        self._usual: deque[float] = deque(maxlen=REMEMBERED)
        self._open: list[float] = []  # since the sum was zero: perhaps of a change
        self._sum, self._since, self._last = 0.0, 0, 0
        self._changing = False

    def add(self, preview: Preview) -> None:
        """Take the line integrals that came with a preview; what is here already is left aside."""
        views = preview.views
        if views is None:
            return
        block = self._blocks.setdefault(preview.rows, _Block(self._per_volume, self._near))
        if preview.lines_counts:  # means over angle, after a restart: these projections can not be compared any more
            block.taken = max(block.taken, preview.lines_first + sum(preview.lines_counts))
            return
        for number, (lines, angle) in enumerate(zip(views.values, views.angles, strict=True), preview.lines_first):
            if number >= block.taken:
                found = self._found.setdefault(number, [])
                found.append(block.compared(number, lines, float(angle)))
                if sum(map(len, found)) == self._rows:
                    self._judge(number + 1, np.concatenate(self._found.pop(number)))

    def metrics(self) -> dict[str, float | None]:
        """Return what a policy is given."""
        began, over = (None if at is None else float(at) for at in (self.began, self.over))
        return {"change": self.level, "change-began": began, "change-over": over}

    def _judge(self, projection: int, rows: NDArray[np.float64]) -> None:
        known = rows[np.isfinite(rows)]
        if not len(known):
            return
        value = float(known.mean())
        centre, spread = self._usually(value)
        self._sum += min((value - centre) / (spread * math.sqrt(self._rows / len(known))), MOST) - SLACK
        self._open.append(value)
        if self._sum <= 0:
            self._usual += self._open if not self._changing else ()
            self._sum, self._since, self._open = 0.0, projection, []
        self.level = self._sum / ENOUGH
        if self._sum >= ENOUGH:
            if not self._changing:
                self.began, self.over, self._changing, self.marks = self._since + 1, None, True, self.marks + 1
            self._sum, self._since, self._last, self._open = 0.0, projection, projection, []
        elif self._changing and projection - self._last >= QUIET * self._per_volume:
            self.over, self._changing = projection, False

    def _usually(self, value: float) -> tuple[float, float]:
        """Return mean and spread of what views of a still sample give."""
        known = np.array(self._usual)
        if len(known) < LEARNED:
            centre = float(np.median([*known, value]))
            return max(self._white, min(centre, UNLEARNED * self._white)), self._spread
        centre = float(np.median(known))
        spread = float(np.median(np.abs(known - centre))) / 0.6745
        return max(centre, self._white), max(spread, self._spread)


class _Block:
    """Rows that come from one rank: their views in the last two volumes."""

    def __init__(self, per_volume: int, near: float) -> None:
        self.taken = 0
        self._per_volume, self._near = per_volume, near
        self._views: dict[int, tuple[Rows, float]] = {}

    def compared(self, number: int, lines: Rows, angle: float) -> NDArray[np.float64]:
        """Return how each row differs from the same view before, and keep the view."""
        found = np.full(len(lines), np.nan)
        for before in (number - self._per_volume, number - 2 * self._per_volume):
            known = self._views.get(before)
            if known is not None and abs(math.remainder(angle - known[1], 2 * math.pi)) < self._near:
                found = structure(lines, known[0])
                break
        self._views[number] = lines.copy(), angle
        self._views.pop(number - 2 * self._per_volume, None)
        self.taken = number + 1
        return found
