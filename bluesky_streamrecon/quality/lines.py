"""Line integrals of a run's preview rows, of all its projections so far: from them the scan itself is judged.

They come with the previews, once each in the order of arrival, also where images are left out. Of a scan with more
projections than `most_views`, neighbours in angle are averaged, and beside them some projections are kept as they were
taken. Line integrals are unitless, angles radians, lengths detector pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.coverage import AngularRange
from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.projection_sets import ProjectionSet, ProjectionStore, aligned, most_views
from bluesky_streamrecon.settings import ROTATIONS
from bluesky_streamrecon.wire import OpenRun, Preview

__all__ = ["GROUP", "LineStore", "ScanLines"]

GROUP = 12
"""Consecutive projections that are kept or dropped together, where not all are kept."""


@dataclass(frozen=True, slots=True, eq=False)
class ScanLines:
    """The first projections of a scan, in the order of arrival.

    Parameters
    ----------
    values : ndarray of float32, shape (views, rows, columns)
        Line integrals; rows that are NaN were not measured. A view is one projection, or in a long scan the mean of
        several at nearly the same angle.
    angles : ndarray of float64, shape (views,)
        Radians.
    axis : float
        Detector column of the rotation axis.
    rows : tuple of int
        Detector rows.
    planned : int
        Projections planned; 0: not known.
    over : AngularRange
        Angles that the scan is going to visit.
    taken : int
        Projections that the views are made of; 0: one each.
    sample : ScanLines or None
        Where views are means: some of the projections as they were taken, in groups of `GROUP` consecutive ones, the
        newest among them.
    numbers : ndarray of int64, shape (views,), or None
        Number of each projection, from 1, where not all are here.
    size : int
        Side of the run's image, pixels; 0: as the detector has columns.
    mirrored : bool
        The sample turns the other way: the run's image is the mirror image, top to bottom, of that of these angles.
    still : bool
        The sample is expected to stay as it is; in a time series it is free to change.
    allowed : int
        Projections that the run's budget allows; 0: there is none, or this is not known.
    """

    values: NDArray[np.float32]
    angles: NDArray[np.float64]
    axis: float
    rows: tuple[int, ...]
    planned: int = 0
    over: AngularRange = field(default_factory=AngularRange)
    taken: int = 0
    sample: ScanLines | None = None
    numbers: NDArray[np.int64] | None = None
    size: int = 0
    mirrored: bool = False
    still: bool = True
    allowed: int = 0

    @property
    def projections(self) -> int:
        """How many there are, those not measured among them."""
        return self.taken or len(self.angles)

    @property
    def per_view(self) -> float:
        """Projections per view, on average."""
        return self.projections / max(len(self.angles), 1)

    @property
    def planned_angles(self) -> NDArray[np.float64]:
        """Angles of the whole scan's views, radians, taken to be evenly spread; as many projections in each as now."""
        return self.over.even(round(max(self.planned, self.projections) / self.per_view))

    @property
    def one_by_one(self) -> ScanLines:
        """Projections as they were taken: all, or a sample of them."""
        return self if self.sample is None else self.sample

    def number(self, index: int) -> int:
        """Return the number of a projection, from 1."""
        return index + 1 if self.numbers is None else int(self.numbers[index])


