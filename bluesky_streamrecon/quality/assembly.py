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
            If they do not fit what other ranks sent of the same image; they are left aside.
        """
        if preview.pixels is None or set(self._rows).isdisjoint(preview.rows):
            return None
        number = preview.image_number
        pieces = self._pieces.setdefault(number, _Pieces(preview.projections, preview.shape))
        if (preview.projections, preview.shape) != (pieces.projections, pieces.shape):
            raise DataError(
                f"preview of image {number} from rank {preview.rank}: got {preview.projections} projections and shape "
                f"{preview.shape}, expected {pieces.projections} and {pieces.shape} as from the other ranks; are they "
                "of one job?"
            )
        for row, piece in zip(preview.rows, preview.pixels, strict=True):
            if row in self._rows:
                pieces.slices[row] = piece
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
