"""Line integrals of the rows that are shown: the controller needs them of all projections, to judge the scan by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["ShownLines"]

_NAME = "shown_lines"


class ShownLines:
    """What one rank has to tell of its shown rows.

    Every projection is taken once. All are kept for checkpoints: a job that goes on from one tells them again, for
    its previews begin anew.

    Parameters
    ----------
    local_rows : sequence of int
        Shown rows, counted within this rank's block.
    """

    def __init__(self, local_rows: Sequence[int]) -> None:
        self._rows = list(local_rows)
        self._lines: list[NDArray[np.float32]] = []
        self._told = 0

    def append(self, projection: NDArray[np.float32]) -> None:
        """Keep the shown rows of a projection, line integrals (rows, columns)."""
        if self._rows:
            self._lines.append(projection[self._rows].astype(np.float32))

    def take(self) -> NDArray[np.float32] | None:
        """Give what was not taken yet, shape (new, shown rows, columns); None: nothing."""
        new = self._lines[self._told :]
        self._told = len(self._lines)
        return np.stack(new) if new else None

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Give what a checkpoint has to keep."""
        return {_NAME: np.stack(self._lines)} if self._lines else {}

    def restore(self, arrays: Mapping[str, NDArray[np.generic]], projections: int) -> None:
        """Go on from a checkpoint of so many projections."""
        saved = arrays.get(_NAME)
        if saved is not None and saved.shape[:2] == (projections, len(self._rows)):
            self._lines = [np.asarray(lines, np.float32) for lines in saved]