class _Sample:
    """A bounded number of projections, as they were taken: all of the newest, and every n-th group of older ones.

    Attributes
    ----------
    kept : dict of int to (ndarray, float)
        Line integrals, shape (rows, columns), and angle, radians, by the number of the projection, from 0.
    """

    def __init__(self, most: int) -> None:
        self.kept: dict[int, tuple[NDArray[np.float32], float]] = {}
        self._most = most
        self._every = 1

    def add(self, number: int, values: NDArray[np.float32], angle: float) -> None:
        """Add the projection of this number, from 0."""
        self.kept[number] = values.copy(), angle
        group = number // GROUP
        if number % GROUP == 0:
            self._thin_out(range((group - 3) * GROUP, (group - 2) * GROUP))
        if len(self.kept) > self._most:
            self._every *= 2
            self._thin_out([old for old in self.kept if old // GROUP < group - 2])

    def _thin_out(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if number // GROUP % self._every:
                self.kept.pop(number, None)


class _Block:
    """Rows that come from one rank."""

    def __init__(self, rows: tuple[int, ...], most: int) -> None:
        self.rows = rows
        self.views = ProjectionStore(most)
        self.sample = _Sample(most)
        self.axis = 0.0
        self.size = 0
        self._most = most

    def add(self, values: NDArray[np.float32], angle: float) -> None:
        """Add the next projection."""
        number = self.views.taken
        if self.views.exact and number == self._most:
            all_of_them = self.views.views()
            for old in range(number):
                self.sample.add(old, all_of_them.values[old], float(all_of_them.angles[old]))
        self.views.append(values, angle)
        if not self.views.exact:
            self.sample.add(number, values, angle)

    def replace(self, views: ProjectionSet) -> None:
        """Take over views of all projections so far."""
        self.views = ProjectionStore(self._most)
        self.views.extend(views)


class LineStore:
    """Collects line integrals of all ranks.

    Parameters
    ----------
    run : OpenRun
        The run, with its preview rows.

    Attributes
    ----------
    rows : tuple of int
        Detector rows that are asked for; those of ranks that have none of them are left aside.
    planned, allowed : int
        Projections planned, and those that the run's budget allows; 0: not known.
    over : AngularRange
        Angles that the scan is going to visit.
    """

    def __init__(self, run: OpenRun) -> None:
        self.rows = tuple(dict.fromkeys(run.preview_rows))
        self._columns = run.detector_shape[1]
        self.planned, self.allowed = run.planned, 0
        self.over = AngularRange.from_metadata(run.metadata)
        self._still = run.recon.turns == 1
        self._mirrored = run.recon.rotation != ROTATIONS[0]
        self._most = most_views(self._columns)
        self._of_ranks: dict[int, _Block] = {}

    @property
    def _blocks(self) -> list[_Block]:
        """Those with rows that are asked for."""
        return [block for block in self._of_ranks.values() if not set(self.rows).isdisjoint(block.rows)]

    @property
    def projections(self) -> int:
        """Projections whose line integrals are here for all rows."""
        blocks = self._blocks
        if not set(self.rows).issubset(row for block in blocks for row in block.rows):
            return 0
        return min(block.views.taken for block in blocks)

    def add(self, preview: Preview) -> None:
        """Add what came with a preview; what is here already is left aside.

        Raises
        ------
        DataError
            If they have another number of columns than the detector, or projections before them are missing.
        """
        views = preview.views
        if views is None:
            return
        lines = views.values
        where = f"line integrals with image {preview.image_number} from rank {preview.rank}"
        if lines.shape[2] != self._columns or preview.axis is None:
            raise DataError(
                f"{where}: got {lines.shape[2]} columns and axis {preview.axis}, expected {self._columns} columns and "
                "an axis"
            )
        block = self._of_ranks.get(preview.rank)
        if block is None or block.rows != preview.rows:  # others are shown from now on, with all that is known of them
            block = self._of_ranks[preview.rank] = _Block(preview.rows, self._most)
        have = block.views.taken
        if preview.lines_first > have:
            raise DataError(
                f"{where}: got projections from {preview.lines_first + 1} on, expected from {have + 1} on; was the job "
                "restarted from a checkpoint without them?"
            )
        block.axis, block.size = preview.axis, max(preview.shape)
        if not preview.lines_counts:
            for index in range(have - preview.lines_first, len(lines)):
                block.add(lines[index], preview.angles_used[index])
        elif preview.lines_first == 0 and sum(preview.lines_counts) > have:
            block.replace(views)

    def turn_about(self, axis: float) -> None:
        """Take over another rotation axis, detector column, for all that is here."""
        for block in self._of_ranks.values():
            block.axis = axis

    def scan(self) -> ScanLines | None:
        """Return what all ranks have sent, rows in the order of the run; None before there is anything."""
        count = self.projections
        if not count:
            return None
        blocks = self._blocks
        exact = all(block.views.exact for block in blocks)
        parts = [block.views.views() for block in blocks] if exact else aligned([block.views for block in blocks])
        views = count if exact else len(parts[0].angles)
        lead = next(place for place, block in enumerate(blocks) if self.rows[0] in block.rows)
        return ScanLines(
            self._in_rows(blocks, [part.values[:views] for part in parts]),
            parts[lead].angles[:views],
            blocks[lead].axis,
            self.rows,
            self.planned,
            self.over.around(blocks[lead].axis, self._columns),
            0 if exact else count,
            None if exact else self._sample(blocks, lead, count),
            size=blocks[lead].size,
            mirrored=self._mirrored,
            still=self._still,
            allowed=self.allowed,
        )

    def _sample(self, blocks: list[_Block], lead: int, count: int) -> ScanLines:
        """Return the projections that all ranks have one by one; groups are counted back from the newest."""
        newest, behind = count - GROUP, count - GROUP - count % GROUP
        numbers = [
            number
            for number in blocks[0].sample.kept
            if (number < behind or newest <= number < count) and all(number in block.sample.kept for block in blocks)
        ]
        kept = [
            np.array([block.sample.kept[number][0] for number in numbers], np.float32).reshape(
                len(numbers), len(block.rows), self._columns
            )
            for block in blocks
        ]
        return ScanLines(
            self._in_rows(blocks, kept),
            np.array([blocks[lead].sample.kept[number][1] for number in numbers], np.float64),
            blocks[lead].axis,
            self.rows,
            self.planned,
            self.over.around(blocks[lead].axis, self._columns),
            numbers=np.array(numbers, np.int64) + 1,
            still=self._still,
        )

    def _in_rows(self, blocks: Sequence[_Block], parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return line integrals of all rows, shape (n, rows, C), in the order asked for, from those of each rank."""
        of = {row: part[:, i] for each, part in zip(blocks, parts, strict=True) for i, row in enumerate(each.rows)}
        return np.stack([of[row] for row in self.rows], axis=1)
