"""Where pixels, sheared coordinates and projections lie in the GPU's memory, and how many bytes they take.

Nothing here needs a GPU. Lengths are detector pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.geometry import TomoGeometry

__all__ = ["SPARE", "GpuLayout", "Memory", "group_count"]

SLICES = 4
SPARE = 64
"""Projections that may come before a slot that was given up is used again, see `Window`."""
_SIDE = 64
_PADDING = 40
_FOOTPRINT = 2.0
_TABLE_SETS = 8
_SINGLE = 9
"""Slices that there is memory for beside the image: on their way in, two of neighbours, twice three to be shown."""
_CONTEXT = 600 * 2**20


def group_count(rows: int) -> int:
    """Return the groups of four slices that hold so many rows.

    Examples
    --------
    >>> group_count(100), group_count(101)
    (25, 26)
    """
    return -(-rows // SLICES)


class GpuLayout:
    """Sizes that follow from the geometry.

    Parameters
    ----------
    geometry : TomoGeometry
        Detector, axis, image size and mask.

    Attributes
    ----------
    side : int
        Image size rounded up to whole tiles.
    origin, length : int
        Index of sheared coordinate 0, and number of coordinates J.
    reach : int
        No angle sees more coordinates than this.
    radius : float
        Pixels closer to the rotation axis are seen completely from everywhere.
    mask : ndarray of bool, shape (N, N)
        Pixels that are reconstructed.
    chords : ndarray of int32, shape (2 N,)
        Half-open range of these in each row; for columns it is the same.
    """

    def __init__(self, geometry: TomoGeometry) -> None:
        size = geometry.size
        self.geometry = geometry
        self.side = -(-size // _SIDE) * _SIDE
        self.origin = math.ceil(geometry.half) + _PADDING
        self.length = self.side + 2 * self.origin
        self.reach = min(self.length, math.ceil(geometry.columns * math.sqrt(2)) + 8)
        self.radius = max(0.0, min(geometry.axis, geometry.columns - 1 - geometry.axis) - _FOOTPRINT)
        self.mask = geometry.mask()
        self.chords = geometry.chords().astype(np.int32).ravel()

    def tiles(self, width: int, height: int) -> NDArray[np.int32]:
        """Return the tiles with reconstructed pixels, as x | y << 12 | edges << 24.

        Bits of edges are set where there is no such neighbour: left, right, above, below.
        """
        size = self.geometry.size
        whole = np.zeros((self.side, self.side), bool)
        whole[:size, :size] = self.mask
        used = whole.reshape(self.side // height, height, self.side // width, width).any(axis=(1, 3))
        around = np.pad(used, 1)
        edges = ~around[1:-1, :-2] * 1 + ~around[1:-1, 2:] * 2 + ~around[:-2, 1:-1] * 4 + ~around[2:, 1:-1] * 8
        y, x = np.nonzero(used)
        return np.asarray(x | y << 12 | edges[y, x] << 24, np.int32)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the GPU for a block of rows.

    Parameters
    ----------
    image, window, lines, tables : int
        Images; line integrals that are kept; working memory that grows with the projections of a pass; the rest.
    """

    image: int
    window: int
    lines: int
    tables: int

    @property
    def total(self) -> int:
        """Bytes altogether, those of the driver's own needs included."""
        return self.image + self.window + self.lines + self.tables + _CONTEXT

    @classmethod
    def of(cls, geometry: TomoGeometry, rows: int, *, kept: int, in_a_pass: int, coupled: bool) -> Memory:
        """Compute the memory of a block.

        Parameters
        ----------
        geometry : TomoGeometry
            Detector and image.
        rows : int
            Rows of the block.
        kept : int
            Projections that are kept.
        in_a_pass : int
            Most projections of a pass.
        coupled : bool
            Whether the algorithm looks at neighbouring slices, and needs a second image.

        Examples
        --------
        >>> memory = Memory.of(TomoGeometry(1024), 100, kept=24, in_a_pass=12, coupled=False)
        >>> memory.image, memory.window
        (419430400, 36044800)
        """
        area, groups = geometry.size**2, group_count(rows)
        side = -(-geometry.size // _SIDE) * _SIDE
        length = side + 2 * (math.ceil(geometry.half) + _PADDING)
        image = 16 * groups * area * (2 if coupled else 1)
        window = 16 * groups * geometry.columns * (kept + SPARE)
        lines = 16 * groups * in_a_pass * (2 * 2 * length + geometry.columns)
        tables = _TABLE_SETS * 4 * (area + in_a_pass * (4 * side + geometry.columns)) + _SINGLE * 4 * area
        return cls(image, window, lines, tables)
