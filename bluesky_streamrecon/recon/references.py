"""Flats and darks of a few detector rows, averaged so that a bad frame or a bad value among them does no harm.

What is left out is decided for each row by that row alone, so that it does not matter which rows a rank has. Values are
detector counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["References", "average", "robust_means", "saturation_level"]

EMPTY = 0.02
"""A flat is empty below this share of the brightest one, the dark taken off."""

UNLIKE_FLAT = 0.1
"""Difference of a flat from the median of all, relative, from which on it is left out, or flats are called unlike."""

UNLIKE_DARK = 0.05
"""The same for darks, relative to the flats."""

OUTLIER = 10.0
"""Standard deviations of the row's noise from which on a single value is left out."""

NO_MATTER, FEW, MANY = 1e-3, 0.05, 0.5
"""Shares of saturated pixels above which they are reported, and are "many" and "most"."""

_PILE = 8
_PILE_SHARE = 0.005
_NEIGHBOURS = 8

Frames = NDArray[np.generic]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class References:
    """Averages over frames.

    Parameters
    ----------
    dark, flat : ndarray of float64, shape (rows, columns)
        Counts; 0 where nothing was measured, and where there is no dark.
    limit : ndarray of float64, shape (rows, 1)
        Counts from which a pixel is saturated; infinite where nothing saturates.
    saturated : ndarray of bool, shape (rows, columns)
        Pixels that are saturated in the flats.
    warnings : tuple of str
        What the user should know, a line each.
    """

    dark: NDArray[np.float64]
    flat: NDArray[np.float64]
    limit: NDArray[np.float64]
    saturated: Mask
    warnings: tuple[str, ...]


def average(
    flats: Sequence[Frames], darks: Sequence[Frames], limit: float | None, beams: Sequence[float] | None = None
) -> References:
    """Average flats and darks, leaving out what is none.

    Parameters
    ----------
    flats, darks : sequence of ndarray, shape (rows, columns)
        At least one flat.
    limit : float or None
        Counts from which a pixel is saturated, if known; else it is taken from where the flats' values pile up.
    beams : sequence of float, optional
        The beam in each flat, over that for which they are averaged; 1 in all of them by default.
    """
    flat, dark = np.stack(flats), np.stack(darks) if darks else np.zeros((0, *flats[0].shape))
    beam = np.ones(len(flat)) if beams is None else np.asarray(beams)
    used_flats, used_darks, warnings = _used(_levels(flat), _levels(dark), beam)
    rows = flat.shape[1]
    limits = np.full((rows, 1), np.inf if limit is None else limit)
    means = np.zeros((2, *flat.shape[1:]))
    saturated = np.zeros(flat.shape[1:], dtype=bool)
    for row in range(rows):
        values = flat[used_flats[:, row], row]
        limits[row] = min(limits[row, 0], saturation_level(values))
        saturated[row] = np.mean(values >= limits[row], axis=0) >= 0.5
        saturated[row] &= ~(dark[:, row] >= limits[row]).any(axis=0)  # those are bright without light, too
        if len(dark):
            means[1, row] = _robust_mean(dark[used_darks[:, row], row], _least_noise(dark))
        if (beam != 1).any():
            values = means[1, row] + (values - means[1, row]) / beam[used_flats[:, row], np.newaxis]
        means[0, row] = _robust_mean(values, _least_noise(flat))
    share = float(np.mean(saturated))
    if share > NO_MATTER:
        how_many = "some" if share < FEW else "many" if share < MANY else "most"
        warnings.append(
            f"flats: saturated in {how_many} pixels (at {limits.min():g} counts), where attenuation comes out too low; "
            "was the exposure too long?"
        )
    if not len(dark):
        warnings.append("darks: none came, and a dark of zero is used")
    return References(means[1], means[0], limits, saturated, tuple(warnings))


def saturation_level(values: Frames) -> float:
    """Return the counts at which values of one row pile up, infinite if they do not.

    Parameters
    ----------
    values : ndarray, shape (frames, columns)
        Of flats.

    Notes
    -----
    Cameras of 10, 12 or 14 bits deliver 16; some saturate below their last number. Far more values than at each of the
    next lower ones are equal to the largest one then. Frames without noise, which are all equal, say nothing, unless
    the largest value is the last number of so many bits.

    Examples
    --------
    >>> counts = np.random.default_rng(0).normal(4000, 60, (4, 512)).astype(np.uint16)
    >>> saturation_level(counts), saturation_level(np.minimum(counts, 4095))
    (inf, 4095.0)
    """
    finite = values[np.isfinite(values)]
    levels, numbers = np.unique(finite, return_counts=True)
    if not levels.size or numbers[-1] < max(_PILE, _PILE_SHARE * finite.size):
        return np.inf
    last = float(levels[-1])
    if last in _LAST_NUMBERS:
        return last
    noisy = len(values) == 1 or bool((values[1:] != values[:1]).any())
    below = numbers[-1 - _NEIGHBOURS : -1]
    piled = len(levels) > 2 * _NEIGHBOURS and numbers[-1] >= _PILE * float(below.mean())
    return last if noisy and piled else np.inf


