"""Projection at the angles of one subset of the window: tables on the GPU, and what is derived from them.

Angles are radians; those of the tables are sorted, steep ones first.
"""

from __future__ import annotations

from functools import cached_property
from itertools import count as counted
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.recon.cuda.layout import GpuLayout
from bluesky_streamrecon.recon.cuda.sizes import HEIGHT, SLOT, TILE, WIDTH
from bluesky_streamrecon.recon.cuda.streams import Event, Launcher, Stream, address_of, device_zeros, pinned, upload
from bluesky_streamrecon.recon.cuda.tables import PATH_THREADS, gains, inverse_paths, tables
from bluesky_streamrecon.recon.shear import ShearLayout, ShearTables
from bluesky_streamrecon.recon.slab_update import LEAST_LENGTH, LEAST_VIEW
from bluesky_streamrecon.recon.window import Subset

__all__ = ["CudaOperators", "Geometry", "TablePool", "TableSet"]

_QUEUED = 32
_numbers = counted()

_tables, _gains, _paths = Launcher(tables, 64), Launcher(gains, 128), Launcher(inverse_paths, PATH_THREADS)


class Geometry:
    """What all subsets share: the layout, and the parts of it that are on the GPU.

    Parameters
    ----------
    layout : GpuLayout
        Sizes.
    stream : Stream
        That updates run on.
    """

    def __init__(self, layout: GpuLayout, stream: Stream) -> None:
        self.layout = layout
        self.stream = stream
        self.side_stream = Stream()
        self.tables_known, self.gains_known = Event(), Event()
        self.chords = _on_gpu(layout.chords, stream)
        self.forward_tiles = _on_gpu(layout.tiles(TILE, TILE), stream)
        self.back_tiles = _on_gpu(layout.tiles(WIDTH, HEIGHT), stream)

    @cached_property
    def on_cpu(self) -> ShearLayout:
        """The CPU projector's layout, for what the host computes."""
        return ShearLayout(self.layout.geometry)


