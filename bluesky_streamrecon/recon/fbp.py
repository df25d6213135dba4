"""Filtered back projection, the reference that people know.

Line integrals are unitless, images 1/pixel, angles radians.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from bluesky_streamrecon.directions import find_directions
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.recon.algorithms.base import Algorithm
from bluesky_streamrecon.recon.bridging import Gaps
from bluesky_streamrecon.recon.slab_update import SlabUpdate

__all__ = ["FBP", "FILTERS", "filter_completed", "filter_sinogram"]

Filter = Literal["ramp", "shepp-logan", "cosine", "hann"]
FILTERS = get_args(Filter)
"""Names of filters, from sharp to smooth."""

OFF_THE_MIDDLE = 0.01
"""Distance of the axis from the middle of the detector, as a share of its width, that leaves opposite rays alike."""

ALL_AROUND = math.pi / 3
"""Largest gap, radians, between views that come from all around."""


def filter_sinogram(
    sinogram: NDArray[np.float32], name: str = "ramp", *, beyond: int = 0, threads: int = 1
) -> NDArray[np.float32]:
    """Filter line integrals along the detector.

    Parameters
    ----------
    sinogram : ndarray of float32, shape (A, C, S)
        Line integrals, slices innermost; NaN is filled in linearly from its neighbours on the detector.
    name : str, optional
        One of `FILTERS`.
    beyond : int, optional
        Columns beyond both ends of the detector that are given, too, n.
    threads : int, optional
        That compute.

    Returns
    -------
    ndarray of float32, shape (A, C + 2 n, S)
        Filtered line integrals, 1/pixel.

    Raises
    ------
    ConfigError
        If there is no such filter.

    Notes
    -----
    The ramp is that of the band-limited impulse response [1]_, so that the mean value is kept. Beyond both ends of the
    detector a line goes on from its value there smoothly to zero: a sample that reaches out of view gets no bright rim,
    and one that does not has nothing there.

    References
    ----------
    .. [1] A. C. Kak and M. Slaney, Principles of Computerized Tomographic Imaging, IEEE Press, 1988, chapter 3,
       :doi:`10.1137/1.9780898719277`.
    """
    if name not in FILTERS:
        raise ConfigError(f"filter: got {name!r}, expected one of {', '.join(FILTERS)}")
    columns = sinogram.shape[1]
    length = scipy.fft.next_fast_len(2 * (columns + beyond), real=True)
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
    spectrum = scipy.fft.rfft(_continued(_filled(sinogram), length), axis=1, workers=threads)
    spectrum *= response[None, :, None]
    filtered = scipy.fft.irfft(spectrum, length, axis=1, overwrite_x=True, workers=threads)
    if not beyond:
        return np.asarray(filtered[:, :columns], np.float32)
    return np.asarray(np.take(filtered, np.arange(-beyond, columns + beyond), axis=1, mode="wrap"), np.float32)


def filter_completed(
    sinogram: NDArray[np.float32], angles: NDArray[np.float64], axis: float, name: str = "ramp", *, threads: int = 1
) -> NDArray[np.float32]:
    """Filter views from all around whose axis is off the middle, each completed by the one from the opposite side.

    The outer parts of the sample are seen from one side only. Rays are weighted smoothly from 0, at the end of the
    detector that is nearer to the axis, to 2, as far away on the other side, so that a ray and its opposite one count
    twice together [1]_. What the filter makes of a view beyond its short end belongs to the opposite view.

    Parameters
    ----------
    sinogram : ndarray of float32, shape (A, C, S)
        Line integrals, slices innermost.
    angles : ndarray of float64, shape (A,)
        Radians.
    axis : float
        Detector column of the rotation axis.
    name : str, optional
        One of `FILTERS`.
    threads : int, optional
        That compute.

    Returns
    -------
    ndarray of float32, shape (A, C, S)
        Filtered line integrals, 1/pixel.

    References
    ----------
    .. [1] G. Wang, Med. Phys. 29(7), 2002, :doi:`10.1118/1.1489043`.
    """
    columns = sinogram.shape[1]
    middle = (columns - 1) / 2
    short = min(axis, columns - 1 - axis) + 0.5
    away = (np.arange(columns) - axis) * math.copysign(1, middle - axis)
    weights = 2 * np.sin(math.pi / 4 * (1 + np.clip(away / short, -1, 1))) ** 2
    beyond = math.ceil(2 * abs(axis - middle)) + 1
    filtered = filter_sinogram(
        _filled(sinogram) * weights[None, :, None].astype(np.float32), name, beyond=beyond, threads=threads
    )
    alone = np.flatnonzero(away > short)
    mirrored = 2 * axis - alone + beyond
    before = np.floor(mirrored).astype(np.intp)
    share = (mirrored - before).astype(np.float32)[:, None]
    completed = filtered[:, beyond : beyond + columns].copy()
    by_angle = np.argsort(angles, kind="stable")  # so that of two as near it does not matter in which order they are
    for view, angle in enumerate(angles):
        other = filtered[by_angle[np.argmin(np.abs(np.mod(angles[by_angle] - angle, 2 * math.pi) - math.pi))]]
        completed[view, alone] += other[before] * (1 - share) + other[before + 1] * share
    return completed


def _from_all_around(angles: NDArray[np.float64]) -> bool:
    turned = np.sort(np.mod(angles, 2 * math.pi))
    gaps = np.diff(turned, append=turned[:1] + 2 * math.pi)
    return bool(gaps.max(initial=0) <= ALL_AROUND)


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

    filter: Filter = "ramp"

    def step(self, problem: SlabUpdate) -> None:
        """Replace the image, from the views that were measured."""
        # All members filter all views: how much one counts depends on which of the others were measured.
        measured = problem.all_measured
        columns = measured.shape[1]
        blank = np.isnan(measured).all(axis=1)
        filtered = np.zeros(measured.shape, np.float32)
        for pattern in np.unique(blank, axis=1).T:  # one, where each projection has all rows or none
            views = np.flatnonzero(~pattern)
            if len(views):
                slices = np.flatnonzero((blank == pattern[:, None]).all(axis=0))
                place = np.ix_(views, np.arange(columns), slices)
                filtered[place] = self._filtered(problem, measured[place], problem.all_angles[views])
        problem.image = problem.back(filtered[: len(problem.angles)])

    def _filtered(
        self, problem: SlabUpdate, measured: NDArray[np.float32], angles: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Filter views, each weighted by the angle that it stands for."""
        columns = measured.shape[1]
        cells = find_directions(angles).cells.astype(np.float32)
        off = abs(problem.axis - (columns - 1) / 2)
        if OFF_THE_MIDDLE * columns < off < (columns - 1) / 2 and _from_all_around(angles):
            filtered = filter_completed(measured, angles, problem.axis, self.filter, threads=problem.threads)
        else:
            filtered = filter_sinogram(measured, self.filter, threads=problem.threads)
        return filtered * cells[:, None, None]


def _continued(sinogram: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """Return line integrals, shape (A, length, S), continued beyond the detector; what is before it is at the end."""
    count, columns, slices = sinogram.shape
    mean_of = max(2, columns // 128)
    beyond = (length - columns) // 2
    fall = (np.cos(math.pi / 2 * (np.arange(beyond) + 0.5) / max(beyond, 1)) ** 2).astype(np.float32)[None, :, None]
    continued = np.zeros((count, length, slices), np.float32)
    continued[:, :columns] = sinogram
    continued[:, columns : columns + beyond] = fall * sinogram[:, -mean_of:].mean(axis=1, keepdims=True)
    continued[:, length - beyond :] = fall[:, ::-1] * sinogram[:, :mean_of].mean(axis=1, keepdims=True)
    return continued


def _filled(sinogram: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isnan(sinogram).any():
        return sinogram
    lines = np.array(np.moveaxis(sinogram, 1, 2), order="C")
    by_line = lines.reshape(-1, sinogram.shape[1])
    Gaps(np.isnan(by_line)).bridge(by_line)
    return np.moveaxis(lines, 2, 1)
