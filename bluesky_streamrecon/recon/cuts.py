"""Cuts on one rank: what viewers wish to see of the volume and of the projections, and this rank's part of it.

In the volume a point's value is interpolated between the eight voxels around it. Each rank adds up what its own rows
contribute, and the sum over ranks is the interpolation, so no rank needs rows of another one. Between images only, at
moments that all ranks agree on, so that all parts are of the same image; while projections wait, in a small share of
the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.recon.analysis import Analysis
from bluesky_streamrecon.recon.communicator import Communicator
from bluesky_streamrecon.wire import Cut, Cuts, OpenRun, RankEndpoint, ShowCuts
from bluesky_streamrecon.wire.cuts import MOST_CUTS, Space

__all__ = ["CutView", "interpolated", "points_of"]

MOST_SHARE: Final = 0.05
"""Largest share of the time that cuts take while projections wait."""
_SPACES: Final[tuple[Space, ...]] = get_args(Space)
_NUMBERS = 16
"""That describe a cut: corner, three edges, layers, shape, space."""


class CutView:
    """The newest wish, until its cuts are sent.

    Parameters
    ----------
    run : OpenRun
        With the rows of the rank.
    communicator : Communicator
        To the other ranks.
    link : RankEndpoint
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
        link: RankEndpoint,
        behind: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._communicator = communicator
        self._link = link
        self._behind = behind
        self._clock = clock
        self._wish: ShowCuts | None = None
        self.done = 0
        self.image: tuple[Analysis[Any], int, int, float] | None = None
        self._next = 0.0

    def want(self, wish: ShowCuts) -> None:
        """Take a wish in the place of the last one."""
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
        self.done, cuts = self._shared()
        rows, shape = self._run.detector_shape[0], analysis.shape
        parts, outside = zip(*(self._part(analysis, cut) for cut in cuts), strict=True)
        values = np.concatenate(parts)
        self._communicator.sum(values)
        if self._communicator.rank == 0:
            values[np.concatenate(outside)] = np.nan
            self._link.send(
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
            values[inside] = interpolated(points[inside], (block.rows, *analysis.shape), analysis.view)
        else:
            own = inside & (points[:, 0] >= 0) & (points[:, 0] < block.rows)
            values[own] = analysis.measured(cut, points[own])
        return values, ~inside

    def _shared(self) -> tuple[int, tuple[Cut, ...]]:
        """Return the wish of rank 0, on all ranks: they may have heard of different ones."""
        numbers = np.zeros(2 + MOST_CUTS * _NUMBERS)
        wish = self._wish
        if self._communicator.rank == 0 and wish is not None:
            described = [
                (*cut.corner, *cut.through, *cut.down, *cut.across, cut.layers, *cut.shape, _SPACES.index(cut.space))
                for cut in wish.cuts
            ]
            numbers[:2] = wish.number, len(described)
            numbers[2 : 2 + len(described) * _NUMBERS] = np.ravel(described)
        self._communicator.sum(numbers)
        parts = numbers[2:].reshape(MOST_CUTS, _NUMBERS).tolist()[: int(numbers[1])]
        cuts = (
            {
                **{name: part[3 * i : 3 * i + 3] for i, name in enumerate(("corner", "through", "down", "across"))},
                "layers": int(part[12]),
                "shape": (int(part[13]), int(part[14])),
                "space": _SPACES[int(part[15])],
            }
            for part in parts
        )
        return int(numbers[0]), tuple(msgspec.convert(cut, Cut) for cut in cuts)


def points_of(cuts: Sequence[Cut], volume: tuple[int, int, int]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the points of cuts, one cut after the other, moved to voxel centres at the edge, and which are inside."""
    points = np.concatenate([cut.points().reshape(-1, 3) for cut in cuts])
    inside = (points >= -0.5) & (points <= np.array(volume) - 0.5)
    return np.clip(points, 0, np.array(volume) - 1), np.all(inside, axis=1)


def interpolated(
    points: NDArray[np.float64], shape: tuple[int, int, int], view: Callable[[int], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Return what some rows contribute to the values at points, by trilinear interpolation.

    Parameters
    ----------
    points : ndarray of float64, shape (k, 3)
        (row, y, x), rows counted within these, y and x within a slice: 0 to its last row and column.
    shape : (int, int, int)
        Number of rows, and height and width of a slice.
    view : callable
        Returns the slice of a row, shape (height, width).

    Returns
    -------
    ndarray of float32, shape (k,)
        Sum over the rows' voxels of weight and value; zero where all eight are in other rows.
    """
    rows, height, width = shape
    found = np.zeros(len(points), np.float32)
    nearby = np.flatnonzero((points[:, 0] > -1) & (points[:, 0] < rows))
    if not len(nearby):
        return found
    below = np.floor(points[nearby, 0]).astype(np.int32)
    order = nearby[np.argsort(below, kind="stable")]
    row, y, x = points[order].T
    # Points from `starts[r]` to `starts[r + 2]` lie within one row of row r.
    starts = np.searchsorted(np.sort(below), np.arange(-1, rows + 1))
    corners = _corners(y, x, height, width)
    sums = np.zeros(len(order), np.float32)
    for number in range(rows):
        part = slice(starts[number], starts[number + 2])
        if part.start == part.stop:
            continue
        weight = (1 - np.abs(row[part] - number)).astype(np.float32)
        if not weight.any():  # of a cut along a row, all that is around the row before it
            continue
        slice_ = view(number)
        for down, along, share in corners:
            sums[part] += weight * share[part] * slice_[down[part], along[part]]
    found[order] = sums
    return found


def _corners(
    y: NDArray[np.float64], x: NDArray[np.float64], height: int, width: int
) -> list[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]]:
    """Return row, column and weight of each of the four pixels around points of a slice."""
    low_y, low_x = np.floor(y).astype(np.int32), np.floor(x).astype(np.int32)
    part_y, part_x = (y - low_y).astype(np.float32), (x - low_x).astype(np.float32)
    high_y, high_x = np.minimum(low_y + 1, height - 1), np.minimum(low_x + 1, width - 1)
    return [
        (low_y, low_x, (1 - part_y) * (1 - part_x)),
        (low_y, high_x, (1 - part_y) * part_x),
        (high_y, low_x, part_y * (1 - part_x)),
        (high_y, high_x, part_y * part_x),
    ]
