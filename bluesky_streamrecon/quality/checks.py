"""Checks of a scan's data for people, each with the number that was measured.

What is wrong with a scan is found by `data_checks`, whose words are used here, too. A check that could not be made says
why, and is never "ok". Line integrals are unitless, lengths detector pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.quality.data_checks import (
    CHANGE,
    FEWEST,
    Fault,
    RowStatistics,
    first_fault,
    narrow,
    row_statistics,
)
from bluesky_streamrecon.quality.lines import ScanLines
from bluesky_streamrecon.wire import Check, Preview

__all__ = ["FixedPattern", "RankReports", "fixed_pattern", "inspect_scan"]

OFF_CENTRE: Final = 0.15
"""Distance of the centre of mass from the axis, over the detector's columns, from which on a sample is off centre."""

SURE_OF_AXIS: Final = 0.3
"""Standard error of the column about which the sample turns, pixels, up to which that says something of the axis."""

MANY_SATURATED: Final = 0.01
"""Share of the values that may be saturated; see `recon.preparation`, which warns from there on at the end."""

WEAK: Final = 0.5
"""Noise of a pixel's line integral from which on single projections are hardly more than noise (some 4 photons)."""

BUILD_ON_STILL: Final = ("centred", "still", "axis", "beam")
"""Checks that compare projections as views of one still sample in a steady beam."""

PARTS: Final = 6
"""Of the angles, in each of which a stripe has to be."""

FEWEST_FOR_RINGS: Final = 4 * PARTS

BESIDE: Final = 2
"""Columns to each side that a column is compared with."""

TYPICAL, STRONGEST = 12.0, 60.0
"""Stripes over the noise of the mean of all projections, from which on rings are seen: of most columns, and of one.
Two measured scans with few flats have up to 9 and 43; gains that differ by 3 % at 10,000 photons 14 to 20 and 77 to 95.
"""


class RankReports:
    """What ranks say with their previews that can not be seen in the line integrals.

    Parameters
    ----------
    pixels : int, optional
        Of the detector.

    Attributes
    ----------
    doubt : str
        Why the newest image is not to be trusted; empty: no reason.
    axis : str
        The same, or what another method finds for the rotation axis.
    saturated : float or None
        Share of the values that are saturated; None: not known.
    """

    def __init__(self, pixels: int = 0) -> None:
        self.doubt = self.axis = ""
        self.saturated: float | None = None
        self._pixels, self._image = pixels, 0
        self._counted: dict[int, int] = {}

    def add(self, preview: Preview) -> bool:
        """Take over what came with a preview, and return whether it is one of the newest image."""
        if preview.image_number < self._image:
            return False
        self._image, self.doubt = preview.image_number, preview.doubt
        self.axis = preview.doubt or preview.disagreement
        if preview.saturated is not None and self._pixels and preview.projections:
            self._counted[preview.rank] = preview.saturated
            self.saturated = sum(self._counted.values()) / (self._pixels * preview.projections)
        return True


@dataclass(frozen=True, slots=True)
class FixedPattern:
    """Stripes of a sinogram, which make rings: by what columns differ from their neighbours at all angles alike.

    Parameters
    ----------
    typical, strongest : float
        Of most columns and of the strongest, over the noise of one projection.
    column : int
        Detector column of the strongest.
    """

    typical: float
    strongest: float
    column: int


def inspect_scan(lines: ScanLines, ranks: RankReports) -> tuple[str | None, tuple[Check, ...]]:
    """Return why these projections can not be a scan of one still sample, None if they can, and all checks of them.

    Checks are in the order in which people read them. Where the sample is free to change (`ScanLines.still`), only what
    is no sample in the beam at all is a fault. A sample of which every view is the same, as a plain cylinder on the
    axis, is refused, too: it can not be distinguished from a stage that does not turn. While views have covered a few
    degrees only, as at the beginning of a long scan in fixed order, that is no fault; see `too_early`.
    """
    fault = first_fault(lines)
    return None if fault is None or fault.early else fault.text, _checks(lines, fault, ranks)


