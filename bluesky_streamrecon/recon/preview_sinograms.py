"""Line integrals of the rows that are shown: the controller needs them of all projections, to judge the scan by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.projection_sets import ProjectionSet, ProjectionStore, most_views

__all__ = ["PreviewSinograms"]

_LINES, _ANGLES, _COUNTS = "shown_lines", "shown_angles", "shown_counts"


class PreviewSinograms:
    """Line integrals of the shown rows of one rank, which are sent with its previews.

    Every projection is sent once. For checkpoints all are kept, neighbours in angle averaged where there are many: a
    job that goes on from one sends them again, for its previews begin anew.

    Parameters
    ----------
    local_rows : sequence of int
        Shown rows, counted within this rank's block.
    columns : int
        Detector columns.
    keep : bool, optional
        Whether there will be checkpoints.
    """

    def __init__(self, local_rows: Sequence[int], columns: int, *, keep: bool = False) -> None:
        self._rows = list(local_rows)
        self._new: list[tuple[NDArray[np.float32], float]] = []
        self._restored: ProjectionSet | None = None
        self._kept = ProjectionStore(most_views(columns)) if keep and self._rows else None

    def append(self, projection: NDArray[np.float32], angle: float) -> None:
        """Append the shown rows of a projection, line integrals (rows, columns)."""
        if self._rows:
            lines = projection[self._rows].astype(np.float32)
            self._new.append((lines, angle))
            if self._kept is not None:
                self._kept.append(lines, angle)

    def take(self) -> ProjectionSet | None:
        """Return what was not taken yet; None: nothing."""
        restored, self._restored = self._restored, None
        new, self._new = self._new, []
        values, angles = [lines for lines, _ in new], [angle for _, angle in new]
        counts = [1] * len(new)
        if restored is not None:
            values, angles, counts = (
                [*restored.values, *values],
                [*restored.angles, *angles],
                [*restored.counts, *counts],
            )
        return ProjectionSet(np.stack(values), np.array(angles), np.array(counts)) if values else None

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return what a checkpoint has to keep."""
        if self._kept is None or not len(self._kept):
            return {}
        kept = self._kept.views()
        return {_LINES: kept.values, _ANGLES: kept.angles, _COUNTS: kept.counts}

    def restore(self, arrays: Mapping[str, NDArray[np.generic]], projections: int) -> None:
        """Go on from a checkpoint of so many projections."""
        if not {_LINES, _ANGLES, _COUNTS} <= arrays.keys():
            return
        lines, angles = np.asarray(arrays[_LINES], np.float32), np.asarray(arrays[_ANGLES], np.float64)
        counts = np.asarray(arrays[_COUNTS], np.int64)
        if lines.shape[1] != len(self._rows) or counts.sum() != projections:
            return
        self._restored = ProjectionSet(lines, angles, counts)
        if self._kept is not None:
            self._kept.extend(self._restored)
