"""The fast projector: shear the image, then bin the sheared lines onto the detector. Exactly matched pair.

An image row at height y is seen, from a steep angle, like the row at height 0 shifted by y tan(angle). So A = R S: S
shifts whole lines by whole and half pixels, whichever is nearest, and adds them up, even and odd halves apart; R bins
the sums onto the detector. Both preserve mass, so that A' 1 is the number of angles wherever
a pixel is seen completely. Flat angles shift columns.

Slices are innermost, 16, 8 or 4 of them in a vector. This module holds layout and tables; `shear_slab` puts
them to work in the engine. Lengths are detector pixels, angles radians.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon.kernels.back import BACK_COLUMNS, BACK_ROWS
from bluesky_streamrecon.recon.kernels.forward import GROUP, OVERHANG, TILE, shear_forward
from bluesky_streamrecon.recon.kernels.lines import bins_to_lines, lines_to_bins
from bluesky_streamrecon.recon.kernels.simd import LANES, widest_lanes
from bluesky_streamrecon.recon.kernels.tables import Tables, sensitivity_gains, shear_path, shear_tables, unseen_share
from bluesky_streamrecon.recon.slab import aligned_zeros
from bluesky_streamrecon.recon.slab_update import LEAST_VIEW
from bluesky_streamrecon.recon.store import SlabRows

__all__ = ["ShearLayout", "ShearTables", "slab_rows"]

_MARGIN = OVERHANG + GROUP // 2 + 4
_PADDING = 40
_FOOTPRINT = 2.0


def slab_rows(rows: int, widest: int | None = None) -> tuple[SlabRows, ...]:
    """Group rows into slabs of `widest`, and the rest into the narrowest of 16, 8 or 4 that holds it.

    Parameters
    ----------
    rows : int
        Rows to group.
    widest : int, optional
        16, 8 or 4; by default 16 where the processor has registers for it, else 8.

    Examples
    --------
    >>> slab_rows(18, 16)
    (SlabRows(first=0, count=16, width=16), SlabRows(first=16, count=2, width=4))
    """
    slabs = []
    widest = widest or widest_lanes()
    for first in range(0, rows, widest):
        count = min(widest, rows - first)
        slabs.append(SlabRows(first, count, next(width for width in sorted(LANES) if width >= count)))
    return tuple(slabs)


class ShearLayout:
    """Where pixels and sheared coordinates lie in memory.

    Parameters
    ----------
    geometry : TomoGeometry
        Detector, axis, image size and mask.

    Attributes
    ----------
    side : int
        L, image size rounded up to whole tiles; what is beyond the image stays zero.
    stride : int
        Vectors from one image row to the next. One margin of zeros serves the end of one row and the beginning of
        the next; the stride spreads rows over the cache's sets.
    origin, length : int
        Index of sheared coordinate 0, and number of coordinates J.
    chords : ndarray of int64, shape (N, 2)
        Half-open range of reconstructed pixels of each row; for columns it is the same.
    """

    def __init__(self, geometry: TomoGeometry) -> None:
        self.geometry = geometry
        self.side = -(-geometry.size // TILE) * TILE
        self.margin = _MARGIN
        stride = self.side + _MARGIN
        while stride % 64 not in {8, 24, 40, 56}:
            stride += 1
        self.stride = stride
        self.origin = math.ceil(self.side - geometry.half) + _PADDING
        self.length = self.side + 2 * self.origin
        self.mask, self.chords = geometry.mask(), geometry.chords()
        self._free: list[NDArray[np.float32]] = []
        self.forward_tiles = self._tiles(TILE, TILE)
        self.back_tiles = self._tiles(BACK_ROWS, BACK_COLUMNS)

    def _tiles(self, rows: int, columns: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return first and stop of the tiles that hold reconstructed pixels, for each band of rows."""
        whole = np.zeros((self.side, self.side), bool)
        whole[: len(self.mask), : len(self.mask)] = self.mask
        tiles = whole.reshape(self.side // rows, rows, self.side // columns, columns)
        used = np.asarray(tiles.any(axis=(1, 3)))
        some = np.asarray(used.any(axis=1))
        first = np.where(some, used.argmax(axis=1), 0)
        stop = np.where(some, used.shape[1] - used[:, ::-1].argmax(axis=1), 0)
        return first.astype(np.int64), stop.astype(np.int64)

    def borrow(self) -> NDArray[np.float32]:
        """Return an array of zeros for a scalar per pixel, shape (L, L + 16); fresh memory is slow to touch."""
        try:
            array = self._free.pop()
        except IndexError:
            return np.zeros((self.side, self.side + LANES[16].count), np.float32)
        array.fill(0)
        return array

    def put_back(self, array: NDArray[np.float32]) -> None:
        """Keep an array of `borrow` for the next caller."""
        self._free.append(array)

    def bands(self, parts: int) -> list[tuple[int, int]]:
        """Cut the image rows into `parts` bands of whole tiles with about the same number of pixels."""
        first, stop = self.forward_tiles
        done = np.concatenate(([0], np.cumsum(stop - first)))
        cuts = [int(np.searchsorted(done, done[-1] * part / parts)) * TILE for part in range(parts)]
        return list(zip(cuts, [*cuts[1:], self.side], strict=True))

    def image(self, width: int) -> NDArray[np.float32]:
        """Return a slab of zeros, shape (rows, stride, width)."""
        return aligned_zeros((self.side + 2 * self.margin + 1, self.stride, width))

    def view(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the N x N pixels of a slab, shape (N, N, width)."""
        size, margin = self.geometry.size, self.margin
        return image[margin : margin + size, margin : margin + size]


class ShearTables:
    """What the kernels look up, for one set of angles; shared by all slabs, whatever their width.

    Parameters
    ----------
    layout : ShearLayout
        Memory layout.
    angles : ndarray of float64, shape (A,)
        Radians, any order and range.

    Attributes
    ----------
    order : ndarray of int64, shape (A,)
        Place of each sorted angle in `angles`: steep ones come first.
    steep : int
        Number of steep angles.
    arrays : Tables
        For the kernels.
    """

    def __init__(self, layout: ShearLayout, angles: NDArray[np.float64]) -> None:
        self.layout = layout
        cosines, sines = np.cos(angles), np.sin(angles)
        flat = np.abs(cosines) < np.abs(sines)
        self.order = np.argsort(flat, kind="stable").astype(np.int64)
        self.angles = angles[self.order]
        self.count = len(angles)
        self.steep = int(self.count - flat.sum())
        count, side, length = self.count, layout.side, layout.length
        self.arrays = Tables(
            steep=self.steep,
            origin=layout.origin,
            shifts=np.empty((count, side), np.int32),
            offsets=np.empty((count, side), np.int32),
            odd=np.empty((count, side), np.float32),
            middle=np.empty((count, side // GROUP), np.int32),
            back_offsets=np.empty((side, count), np.int32),
            bins=np.empty((count, 2, length), np.int32),
            bin_weights=np.empty((count, 2, length, 2), np.float32),
            seen=np.empty((count, 2), np.int32),
            complete=np.empty((count, 2), np.int32),
        )
        geometry, cosines, sines = layout.geometry, cosines[self.order], sines[self.order]
        axis, columns = float(geometry.axis), geometry.columns
        shear_tables(cosines, sines, geometry.half, axis, columns, layout.stride, GROUP, self.arrays)

    def gains(self, weights: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Compute the inverse of the sensitivity A' w; NaN for pixels that are not seen or not reconstructed.

        Parameters
        ----------
        weights : ndarray of float32, shape (A,), optional
            How much each view counts, in the order of `angles` as they were given; 1 if not given.

        Returns
        -------
        ndarray of float32, shape (L, L + 16)
            From `ShearLayout.borrow`: to be put back when it is no longer used.
        """
        geometry = self.layout.geometry
        gains = self.layout.borrow()
        gains.fill(np.nan)
        radius = max(0.0, min(geometry.axis, geometry.columns - 1 - geometry.axis) - _FOOTPRINT)
        total, by_rows, by_columns = self._unseen(weights)
        sensitivity_gains(total, geometry.half, radius, self.layout.chords, by_rows, by_columns, LEAST_VIEW, gains)
        self.layout.put_back(by_rows)
        self.layout.put_back(by_columns)
        return gains

    def sensitivity(self, weights: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Compute A' w, shape (N, N); weights as for `gains`."""
        size = self.layout.geometry.size
        total, by_rows, by_columns = self._unseen(weights)
        seen = total - by_rows[:size, :size] - by_columns[:size, :size].T
        return np.where(self.layout.mask, seen, 0).astype(np.float32)

    def _unseen(self, weights: NDArray[np.float32] | None) -> tuple[float, NDArray[np.float32], NDArray[np.float32]]:
        """Return the sum of all weights, and what of it misses each pixel, of steep and of flat angles."""
        of_view = np.ones(self.count, np.float32) if weights is None else weights[self.order]
        by_rows, by_columns = self.layout.borrow(), self.layout.borrow()
        unseen_share(LANES[16], self.arrays, of_view, self.layout.chords, by_rows, by_columns)
        return float(of_view.sum(dtype=np.float64)), by_rows, by_columns

    @cached_property
    def ray_lengths(self) -> NDArray[np.float32]:
        """A 1, shape (A, C), for the sorted angles."""
        path = np.zeros((self.count, self.layout.geometry.columns + 2), np.float64)
        shear_path(self.arrays, self.layout.chords, path)
        return path[:, 1:-1].astype(np.float32)

    def ranges(self, parts: int) -> NDArray[np.int64]:
        """Return half-open ranges of the sorted angles of each of `parts` threads, shape (parts, 2, 2): steep, flat."""
        cuts = np.arange(parts + 1) / parts
        edges = np.stack((cuts * self.steep, self.steep + cuts * (self.count - self.steep)), axis=1).astype(np.int64)
        return np.stack((edges[:-1], edges[1:]), axis=2)

    def project(
        self,
        image: NDArray[np.float32],
        ranges: NDArray[np.int64],
        lines: NDArray[np.float32],
        predicted: NDArray[np.float32],
    ) -> None:
        """Project a slab at some angles into ``predicted``, (A, C + 2, W), by way of `lines`, (A, 2, J, W)."""
        lanes, layout = LANES[image.shape[2]], self.layout
        shear_forward(lanes, image, layout.margin, *layout.forward_tiles, ranges.ravel(), self.arrays, lines)
        for first, stop in ranges:
            lines_to_bins(lanes, lines, self.arrays, first, stop, predicted)

    def spread(self, predicted: NDArray[np.float32], ranges: NDArray[np.int64], lines: NDArray[np.float32]) -> None:
        """Spread ``predicted``, (A, C + 2, W), back to `lines`, (A, 2, J, W)."""
        lanes = LANES[lines.shape[3]]
        for first, stop in ranges:
            bins_to_lines(lanes, predicted, self.arrays, first, stop, lines)
