"""What is judged of a volume: which of its rows, and which region of their slices. Lengths are pixels."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from bluesky_streamrecon.errors import ConfigError

__all__ = ["WHOLE_VIEW", "Selection", "check_region"]

LEAST_REGION = 32
"""Pixels of a region in each direction: MS-SSIM compares 11 of them at once, of the coarsest level a few."""

Region = tuple[int, int, int, int]
"""Rectangle of the slices: left, top, right and bottom in pixels from the top left corner, the last two excluded."""


class Selection(msgspec.Struct, frozen=True):
    """Rows of the volume, and a region of their slices, in which the image is judged.

    Parameters
    ----------
    region : tuple of int or None
        See `Region`; None: the whole view.
    rows : tuple of int
        Detector rows; empty: the preview rows that the run began with.

    Examples
    --------
    >>> print(Selection(region=(20, 30, 75, 70), rows=(431,)))
    x 20 to 74, y 30 to 69 of row 431
    >>> print(Selection(region=(20, 30, 75, 70)), "|", Selection(rows=(4, 431)), "|", Selection())
    x 20 to 74, y 30 to 69 | rows 4, 431 | the whole view
    """

    region: Region | None = None
    rows: Annotated[tuple[Annotated[int, Meta(ge=0)], ...], Meta(max_length=256)] = ()

    def __str__(self) -> str:
        rows = f"row{'s' * (len(self.rows) > 1)} {', '.join(map(str, self.rows))}" if self.rows else ""
        if self.region is None:
            return rows or "the whole view"
        left, top, right, bottom = self.region
        return f"x {left} to {right - 1}, y {top} to {bottom - 1}" + (f" of {rows}" if rows else "")


WHOLE_VIEW = Selection()
"""All of the slices, of the rows that the run began with."""


def check_region(region: Region, side: int = 0) -> None:
    """Refuse a region that is too small to be judged, or not within slices of `side` pixels (0: not known).

    Raises
    ------
    ConfigError
        If it is.
    """
    left, top, right, bottom = region
    if min(left, top) < 0 or min(right - left, bottom - top) < LEAST_REGION:
        raise ConfigError(
            f"region: got {region}, expected (left, top, right, bottom) in pixels of the slice, from 0 on "
            f"and at least {LEAST_REGION} of them in both directions"
        )
    if 0 < side < max(right, bottom):
        raise ConfigError(f"region: got {region}, expected a part of slices of {side} x {side} pixels")
