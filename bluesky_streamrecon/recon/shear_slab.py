"""Slabs of the fast projector, in the engine: every operation of `SlabUpdate` as kernels, spread over threads.

Forward projection deals angles to the threads of a team, back projection deals image rows: nothing is added up
across threads, so the result has the same bits for any number of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon.kernels.back import BACK_COLUMNS, BACK_ROWS, shear_back
from bluesky_streamrecon.recon.kernels.blocks import GATHER, INCREASE, MULTIPLY, Rule
from bluesky_streamrecon.recon.kernels.lines import compare_difference, compare_ratio
from bluesky_streamrecon.recon.kernels.simd import LANES
from bluesky_streamrecon.recon.kernels.smooth import copy_row, shear_back_smooth
from bluesky_streamrecon.recon.projector import GeometryProjector
from bluesky_streamrecon.recon.shear import ShearLayout, ShearTables, slab_rows
from bluesky_streamrecon.recon.slab import Backend, Slab, ThreadTeam
from bluesky_streamrecon.recon.slab_update import (
    LEAST_ATTENUATION,
    LEAST_LENGTH,
    Measurement,
    Operators,
    SlabUpdate,
    inverse,
    penalty_scales,
    relaxed,
)
from bluesky_streamrecon.recon.store import HostStore, SlabRows
from bluesky_streamrecon.recon.window import Subset

__all__ = ["ShearBackend", "ShearProjector"]

_NO_GAINS = np.zeros((1, 1), np.float32)

Edges = tuple[NDArray[np.float32], NDArray[np.float32]]


class ShearSlab(Slab):
    """Image with slices innermost and a margin of zeros, shape (rows, stride, width)."""

    def __init__(self, rows: SlabRows, layout: ShearLayout) -> None:
        self.rows = rows
        self.pixels = layout.image(rows.width)
        self.image = layout.view(self.pixels)[:, :, : rows.count]
        self._mask = layout.mask
        self._edges: Edges | None = None
        self._spare: Edges | None = None

    def read(self, row: int) -> NDArray[np.float32]:
        return self.image[:, :, row]

    def write(self, row: int, image: NDArray[np.float32]) -> None:
        self._edges = None
        self.image[:, :, row] = np.where(self._mask, image, 0)

    def fill(self, values: NDArray[np.float32]) -> None:
        self._edges = None
        for line, inside in zip(self.image, self._mask, strict=True):
            np.multiply(inside[:, None], values, out=line)

    def edges(self) -> Edges:
        if self._edges is None:
            self._edges = (self.read(0).copy(), self.read(self.rows.count - 1).copy())
        return self._edges

    def forget_edges(self) -> None:
        """Note that the image is about to change in a way that does not keep track of its edges."""
        self._edges = None

    def next_edges(self) -> Edges:
        """Return two arrays for the edges after a pass, while the present ones are still in use."""
        if self._spare is None:
            self._spare = (np.zeros(self._mask.shape, np.float32), np.zeros(self._mask.shape, np.float32))
        return self._spare

    def take_next_edges(self) -> None:
        """Make the arrays of `next_edges` the edges."""
        self._edges, self._spare = self._spare, self._edges


class ShearOperators:
    """Tables of one subset, and what is derived from them once for all slabs."""

    def __init__(self, layout: ShearLayout, subset: Subset) -> None:
        self.subset = subset
        self.axis = layout.geometry.axis
        self.tables = ShearTables(layout, subset.angles)
        self.order = self.tables.order
        self.slots = subset.slots[self.order]
        shared = len(subset.all_angles) != len(subset.angles)
        self._everyone = ShearTables(layout, subset.all_angles) if shared else self.tables
        self._gains: NDArray[np.float32] | None = None
        self._lock = Lock()

    @property
    def gains(self) -> NDArray[np.float32]:
        """Inverse sensitivity over all members, shape (L, L + 16)."""
        with self._lock:
            if self._gains is None:
                self._gains = self._everyone.gains(self.subset.weights)
            return self._gains

    def release(self) -> None:
        """Release memory for the next window; do not use these operators any more."""
        if self._gains is not None:
            self._everyone.layout.put_back(self._gains)
            self._gains = None

    @cached_property
    def sensitivity(self) -> NDArray[np.float32]:
        """A' 1 over all members, shape (N, N), each view by its weight."""
        return self._everyone.sensitivity(self.subset.weights)

    @cached_property
    def ray_lengths(self) -> NDArray[np.float32]:
        """A 1 in the order of the subset's angles, shape (A, C)."""
        lengths = np.empty_like(self.tables.ray_lengths)
        lengths[self.tables.order] = self.tables.ray_lengths
        return lengths

    @cached_property
    def per_length(self) -> NDArray[np.float32]:
        """1 / (A 1) in table order, shape (A, C); 0 for rays that miss the image."""
        return inverse(self.tables.ray_lengths, LEAST_LENGTH)

    @cached_property
    def ones(self) -> NDArray[np.float32]:
        """Ones, shape (A, C)."""
        return np.ones_like(self.tables.ray_lengths)


