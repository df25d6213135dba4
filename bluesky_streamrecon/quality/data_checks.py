"""Checks whether line integrals can be a scan of one still sample: of anything else no score means anything.

Each kind of fault has its own text. Statistics are compared with the noise of the same data, so that a weak beam is
not taken for a fault. Line integrals are unitless, lengths detector pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.quality.lines import GROUP, ScanLines

__all__ = [
    "CentreOfMass",
    "Fault",
    "RowStatistics",
    "first_fault",
    "narrow",
    "row_statistics",
    "structured_rows",
    "too_early",
]

WIDE_ENOUGH = math.radians(30)
"""Angle that views must have covered, or half of the scan's range, before those of a turning sample surely differ."""

NEWEST = GROUP
"""Projections that are also looked at on their own: what fails, fails during the scan."""

FEWEST = 8
"""Projections below which only missing light and equal frames are reported."""

UNMEASURED = 0.05
"""Share of projections that may be lost."""

CHANGE = 1.5
"""Power of the difference of frames over that of white noise, below which there is nothing but noise."""

SMOOTH = 9
"""Columns that are averaged to find differences wider than noise."""

SURE = 4.0
"""Standard deviations of the power of noise above which a difference is one."""

MORE = 6.0
"""Frames should have differed by so many times what can be overlooked, before the stage is called stuck."""

SLOW = 0.5
"""Part of its usual speed at which a view may change where it changes least, for each radian that is looked at."""

MASS_SPREAD = 0.03
"""Relative spread of the total attenuation, beyond its noise."""

CENTRE_MISFIT = 0.25
"""Distance of the centre of mass from a sinusoid, beyond its noise, pixels."""

AXIS_MISFIT = 1.0
"""The same from a sinusoid around the axis: in fixed order a steady drift looks as if the axis were elsewhere."""

AT_THE_EDGE = 0.05
"""Attenuation at the detector's edge, relative to the strongest, from which on the sample may reach out of view."""

BRIGHTER = 0.1
"""Line integral below zero at the detector's edge, relative to the strongest, that makes all others doubtful, too."""

UNREAD = "their frames could not be read or sent (the run's problems say which)"
"""Frames that were lost have no values either; which of the two it was is known on the beamline's computer."""

AT_A_TIME = 256
"""Views that are compared with all others at a time."""

Row = NDArray[np.float64]


def too_early(lines: ScanLines) -> str | None:
    """Return why it is too early to judge whether the sample turns; None if it is not."""
    lines = lines.one_by_one
    if lines.projections == 0 or not narrow(lines):
        return None
    fault = first_fault(lines)
    return fault.text if fault is not None and fault.early else None


def narrow(lines: ScanLines) -> bool:
    """Return whether views cover too small an angle for those of a turning sample to differ surely."""
    gaps = lines.over.directions(lines.angles).gaps
    return lines.over.span - float(gaps.max()) < min(WIDE_ENOUGH, lines.over.span / 2)


def first_fault(lines: ScanLines) -> Fault | None:
    """Return the first fault of these projections, taken one by one; None if there is none."""
    lines = lines.one_by_one
    if lines.projections == 0:
        return None
    measured: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(lines.values), axis=2)
    dark = _not_measured(measured, lines)
    if dark is not None:
        return Fault(dark, "frames")
    values = lines.values[measured.all(axis=1)]
    if np.all(values == values[:1]) and len(values) > 1:
        return Fault("all frames are equal, to the last bit; does the detector take new ones?", "frames")
    if len(values) < FEWEST:
        return None
    faults = [look.fault() for look in row_statistics(lines)]
    empty = [fault for fault in faults if fault is not None and fault.empty]
    if len(empty) == len(faults):
        return empty[0]
    return next((fault for fault in faults if fault is not None and not fault.empty), None)


def structured_rows(lines: ScanLines) -> list[int]:
    """Return the rows (counted within the preview rows) in which there is anything to see."""
    return [row for row, look in enumerate(row_statistics(lines.one_by_one)) if look.change >= CHANGE]


def row_statistics(lines: ScanLines) -> list[RowStatistics]:
    """Return the statistics of each row, of all projections that were measured; none if there is no projection."""
    kept = np.isfinite(lines.values).all(axis=(1, 2))
    values, angles = lines.values[kept].astype(np.float64), lines.angles[kept]
    if not len(values):
        return []
    # Views a right angle apart differ most, whatever the order of angles.
    others = _right_angle_apart(angles)
    return [
        RowStatistics(np.ascontiguousarray(values[:, row]), angles, others, lines) for row in range(values.shape[1])
    ]