def _checks(lines: ScanLines, fault: Fault | None, ranks: RankReports) -> tuple[Check, ...]:
    sample = lines.one_by_one
    measured: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(sample.values), axis=(1, 2))
    rows = row_statistics(sample)
    rows = [row for row in rows if row.change >= CHANGE] or rows  # above the sample there is nothing to measure
    why = _why_not(sample, int(measured.sum()), fault)
    edges = 0.0 if why else max((row.edges() for row in rows if row.reaches_out()), default=0.0)
    unmeasured = why or ("not checked: line integrals at the detector's edges are not 0" if edges else "")
    unmeasured = unmeasured or ("" if lines.still else "not checked: the sample of a time series is free to change")
    found = [_sample(why), _centred(rows, sample, why, edges), _still(rows, unmeasured)]
    found += [_axis(rows, sample, unmeasured, ranks.axis), _frames(measured), _beam(rows, unmeasured)]
    found += [_rings(rows, lines, why), _light(rows, ranks.saturated)]
    if fault is not None and not fault.early:
        found = [_with_fault(each, fault) for each in found]
    return tuple(found)


def fixed_pattern(row: RowStatistics) -> FixedPattern:
    """Measure the stripes of a row.

    A stripe is there in every part of the angles. Edges of a sample that turns are not; those of one that is round and
    centred are steps rather than stripes, lie on the axis, or as well on its other side. Flats that fade are smooth
    across the columns.
    """
    order = np.argsort(np.mod(row.angles, math.pi))
    parts = np.stack([row.row[part].mean(axis=0) for part in np.array_split(order, PARTS)])
    inner, left, right = slice(BESIDE, -BESIDE), slice(None, -2 * BESIDE), slice(2 * BESIDE, None)
    stripes = parts[:, inner] - (parts[:, left] + parts[:, right]) / 2
    stripe: NDArray[np.float64] = stripes.mean(axis=0)
    mean: NDArray[np.float64] = parts.mean(axis=0)
    error = stripes.std(axis=0, ddof=1) / math.sqrt(PARTS)
    away = np.arange(BESIDE, BESIDE + len(stripe), dtype=np.float64) - row.lines.axis
    sure = (np.abs(np.sign(stripes).sum(axis=0)) == PARTS) & (np.abs(stripe) > 5 * error)
    sure &= (np.abs(stripe) > np.abs(mean[right] - mean[left])) & (np.abs(away) > 3)
    size: NDArray[np.float64] = np.where(sure, np.abs(stripe), 0.0)
    size[_twins(size, away)] = 0
    noise = math.sqrt(max(row.noise, 1e-300))
    strongest = int(np.argmax(size))
    typical = math.sqrt(max(float(np.median(stripe**2 - error**2)), 0.0))
    return FixedPattern(typical / noise, float(size[strongest]) / noise, strongest + BESIDE)


