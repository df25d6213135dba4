"""Cuts on one rank: what viewers wish to see of the volume and of the projections, and this rank's part of it.

Each rank adds up what its own rows contribute, and the sum over ranks is the interpolation, so no rank needs rows of
another one. Between images only, at moments that all ranks agree on, so that all parts are of the same image; while
projections wait, in a small share of the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.cuts import Cut, interpolated, points_of
from bluesky_streamrecon.recon.analysis import Analysis
from bluesky_streamrecon.recon.communicator import Communicator
from bluesky_streamrecon.wire import Cuts, OpenRun, RankEndpoint, ShowCuts

__all__ = ["CutView"]

MOST_SHARE: Final = 0.05
"""Largest share of the time that cuts take while projections wait."""
_MOST_BYTES: Final = 2**13
"""Of a wish as text: four cuts of twelve coordinates, and a name."""


class CutView:
    """The newest wish, until its cuts are sent.

    Parameters
    ----------
    run : OpenRun
        With the rows of the rank.
    communicator : Communicator
        To the other ranks.
    endpoint : RankEndpoint
        To the beamline; rank 0 sends.
    behind : callable
        Returns whether projections wait for this rank.
    clock : callable, optional
        Monotonic seconds.

    Attributes
    ----------
    done : int
        Number of the wish that was answered last, the same on all ranks.
    image : (Analysis, int, int, float) or None
        What can be cut: its number, projections in it, and when it was there, Unix seconds.
    """

    def __init__(
        self,
        run: OpenRun,
        communicator: Communicator,
        endpoint: RankEndpoint,
        behind: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._communicator = communicator
        self._endpoint = endpoint
        self._behind = behind
        self._clock = clock
        self._wish: ShowCuts | None = None
        self.done = 0
        self.image: tuple[Analysis[Any], int, int, float] | None = None
        self._next = 0.0

    def want(self, wish: ShowCuts) -> None:
        """Take a wish in the place of the last one."""
        import scipy.ndimage  # noqa: F401 - that interpolates; the time it takes once is not that of the first cuts

        self._wish = wish

    def due(self) -> int:
        """Return the number of the wish that this rank is ready for; that of the last one if there is none."""
        if self._wish is None or self.image is None or self._wish.number <= self.done:
            return self.done
        return self.done if self._clock() < self._next and self._behind() else self._wish.number

    def advance(self, agreed: int) -> None:
        """Make and send the cuts that rank 0 was asked for last, if all ranks are ready for a new wish; all do so."""
        if agreed <= self.done or self.image is None:
            return
        analysis, image_number, projections, made = self.image
        began = self._clock()
        wish = self._shared()
        self.done, cuts = wish.number, wish.cuts
        rows, shape = self._run.detector_shape[0], analysis.shape
        parts, outside = zip(*(self._part(analysis, cut) for cut in cuts), strict=True)
        values = np.concatenate(parts)
        self._communicator.sum(values)
        if self._communicator.rank == 0:
            values[np.concatenate(outside)] = np.nan
            self._endpoint.send(
                Cuts(
                    run_uid=self._run.run_uid,
                    image_number=image_number,
                    projections=projections,
                    made=made,
                    number=self.done,
                    cuts=cuts,
                    volume=(rows, *shape),
                    angle=analysis.newest_angle,
                    pixels=values.astype("<f4", copy=False).tobytes(),
                )
            )
        self._next = began + (self._clock() - began) / MOST_SHARE

    def _part(self, analysis: Analysis[Any], cut: Cut) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return what this rank's rows contribute to a cut, and which of its points are outside."""
        (rows, columns), block = self._run.detector_shape, self._run.block
        if cut.space == "volume":
            points, inside = points_of([cut], (rows, *analysis.shape))
        else:
            points = cut.points().reshape(-1, 3)
            points[:, ::2] = np.rint(points[:, ::2])
            inside = np.all((points[:, ::2] >= 0) & (points[:, ::2] < (rows, columns)), axis=1)
        points[:, 0] -= block.first
        values = np.zeros(len(points), np.float32)
        if block.member != 0:  # another rank holds the same rows
            return values, ~inside
        if cut.space == "volume":
            values[inside] = interpolated(points[inside], block.rows, analysis.view)
        else:
            own = inside & (points[:, 0] >= 0) & (points[:, 0] < block.rows)
            values[own] = analysis.measured(cut, points[own])
        return values, ~inside

    def _shared(self) -> ShowCuts:
        """Return the wish of rank 0, on all ranks: they may have heard of different ones."""
        text = np.zeros(_MOST_BYTES, np.float32)
        if self._communicator.rank == 0:
            encoded = np.frombuffer(msgspec.json.encode(self._wish), np.uint8)
            text[: len(encoded)] = encoded
        self._communicator.sum(text)
        return msgspec.json.decode(text.astype(np.uint8).tobytes().rstrip(b"\0"), type=ShowCuts)
