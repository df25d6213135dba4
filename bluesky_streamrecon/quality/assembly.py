"""Puts images together from the slices that come of each from several ranks."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.quality.metrics import PreviewImage
from bluesky_streamrecon.wire import Preview

__all__ = ["INCOMPLETE", "ImageAssembly"]

logger = logging.getLogger(__name__)

INCOMPLETE = 64
"""Images that may wait for the slices of a slow rank before the oldest is given up."""


@dataclass(slots=True)
class _Pieces:
    """The slices of one image that have come so far."""

    projections: int
    shape: tuple[int, int]
    axis: float | None
    slices: dict[int, NDArray[np.float32]] = field(default_factory=dict)


class ImageAssembly:
    """Waits for all slices of an image.

    Parameters
    ----------
    rows : tuple of int
        Detector rows of the slices that an image has; others are left aside.
    """

    def __init__(self, rows: tuple[int, ...]) -> None:
        self._rows = rows
        self._pieces: dict[int, _Pieces] = {}

    def add(self, preview: Preview) -> PreviewImage | None:
        """Take one rank's slices of an image; return the image if they were the last ones missing.

        Raises
        ------
        DataError
            If they do not fit what other ranks sent of the same image, which is forgotten: a job that was started
            again after the axis was corrected numbers its images otherwise.
        """
        if preview.pixels is None or set(self._rows).isdisjoint(preview.rows):
            return None
        number = preview.image_number
        of = preview.projections, preview.shape, preview.axis
        before = self._pieces.get(number)
        fits = before is not None and (before.projections, before.shape, before.axis) == of
        pieces = self._pieces[number] = before if before is not None and fits else _Pieces(*of)
        for row, piece in zip(preview.rows, preview.pixels, strict=True):
            if row in self._rows:
                pieces.slices[row] = piece
        if before is not None and not fits:
            raise DataError(
                f"preview of image {number} from rank {preview.rank}: got {preview.projections} projections in shape "
                f"{preview.shape} about axis {preview.axis}, expected {before.projections} in {before.shape} about "
                f"{before.axis} as from the other ranks; was the job started again, or are they not of one job?"
            )
        if len(pieces.slices) < len(self._rows):
            self._give_up_oldest()
            return None
        # Each rank sends in order: what is missing of an earlier image by now will not come any more.
        self._pieces = {other: kept for other, kept in self._pieces.items() if other > number}
        stack = np.stack([pieces.slices[row] for row in self._rows]).astype(np.float32, copy=False)
        return PreviewImage(number, pieces.projections, self._rows, stack)

    def _give_up_oldest(self) -> None:
        if len(self._pieces) > INCOMPLETE:
            oldest = min(self._pieces)
            missing = sorted(set(self._rows) - set(self._pieces.pop(oldest).slices))
            logger.warning("image %d is given up: rows %s have not come; is a rank stuck?", oldest, missing)
