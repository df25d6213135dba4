"""Multi-scale structural similarity (MS-SSIM) of two images or two stacks of slices.

The public functions check and explain; the loops are in ``_ssim_kernels``. Numba is imported with the first
comparison. Lengths are pixels, image values have any unit as long as both images share it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bluesky_streamrecon.errors import ConfigError, DataError

__all__ = ["WEIGHTS", "MsSsimTerms", "deepest_pyramid", "ms_ssim", "ms_ssim_terms", "smallest_side", "warm_up"]

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents from the finest of five levels to the coarsest, as published by Wang et al.: their sum is 1.0001."""

TAPS = 11
SIGMA = 1.5
K1 = 0.01
K2 = 0.03
GAP = 16
IN_FLOAT64 = 2
"""First level (0 is full resolution) that is always computed in float64."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class MsSsimTerms:
    """MS-SSIM of each slice, and its terms.

    Parameters
    ----------
    values : ndarray of float64, shape (rows,)
        MS-SSIM of each slice, 0 to 1.
    contrast_structure : ndarray of float64, shape (rows, scales)
        Mean contrast-structure of each compared level, the finest first, -1 to 1 (as measured, not yet clipped).
    coarsest : ndarray of float64, shape (rows,)
        Mean of luminance times contrast-structure at the coarsest level: the SSIM of that level.
    """

    values: NDArray[np.float64]
    contrast_structure: NDArray[np.float64]
    coarsest: NDArray[np.float64]


def smallest_side(levels: int = 5) -> int:
    """Return the smallest image side, pixels, for a pyramid of so many levels.

    >>> smallest_side(), smallest_side(1)
    (176, 11)
    """
    return int(TAPS * 2 ** (levels - 1))


def deepest_pyramid(shape: tuple[int, ...], most: int = 5) -> int:
    """Return the number of levels, at most `most`, that fit an image; 0 if it is smaller than the Gaussian.

    >>> deepest_pyramid((1024, 1024)), deepest_pyramid((64, 64)), deepest_pyramid((8, 8))
    (5, 3, 0)
    """
    side = min(shape[-2:])
    levels = 0
    while levels < most and side >= smallest_side(levels + 1):
        levels += 1
    return levels


def ms_ssim(a: ArrayLike, b: ArrayLike, *, scales: int = 5, data_range: float | None = None, levels: int = 5) -> float:
    """Compare two images, or two stacks slice by slice, by MS-SSIM.

    At each level the local contrast and structure are compared (11-tap Gaussian of sigma 1.5, inside the valid
    region); the next level is the mean of 2 x 2 pixels; luminance counts at the coarsest level only [1]_.

    Parameters
    ----------
    a, b : array_like, shape (height, width) or (rows, height, width)
        Real numbers of one unit; computed in float32, or in float64 where float32 would not do.
    scales : int, optional
        How fine the comparison is: `levels` is full resolution, and each one less leaves out the finest level,
        so small features no longer count; 1 compares the coarsest level only.
    data_range : float, optional
        Range of values that counts as full contrast, in the unit of the images. None takes the largest minus
        the smallest value of both images (all slices) together, never of one image alone.
    levels : int, optional
        Levels of the pyramid, 1 to 5; less than 5 is for images smaller than 176 pixels. Scores are comparable
        only for the same `scales` and `levels`.

    Returns
    -------
    float
        0 to 1, 1 for equal images; the mean over slices for stacks. A level that is anti-correlated on the whole
        (its mean term is negative) makes the slice's score 0.

    Raises
    ------
    DataError
        If the shapes differ, are too small for the pyramid, or a value is not finite (the message says where).
    ConfigError
        If `scales`, `levels` or `data_range` can not work.

    References
    ----------
    .. [1] Wang, Simoncelli and Bovik, Asilomar Conference on Signals, Systems and Computers, 2003,
       :doi:`10.1109/ACSSC.2003.1292216`.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.arange(200.0 * 200).reshape(200, 200)
    >>> ms_ssim(image, image)
    1.0
    """
    terms = ms_ssim_terms(a, b, scales=scales, data_range=data_range, levels=levels)
    return float(np.mean(terms.values))


def ms_ssim_terms(
    a: ArrayLike, b: ArrayLike, *, scales: int = 5, data_range: float | None = None, levels: int = 5
) -> MsSsimTerms:
    """Return MS-SSIM for each slice, and the terms of each level; the arguments are those of `ms_ssim`."""
    _check_settings(scales, levels, data_range)
    if scales > levels:
        raise ConfigError(f"scales={scales} is more than levels={levels}: only levels of the pyramid can be compared")
    first, second = _as_stacks(a, b, levels)
    lowest, highest = _joint_range(first, second)
    used = levels - scales
    weights = WEIGHTS[used:levels]
    if (scales, levels) != (5, 5):
        weights = tuple(weight / sum(weights) for weight in weights)
    rows = len(first)
    if data_range is None:
        data_range = highest - lowest
        if data_range == 0:
            ones = np.ones(rows)
            return MsSsimTerms(ones, np.ones((rows, scales)), ones.copy())
    if not (math.isfinite(data_range) and math.isfinite(1 / data_range)):
        raise DataError(
            f"data range of the two images: {data_range:g} (values from {lowest:g} to {highest:g}) can not be scaled "
            "to 1 in float64; was an image left uninitialised?"
        )
    # Values far outside the stated range would drown its constants in float32 rounding.
    work = np.float32 if highest - lowest <= 2 * data_range else np.float64
    structure = np.empty((rows, scales))
    coarsest = np.empty(rows)
    for row in range(rows):
        structure[row], coarsest[row] = _slice_terms(first[row], second[row], scales, levels, data_range, work)
    # Equation (7) of the paper; SSIM of the coarsest level holds both its luminance and its contrast-structure.
    factors = np.maximum(np.concatenate([structure[:, :-1], coarsest[:, None]], axis=1), 0.0)
    values = np.prod(factors ** np.asarray(weights), axis=1)
    return MsSsimTerms(values, structure, coarsest)


def warm_up() -> None:
    """Compile the kernels, or load them from the cache, so that the first comparison does not have to wait."""
    noise = np.random.default_rng(0).random((smallest_side(3), smallest_side(3)), dtype=np.float32)
    ms_ssim(noise, noise[::-1], scales=3, levels=3)


def _slice_terms(
    x: NDArray[Any], y: NDArray[Any], scales: int, levels: int, data_range: float, work: type[np.floating[Any]]
) -> tuple[list[float], float]:
    from bluesky_streamrecon.quality import _ssim_kernels as kernels

    offsets = np.arange(TAPS // 2 + 1) - TAPS // 2  # six taps of eleven, since the Gaussian is symmetric
    half = np.exp(-(offsets**2) / (2 * SIGMA**2))
    taps = half / (2 * half.sum() - half[-1])
    scale = 1 / data_range
    mean_x, mean_y = kernels.means(x, y)
    rows, columns = x.shape
    total, difference = _rows(rows, columns, work), _rows(rows, columns, work)
    kernels.sum_and_difference(x, y, mean_x, mean_y, scale, total, difference)
    mean_total, mean_difference = (mean_x + mean_y) * scale, (mean_x - mean_y) * scale
    structure = []
    similarity = 0.0
    for level in range(levels):
        coarsest = level == levels - 1
        if level >= levels - scales:
            deficit, similarity = kernels.level_deficits(
                total,
                difference,
                columns,
                mean_total,
                mean_difference,
                taps.astype(total.dtype),
                K1**2,
                K2**2,
                coarsest,
            )
            structure.append(1 - deficit)
        if not coarsest:
            # A term near 0 needs more digits than float32 leaves of 1 minus it; coarse levels give them for little.
            kind = np.float64 if level + 1 >= IN_FLOAT64 else work
            halves = [_rows(total.shape[0] // 2, columns // 2, kind) for _ in range(2)]
            for image, half in zip((total, difference), halves, strict=True):
                kernels.halve(image, columns, half)
            total, difference = halves
            columns //= 2
    return structure, 1 - similarity


def _rows(rows: int, columns: int, kind: type[np.floating[Any]]) -> NDArray[Any]:
    """Return memory for an image, with a gap after each row, so that rows do not evict one another from the cache."""
    return np.empty((rows, columns + GAP), kind)


def _check_settings(scales: object, levels: object, data_range: float | None) -> None:
    for name, value in (("scales", scales), ("levels", levels)):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= len(WEIGHTS):
            raise ConfigError(f"{name}: got {value!r}, expected an integer from 1 to {len(WEIGHTS)}")
    if data_range is not None and not (math.isfinite(data_range) and data_range > 0):
        raise ConfigError(f"data_range: got {data_range!r}, expected a finite number above 0, or None")


def _as_stacks(a: ArrayLike, b: ArrayLike, levels: int) -> tuple[NDArray[Any], NDArray[Any]]:
    first, second = np.asarray(a), np.asarray(b)
    if first.shape != second.shape:
        raise DataError(
            f"images to compare: got shapes {first.shape} and {second.shape}, expected the same; are they of one run?"
        )
    if first.ndim not in (2, 3) or first.size == 0:
        raise DataError(
            f"images to compare: got shape {first.shape}, expected (height, width) or (rows, height, width)"
        )
    for array in (first, second):
        if array.dtype.kind not in "fiub":
            raise DataError(f"images to compare: got dtype {array.dtype}, expected real numbers")
    least = smallest_side(levels)
    if min(first.shape[-2:]) < least:
        fits = deepest_pyramid(first.shape)
        advice = f"levels={fits} fits this image" if fits else "no comparison is possible below 11 x 11"
        raise DataError(
            f"images to compare: got {first.shape[-2]} x {first.shape[-1]} pixels, expected at least {least} x {least} "
            f"for {levels} levels; {advice}"
        )
    common = np.float32 if first.dtype == second.dtype == np.float32 else np.float64
    stack = (-1, *first.shape[-2:])
    # Numba compiles anew for arrays that are read-only or not contiguous; a copy costs less.
    return (
        np.require(first, common, ("C", "W")).reshape(stack),
        np.require(second, common, ("C", "W")).reshape(stack),
    )


def _joint_range(first: NDArray[Any], second: NDArray[Any]) -> tuple[float, float]:
    ends = [float(end) for stack in (first, second) for end in (stack.min(), stack.max())]
    if not all(math.isfinite(end) for end in ends):
        for name, stack in (("first", first), ("second", second)):
            bad = ~np.isfinite(stack)
            if bad.any():
                where = tuple(int(index) for index in np.argwhere(bad)[0])
                raise DataError(
                    f"{name} image to compare: {int(bad.sum())} of {bad.size} values are not finite, the first is "
                    f"{stack[where]} at slice {where[0]}, row {where[1]}, column {where[2]}; expected finite numbers"
                )
    return min(ends), max(ends)
