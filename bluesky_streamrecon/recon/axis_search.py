"""When a run's rotation axis is looked for, and when a better one takes the place of one that is not certain.

Lengths are detector columns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.recon.axis import AxisEstimate, AxisFinder, axis_checkpoint
from bluesky_streamrecon.recon.stepping import USUAL_WINDOW
from bluesky_streamrecon.wire import OpenRun

__all__ = ["AxisSearch"]

log = logging.getLogger(__name__)

FURTHER, MOVED = 1.5, 1.0
"""An axis that is not certain either takes a provisional one's place if it is from so many times the projections, and
lies so many pixels away."""


class _View(Protocol):
    @property
    def pixels(self) -> NDArray[np.float32] | None: ...

    @property
    def angle(self) -> float: ...


class AxisSearch:
    """Looks for the axis at fixed numbers of projections, so that the same projections give the same axis.

    An order of angles that covers the half turn early makes it known after about 16 projections, while a scan from one
    end to the other shows it only near its end.

    Parameters
    ----------
    run : OpenRun
        Which run.
    rows : slice
        Of the rank's rows, those that are looked at.
    count : int
        How many these are.
    total : callable
        Adds up an array over all ranks, in place.
    warnings : list of str
        Where what people should know is appended.
    """

    def __init__(
        self,
        run: OpenRun,
        rows: slice,
        count: int,
        total: Callable[[NDArray[np.float64]], None],
        warnings: list[str],
    ) -> None:
        self._run = run
        self._rows = rows
        self._finder = AxisFinder(count, run.detector_shape[1])
        self._total = total
        self._warnings = warnings
        self._warned = False

    @property
    def complete(self) -> bool:
        """Whether all projections that are planned were looked at."""
        return self._finder.projections == self._run.planned

    def first(self, frames: Sequence[_View], closed: bool) -> AxisEstimate | None:
        """Return the axis to begin with, at least a provisional one, from all projections so far; None: not yet."""
        found = self._look(frames[self._finder.projections :])
        if found is not None and found.confident:
            return found
        enough = found is not None and self._finder.projections >= (self._run.recon.window or USUAL_WINDOW)
        if not closed and not enough:
            return None
        return self._located() if closed or found is None else found

    def better(self, frames: Sequence[_View], present: AxisEstimate, taken: int) -> AxisEstimate | None:
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

    def _look(self, new: Sequence[_View]) -> AxisEstimate | None:
        """Return the newest estimate, None if there is none."""
        found = None
        for view in new:
            self._finder.add(None if view.pixels is None else view.pixels[self._rows], view.angle)
            if axis_checkpoint(self._finder.projections, self._run.planned):
                found = self._located()
                if found.confident:
                    return found
                if found.reaches_out and not self._warned:
                    self._warned = True  # while it can be mended; once, for the words change with each view
                    why = f"{found.reaches_out}, so it is not certain, and the image is provisional"
                    self._warnings.append(f"rotation axis: {why}; give axis=")
        return found

    def _located(self) -> AxisEstimate:
        estimate = self._finder.locate(self._total)
        log.info("run %s: rotation axis: %s", self._run.run_uid, estimate)
        return estimate
