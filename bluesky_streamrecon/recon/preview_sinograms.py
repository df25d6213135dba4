"""Line integrals of the rows that are shown: the controller needs them of all projections, to judge the scan by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.projection_sets import ProjectionSet, ProjectionStore, most_views

__all__ = ["PreviewSinograms"]


class PreviewSinograms:
    """Line integrals of the shown rows of one rank, which are sent with its previews, those of each projection once.

    Parameters
    ----------
    local_rows : sequence of int
        Shown rows, counted within this rank's block.
    columns : int
        Detector columns.
    """

    def __init__(self, local_rows: Sequence[int], columns: int) -> None:
        self._rows = list(local_rows)
        self._most = most_views(columns)
        self._new = ProjectionStore(self._most)

    def append(self, projection: NDArray[np.float32], angle: float) -> None:
        """Append the shown rows of a projection, line integrals (rows, columns)."""
        if self._rows:
            self._new.append(projection[self._rows].astype(np.float32), angle)

    def take(self) -> ProjectionSet | None:
        """Return what was not taken yet, None if nothing; of a whole long scan, neighbours in angle are averaged."""
        new, self._new = self._new, ProjectionStore(self._most)
        return new.views() if len(new) else None
