"""The backend of a GPU: one slab of all rows, and every operation of `SlabUpdate` on it.

Operations that the algorithms here use run on the GPU and return before they are done. What an algorithm looks at with
NumPy (`image`, `forward`, `back`, a ratio or a residual that is computed with) is copied to the host and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon.cuda.back import INCREASE, MULTIPLY
from bluesky_streamrecon.recon.cuda.detector import DIFFERENCE, PREDICTED, QUOTIENT
from bluesky_streamrecon.recon.cuda.layout import SLICES, SPARE, GpuLayout, group_count
from bluesky_streamrecon.recon.cuda.operators import CudaOperators, Geometry, TablePool
from bluesky_streamrecon.recon.cuda.passes import Comparison, Passes, Penalty, Rule
from bluesky_streamrecon.recon.cuda.slab import CudaSlab
from bluesky_streamrecon.recon.cuda.store import CudaStore
from bluesky_streamrecon.recon.cuda.streams import Stream, device_zeros, download, upload
from bluesky_streamrecon.recon.slab import Backend, Slab, ThreadTeam
from bluesky_streamrecon.recon.slab_update import (
    LEAST_ATTENUATION,
    Measurement,
    Operators,
    SlabUpdate,
    penalty_scales,
)
from bluesky_streamrecon.recon.store import SlabRows, Store
from bluesky_streamrecon.recon.window import Subset

__all__ = ["CudaBackend"]

_GATHERED_BYTES = 256 * 2**20

Edges = tuple[NDArray[np.float32], NDArray[np.float32]]


class DeviceSinogram(NDArrayOperatorsMixin):
    """What a comparison gives, (A, C, S): on the GPU, and not even computed, until somebody looks at it.

    It may be used like an array; from then on it is one, in the host's memory.
    """

    def __init__(self, problem: CudaUpdate, how: Comparison) -> None:
        self.how = how
        self.values: NDArray[np.float32] | None = None  # if somebody looked at it
        self._problem = problem

    def look(self) -> NDArray[np.float32]:
        """Return the array."""
        if self.values is None:
            self.values = self._problem.compared(self.how)
        return self.values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        found = self.look()
        return found.astype(dtype or found.dtype, copy=bool(copy))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if "out" in options:
            options["out"] = tuple(_looked(value) for value in options["out"])
        return getattr(ufunc, method)(*(_looked(value) for value in inputs), **options)

    def __getitem__(self, index: Any) -> Any:
        return self.look()[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self.look()[index] = value

    def __len__(self) -> int:
        return len(self.look())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.look(), name)


def _looked(value: Any) -> Any:
    return value.look() if isinstance(value, DeviceSinogram) else value


class CudaUpdate(SlabUpdate):
    """One pass over all rows. Sinograms are in the order of the tables: steep angles first."""

    _operators: CudaOperators

    def __init__(
        self, backend: CudaBackend, slab: CudaSlab, operators: CudaOperators, measurement: Measurement
    ) -> None:
        assert isinstance(measurement.store, CudaStore)  # noqa: S101 - what the backend made
        super().__init__(operators, measurement)
        slab.take_back()
        self._backend = backend
        self._passes = backend.passes
        self._slab = slab
        self._store = measurement.store
        self._pending: DeviceSinogram | None = None
        self._passes.reserve(operators.count)
        self._store.hand_over(operators.subset.slots, self._passes.stream)

    def _image(self) -> NDArray[np.float32]:
        self._settle()
        return self._slab.lend()

    def neighbours(self) -> Edges:
        self._settle()
        return self._measurement.neighbours or self._slab.edges()

    def forward(self) -> NDArray[np.float32]:
        self._settle()
        return self.compared(Comparison(PREDICTED))

    def ratio(self, floor: float, relaxation: float = 1.0) -> NDArray[np.float32]:
        return self._later(Comparison(QUOTIENT, floor, relaxation))

    def residual(self, *, per_length: bool = False) -> NDArray[np.float32]:
        return self._later(Comparison(DIFFERENCE, per_length=per_length))

    def _later(self, how: Comparison) -> NDArray[np.float32]:
        self._settle()
        self._pending = DeviceSinogram(self, how)
        return cast("NDArray[np.float32]", self._pending)

    def _settle(self) -> None:
        """Compute what was put off, since the image may change now."""
        if self._pending is not None:
            self._pending.look()
            self._pending = None

    def compared(self, how: Comparison) -> NDArray[np.float32]:
        """Compare now, and copy the result, (A, C, S), to the host."""
        self._slab.to_gpu()
        self._passes.compare(self._slab, self._operators, self._store, how)
        shape = (self._slab.groups, self._operators.count, self._backend.layout_of.geometry.columns, SLICES)
        found = np.empty(shape, np.float32)
        download(self._passes.sinogram, 0, found, self._passes.stream)
        self._passes.stream.synchronize()
        turned = found.transpose(1, 2, 0, 3).reshape(*shape[1:3], -1)
        return np.ascontiguousarray(turned[:, :, : self._slab.rows.count])

    def _bring(self, sinogram: NDArray[np.float32]) -> Comparison | None:
        """Return the comparison that `sinogram` stands for; else copy it to the GPU."""
        given: Any = sinogram
        if given is self._pending and self._pending is not None and self._pending.values is None:
            how: Comparison = self._pending.how
            self._pending = None
            return how
        self._settle()
        count, columns = self._operators.count, self._backend.layout_of.geometry.columns
        padded = np.zeros((count, columns, SLICES * self._slab.groups), np.float32)
        padded[:, :, : self._slab.rows.count] = np.asarray(given)
        turned = padded.reshape(count, columns, self._slab.groups, SLICES).transpose(2, 0, 1, 3)
        upload(self._passes.sinogram, 0, np.ascontiguousarray(turned), self._passes.stream)
        self._passes.stream.synchronize()
        return None

    def _step(self, sinogram: NDArray[np.float32], rule: Rule | Penalty) -> None:
        how = self._bring(sinogram)
        self._slab.to_gpu()
        self._passes.step(self._slab, self._operators, self._store, how, rule)
        self._slab.changed()

    def multiply(self, ratio: NDArray[np.float32]) -> None:
        self._step(ratio, Rule(MULTIPLY, 1.0, LEAST_ATTENUATION))

    def add(self, residual: NDArray[np.float32], *, gain: float = 1.0, nonnegative: bool = True) -> None:
        self._step(residual, Rule(INCREASE, gain, 0.0 if nonnegative else -np.inf))

    def multiply_smoothly(self, ratio: NDArray[np.float32], strength: float, edge: float | None) -> None:
        if len(self._slab.other) != len(self._slab.image):  # the algorithm did not say that it is coupled
            super().multiply_smoothly(ratio, strength, edge)
            return
        neighbours = self._measurement.neighbours
        if neighbours is not None:
            self._slab.set_neighbours(neighbours)
        self._step(ratio, self._backend.penalty(strength, edge, self.typical, edges=0 if neighbours is None else 3))

    def back(self, sinogram: NDArray[np.float32]) -> NDArray[np.float32]:
        rows, groups, size = self._slab.rows.count, self._slab.groups, self._backend.layout_of.geometry.size
        result = np.zeros((size, size, rows), np.float32)
        if (how := self._bring(sinogram)) is not None:
            self._slab.to_gpu()
            self._passes.compare(self._slab, self._operators, self._store, how)
        for first, target in self._backend.gathering(groups):
            count = min(len(target) // (SLICES * size * size), groups - first)
            self._passes.gather(self._operators, target, first, count)
            part = np.empty((count, size, size, SLICES), np.float32)
            download(target, 0, part, self._passes.stream)
            self._passes.stream.synchronize()
            for number in range(SLICES * first, min(SLICES * (first + count), rows)):
                result[:, :, number] = part[number // SLICES - first, :, :, number % SLICES]
        result[~self._backend.layout_of.mask] = 0
        return result


class CudaBackend(Backend):
    """The fast projector on a GPU, which has been selected for this thread.

    Parameters
    ----------
    geometry : TomoGeometry
        Shared by all slices.
    coupled : bool, optional
        Whether the algorithm looks at neighbouring slices.

    Attributes
    ----------
    layout_of : GpuLayout
        Sizes.
    passes : Passes
        What is launched; there is only one slab.
    """

    spare = SPARE
    asynchronous = True

    def __init__(self, geometry: TomoGeometry, *, coupled: bool = False) -> None:
        self.layout_of = GpuLayout(geometry)
        self._stream = Stream()
        self._coupled = coupled
        self._geometry = Geometry(self.layout_of, self._stream)
        self._pool = TablePool(self._geometry)
        self._gathered: Any = None
        self._scale: Any = None
        self._sharpness: Any = None
        self._penalty: tuple[object, ...] | None = None

    def layout(self, rows: int) -> tuple[SlabRows, ...]:
        """Return one slab of all rows."""
        return (SlabRows(0, rows, SLICES * group_count(rows)),)

    def slab(self, rows: SlabRows) -> CudaSlab:
        """Make an image of zeros."""
        self.passes = Passes(self._geometry, group_count(rows.count))
        self._scale, self._sharpness = (device_zeros(rows.width) for _ in range(2))
        return CudaSlab(rows, self.layout_of, self._stream, coupled=self._coupled)

    def store(self, slabs: Sequence[SlabRows], columns: int, capacity: int) -> Store:
        """Make memory for so many projections."""
        return CudaStore(slabs, columns, capacity, self.passes.progress)

    def operators(self, subset: Subset) -> CudaOperators:
        """Return the operators that project, and back-project, at the angles of `subset`."""
        if len(subset.all_angles) != len(subset.angles):
            raise ConfigError(
                "share: rows can not be shared among ranks on a GPU; expected share = 1, or backend = 'cpu'"
            )
        return CudaOperators(self._geometry, self._pool, subset)

    def slab_update(self, slab: Slab, operators: Operators, measurement: Measurement, team: ThreadTeam) -> CudaUpdate:  # noqa: ARG002
        """Put together what an algorithm works with in one pass."""
        assert isinstance(slab, CudaSlab)  # noqa: S101
        assert isinstance(operators, CudaOperators)  # noqa: S101
        return CudaUpdate(self, slab, operators, measurement)

    def penalty(self, strength: float, edge: float | None, typical: NDArray[np.float32], *, edges: int) -> Penalty:
        """Return a penalty, with its scales on the GPU; they are copied when they change."""
        wanted = (strength, edge, typical.tobytes())
        if wanted != self._penalty:
            self._penalty = wanted
            scales = penalty_scales(len(self._scale), typical, strength, edge)
            for target, values in zip((self._scale, self._sharpness), scales, strict=True):
                upload(target, 0, values, self._stream)
                self._stream.synchronize()
        return Penalty(self._scale, self._sharpness, edge is not None, edges)

    def gathering(self, groups: int) -> Sequence[tuple[int, Any]]:
        """Return the groups with which each part of a whole back projection begins, and memory for a part."""
        each = SLICES * self.layout_of.geometry.size**2
        most = min(groups, max(1, _GATHERED_BYTES // (4 * each)))
        if self._gathered is None:
            self._gathered = device_zeros(most * each)
        return [(first, self._gathered) for first in range(0, groups, most)]

    def finish(self) -> None:
        """Wait until all passes are done."""
        self._stream.synchronize()

    def close(self) -> None:
        """Release recorded graphs."""
        self.passes.close()