def _twins(size: NDArray[np.float64], away: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which stripes have one that is half as strong, or more, as far from the axis on its other side."""
    other = np.zeros_like(size)
    for slack in (-2, -1, 0, 1, 2):
        other = np.maximum(other, np.interp(-away + slack, away, size, left=0, right=0))
    return (size > 0) & (other > 0.5 * size)


def _why_not(lines: ScanLines, measured: int, fault: Fault | None) -> str:
    """Return why hardly anything can be measured; empty if it can."""
    if measured < FEWEST:
        return f"not checked yet: {measured} of the {FEWEST} projections that are needed"
    if fault is not None and fault.check in ("sample", "frames"):
        return f"not checked{' yet' * fault.early}: {fault.text}"
    return "not checked yet: views cover too small an angle" if narrow(lines) else ""


def _with_fault(check: Check, fault: Fault) -> Check:
    """Return a check of data with a fault: those that it concerns are wrong, and those that build on it not made."""
    if check.name == fault.check:
        return msgspec.structs.replace(check, state="wrong", text=fault.text)
    if check.name in BUILD_ON_STILL and check.state == "ok":
        return _open(check.name, f"not checked: {fault.text}")
    return check


def _open(name: str, why: str) -> Check:
    return Check(name=name, state="open", number="not yet" if "yet" in why else "not checked", text=why)


def _sample(why: str) -> Check:
    if why:
        return _open("sample", why)
    return Check(name="sample", state="ok", number="turns", text="there is a sample in the beam, and it turns")


def _centred(rows: list[RowStatistics], lines: ScanLines, why: str, edges: float) -> Check:
    if why:
        return _open("centred", why)
    if edges:
        text = (
            f"line integrals at the detector's edges are {edges:.2f}, not 0: the sample reaches out of view, and only "
            "what is in view at all angles has the right values, or the flats do not fit"
        )
        return Check(name="centred", state="look", number=f"edges {edges:.2f}", text=text)
    columns = lines.values.shape[2]
    distance = max(row.centre().distance for row in rows)
    text = (
        f"all of the sample is in view; its centre of mass turns at {distance:.0f} px from the axis, "
        f"{distance / columns:.0%} of the detector's {columns} columns"
    )
    far = distance > OFF_CENTRE * columns
    return Check(name="centred", state="look" if far else "ok", number=f"{distance:.0f} px off", text=text)


def _still(rows: list[RowStatistics], why: str) -> Check:
    if why:
        return _open("still", why)
    misfit = max(row.centre().misfit for row in rows)
    text = f"the sample keeps its place on the mount: its centre of mass follows a sinusoid to {misfit:.2f} px"
    return Check(name="still", state="ok", number=f"{misfit:.2f} px", text=text)


def _axis(rows: list[RowStatistics], lines: ScanLines, why: str, doubt: str) -> Check:
    column = f"column {lines.axis:.1f}"
    if doubt:
        return Check(name="axis", state="look", number=column, text=doubt)
    if why:
        return Check(name="axis", state="open", number=column, text=f"{column}, {why}")
    centre = min((row.centre() for row in rows), key=lambda each: each.aside_error)
    if centre.aside_error > SURE_OF_AXIS:
        text = f"{column}, not checked yet: the sample turns about column {lines.axis + centre.aside:.1f}"
        return Check(name="axis", state="open", number=column, text=f"{text} ± {2 * centre.aside_error:.1f}")
    text = (
        f"column {lines.axis:.2f}; the sample's centre of mass turns about column {lines.axis + centre.aside:.2f} ± "
        f"{2 * centre.aside_error:.2f}"
    )
    return Check(name="axis", state="ok", number=column, text=text)


def _frames(measured: NDArray[np.bool_]) -> Check:
    lost = int((~measured).sum())
    text = f"{lost} of {len(measured)} projections that were looked at are dark, or could not be read or sent"
    return Check(name="frames", state="look" if lost else "ok", number=f"{lost} of {len(measured)} bad", text=text)


def _beam(rows: list[RowStatistics], why: str) -> Check:
    if why:
        return _open("beam", why)
    spread = max(float(np.std(row.mass)) / float(np.median(row.mass)) for row in rows)
    text = f"total attenuation is the same in all projections to {spread:.1%}, as it should be with a steady beam"
    return Check(name="beam", state="ok", number=f"±{spread:.1%}", text=text)


def _rings(rows: list[RowStatistics], lines: ScanLines, why: str) -> Check:
    few = any(len(row.row) < FEWEST_FOR_RINGS for row in rows)
    if why or few:
        return _open("rings", why or f"not checked yet: {FEWEST_FOR_RINGS} projections are needed")
    rest = math.sqrt(lines.projections)  # noise of one projection over that of the mean of all
    found = [fixed_pattern(row) for row in rows]
    typical, most = max(each.typical for each in found), max(found, key=lambda each: each.strongest)
    seen = typical * rest > TYPICAL or most.strongest * rest > STRONGEST
    text = f"columns differ from their neighbours, at all angles alike, by {typical:.2f} times a projection's noise"
    if most.strongest:
        text += f", column {most.column} by {most.strongest:.1f} times"
    if seen:
        text += "; rings are to be seen by now: more flats, or the preparation's step rings or wavelet-rings, help"
    return Check(name="rings", state="look" if seen else "ok", number=f"{typical:.2f} × noise", text=text)


def _light(rows: list[RowStatistics], saturated: float | None) -> Check:
    noise = math.sqrt(max((row.noise for row in rows), default=0.0))
    if not rows or noise <= 0:
        return _open("light", "not checked yet: no projection was measured")
    text = f"noise of a pixel's line integral is {noise:.2g}, as of about {1 / noise**2:,.0f} photons"
    shown = _share(saturated)
    text += "; saturation is not checked" if saturated is None else f"; {shown} of the values are saturated"
    if saturated is not None and saturated > MANY_SATURATED:
        text += "; was the exposure too long?"
        return Check(name="light", state="look", number=f"{shown} saturated", text=text)
    number = f"noise {noise:.2g}"
    if noise > WEAK:
        return Check(name="light", state="look", number=number, text=f"{text}; was the exposure too short?")
    return Check(name="light", state="open" if saturated is None else "ok", number=number, text=text)


def _share(saturated: float | None) -> str:
    return "" if saturated is None else "none" if not saturated else f"{saturated:.2%}"
