"""When a run's rotation axis is looked for, and when a better one takes the place of one that is not certain.

Lengths are detector columns.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bluesky_streamrecon.recon.axis import AxisFinder, axis_checkpoint, axis_rows
from bluesky_streamrecon.recon.axis_estimate import WEDGE, AxisEstimate
from bluesky_streamrecon.recon.communicator import Communicator
from bluesky_streamrecon.recon.field_of_view import ENDS, ends_of, in_words, reaching_out
from bluesky_streamrecon.recon.stepping import USUAL_WINDOW
from bluesky_streamrecon.recon.view import View
from bluesky_streamrecon.wire import OpenRun

__all__ = ["FIRST_VIEWS", "AxisSearch", "seen_to_reach_out"]

log = logging.getLogger(__name__)

FURTHER, MOVED = 1.5, 1.0
"""An axis that is not certain either takes a provisional one's place if it is from so many times the projections, and
lies so many pixels away."""


FIRST_VIEWS = 4
"""Projections by which it is judged, once for a run, whether the sample reaches out of view."""

APART = 0.5
"""Pixels between the axis of the upper and of the lower half of the detector, from which on a tilt is reported."""

LATEST = 256
"""Projections after which a second method is no longer waited for: they are held until then."""


def _rows_of(run: OpenRun) -> slice:
    """Return the rows that this rank looks at, counted within its block; of ranks that share rows only one does."""
    block, rows = run.block, axis_rows(run.detector_shape[0])
    inside = [row - block.first for row in rows if block.first <= row < block.stop and block.member == 0]
    return slice(inside[0], None, rows.step) if inside else slice(0)


def seen_to_reach_out(run: OpenRun, ranks: Communicator, frames: Sequence[View]) -> tuple[str, ...]:
    """Return the sides on which the sample reaches out of view in these frames; all ranks call it together."""
    sums = np.zeros(ENDS)
    for view in frames:
        if view.pixels is not None:
            lines = view.pixels[_rows_of(run)]
            sums += ends_of(lines[np.isfinite(lines).all(axis=1)].astype(np.float64))
    ranks.sum(sums)
    return reaching_out(sums)


class AxisSearch:
    """The axis that images are made about, looked for at fixed numbers of projections unless the settings have it.

    So the same projections give the same axis. One that is certain is compared once with what a second method finds.

    An order of angles that covers the half turn early makes it known after about 16 projections, while a scan from one
    end to the other shows it only near its end.

    Parameters
    ----------
    run : OpenRun
        Which run, and this rank's rows.
    ranks : Communicator
        To the other ranks, which look at the same moments.
    warnings : list of str
        Where what people should know is appended.

    Attributes
    ----------
    estimate : AxisEstimate or None
        The axis that was found, or that a person has set since; None: the one of the settings, or none yet.
    provisional : bool
        It is still looked for.
    doubt : str
        Why it is not to be trusted; empty if it is.
    """

    def __init__(self, run: OpenRun, ranks: Communicator, warnings: list[str]) -> None:
        self._run = run
        self._rows = _rows_of(run)
        looked_at = range(run.block.first, run.block.stop)[self._rows]
        upper = sum(row < run.detector_shape[0] / 2 for row in looked_at)
        self.provisional = run.recon.axis is None
        columns = run.detector_shape[1]
        self._finder = AxisFinder(len(looked_at), columns, upper) if self.provisional else None  # until all is known
        self._total = ranks.sum
        self._warnings = warnings
        self._warned = self._tilt_reported = False
        self.estimate: AxisEstimate | None = None
        self.doubt = ""
        self._confirming = False  # until a second method has found it, too

    @property
    def column(self) -> float | None:
        """Detector column of the axis; None: not known yet."""
        return self._run.recon.axis if self.estimate is None else self.estimate.axis

    @property
    def _running(self) -> AxisFinder:
        assert self._finder is not None  # noqa: S101 - it is there as long as something is looked for
        return self._finder

    @property
    def disagreement(self) -> str:
        """What a second method finds if it is another axis; else empty."""
        return "" if self.estimate is None else self.estimate.disagreement

    def take(self, found: AxisEstimate, *, final: bool) -> None:
        """Make images about this axis from now on; one that is not final is looked for again."""
        self.estimate = found
        if not final:
            self.doubt = f"{found.doubt}; images are provisional until it is certain"
            return
        self.provisional, self._confirming = False, self.provisional
        self.doubt = found.doubt
        if not self._confirming:
            self._finder = None

    def go_on(self, found: AxisEstimate | None) -> None:
        """Go on with an axis that was certain before the job was started again; None: that of the settings."""
        self.estimate, self.provisional, self._finder = found, False, None

    def begin(self, frames: Sequence[View], closed: bool) -> bool:
        """Find an axis to begin with, at least a provisional one, from all projections so far; return whether it is."""
        if not self.provisional:
            return True
        found = self._look(frames[self._running.projections :])
        if found is None or not found.confident:
            enough = found is not None and self._running.projections >= (self._run.recon.window or USUAL_WINDOW)
            if not closed and not enough:
                return False
            found = self._locate() if closed or found is None else found
        self.take(found, final=closed or found.confident)
        return True

    def look(self, frames: Sequence[View], taken: int) -> bool:
        """Look at more projections; return whether images have to be made anew, about another axis.

        Parameters
        ----------
        frames : sequence of views
            Those of the next image.
        taken : int
            Projections in the images before.
        """
        present = self.estimate
        if present is None or not (self.provisional or self._confirming):
            return False
        # The first image was begun with projections that it did not take in.
        new = frames[max(0, self._running.projections - taken) :]
        if self._confirming:
            self._confirm(new, len(frames), present)
            return False
        found = self._look(new)
        if found is None:
            return False
        final = found.confident or self._running.projections == self._run.planned
        further = found.projections >= FURTHER * present.projections
        if not final and not (further and abs(found.axis - present.axis) > MOVED):
            return False
        self.take(found, final=final)
        return True

    def conclude(self) -> bool:
        """Take the axis that all projections show in the place of a provisional one; return whether it is another."""
        before = self.column
        self.take(self._locate(), final=True)
        return self.column != before

    def _confirm(self, new: Sequence[View], count: int, certain: AxisEstimate) -> None:
        """Note, as soon as a second method can tell, what it finds; `count` projections are in the next image."""
        if certain.other is not None or self._running.projections + count > LATEST:
            self._check_tilt()
            self._confirming, self._finder = False, None
            return
        for view in new:
            if self._add(view) and (axis := self._running.by_wedge(self._total)) is not None:
                log.info("run %s: rotation axis: column %.2f by %s", self._run.run_uid, axis, WEDGE)
                self._check_tilt()
                self.estimate = replace(certain, other=(WEDGE, axis))
                self._confirming, self._finder = False, None
                return

    def _add(self, view: View) -> bool:
        """Add a projection; return whether the axis is looked for now."""
        self._running.add(None if view.pixels is None else view.pixels[self._rows], view.angle)
        return axis_checkpoint(self._running.projections, self._run.planned)

    def _look(self, new: Sequence[View]) -> AxisEstimate | None:
        """Return the newest estimate, None if there is none."""
        found = None
        for view in new:
            if self._add(view):
                found = self._locate()
                if found.confident:
                    return found
                self._check_tilt()
                if found.sides and not self._warned:
                    self._warned = True  # while it can be mended; once, for the words change with each view
                    why = "so it takes longer to be certain, and the first images are provisional"
                    self._warnings.append(f"rotation axis: {in_words(found.sides)}, {why}; give axis=")
        return found

    def _check_tilt(self) -> None:
        """Report once if the axis of the upper rows is not that of the lower ones."""
        height = self._run.detector_shape[0]
        if self._tilt_reported or height < 4:
            return
        upper, lower = self._running.of_halves(self._total)
        apart = lower.axis - upper.axis
        sure = upper.confident and lower.confident
        if not sure or abs(apart) <= max(APART, 4 * math.hypot(upper.uncertainty, lower.uncertainty)):
            return
        self._tilt_reported = True
        tilt = math.degrees(math.atan(apart / (height / 2)))
        whole = self._run.recon.axis_tilt + tilt
        self._warnings.append(
            f"rotation axis: column {upper.axis:.2f} in the upper half of the detector, {lower.axis:.2f} in the lower: "
            f"it is tilted by {tilt:.2f} degrees; axis_tilt={whole:.2f} corrects that from the next scan on"
        )

    def _locate(self) -> AxisEstimate:
        """Return the axis from all projections so far."""
        estimate = self._running.locate(self._total)
        log.info("run %s: rotation axis: %s", self._run.run_uid, estimate)
        return estimate
