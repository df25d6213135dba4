"""Find the rotation axis of a run while it is taken, all ranks together. Angles are radians, lengths pixels."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from bluesky_streamrecon.recon.axis import (
    AxisEstimate,
    AxisFinder,
    axis_checkpoint,
    axis_rows,
    locate_axis,
    reconsidered,
)
from bluesky_streamrecon.recon.communicator import Communicator
from bluesky_streamrecon.recon.projection_buffer import View
from bluesky_streamrecon.wire import OpenRun

__all__ = ["AxisSearch"]

log = logging.getLogger(__name__)


class AxisSearch:
    """Look for the axis at fixed numbers of projections, until it is known well or no more projections come.

    There is no image before. A wrong axis would have to be taken back, and with it every image and score; an
    order of angles that covers the half turn early makes the axis known after about 16 projections, while a scan
    from one end to the other shows it only near its end.

    Parameters
    ----------
    run : OpenRun
        Which rows there are, and which this rank has.
    communicator : Communicator
        To the other ranks, which call `look` with the same numbers.

    Attributes
    ----------
    newest : AxisEstimate or None
        The last estimate, certain or not.

    Raises
    ------
    GeometryError
        If the detector has too few columns for it.
    """

    def __init__(self, run: OpenRun, communicator: Communicator) -> None:
        self._run = run
        self._communicator = communicator
        self._finder = AxisFinder(run.detector_shape[1])
        self._looked = 0
        self.newest: AxisEstimate | None = None
        # Of ranks that share rows one speaks for all.
        rows = axis_rows(run.detector_shape[0]) if run.block.member == 0 else range(0)
        self._rows = [row - run.block.first for row in rows if run.block.first <= row < run.block.stop]

    def look(self, views: Sequence[View], agreed: int, closed: bool) -> AxisEstimate | None:
        """Take in the projections that are agreed on, in order; give the axis when it is known.

        Parameters
        ----------
        views : sequence of View
            All of the run so far.
        agreed : int
            How many of them all ranks have.
        closed : bool
            No more will come: the best estimate is given, certain or not.
        """
        while self._looked < agreed:
            view = views[self._looked]
            self._looked += 1
            if view.pixels is not None:
                self._finder.add(view.pixels[self._rows], view.angle)
            if axis_checkpoint(self._looked, self._run.planned):
                self.newest = self._locate(views)
                if self.newest.confident:
                    return self.newest
        return self._locate(views) if closed else None

    def _locate(self, views: Sequence[View]) -> AxisEstimate:
        columns = self._run.detector_shape[1]
        evidence = self._finder.evidence()
        self._communicator.sum(evidence)
        seen = [views[place] for place in range(self._looked)]
        estimate = reconsidered(
            locate_axis(evidence, columns, self._looked),
            [None if view.pixels is None else view.pixels[self._rows] for view in seen],
            [view.angle for view in seen],
            (len(self._rows), columns),
            self._communicator.sum,
        )
        log.info("run %s: rotation axis: %s", self._run.run_uid, estimate)
        return estimate
