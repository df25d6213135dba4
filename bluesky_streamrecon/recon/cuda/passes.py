"""A pass over the window, as launches: tables if they are new, forward, comparison, spreading, back and the update.

What a pass launches depends on few things, which are its key. The second time that a key comes, the launches are
recorded as a graph; from then on a pass takes the host a tenth of a millisecond.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bluesky_streamrecon.recon.cuda.back import GATHER, back_update
from bluesky_streamrecon.recon.cuda.detector import compare, spread
from bluesky_streamrecon.recon.cuda.forward import forward
from bluesky_streamrecon.recon.cuda.layout import SLICES
from bluesky_streamrecon.recon.cuda.operators import CudaOperators, Geometry
from bluesky_streamrecon.recon.cuda.sizes import BACK_BYTES, BACK_THREADS, FORWARD_BYTES, FORWARD_THREADS, REPEAT
from bluesky_streamrecon.recon.cuda.slab import CudaSlab
from bluesky_streamrecon.recon.cuda.smooth import back_hybrid, back_quadratic
from bluesky_streamrecon.recon.cuda.store import CudaStore
from bluesky_streamrecon.recon.cuda.streams import Event, Launcher, Progress, Recorder, Stream, device_zeros, upload
from bluesky_streamrecon.recon.slab_update import LEAST_ATTENUATION

__all__ = ["Comparison", "Passes", "Penalty", "Rule"]

_forward = Launcher(forward, FORWARD_THREADS, FORWARD_BYTES)
_compare, _spread = Launcher(compare, 128), Launcher(spread, 128)
_update = Launcher(back_update, BACK_THREADS, BACK_BYTES)
_quadratic = Launcher(back_quadratic, BACK_THREADS, BACK_BYTES)
_hybrid = Launcher(back_hybrid, BACK_THREADS, BACK_BYTES)


class Comparison(NamedTuple):
    """How predicted line integrals are compared with measured ones; see `detector.compare`."""

    kind: int
    floor: float = 0.0
    relaxation: float = 1.0
    per_length: bool = False


class Rule(NamedTuple):
    """How a pixel is changed, given its back projection; see `back.back_update`."""

    kind: int
    factor: float
    least: float


class Penalty(NamedTuple):
    """How a pixel is pulled towards its neighbours; see `smooth`.

    Parameters
    ----------
    scale, sharpness : device array of float32, shape (4 groups,)
        Strength over typical attenuation; 1 over (edge times typical attenuation).
    hybrid : bool
        Whether the pull stops growing at the edge.
    edges : int
        Which slices of neighbouring blocks are known.
    """

    scale: Any
    sharpness: Any
    hybrid: bool
    edges: int


class Passes:
    """Working memory of passes, and the graphs that were recorded.

    Parameters
    ----------
    geometry : Geometry
        Of the image.
    groups : int
        Groups of four slices.

    Attributes
    ----------
    sinogram : device array of float32, shape (groups, A, C, 4)
        What was compared last, or is to be spread.
    """

    def __init__(self, geometry: Geometry, groups: int) -> None:
        self._geometry = geometry
        self._groups = groups
        self._most = 0
        self._lines = self._back_lines = self.sinogram = self._ones = device_zeros(SLICES)
        self._recorder = Recorder(geometry.stream)
        self.progress = Progress(geometry.stream)

    @property
    def stream(self) -> Stream:
        """Stream of all passes."""
        return self._geometry.stream

    def reserve(self, angles: int) -> None:
        """Allocate memory for passes of so many angles."""
        if angles <= self._most:
            return
        layout = self._geometry.layout
        self.stream.synchronize()
        self.close()
        self._most = angles
        self._lines = self._back_lines = self.sinogram = None  # given back before more is taken
        each = SLICES * self._groups * angles
        self._lines, self._back_lines = (device_zeros(2 * layout.length * each) for _ in range(2))
        self.sinogram = device_zeros(layout.geometry.columns * each)
        self._ones = device_zeros(angles * layout.geometry.columns)
        upload(self._ones, 0, np.ones(angles * layout.geometry.columns, np.float32), self.stream)
        self.stream.synchronize()

    def close(self) -> None:
        """Release recorded graphs."""
        self._recorder.close()

    def compare(self, slab: CudaSlab, operators: CudaOperators, store: CudaStore, how: Comparison) -> None:
        """Project the image and compare it, into `sinogram`."""
        self.progress.begin()
        gains_known = self._forward(slab, operators, store, how)
        if gains_known is not None:
            self.stream.wait_for(gains_known)
        self._spread(operators)  # which clears the lines of the way forward
        operators.prepared(weights=how.per_length)
        self.progress.end()

    def step(
        self,
        slab: CudaSlab,
        operators: CudaOperators,
        store: CudaStore,
        how: Comparison | None,
        rule: Rule | Penalty,
    ) -> None:
        """Compare, unless `sinogram` holds already what is to be spread, and update the image."""
        self.progress.begin()
        penalty = rule if isinstance(rule, Penalty) else None
        key = (
            how, (penalty.hybrid, penalty.edges) if penalty is not None else rule, operators.count, operators.steep,
            operators.fresh, operators.weighted, operators.tables.number, slab.turn, store.version,
        )  # fmt: skip

        def launch() -> None:
            gains_known = None
            if how is not None:
                gains_known = self._forward(slab, operators, store, how)
            else:
                gains_known = operators.prepare(weights=False)
            self._spread(operators)
            if gains_known is not None:
                self.stream.wait_for(gains_known)
            if penalty is not None:
                self._smooth(slab, operators, penalty)
            else:
                assert isinstance(rule, Rule)  # noqa: S101
                self._back(slab.image, self._groups, 0, operators, rule)

        self._recorder.run(key, launch)
        operators.prepared(weights=how is not None and how.per_length)
        if penalty is not None:
            slab.exchange()
        self.progress.end()

    def gather(self, operators: CudaOperators, target: Any, first: int, count: int) -> None:
        """Back-project `sinogram` to some groups of slices, written to ``target``, (count, N, N, 4)."""
        if first == 0:
            self.progress.begin()
            gains_known = operators.prepare(weights=False)
            operators.prepared(weights=False)
            if gains_known is not None:
                self.stream.wait_for(gains_known)
            self._spread(operators)
            self.progress.end()
        self._back(target, count, first, operators, Rule(GATHER, 1.0, 0.0))

    def _forward(self, slab: CudaSlab, operators: CudaOperators, store: CudaStore, how: Comparison) -> Event | None:
        layout, found, groups = self._geometry.layout, operators.tables, self._groups
        g = layout.geometry
        gains_known = operators.prepare(weights=how.per_length)
        tiles = self._geometry.forward_tiles
        _forward(
            (len(tiles), groups), self.stream, slab.image, g.size, tiles, operators.count, operators.steep,
            layout.side, layout.origin, layout.length, found.heights, found.offsets, found.evens, found.middles,
            found.halves, found.seen, self._lines,
        )  # fmt: skip
        _compare(
            (-(-g.columns // 128), operators.count, -(-groups // REPEAT)), self.stream, how.kind, self._lines,
            store.data, found.slots, found.larges, operators.count, g.half, float(g.axis), g.columns, groups,
            layout.origin, layout.length, how.floor, how.relaxation,
            found.weights if how.per_length else self._ones, self.sinogram,
        )  # fmt: skip
        return gains_known

    def _spread(self, operators: CudaOperators) -> None:
        """Spread `sinogram`, and clear the lines of the way forward."""
        layout, found = self._geometry.layout, operators.tables
        g = layout.geometry
        _spread(
            (-(-layout.reach // 128), 2 * operators.count, -(-self._groups // REPEAT)), self.stream, self.sinogram,
            found.larges, operators.count, g.half, float(g.axis), g.columns, self._groups, layout.origin,
            layout.length, found.seen, self._back_lines, self._lines,
        )  # fmt: skip

    def _back(self, image: Any, groups: int, first: int, operators: CudaOperators, rule: Rule) -> None:
        layout, found, tiles = self._geometry.layout, operators.tables, self._geometry.back_tiles
        _update(
            (len(tiles), groups), self.stream, rule.kind, self._back_lines, first, layout.geometry.size, tiles,
            operators.count, operators.steep, layout.side, layout.length, found.back_offsets, found.back_starts,
            found.seen, found.gains, float(rule.factor), float(rule.least), image,
        )  # fmt: skip

    def _smooth(self, slab: CudaSlab, operators: CudaOperators, penalty: Penalty) -> None:
        layout, found, tiles = self._geometry.layout, operators.tables, self._geometry.back_tiles
        common = (
            self._back_lines, layout.geometry.size, tiles, operators.count, operators.steep, layout.side,
            layout.length, found.back_offsets, found.back_starts, found.seen, found.gains, LEAST_ATTENUATION,
            slab.image, slab.rows.count - 1, penalty.scale,
        )  # fmt: skip
        edges = (penalty.edges, slab.above, slab.below, slab.other)
        grid = (self._groups, len(tiles))
        if penalty.hybrid:
            _hybrid(grid, self.stream, *common, penalty.sharpness, *edges)
        else:
            _quadratic(grid, self.stream, *common, *edges)