class ShearUpdate(SlabUpdate):
    """One pass over a slab, with kernels. Sinograms are in the order of the tables: steep angles first."""

    _operators: ShearOperators

    def __init__(
        self,
        layout: ShearLayout,
        slab: ShearSlab,
        operators: ShearOperators,
        measurement: Measurement,
        team: ThreadTeam,
    ) -> None:
        super().__init__(operators, measurement)
        self._layout = layout
        self._slab = slab
        self._tables = operators.tables
        self._team = team
        self._width = slab.rows.width
        self._lanes = LANES[self._width]
        self._ranges = self._tables.ranges(team.size)
        self._bands = layout.bands(team.size)

    def _image(self) -> NDArray[np.float32]:
        self._slab.forget_edges()
        return self._slab.image

    @property
    def _lines(self) -> NDArray[np.float32]:
        return self._team.scratch("lines", (self._tables.count, 2, self._layout.length, self._width))

    @property
    def _bins(self) -> NDArray[np.float32]:
        return self._team.scratch("bins", (self._tables.count, self._layout.geometry.columns + 2, self._width))

    @property
    def _data(self) -> NDArray[np.float32]:
        """The window's line integrals, shape (slots, C, width)."""
        store = self._measurement.store
        assert isinstance(store, HostStore)  # noqa: S101 - what `store` made
        return store.data[self._measurement.number]

    def _inner(self, bins: NDArray[np.float32]) -> NDArray[np.float32]:
        return bins[:, 1:-1, : self._slab.rows.count]

    def _compared(self, compare: Callable[..., object], *how: object) -> NDArray[np.float32]:
        """Project the image, and compare what is predicted with what was measured."""
        lines, bins, pixels, data = self._lines, self._bins, self._slab.pixels, self._data

        def share(part: int) -> None:
            ranges = self._ranges[part]
            self._tables.project(pixels, ranges, lines, bins)
            for first, stop in ranges:
                compare(self._lanes, bins, data, self._operators.slots, *how, first, stop)

        self._team.run(share)
        return self._inner(bins)

    def forward(self) -> NDArray[np.float32]:
        return self._compared(lambda *_: None)

    def ratio(self, floor: float, relaxation: float = 1.0) -> NDArray[np.float32]:
        return relaxed(self._compared(compare_ratio, floor), relaxation)

    def residual(self, *, per_length: bool = False) -> NDArray[np.float32]:
        return self._compared(compare_difference, self._operators.per_length if per_length else self._operators.ones)

    def _spread(self, sinogram: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the sheared lines of a sinogram, which need not be copied if it is what `forward` returned."""
        lines, bins = self._lines, self._bins
        inner = self._inner(bins)
        if sinogram.__array_interface__ != inner.__array_interface__:
            values = np.array(sinogram)
            bins[...] = 0
            inner[...] = values
        self._team.run(lambda part: self._tables.spread(bins, self._ranges[part], lines))
        return lines

    @property
    def _buffers(self) -> NDArray[np.float32]:
        return self._team.scratch("tile", (self._team.size, BACK_ROWS, BACK_COLUMNS + 1, self._width))

    def _gathered(self, sinogram: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the whole back projection, summed over members, shape (L, L, width)."""
        lines = self._spread(sinogram)
        side = self._layout.side
        gathered = self._team.scratch("gathered", (side, side, self._width))
        gathered[...] = 0
        self._back(GATHER, lines, None, gathered, 0, _NO_GAINS, 0.0, 0.0)
        if self._measurement.reducer is not None:
            self._measurement.reducer.sum(gathered)
        return gathered

    def _back(
        self,
        rule: Rule,
        lines: NDArray[np.float32],
        whole: NDArray[np.float32] | None,
        image: NDArray[np.float32],
        margin: int,
        gains: NDArray[np.float32],
        factor: float,
        least: float,
    ) -> None:
        """Change an image by `rule`, given sheared lines, or the `whole` back projection of them."""
        buffers = self._buffers
        self._team.run(
            lambda part: shear_back(
                self._lanes,
                rule,
                *self._bands[part],
                *self._layout.back_tiles,
                self._tables.arrays,
                lines,
                whole is not None,
                buffers[part] if whole is None else whole,
                image,
                0,
                margin,
                gains,
                factor,
                least,
            )
        )

    def _spread_or_gathered(
        self, sinogram: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return the sheared lines of a sinogram, and where rows are shared its whole back projection."""
        if self._measurement.reducer is None:
            return self._spread(sinogram), None
        gathered = self._gathered(sinogram)
        return self._lines, gathered

    @property
    def threads(self) -> int:
        return self._team.size

    def back(self, sinogram: NDArray[np.float32]) -> NDArray[np.float32]:
        size = self._layout.geometry.size
        gathered = self._gathered(sinogram)[:size, :size, : self._slab.rows.count]
        return np.where(self._layout.mask[:, :, None], gathered, np.float32(0))

    def neighbours(self) -> Edges:
        return self._measurement.neighbours or self._slab.edges()

    def multiply(self, ratio: NDArray[np.float32]) -> None:
        self._update(MULTIPLY, ratio, 1.0, LEAST_ATTENUATION)

    def add(self, residual: NDArray[np.float32], *, gain: float = 1.0, nonnegative: bool = True) -> None:
        self._update(INCREASE, residual, gain, 0.0 if nonnegative else -np.inf)

    def _update(self, rule: Rule, sinogram: NDArray[np.float32], factor: float, least: float) -> None:
        self._slab.forget_edges()
        gains = self._operators.gains
        given = self._spread_or_gathered(sinogram)
        self._back(rule, *given, self._slab.pixels, self._layout.margin, gains, factor, least)

    def multiply_smoothly(self, ratio: NDArray[np.float32], strength: float, edge: float | None) -> None:
        layout, slab, width = self._layout, self._slab, self._width
        above, below = self.neighbours()
        new_first, new_last = slab.next_edges()
        scale, sharpness = penalty_scales(width, self.typical, strength, edge)
        size = layout.geometry.size
        kept = self._team.scratch("kept", (self._team.size, 2, size + 2, width))
        bottom = self._team.scratch("bottom", (self._team.size, size + 2, width))
        for part, (begin, end) in enumerate(self._bands):
            copy_row(self._lanes, slab.pixels, layout.margin, min(begin, size) - 1, kept[part, (begin - 1) % 2])
            copy_row(self._lanes, slab.pixels, layout.margin, min(end, size), bottom[part])
        gains, last = self._operators.gains, slab.rows.count - 1
        lines, whole = self._spread_or_gathered(ratio)
        rest: tuple[Any, ...] = (
            *(layout.chords, gains, scale, edge is not None, sharpness, LEAST_ATTENUATION),
            *(above, below, new_first, new_last, last),
        )
        band = self._team.scratch("band", (self._team.size, BACK_ROWS, layout.side, width))
        buffers = self._buffers
        self._team.run(
            lambda part: shear_back_smooth(
                self._lanes,
                GATHER,
                *self._bands[part],
                *layout.back_tiles,
                self._tables.arrays,
                lines,
                whole is not None,
                band[part] if whole is None else whole,
                buffers[part],
                slab.pixels,
                layout.margin,
                *(*rest, kept[part], bottom[part]),
            )
        )
        slab.take_next_edges()


class ShearBackend(Backend):
    """The fast projector on slabs.

    Parameters
    ----------
    geometry : TomoGeometry
        Shared by all slices.
    """

    def __init__(self, geometry: TomoGeometry) -> None:
        self._layout = ShearLayout(geometry)

    def layout(self, rows: int) -> tuple[SlabRows, ...]:
        """Group `rows` rows into slabs."""
        return slab_rows(rows)

    def slab(self, rows: SlabRows) -> ShearSlab:
        """Make an image of zeros."""
        return ShearSlab(rows, self._layout)

    def operators(self, subset: Subset) -> ShearOperators:
        """Prepare projection at the angles of `subset`."""
        return ShearOperators(self._layout, subset)

    def slab_update(self, slab: Slab, operators: Operators, measurement: Measurement, team: ThreadTeam) -> ShearUpdate:
        """Put together what an algorithm works with in one pass."""
        assert isinstance(slab, ShearSlab)  # noqa: S101
        assert isinstance(operators, ShearOperators)  # noqa: S101
        return ShearUpdate(self._layout, slab, operators, measurement, team)


class ShearProjector(GeometryProjector):
    """Fast projector and its exact adjoint. Parameters as of `GeometryProjector`."""

    def __init__(self, geometry: TomoGeometry, angles: NDArray[np.float64]) -> None:
        super().__init__(geometry, angles)
        self._backend, self._team = ShearBackend(geometry), ThreadTeam()
        slots = np.arange(len(self.angles))
        every = Subset(self.angles, slots, self.angles, slots, np.ones(len(self.angles), np.float32))
        self._operators = self._backend.operators(every)

    def _updates(self, slices: int) -> Iterator[tuple[slice, ShearUpdate]]:
        """Yield what projects some slices at a time, and which these are; nothing is measured."""
        layout = slab_rows(slices)
        nothing = Measurement(HostStore(layout, self.geometry.columns, 0), 0, np.ones(slices, np.float32), None, None)
        for rows in layout:
            update = self._backend.slab_update(self._backend.slab(rows), self._operators, nothing, self._team)
            yield slice(rows.first, rows.first + rows.count), update

    def forward(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Project (N, N, S), 1/pixel, to line integrals (A, C, S); pixels outside the mask count as zero.

        Raises
        ------
        GeometryError
            If the image has another shape.
        """
        self._check_image(image)
        mask = self.geometry.mask()
        sinogram = np.empty((*self.range_shape, image.shape[2]), np.float32)
        for part, update in self._updates(image.shape[2]):
            update.image[mask] = image[mask, part]
            sinogram[self._operators.order, :, part] = update.forward()
        return sinogram

    def back(self, sinogram: NDArray[np.float32]) -> NDArray[np.float32]:
        """Apply the adjoint to (A, C, S), giving (N, N, S), zero outside the mask.

        Raises
        ------
        GeometryError
            If the sinogram has another shape.
        """
        self._check_sinogram(sinogram)
        image = np.empty((*self.domain_shape, sinogram.shape[2]), np.float32)
        for part, update in self._updates(sinogram.shape[2]):
            image[:, :, part] = update.back(sinogram[self._operators.order, :, part])
        return image
