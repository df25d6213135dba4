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
    """Looks for the axis at fixed numbers of projections, so that the same projections give the same axis.

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
    """

    def __init__(self, run: OpenRun, ranks: Communicator, warnings: list[str]) -> None:
        self._run = run
        self._rows = _rows_of(run)
        looked_at = range(run.block.first, run.block.stop)[self._rows]
        upper = sum(row < run.detector_shape[0] / 2 for row in looked_at)
        self._finder = AxisFinder(len(looked_at), run.detector_shape[1], upper)
        self._total = ranks.sum
        self._warnings = warnings
        self._warned = self._tilt_reported = False

    @property
    def complete(self) -> bool:
        """Whether all projections that are planned were looked at."""
        return self._finder.projections == self._run.planned

    def first(self, frames: Sequence[View], closed: bool) -> AxisEstimate | None:
        """Return the axis to begin with, at least a provisional one, from all projections so far; None: not yet."""
        found = self._look(frames[self._finder.projections :])
        if found is not None and found.confident:
            return found
        enough = found is not None and self._finder.projections >= (self._run.recon.window or USUAL_WINDOW)
        if not closed and not enough:
            return None
        return self.locate() if closed or found is None else found

    def better(self, frames: Sequence[View], present: AxisEstimate, taken: int) -> AxisEstimate | None:
        """Return an axis about which images have to be made anew; None: none is known.

        Parameters
        ----------
        frames : sequence of views
            Those of the next image.
        present : AxisEstimate
            The provisional axis.
        taken : int
            Projections in the images before.
        """
        # The first image was begun with projections that it did not take in.
        found = self._look(frames[max(0, self._finder.projections - taken) :])
        if found is None:
            return None
        if found.confident or self.complete:
            return found
        further = found.projections >= FURTHER * present.projections
        return found if further and abs(found.axis - present.axis) > MOVED else None

    def confirm(self, frames: Sequence[View], certain: AxisEstimate, taken: int) -> AxisEstimate | None:
        """Return an axis that is certain with what a second method finds, as soon as one can tell; None until then.

        Parameters are as for `better`.
        """
        if certain.other is not None or self._finder.projections + len(frames) > LATEST:
            self._check_tilt()
            return certain
        for view in frames[max(0, self._finder.projections - taken) :]:
            if self._add(view) and (axis := self._finder.by_wedge(self._total)) is not None:
                log.info("run %s: rotation axis: column %.2f by %s", self._run.run_uid, axis, WEDGE)
                self._check_tilt()
                return replace(certain, other=(WEDGE, axis))
        return None

    def _add(self, view: View) -> bool:
        """Add a projection; return whether the axis is looked for now."""
        self._finder.add(None if view.pixels is None else view.pixels[self._rows], view.angle)
        return axis_checkpoint(self._finder.projections, self._run.planned)

    def _look(self, new: Sequence[View]) -> AxisEstimate | None:
        """Return the newest estimate, None if there is none."""
        found = None
        for view in new:
            if self._add(view):
                found = self.locate()
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
        upper, lower = self._finder.of_halves(self._total)
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

    def locate(self) -> AxisEstimate:
        """Return the axis from all projections so far."""
        estimate = self._finder.locate(self._total)
        log.info("run %s: rotation axis: %s", self._run.run_uid, estimate)
        return estimate
