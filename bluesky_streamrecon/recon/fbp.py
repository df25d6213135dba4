"""Filtered back projection, the reference that people know.

Line integrals are unitless, images 1/pixel, angles radians.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.recon.algorithms.base import Algorithm
from bluesky_streamrecon.recon.problem import Problem

__all__ = ["FBP", "FILTERS", "angular_weights", "filter_sinogram"]

FILTERS = ("ramp", "shepp-logan", "cosine", "hann")
"""Names of filters, from sharp to smooth."""

_SAME_ANGLE = 1e-9


def filter_sinogram(sinogram: NDArray[np.float32], name: str = "ramp") -> NDArray[np.float32]:
    """Filter line integrals along the detector.

    Parameters
    ----------
    sinogram : ndarray of float32, shape (A, C, S)
        Line integrals, slices innermost; NaN is filled in linearly from its neighbours on the detector.
    name : str, optional
        One of `FILTERS`.

    Returns
    -------
    ndarray of float32, shape (A, C, S)
        Filtered line integrals, 1/pixel.

    Raises
    ------
    ConfigError
        If there is no such filter.

    Notes
    -----
    The ramp is that of the band-limited impulse response [1]_, so that the mean value is kept.

    References
    ----------
    .. [1] A. C. Kak and M. Slaney, Principles of Computerized Tomographic Imaging, IEEE Press, 1988, chapter 3,
       :doi:`10.1137/1.9780898719277`.
    """
    if name not in FILTERS:
        raise ConfigError(f"filter: got {name!r}, expected one of {', '.join(FILTERS)}")
    columns = sinogram.shape[1]
    length = scipy.fft.next_fast_len(2 * columns, real=True)
    taps = np.zeros(length)
    taps[0] = 0.25
    odd = np.arange(1, length // 2 + 1, 2)
    taps[odd] = taps[-odd] = -1 / (math.pi * odd) ** 2
    frequency = np.arange(length // 2 + 1) / length
    window = {
        "ramp": np.ones_like(frequency),
        "shepp-logan": np.sinc(frequency),
        "cosine": np.cos(math.pi * frequency),
        "hann": 0.5 + 0.5 * np.cos(2 * math.pi * frequency),
    }[name]
    response = (scipy.fft.rfft(taps).real * window).astype(np.float32)
    spectrum = scipy.fft.rfft(_filled(sinogram), length, axis=1)
    spectrum *= response[None, :, None]
    filtered = scipy.fft.irfft(spectrum, length, axis=1)[:, :columns]
    return np.asarray(filtered, np.float32)


def angular_weights(angles: NDArray[np.float64], all_angles: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Give the part of the half turn that each angle stands for; parts add up to pi over `all_angles`.

    Parameters
    ----------
    angles : ndarray of float64, shape (A,)
        Radians, any order and range.
    all_angles : ndarray of float64, shape (B,), optional
        Angles that share the half turn, `angles` among them; by default `angles` itself.

    Returns
    -------
    ndarray of float64, shape (A,)
        Radians: half the gap to the neighbours on both sides, divided among angles that coincide.

    Examples
    --------
    >>> angular_weights(np.array([0.0, np.pi / 2, np.pi])) / np.pi
    array([0.25, 0.5 , 0.25])
    """
    every = np.mod(angles if all_angles is None else all_angles, math.pi)
    every = np.where(every > math.pi - _SAME_ANGLE, 0, every)
    order = np.sort(every)
    distinct = order[np.concatenate(([True], np.diff(order) > _SAME_ANGLE))] if len(order) else order
    gaps = np.diff(np.append(distinct, distinct[:1] + math.pi))
    cells = (gaps + np.roll(gaps, 1)) / 2
    index = np.clip(np.searchsorted(distinct, order + _SAME_ANGLE) - 1, 0, None)
    times = np.bincount(index, minlength=len(distinct))
    mine = np.mod(angles, math.pi)
    mine = np.where(mine > math.pi - _SAME_ANGLE, 0, mine)
    at = np.searchsorted(distinct, mine + _SAME_ANGLE) - 1
    return np.asarray((cells / times)[at])


@dataclass(frozen=True)
class FBP(Algorithm):
    """Filtered back projection [1]_ of the window; it keeps nothing of the image before.

    Parameters
    ----------
    filter : str, optional
        One of ``"ramp"``, ``"shepp-logan"``, ``"cosine"``, ``"hann"``.

    References
    ----------
    .. [1] A. C. Kak and M. Slaney, Principles of Computerized Tomographic Imaging, IEEE Press, 1988, chapter 3,
       :doi:`10.1137/1.9780898719277`.
    """

    filter: str = "ramp"

    def __post_init__(self) -> None:
        if self.filter not in FILTERS:
            raise ConfigError(f"filter: got {self.filter!r}, expected one of {', '.join(FILTERS)}")

    def step(self, problem: Problem) -> None:
        """Replace the image."""
        weights = angular_weights(problem.angles, problem.all_angles).astype(np.float32)
        problem.image = problem.back(filter_sinogram(problem.measured, self.filter) * weights[:, None, None])


def _filled(sinogram: NDArray[np.float32]) -> NDArray[np.float32]:
    missing = np.isnan(sinogram)
    if not missing.any():
        return sinogram
    filled = np.array(sinogram)
    columns = np.arange(sinogram.shape[1])
    for a, s in np.argwhere(missing.any(axis=1)):
        gone = missing[a, :, s]
        filled[a, gone, s] = 0 if gone.all() else np.interp(columns[gone], columns[~gone], sinogram[a, ~gone, s])
    return filled
