"""Line integrals of a run's preview rows, of all its projections so far: what the scan itself is judged by.

They come with the previews, once each in the order of arrival, whatever becomes of the images. Line integrals are
unitless, angles radians, lengths detector pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.quality.coverage import AngularRange
from bluesky_streamrecon.wire import OpenRun, Preview

__all__ = ["LineStore", "ScanLines"]


@dataclass(frozen=True, slots=True, eq=False)
class ScanLines:
    """The first projections of a scan, in the order of arrival.

    Parameters
    ----------
    values : ndarray of float32, shape (projections, rows, columns)
        Line integrals; rows that are NaN were not measured.
    angles : ndarray of float64, shape (projections,)
        Radians.
    axis : float
        Detector column of the rotation axis.
    rows : tuple of int
        Detector rows.
    planned : int
        Projections planned; 0: not known.
    over : AngularRange
        Angles that the scan is going to visit.
    """

    values: NDArray[np.float32]
    angles: NDArray[np.float64]
    axis: float
    rows: tuple[int, ...]
    planned: int = 0
    over: AngularRange = field(default_factory=AngularRange)

    @property
    def projections(self) -> int:
        """How many there are, those not measured among them."""
        return len(self.angles)

    @property
    def planned_angles(self) -> NDArray[np.float64]:
        """Angles of the whole scan, shape (planned,), radians, taken to be evenly spread."""
        return self.over.even(max(self.planned, self.projections))


@dataclass(slots=True)
class _Block:
    """Rows that come from one rank."""

    values: list[NDArray[np.float32]] = field(default_factory=list)
    angles: list[float] = field(default_factory=list)
    axis: float = 0.0


class LineStore:
    """Collects line integrals of all ranks.

    Parameters
    ----------
    run : OpenRun
        The run, with its preview rows.
    """

    def __init__(self, run: OpenRun) -> None:
        self._rows = tuple(dict.fromkeys(run.preview_rows))
        self._columns = run.detector_shape[1]
        self._planned = run.planned
        self._over = AngularRange.told(run.metadata)
        self._blocks: dict[tuple[int, ...], _Block] = {}

    @property
    def over(self) -> AngularRange:
        """Angles that the scan is going to visit."""
        return self._over

    @property
    def projections(self) -> int:
        """Projections whose line integrals are here for all rows."""
        if {row for rows in self._blocks for row in rows} < set(self._rows) or not self._blocks:
            return 0
        return min(len(block.angles) for block in self._blocks.values())

    def add(self, preview: Preview, lines: NDArray[np.float32]) -> None:
        """Take what came with a preview; what is here already is left aside.

        Raises
        ------
        DataError
            If they have another number of columns than the detector, or projections before them are missing.
        """
        where = f"line integrals with image {preview.image_number} from rank {preview.rank}"
        if lines.shape[2] != self._columns or preview.axis is None:
            raise DataError(
                f"{where}: got {lines.shape[2]} columns and axis {preview.axis}, expected {self._columns} columns and "
                "an axis"
            )
        block = self._blocks.setdefault(preview.rows, _Block())
        have = len(block.angles)
        if preview.lines_first > have:
            raise DataError(
                f"{where}: got projections from {preview.lines_first + 1} on, expected from {have + 1} on; was the job "
                "restarted from a checkpoint without them?"
            )
        new = slice(have - preview.lines_first, None)
        block.values.extend(np.array(lines[new]))
        block.angles.extend(preview.angles_used[new])
        block.axis = preview.axis

    def scan(self) -> ScanLines | None:
        """Give what all ranks have sent, rows in the order of the run; None before there is anything."""
        count = self.projections
        if not count:
            return None
        of = {row: (block, place) for rows, block in self._blocks.items() for place, row in enumerate(rows)}
        values = np.empty((count, len(self._rows), self._columns), np.float32)
        for place, row in enumerate(self._rows):
            block, index = of[row]
            for number in range(count):
                values[number, place] = block.values[number][index]
        first = of[self._rows[0]][0]
        return ScanLines(values, np.array(first.angles[:count]), first.axis, self._rows, self._planned, self._over)
