"""Slabs for any projector, a user's own included: plain arrays, NumPy between projections."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError, GeometryError
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon.projector import Projector, ProjectorFactory
from bluesky_streamrecon.recon.slab import Backend, Slab, ThreadTeam
from bluesky_streamrecon.recon.slab_update import Measurement, Operators, SlabUpdate
from bluesky_streamrecon.recon.store import SlabRows
from bluesky_streamrecon.recon.window import Subset

__all__ = ["PlainBackend"]

_WIDTH = 8


class PlainSlab(Slab):
    """Image as one array (N, N, count)."""

    def __init__(self, rows: SlabRows, mask: NDArray[np.bool_]) -> None:
        self.rows = rows
        self._mask = mask
        self.image = np.zeros((*mask.shape, rows.count), np.float32)

    def read(self, row: int) -> NDArray[np.float32]:
        return self.image[:, :, row]

    def write(self, row: int, image: NDArray[np.float32]) -> None:
        self.image[:, :, row] = np.where(self._mask, image, 0)

    def fill(self, values: NDArray[np.float32]) -> None:
        self.image[...] = self._mask[:, :, None] * values

    def edges(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self.read(0).copy(), self.read(self.rows.count - 1).copy()


class PlainOperators:
    """A projector, and what it makes of an image and a sinogram of ones."""

    def __init__(self, factory: ProjectorFactory, geometry: TomoGeometry, subset: Subset) -> None:
        self.subset = subset
        self.axis = geometry.axis
        self.order = np.arange(len(subset.angles))
        self.projector: Projector = factory(geometry, subset.angles)
        expected = ((geometry.size, geometry.size), (len(subset.angles), geometry.columns))
        got = (tuple(self.projector.domain_shape), tuple(self.projector.range_shape))
        if got != expected:
            raise ConfigError(
                f"projector {factory!r}: got domain and range shape {got}, expected {expected} for image and sinogram"
            )
        shared = len(subset.all_angles) != len(subset.angles)
        everyone = factory(geometry, subset.all_angles) if shared else self.projector
        ones = np.ones((len(subset.all_angles), geometry.columns, 1), np.float32) * subset.weights[:, None, None]
        self.mask = geometry.mask()
        seen = _shaped(everyone.back(ones), (*self.mask.shape, 1), "back")
        self.sensitivity = seen[:, :, 0] * self.mask
        lengths = self.projector.forward(self.mask[:, :, None].astype(np.float32))
        self.ray_lengths: NDArray[np.float32] = _shaped(lengths, (*expected[1], 1), "forward")[:, :, 0]

    def release(self) -> None:
        """Nothing is kept for reuse."""


class PlainUpdate(SlabUpdate):
    """One pass over a plain slab."""

    _operators: PlainOperators

    def __init__(self, slab: PlainSlab, operators: PlainOperators, measurement: Measurement) -> None:
        super().__init__(operators, measurement)
        self._slab = slab

    def _image(self) -> NDArray[np.float32]:
        return self._slab.image

    def forward(self) -> NDArray[np.float32]:
        lines = self._operators.projector.forward(self.image)
        return _shaped(lines, (len(self.angles), self._operators.ray_lengths.shape[1], self.image.shape[2]), "forward")

    def back(self, sinogram: NDArray[np.float32]) -> NDArray[np.float32]:
        image = self._operators.projector.back(sinogram)
        image = (
            _shaped(image, (*self._operators.mask.shape, sinogram.shape[2]), "back") * self._operators.mask[:, :, None]
        )
        if self._measurement.reducer is not None:
            image = np.ascontiguousarray(image)
            self._measurement.reducer.sum(image)
        return image

    def neighbours(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._measurement.neighbours or self._slab.edges()


def _shaped(array: NDArray[np.float32], expected: tuple[int, ...], what: str) -> NDArray[np.float32]:
    """Refuse what a projector returned in another shape: NumPy would spread one slice over all of them."""
    if array.shape != expected:
        raise GeometryError(f"projector: {what} gave shape {array.shape}, expected {expected}, slices last")
    return array


class PlainBackend(Backend):
    """Any projector, applied to plain arrays.

    Parameters
    ----------
    geometry : TomoGeometry
        Shared by all slices.
    factory : callable
        Makes the projector for a list of angles.
    """

    def __init__(self, geometry: TomoGeometry, factory: ProjectorFactory) -> None:
        self._geometry = geometry
        self._factory = factory
        self._mask = geometry.mask()

    def layout(self, rows: int) -> tuple[SlabRows, ...]:
        """Group `rows` rows into slabs."""
        return tuple(
            SlabRows(first, min(_WIDTH, rows - first), min(_WIDTH, rows - first)) for first in range(0, rows, _WIDTH)
        )

    def slab(self, rows: SlabRows) -> PlainSlab:
        """Make an image of zeros."""
        return PlainSlab(rows, self._mask)

    def operators(self, subset: Subset) -> PlainOperators:
        """Return the operators that project, and back-project, at the angles of `subset`."""
        return PlainOperators(self._factory, self._geometry, subset)

    def slab_update(self, slab: Slab, operators: Operators, measurement: Measurement, team: ThreadTeam) -> PlainUpdate:  # noqa: ARG002
        """Put together what an algorithm works with in one pass."""
        assert isinstance(slab, PlainSlab)  # noqa: S101
        assert isinstance(operators, PlainOperators)  # noqa: S101
        return PlainUpdate(slab, operators, measurement)