_LAST_NUMBERS = {float(2**bits - 1) for bits in range(8, 33)} | {
    float((2**bits - 1) << (16 - bits)) for bits in (10, 12, 14)
}


def _levels(frames: Frames) -> NDArray[np.float64]:
    """Return the mean of each row of each frame, shape (frames, rows); NaN where nothing was measured."""
    finite = np.isfinite(frames)
    number = finite.sum(axis=2)
    total = np.where(finite, frames, 0).sum(axis=2, dtype=np.float64)
    return np.asarray(np.divide(total, number, out=np.full(number.shape, np.nan), where=number > 0))


def _used(
    flats: NDArray[np.float64], darks: NDArray[np.float64], beam: NDArray[np.float64]
) -> tuple[Mask, Mask, list[str]]:
    """Choose the frames that are averaged, for each row, given the levels of all."""
    floor = np.fmin.reduce(darks, axis=0, initial=np.inf)
    floor = np.where(np.isfinite(floor), floor, 0.0)
    light = (flats - floor) / beam[:, np.newaxis]
    empty = light <= EMPTY * np.fmax.reduce(light, axis=0)
    usual = _median(np.where(empty, np.nan, light))
    with np.errstate(invalid="ignore"):
        unlike = ~empty & (np.abs(light - usual) > UNLIKE_FLAT * usual)
        lit = darks - floor > usual / 2
        off = ~lit & (np.abs(darks - _median(np.where(lit, np.nan, darks))) > UNLIKE_DARK * usual)
    warnings: list[str] = []
    used_flats = _without(flats, empty, unlike, "flat", "no brighter than the darks; was the shutter closed?", warnings)
    used_darks = _without(darks, lit, off, "dark", "as bright as the flats; was the shutter open?", warnings)
    return used_flats, used_darks, warnings


def _without(levels: NDArray[np.float64], wrong: Mask, unlike: Mask, kind: str, why: str, warnings: list[str]) -> Mask:
    """Leave out frames that are wrong, unless all are, and those that are unlike the others, if these are more."""
    wrong = wrong & ~wrong.all(axis=0, keepdims=True) if len(wrong) else wrong
    rest = np.count_nonzero(~wrong, axis=0)
    few = 2 * np.count_nonzero(unlike & ~wrong, axis=0) < rest
    left_out = unlike & ~wrong & few
    _tell(wrong, kind, why, warnings)
    _tell(left_out, kind, "far from the median of the others; was something in the beam?", warnings)
    if np.mean((unlike & ~wrong).any(axis=0) & ~few) > 0.5 if len(levels) else False:
        warnings.append(f"{kind}s: they differ much from each other, and all are used; does the beam drift?")
    return np.asarray(~(wrong | left_out))


def _tell(left_out: Mask, kind: str, why: str, warnings: list[str]) -> None:
    """Add a line about frames that are left out in most rows, or else in some."""
    total = len(left_out)
    share = left_out.mean(axis=1) if left_out.size else np.zeros(0)
    for where, chosen in (("", share > 0.5), (" in some rows", (share > 0) & (share <= 0.5))):
        numbers = [str(number) for number in np.flatnonzero(chosen) + 1]
        if numbers:
            which = f"{kind} {numbers[0]} is" if len(numbers) == 1 else f"{kind}s {', '.join(numbers)} are"
            warnings.append(f"{kind}s: of {total}, {which} left out{where}: {why}")


def robust_means(frames: Sequence[Frames]) -> NDArray[np.float64]:
    """Return the mean of each pixel over frames, shape (rows, columns), without values far from their median."""
    stack = np.stack(frames)
    return np.stack([_robust_mean(stack[:, row], _least_noise(stack)) for row in range(stack.shape[1])])


def _least_noise(frames: Frames) -> float:
    """Return the noise that values have at least: integers are rounded."""
    return 1.0 if np.issubdtype(frames.dtype, np.integer) else 0.0


def _robust_mean(values: Frames, least_noise: float) -> NDArray[np.float64]:
    """Return the mean over frames of each pixel in a row, shape (columns,), without values far from their median."""
    given = values.astype(np.float64)
    finite = np.isfinite(given)
    kept = finite
    centre = np.zeros(given.shape[1])
    if len(given) > 2:
        centre = _median(np.where(finite, given, np.nan)) if not finite.all() else np.median(given, axis=0)
        centre = np.nan_to_num(centre)
        away = np.abs(np.where(finite, given, centre) - centre)
        noise = max(1.4826 * float(np.median(away)), least_noise)
        brighter = np.sqrt(np.maximum(np.abs(centre) / max(float(np.median(np.abs(centre))), 1e-300), 1.0))
        kept = finite & (away <= OUTLIER * noise * brighter)
    number = np.count_nonzero(kept, axis=0)
    total = np.where(kept, given, 0.0).sum(axis=0)
    return np.asarray(np.divide(total, number, out=centre, where=number > 0))


def _median(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the median over frames of what is not NaN; NaN where nothing is."""
    found = np.full(values.shape[1:], np.nan)
    some = np.isfinite(values).any(axis=0)
    if some.any():
        found[some] = np.nanmedian(values[:, some], axis=0)
    return found