def _not_measured(measured: NDArray[np.bool_], lines: ScanLines) -> str | None:
    missing = ~np.logical_or.reduce(measured, axis=1)
    count, lost = len(missing), int(missing.sum())
    newest = int(np.argmin(missing[::-1])) if not missing.all() else count
    if newest >= min(3, count):
        first, last = lines.number(count - newest), lines.number(count - 1)
        since = f"projections {first} to {last}" if newest < count else f"all {count} projections"
        return f"no light in {since}: the shutter is closed, something blocks the detector, or {UNREAD}"
    if lost > max(2, UNMEASURED * count):
        return f"no light in {lost} of {count} projections: the shutter or the beam fails now and then, or {UNREAD}"
    return None


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a row, and which `Check` finds it.

    `empty`: there is nothing to see in it, which is no fault if others show something; `early`: so far.
    """

    text: str
    check: str
    empty: bool = False
    early: bool = False


class RowStatistics:
    """Statistics of one detector row, projections (m, columns) in the order of arrival."""

    def __init__(self, row: Row, angles: Row, others: NDArray[np.intp], lines: ScanLines) -> None:
        self.row, self.angles, self.lines = row, angles, lines
        white, smooth = _powers(row, others)
        self.noise = white / 2
        self.change = smooth / max(white, 1e-300)
        self.mass: Row = row.sum(axis=1)
        self.mass_noise = math.sqrt(self.noise * row.shape[1])

    def fault(self) -> Fault | None:
        """Return the first fault that is found."""
        columns, mass, mass_noise = self.row.shape[1], self.mass, self.mass_noise
        nothing = abs(float(np.median(mass))) <= 3 * mass_noise + 1e-3 * columns
        if self.change < CHANGE and not nothing and narrow(self.lines):
            text = "too early to tell whether the sample turns: frames so far differ by no more than noise"
            return Fault(f"{text} (x{self.change:.2f})", "sample", empty=True, early=True)
        if self.change < CHANGE:
            what = (
                "nothing absorbs: no sample in the beam, or flat frames in place of projections"
                if nothing
                else "the stage does not turn the sample, the frames are pure noise, or the sample looks the same from "
                "all sides"
            )
            return Fault(f"frames differ by no more than noise (x{self.change:.2f}): {what}", "sample", empty=True)
        if abs(float(np.median(mass[-NEWEST:]))) <= 3 * mass_noise + 1e-3 * columns:
            text = f"nothing absorbs in the newest {NEWEST} frames: the sample is no longer in the beam"
            return Fault(text, "sample")
        if not self.lines.still:
            return None
        if count := self._stuck():
            return Fault(f"the newest {count} frames differ by no more than noise: is the stage stuck?", "sample")
        if self.reaches_out():
            return None
        return self._mass_fault(mass, mass_noise) or self._centre_fault()

    def _stuck(self) -> int:
        """Return how many of the newest frames are all one view, although others show that views differ; 0: none.

        Frames at neighbouring angles may differ too little to be seen. So they are compared with older frames near by,
        where there are some. Else, as in fixed order, more and more frames are taken together, until earlier ones show
        that these should have differed by far more than can be overlooked.
        """
        count = NEWEST
        while count <= len(self.row) - NEWEST:
            newest = len(self.row) - count
            found = self._differences(newest, count)
            overlooked = self._overlooked(count)
            if found[0] >= max(CHANGE - 1, overlooked[0]) or found[1] >= 2 * overlooked[1]:
                return 0
            if found[1] < overlooked[1]:
                unlike = self._unlike_near_by(newest)
                sure = (
                    unlike if unlike is not None else self._should_differ(newest, count, np.maximum(found, overlooked))
                )
                if sure:
                    return count
            count += max(count // 4, NEWEST // 2)
        return 0

    def _unlike_near_by(self, newest: int) -> bool | None:
        """Return whether frames from `newest` on differ from older ones as near in angle as they are to one another.

        None: hardly any older frames are as near, as in fixed order.
        """
        new, old = slice(newest, None), slice(None, newest)
        away = np.abs(np.mod(self.angles[new, None] - self.angles[None, old] + math.pi, 2 * math.pi) - math.pi)
        near = away.min(axis=1) <= np.ptp(self.angles[new]) / len(away)
        if near.sum() < NEWEST / 2:
            return None
        these, others = newest + np.flatnonzero(near), np.argmin(away, axis=1)[near]
        size = len(these) * self.row.shape[1]
        return _change(self.row, others, these) > 1 + 2 * SURE * math.sqrt(2 * SMOOTH / size)

    def _should_differ(self, newest: int, count: int, least: Row) -> bool:
        """Return whether frames from `newest` on should differ by far more than `least`, from groups before them.

        The power of the difference grows with the square of a small angle; with its fourth power around an angle where
        views hardly change, as they do on the axis of symmetry of a sample that has one.
        """
        most, angle = np.zeros(2), float(np.ptp(self.angles[newest:]))
        for first in range(0, newest - count + 1, NEWEST):
            share = angle / max(float(np.ptp(self.angles[first : first + count])), 1e-9)
            if share <= 1.1:
                most = np.maximum(most, self._differences(first, count) * share**2)
        return bool((most * min(1.0, SLOW * angle) ** 2 > MORE * least).any())

    def _differences(self, first: int, count: int) -> Row:
        """Return by how much more than noise `count` frames from `first` on differ: each from another, and in the mean.

        The second half is compared with the first, and once more without the first quarter: where views are mirror
        images of those before a certain angle, halves that meet there have the same mean.
        """
        group = self.row[first : first + count]
        half_way = np.roll(np.arange(count), count // 2)
        return np.array([_change(group, half_way) - 1, max(_step(group), _step(group[count // 4 :]))])

    def _overlooked(self, count: int) -> Row:
        """Return what noise alone makes of `_differences`, at most."""
        columns = self.row.shape[1]
        return SURE * np.sqrt([4 * SMOOTH / (columns * count), 2 * SMOOTH / columns])

    def reaches_out(self) -> bool:
        """Return whether the sample may be wider than the detector, so that its mass in view is not constant.

        A beam that dims looks like something at the edges, too, but grows from nothing, as much with each frame.
        """
        early = self.row[:NEWEST]
        allowed = AT_THE_EDGE * float(np.percentile(early.mean(axis=0), 95))
        number = np.arange(len(early))
        for edge in (early[:, :3].mean(axis=1), early[:, -3:].mean(axis=1)):
            line = np.polyfit(number, edge, 1)
            if line[1] > allowed or np.var(edge - np.polyval(line, number)) > allowed**2 + self.noise:
                return True
        return False

    def edges(self) -> float:
        """Return the line integral at the edge where it is larger, on average."""
        return float(max(abs(self.row[:, :3].mean()), abs(self.row[:, -3:].mean())))

    def _mass_fault(self, mass: Row, noise: float) -> Fault | None:
        usual = float(np.median(mass))
        if usual <= 0:
            return Fault(
                "nothing absorbs: projections are brighter than the flats; were flats and projections swapped?", "beam"
            )
        edge = min(float(self.row[:, :3].mean()), float(self.row[:, -3:].mean()))
        by_chance = 2 * math.sqrt(self.noise / 3)  # noise of a single flat, in three columns
        if edge < -BRIGHTER * float(np.percentile(self.row.mean(axis=0), 95)) - by_chance:
            return Fault(
                f"projections are brighter than the flats: line integrals at the detector's edge are {edge:.2f}, "
                "expected 0, and all others are too low as well; were the flats exposed as long, in the same beam?",
                "beam",
            )
        spread = float(np.std(mass))
        if spread <= MASS_SPREAD * usual + 3 * noise:
            return None
        number = np.arange(len(mass))
        trend = abs(float(np.corrcoef(number, mass)[0, 1]))
        what = (
            "it changes steadily, as when the beam dims"
            if trend > 0.8
            else "was the beam or the shutter off for a while, or did the sample leave the view?"
        )
        return Fault(
            f"total attenuation varies by {spread / usual:.1%} between frames, but a still sample's does not: {what}",
            "beam",
        )

    def centre(self) -> CentreOfMass:
        """Return the course of the centre of mass; only of a sample that is all in view."""
        x = np.arange(self.row.shape[1]) - self.lines.axis
        noise = 2 * math.sqrt(self.noise * float((x**2).sum())) / float(np.median(self.mass))
        return CentreOfMass(self.row @ x / self.mass, self.angles, noise)

    def _centre_fault(self) -> Fault | None:
        """Compare the centre of mass with the sinusoid that it follows if nothing moves but the stage."""
        centre = self.centre()
        places, turning, still, misfit = centre.places, centre.turning, centre.still, centre.misfit
        if misfit <= math.hypot(CENTRE_MISFIT, centre.noise):
            return self._axis_fault(centre)
        number = np.arange(len(places))[:, None]
        creeping = _misfit(np.concatenate([still, turning * number], axis=1), places)
        at = range(2, len(places) - 1, max(1, len(places) // 60))
        jumps = [_misfit(np.concatenate([still, turning * (number >= k)], axis=1), places) for k in at]
        best = int(np.argmin(jumps)) if jumps else 0
        if jumps and jumps[best] < 0.5 * misfit and jumps[best] < creeping:
            what = f"it sits elsewhere since about projection {self.lines.number(at[best])}"
        elif creeping < 0.5 * misfit:
            what = "it drifts"
        else:
            what = "it moves, or the stage is not where it says"
        return Fault(
            f"the sample moves on its mount: its centre of mass leaves its sinusoid by {misfit:.2f} px; {what}; "
            "fix it firmly and scan again",
            "still",
        )

    def _axis_fault(self, centre: CentreOfMass) -> Fault | None:
        """Compare the centre of mass with a sinusoid around the axis that the image is made with."""
        if _misfit(centre.turning, centre.places, free=False) <= math.hypot(AXIS_MISFIT, centre.noise):
            return None
        axis = self.lines.axis
        return Fault(
            f"the sample drifts, or the axis is wrong: its centre of mass turns about column {axis + centre.aside:.1f}"
            f", and the image is made with the axis at {axis:.1f}; correct the axis, or fix the sample firmly",
            "axis",
        )


class CentreOfMass:
    """Course of a row's centre of mass while the sample turns, pixels.

    Attributes
    ----------
    places : ndarray of float64, shape (m,)
        In each projection, relative to the rotation axis.
    noise : float
        Of each of them.
    aside, aside_error : float
        Place about which it turns, relative to the axis, and the standard error of that.
    distance : float
        Its distance from there.
    misfit : float
        Deviation from the sinusoid that fits best.
    """

    def __init__(self, places: Row, angles: Row, noise: float) -> None:
        self.places, self.noise = places, noise
        self.turning = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        self.still = np.concatenate([np.ones((len(places), 1)), self.turning], axis=1)
        fit, *_ = np.linalg.lstsq(self.still, places, rcond=None)
        self.aside, self.distance = float(fit[0]), float(np.hypot(*fit[1:]))
        self.misfit = float(np.std(places - self.still @ fit))
        self.aside_error = self.misfit * math.sqrt(float(np.linalg.pinv(self.still.T @ self.still)[0, 0]))


def _right_angle_apart(angles: Row) -> NDArray[np.intp]:
    """Return for each view the one that is nearest to a right angle away."""
    found = np.empty(len(angles), np.intp)
    for first in range(0, len(angles), AT_A_TIME):
        these = angles[first : first + AT_A_TIME]
        turned = np.abs(np.mod(these[:, None] - angles[None, :], math.pi) - math.pi / 2)
        found[first : first + AT_A_TIME] = np.argmin(turned, axis=1)
    return found


def _powers(frames: Row, others: NDArray[np.intp], these: NDArray[np.intp] | None = None) -> tuple[float, float]:
    """Return the power of differences between frames as white noise, and over `SMOOTH` columns."""
    from bluesky_streamrecon.quality._power_kernels import powers

    if these is None:
        these = np.arange(len(frames))
    white, smooth = powers(np.ascontiguousarray(frames), these, others, SMOOTH)
    return white, smooth


def _change(frames: Row, others: NDArray[np.intp], these: NDArray[np.intp] | None = None) -> float:
    """Return by how much more frames differ, over some columns, than by white noise alone, which gives 1."""
    white, smooth = _powers(frames, others, these)
    return smooth / max(white, 1e-300)


def _step(group: Row) -> float:
    """Return by how much more than noise the second half of frames differs from the first, in the mean."""
    half = len(group) // 2
    noise = _powers(group, np.roll(np.arange(len(group)), half))[0] / half
    mean = group[-half:].mean(axis=0) - group[:half].mean(axis=0)
    return _smooth(mean[None]) / max(noise, 1e-300) - 1


def _smooth(difference: Row) -> float:
    """Return the power over some columns, which is that of white noise if there is nothing else."""
    sums = np.cumsum(np.pad(difference, ((0, 0), (1, 0))), axis=1)
    return float(np.mean(((sums[:, SMOOTH:] - sums[:, :-SMOOTH]) / SMOOTH) ** 2)) * SMOOTH


def _misfit(model: Row, values: Row, *, free: bool = True) -> float:
    """Return the deviation from the best fit; `free`: from its mean, which the model may leave open."""
    fit, *_ = np.linalg.lstsq(model, values, rcond=None)
    left = values - model @ fit
    return float(np.std(left) if free else np.sqrt(np.mean(left**2)))