class TableSet:
    """Tables for at most so many angles; no two sets have the same number."""

    def __init__(self, layout: GpuLayout, most: int) -> None:
        side, size = layout.side, layout.geometry.size
        self.number = next(_numbers)
        self.most = most
        self.parameters = device_zeros(5 * most, np.float64)
        self.address = address_of(self.parameters)
        self.cosines, self.sines, self.larges, self.slots, self.view_weights = (
            self.parameters[i * most : (i + 1) * most] for i in range(5)
        )
        self.halves, self.offsets, self.back_offsets = (device_zeros(most * side, np.int32) for _ in range(3))
        self.evens, self.middles = (device_zeros(most * side // SLOT, np.int32) for _ in range(2))
        self.back_starts = device_zeros(most * side // 32, np.int32)
        self.seen, self.heights = device_zeros(2 * most, np.int32), device_zeros(most, np.int32)
        self.gains = device_zeros(size * size)
        self.weights = device_zeros(most * layout.geometry.columns)


class TablePool:
    """Sets of tables that are used again, and pinned memory for what they are computed from."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._free: list[TableSet] = []
        self._staged = pinned((_QUEUED, 5), np.float64)
        self._copied = [Event() for _ in range(_QUEUED)]
        self._used = 0

    def borrow(self, angles: int) -> TableSet:
        """Return a set for so many angles."""
        for number, found in enumerate(self._free):
            if found.most >= angles:
                return self._free.pop(number)
        self._free.clear()
        return TableSet(self._geometry.layout, angles)

    def put_back(self, found: TableSet) -> None:
        """Let a set be used again."""
        self._free.append(found)

    def fill(self, found: TableSet, order: NDArray[np.int64], *values: NDArray[Any]) -> None:
        """Copy five parameters of each angle, (A,), such as its cosine, to the GPU, in the order of the set."""
        if self._staged.shape[1] < 5 * found.most:
            self._geometry.stream.synchronize()
            self._staged = pinned((_QUEUED, 5 * found.most), np.float64)
        place = self._used % _QUEUED
        self._used += 1
        self._copied[place].synchronize()
        staged = self._staged[place][: 5 * found.most]
        for row, source in zip(staged.reshape(5, found.most), values, strict=True):
            row[: len(order)] = source[order]
        upload(found.parameters, 0, staged, self._geometry.stream, found.address)
        self._copied[place].record(self._geometry.stream)


class CudaOperators:
    """Projection at the angles of a subset.

    Parameters
    ----------
    geometry : Geometry
        Of the image.
    pool : TablePool
        Where tables come from.
    subset : Subset
        Angles, and the slots of their projections.

    Attributes
    ----------
    order : ndarray of int64, shape (A,)
        From the tables' order to the subset's.
    count, steep : int
        Angles, and how many of them are steep.
    fresh, weighted : bool
        Whether the tables have yet to be computed, and whether the weights of rays have been.
    """

    def __init__(self, geometry: Geometry, pool: TablePool, subset: Subset) -> None:
        self._geometry = geometry
        self._pool = pool
        self.subset = subset
        self.axis = float(geometry.layout.geometry.axis)
        cosines, sines = np.cos(subset.angles), np.sin(subset.angles)
        flat = np.abs(cosines) < np.abs(sines)
        self.order = flat.argsort(kind="stable")
        self.count, self.steep = len(flat), len(flat) - int(np.count_nonzero(flat))
        self.tables = pool.borrow(self.count)
        larges = np.where(flat, sines, cosines)
        pool.fill(self.tables, self.order, cosines, sines, larges, subset.slots, subset.weights)
        self.fresh = True
        self.weighted = False

    def prepare(self, *, weights: bool) -> Event | None:
        """Launch what is missing; return when the gains, which only the way back needs, are known."""
        ready = None
        if self.fresh:
            ready = self._launch_tables()
        if weights and not self.weighted:
            self._launch_weights()
        return ready

    def prepared(self, *, weights: bool) -> None:
        """Note that `prepare` was carried out."""
        self.fresh = False
        self.weighted = self.weighted or weights

    def _launch_tables(self) -> Event:
        layout, found, count = self._geometry.layout, self.tables, self.count
        g = layout.geometry
        _tables(
            (-(-layout.side // 64), count), self._geometry.stream, found.cosines, found.sines, count, self.steep,
            g.half, float(g.axis), g.columns, g.size, layout.side, layout.origin, layout.length, found.halves,
            found.seen, found.heights, found.offsets, found.evens, found.middles, found.back_offsets,
            found.back_starts,
        )  # fmt: skip
        beside = self._geometry.side_stream
        beside.wait_for(self._geometry.tables_known.record(self._geometry.stream))
        _gains(
            (-(-g.size // 128), g.size), beside, found.larges, found.view_weights, count,
            float(self.subset.weights.sum(dtype=np.float64)), self.steep, g.half, float(g.axis), g.columns, g.size,
            layout.side, layout.radius, found.halves, self._geometry.chords, LEAST_VIEW, found.gains,
        )  # fmt: skip
        return self._geometry.gains_known.record(beside)

    def _launch_weights(self) -> None:
        layout, found = self._geometry.layout, self.tables
        g = layout.geometry
        _paths(
            (-(-g.columns // 32), self.count), self._geometry.stream, found.larges, g.half, float(g.axis), g.columns,
            g.size, layout.side, layout.origin, layout.length, found.halves, self._geometry.chords, LEAST_LENGTH,
            found.weights,
        )  # fmt: skip

    @cached_property
    def _on_cpu(self) -> ShearTables:
        return ShearTables(self._geometry.on_cpu, self.subset.angles)

    @property
    def sensitivity(self) -> NDArray[np.float32]:
        """A' 1, shape (N, N), each view by its weight, computed by the CPU."""
        return self._on_cpu.sensitivity(self.subset.weights)

    @property
    def ray_lengths(self) -> NDArray[np.float32]:
        """A 1 in the order of the subset's angles, shape (A, C), computed by the CPU."""
        lengths = np.empty_like(self._on_cpu.ray_lengths)
        lengths[self._on_cpu.order] = self._on_cpu.ray_lengths
        return lengths

    def release(self) -> None:
        """Release the tables for the next window; do not use these operators any more."""
        self._pool.put_back(self.tables)


def _on_gpu(array: NDArray[Any], stream: Stream) -> Any:
    target = device_zeros(len(array), array.dtype)
    upload(target, 0, np.ascontiguousarray(array), stream)
    return target
