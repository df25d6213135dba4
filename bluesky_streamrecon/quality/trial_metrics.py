"""Metrics of line integrals: how well the next projections are predicted, and how far two half-sets agree.

They are measured with each forecast, on reconstructions that the forecast makes anyhow. Lengths are detector pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.quality.trials import TrialReconstruction
from bluesky_streamrecon.settings import SteeringSettings

__all__ = ["HalfSetResolution", "HeldOutResidual", "ring_correlation"]

AGREEMENT = 1 / 7
"""Correlation of half-sets at which the whole image's signal is as strong as its noise over three, as is usual."""


SHARE_TO_PREDICT = 2 / 3
"""Share of plan or budget before which the resolution at its end is not predicted: it would come out too coarse."""


@dataclass(frozen=True, slots=True)
class HeldOutResidual:
    """Error of predicting projections before they are used: root mean square of the residual, relative to the data.

    The image of the forecast before this one is projected to the angles that came since. It approaches the noise of
    the projections.

    Parameters
    ----------
    settings, compare_to : SteeringSettings, int
        As for all metrics; not used.
    """

    settings: SteeringSettings
    compare_to: int
    name: ClassVar[str] = "held-out-residual"

    def measure(self, study: TrialReconstruction) -> float | None:
        """Measure on the projections since the study before; None for the first one."""
        held_out = study.held_out()
        if held_out is None:
            return None
        measured, predicted = held_out
        strength = float(np.mean(np.square(measured, dtype=np.float64)))
        residual = float(np.mean(np.square(measured - predicted, dtype=np.float64)))
        return math.sqrt(residual / strength) if strength > 0 else None


@dataclass(frozen=True, slots=True)
class HalfSetResolution:
    """Resolution in pixels: the period at which Fourier rings of two half-sets' images no longer agree.

    Half-sets are every other view by angle; they agree while their ring correlation, mean over slices and smoothed
    over three rings, is above 1/7 [1]_. The value is at best 2 (the finest period that pixels can show; 4 where pixels
    were binned). From two thirds of the plan on, its value at the end of the plan (``final``, for ``planned``
    projections) is predicted, and so is that at the end of a budget (``budget``, for ``allowed``): noise would let
    signal over noise grow with the views in each ring, missing angles would move the rings outwards; the geometric mean
    of the two counts.

    Parameters
    ----------
    settings, compare_to : SteeringSettings, int
        As for all metrics; not used.

    References
    ----------
    .. [1] Rosenthal and Henderson, J. Mol. Biol. 333(4), 721-745, 2003, :doi:`10.1016/j.jmb.2003.07.013`.
    """

    settings: SteeringSettings
    compare_to: int
    name: ClassVar[str] = "half-set-frc"

    def measure(self, study: TrialReconstruction) -> dict[str, float]:
        """Measure on the half-sets of all projections so far."""
        first, second = study.halves
        if study.region is not None:
            first, second = first[:, *study.region], second[:, *study.region]
        curves = [ring_correlation(a, b) for a, b in zip(first, second, strict=True)]
        correlation = np.convolve(np.pad(np.mean(curves, axis=0), 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
        size, lines = max(first.shape[1:]), study.lines
        now = _resolution(correlation, size)
        found = {"": now * study.binning}
        for then, of, count in (("final", "planned", lines.planned), ("budget", "allowed", lines.allowed)):
            if not count or lines.projections < SHARE_TO_PREDICT * count:
                continue
            more = max(count / lines.projections, 1.0)
            shared = np.clip(correlation, 0, 1 - 1e-6)
            stronger = more * shared / (1 - shared)
            by_noise = _resolution(stronger / (1 + stronger), size)
            final = min(math.sqrt(by_noise * max(now / more, 2.0)), now)
            found |= {then: final * study.binning, of: float(count)}
        return found


def ring_correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Correlate two images ring by ring in Fourier space; ring r holds r periods per N pixels, N the longer side.

    Edges are faded out with a Hann window in both directions.

    Returns
    -------
    ndarray of float64, shape (N // 2 + 1,)
        -1 to 1; 0 for rings without power.
    """
    size = max(a.shape)
    window = np.hanning(a.shape[0])[:, None] * np.hanning(a.shape[1])[None, :]
    first, second = (np.fft.rfft2((image - image.mean()) * window) for image in (a, b))
    y, x = size * np.fft.fftfreq(a.shape[0])[:, None], size * np.fft.rfftfreq(a.shape[1])[None, :]
    ring = np.rint(np.hypot(y, x)).astype(np.intp).ravel()

    def summed(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(ring, values.ravel(), minlength=size // 2 + 1)[: size // 2 + 1], np.float64)

    power = np.sqrt(summed(np.abs(first) ** 2) * summed(np.abs(second) ** 2))
    return np.divide(summed((first * second.conj()).real), power, out=np.zeros_like(power), where=power > 0)


def _resolution(correlation: NDArray[np.float64], size: int) -> float:
    below = np.flatnonzero(correlation[1:] < AGREEMENT)
    if not below.size:
        return 2.0
    ring = int(below[0]) + 1
    if ring == 1:
        return float(size)
    above, under = float(correlation[ring - 1]), float(correlation[ring])
    return max(size / (ring - 1 + (above - AGREEMENT) / (above - under)), 2.0)
