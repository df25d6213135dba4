"""How much better an image would still get: MS-SSIM that the projections not taken yet would add.

What the last doubling of views has brought (half of the projections against all) is split into noise and missing
angles; each falls in its own known way with more views, so the gain of the rest can be predicted.
``docs/explanations/steering.md`` has the reasons and the measurements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.coverage import AngularRange
from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.quality.sharp_views import find_sharp_views
from bluesky_streamrecon.quality.trials import NOISE_OF_BINNING, TrialReconstruction, similarity

__all__ = ["Gain", "band", "predict_gain", "saturation"]

UPPER = 0.25
"""Upper end of the 95 % band over the prediction, in the natural logarithm, while that is small."""

LARGE, FURTHER = 0.02, 0.35
"""Predicted gain above which the upper end reaches further, and by how much per unit of its logarithm: MS-SSIM of bad
images saturates."""

LOWER = 1.0
"""Prediction over the lower end, in the natural logarithm. Where all detail is of one size, missing angles stop
mattering at once, and the gain is much smaller than predicted."""

FLOOR, LOWER_FLOOR = 0.0015, 0.004
"""What the band has above and below where little is gained, MS-SSIM."""

RISING, SINGLE, WORSE = 0.2, 0.004, 0.03
"""Where edges run in few directions, MS-SSIM: what the band has more above for each unit by which the mean detail of
views may still rise, above in any case, and below, since views in other directions may make the image worse."""

UNEVEN, USUAL = 2.0, 1.125
"""By how much more missing angles matter where views are uneven, in the natural logarithm per unit of `unevenness`, and
the unevenness at which it is what the arcs tell: that of views with every other gap halved."""

UNEVEN_BY_HALVES = 6.0
"""The same above that unevenness in half acquisition, where most of the image is seen by half of the views."""

FOLLOWED = 1.25
"""Noise over what the reconstruction leaves of it as residual: it follows the noise a little."""

LEAST_DIRECTIONS = 4
"""Directions without which there are no two half-sets to compare."""


@dataclass(frozen=True, slots=True)
class Gain:
    """Predicted gain in MS-SSIM of all projections that are planned and not taken.

    Parameters
    ----------
    gain, lower, upper : float
        Mean over slices, and its 95 % band.
    projections, planned : int
        Projections that it was predicted from, and those of the whole scan.
    noise_share : float
        Share of the last doubling's gain that is noise; the rest is missing angles.
    doubling : float
        What the last doubling of views has brought, MS-SSIM.
    by_variance, by_aliasing : float
        Loss per `AngularRange.variance` and per `AngularRange.aliasing`.
    size : int
        Side of the images that it was predicted from, pixels of theirs.
    single : float
        What the upper end has more since few views hold most of the image, MS-SSIM; 0: they do not.
    """

    gain: float
    lower: float
    upper: float
    projections: int
    planned: int
    noise_share: float
    doubling: float
    by_variance: float
    by_aliasing: float
    size: int
    single: float = 0.0

    def left_at(self, count: int, over: AngularRange) -> float:
        """Predict, roughly, what would still be missing from the image of all projections after `count` of them."""
        views, last = over.even_part(count, self.planned), over.even(self.planned)
        left = self.by_variance * (over.variance(views) - over.variance(last))
        left += self.by_aliasing * (over.aliasing(views, self.size) - over.aliasing(last, self.size))
        return max(left, 0.0)

    def enough_at(self, tolerance: float, over: AngularRange) -> int | None:
        """Predict, roughly, at how many projections the upper end falls below `tolerance`; None: never."""
        low, high = self.projections, self.planned

        def upper(count: int) -> float:
            return band(self.left_at(count, over), self.single)[1]

        if upper(high) >= tolerance:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if upper(middle) < tolerance else (middle, high)
        return high


def band(gain: float, single: float = 0.0) -> tuple[float, float]:
    """Return the 95 % band of a predicted gain.

    Parameters
    ----------
    gain : float
        As predicted.
    single : float, optional
        What the upper end has more where few views hold most of the image; 0: they do not.
    """
    lower, upper = gain * math.exp(-LOWER) - LOWER_FLOOR, UPPER + FURTHER * math.log(max(gain / LARGE, 1))
    return lower - WORSE if single else max(lower, 0.0), gain * math.exp(upper) + FLOOR + single


def predict_gain(study: TrialReconstruction) -> Gain:
    """Predict what the rest of the scan would add.

    Parameters
    ----------
    study : TrialReconstruction
        Of at least eight views.

    Returns
    -------
    Gain
        Mean over the rows of the study.

    Raises
    ------
    DataError
        If the images show nothing, or the views look from fewer than 4 directions.
    """
    lines, over, size = study.lines, study.lines.over, study.size
    seen = len(over.directions(study.angles).gaps)
    if seen < LEAST_DIRECTIONS:
        raise DataError(f"views from {seen} directions only, repeated and opposite ones aside")
    now, last, half = study.angles, lines.planned_angles, study.angles[study.half_sets[0]]
    steps = [(over.variance(a), over.aliasing(a, size)) for a in (half, now, last)]
    (half_variance, half_aliasing), (variance, aliasing), (last_variance, last_aliasing) = steps
    parts = [_one_row(study, row) for row in range(len(study.rows))]
    doubling, between, share = (np.array(each) for each in zip(*parts, strict=True))
    brought = doubling * saturation(doubling, between, last_variance / variance) ** share
    by_variance = float(np.mean(brought * share)) / (half_variance - variance)
    by_aliasing = float(np.mean(brought * (1 - share))) / (half_aliasing - aliasing)
    uneven = over.unevenness(now) - USUAL
    by_aliasing *= math.exp((UNEVEN_BY_HALVES if over.turn > math.pi and uneven > 0 else UNEVEN) * uneven)
    if study.binning > 1:
        by_variance *= NOISE_OF_BINNING
    gain = max(by_variance * (variance - last_variance) + by_aliasing * (aliasing - last_aliasing), 0.0)
    sharp = find_sharp_views(study)
    single = SINGLE + RISING * max(sharp.rise, 0.0) if sharp.few else 0.0
    lower, upper = band(gain, single)
    return Gain(
        gain=gain,
        lower=lower,
        upper=upper,
        projections=lines.projections,
        planned=max(lines.planned, lines.projections),
        noise_share=float(np.mean(share)),
        doubling=float(np.mean(doubling)),
        by_variance=by_variance * lines.per_view,  # so many projections have the variance of one view
        by_aliasing=by_aliasing,
        size=size,
        single=single,
    )


def saturation(doubling: NDArray[np.float64], between: NDArray[np.float64], left: float) -> NDArray[np.float64]:
    """Return the gain by less noise over what it would be if it grew in proportion to `doubling`.

    MS-SSIM saturates. With x, the noise's variance over twice that of the image, half of the views lose x / (1 + 3x) to
    all of them, and 4x / (1 + 4x) to the other half, while all lose x / (1 + x) to the truth: hence x.

    Parameters
    ----------
    doubling, between : ndarray of float64
        1 - MS-SSIM of half of the views and all, and of both halves.
    left : float
        Share of the noise's variance that is left at the end.
    """
    short = np.clip(4 * doubling / np.maximum(between, 1e-12) - 1, 0, 1 / 4)  # x / (1 + 3x)
    return np.asarray((1 - 3 * short) / ((1 - 2 * short) * (1 - (3 - left) * short)))


def _one_row(study: TrialReconstruction, row: int) -> tuple[float, float, float]:
    """Return what the last doubling has brought in one row, what its halves differ by, and the share that is noise."""
    full, binned = study.seen(study.full[row]), study.binning > 1
    shown = study.contrast(row) if np.isfinite(full).all() else 0.0
    if shown <= 0:
        raise DataError(f"reconstruction from {study.lines.projections} projections: nothing to see in row {row}")
    halves = [study.seen(half[row]) for half in study.halves]

    def lost(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
        return 1 - similarity(a, b, shown, binned=binned)

    doubling = float(np.mean([lost(half, full) for half in halves]))
    noisier = lost(study.seen(study.noisier[row]), full)
    return doubling, lost(*halves), min(max(FOLLOWED * noisier / max(doubling, 1e-12), 0.0), 1.0)
