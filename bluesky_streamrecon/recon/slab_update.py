"""What an algorithm works with: a slab's image, the line integrals it should agree with, and the projector pair.

Images are (N, N, S) float32 in 1/pixel, sinograms (A, C, S) float32 and unitless, slices innermost. The operations
here are plain NumPy and work with any projector; the fast projector replaces each by a kernel. An algorithm
whose updates are `multiply`, `add` or `multiply_smoothly` is as fast as those that come with the package.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.recon.communicator import Group
from bluesky_streamrecon.recon.store import Store
from bluesky_streamrecon.recon.window import Subset

__all__ = [
    "LEAST_ATTENUATION",
    "LEAST_LENGTH",
    "LEAST_VIEW",
    "Measurement",
    "Operators",
    "SlabUpdate",
    "inverse",
    "penalty_scales",
    "relaxed",
    "smoothed",
]

Number = TypeVar("Number", np.float64, np.int64)

LEAST_VIEW = 1e-3
"""A pixel that all projections together see with less weight than this is left as it is."""

LEAST_LENGTH = 1e-3
"""A ray whose path through the image is shorter than this, in pixels, says nothing about it."""

LEAST_ATTENUATION = 1e-12
"""Smallest value of a multiplicative algorithm, 1/pixel: zero could never grow again, less is slow to compute with."""


class Operators(Protocol):
    """A projector for one subset of the window, shared by all slabs."""

    @property
    def subset(self) -> Subset:
        """Angles, and the slots of their projections."""

    @property
    def axis(self) -> float:
        """Detector column of the rotation axis."""

    @property
    def order(self) -> NDArray[np.intp]:
        """Places in the subset of the views of a pass, in the order in which it has them, shape (A,)."""

    @property
    def sensitivity(self) -> NDArray[np.float32]:
        """How strongly all views see each pixel, A' w, w their weights, shape (N, N); of all members of shared rows."""

    @property
    def ray_lengths(self) -> NDArray[np.float32]:
        """Path of each ray through the image, shape (A, C), pixels, in the order of the subset's angles."""

    def release(self) -> None:
        """Release memory; nothing of this object may be used afterwards."""


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """What a pass compares one slab with.

    Parameters
    ----------
    store : Store
        The window's line integrals.
    number : int
        Of the slab.
    typical : ndarray of float32, shape (count,)
        Scale of each slice, 1/pixel.
    neighbours : tuple of ndarray of float32, shape (N, N), or None
        Slices above and below the slab; None where the algorithm does not look at them, or there are none.
    reducer : Group or None
        Sums back-projections; None where rows are not shared.
    """

    store: Store
    number: int
    typical: NDArray[np.float32]
    neighbours: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    reducer: Group | None


class SlabUpdate(ABC):
    """One pass over one slab.

    Parameters
    ----------
    operators : Operators
        Of the views of this pass.
    measurement : Measurement
        What the slab is compared with.
    """

    def __init__(self, operators: Operators, measurement: Measurement) -> None:
        self._operators = operators
        self._measurement = measurement

    @property
    def image(self) -> NDArray[np.float32]:
        """The image itself, shape (N, N, S), 1/pixel; write into it, or assign, to change it."""
        return self._image()

    @image.setter
    def image(self, value: NDArray[np.float32]) -> None:
        own = self._image()
        if value is not own:
            own[...] = value

    @abstractmethod
    def _image(self) -> NDArray[np.float32]:
        """Return the writable view of the image."""

    @property
    def threads(self) -> int:
        """Threads that may be used for this slab alone."""
        return 1

    @property
    def axis(self) -> float:
        """Detector column of the rotation axis."""
        return self._operators.axis

    @property
    def angles(self) -> NDArray[np.float64]:
        """Angles of `measured`, shape (A,), radians."""
        return self._operators.subset.angles[self._operators.order]

    @property
    def all_angles(self) -> NDArray[np.float64]:
        """Angles of this pass over all members, shape (B,), radians: first `angles`, then those of other members."""
        return self._own_first(self.angles, self._operators.subset.all_angles)

    @property
    def measured(self) -> NDArray[np.float32]:
        """Line integrals of this pass, shape (A, C, S); NaN where the detector has no value."""
        return self._measurement.store.read(
            self._measurement.number, self._operators.subset.slots[self._operators.order]
        )

    @property
    def all_measured(self) -> NDArray[np.float32]:
        """Line integrals of this pass over all members, shape (B, C, S), in the order of `all_angles`."""
        subset = self._operators.subset
        slots = self._own_first(subset.slots[self._operators.order], subset.all_slots)
        return self._measurement.store.read(self._measurement.number, slots)

    def _own_first(self, own: NDArray[Number], every: NDArray[Number]) -> NDArray[Number]:
        """Return values of all members' views, `every`, with those of this member before all others."""
        reducer = self._measurement.reducer
        if reducer is None:
            return own
        others = np.arange(len(every)) % reducer.members != reducer.member
        return np.concatenate((own, every[others]))

    @property
    def sensitivity(self) -> NDArray[np.float32]:
        """How strongly all views see each pixel, A' w, w their weights, shape (N, N); of all members of shared rows."""
        return self._operators.sensitivity

    @property
    def ray_lengths(self) -> NDArray[np.float32]:
        """Path of each ray through the image, A 1, shape (A, C), pixels."""
        return self._operators.ray_lengths[self._operators.order]

    @property
    def typical(self) -> NDArray[np.float32]:
        """Attenuation of the uniform image with the measured mass, shape (S,), 1/pixel."""
        return self._measurement.typical

    @abstractmethod
    def forward(self) -> NDArray[np.float32]:
        """Predict line integrals from the image, shape (A, C, S).

        Valid until the next `forward`, `ratio` or `residual`.
        """

    @abstractmethod
    def back(self, sinogram: NDArray[np.float32]) -> NDArray[np.float32]:
        """Back-project (A, C, S) to (N, N, S), summed over members. Valid until `back` is called again."""

    @abstractmethod
    def neighbours(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Slices next to this slab, above and below, each (N, N); its own outermost where the sample ends."""

    def ratio(self, floor: float, relaxation: float = 1.0) -> NDArray[np.float32]:
        """Divide measured by predicted, both at least 0 and `floor`; 1 where nothing was measured.

        Parameters
        ----------
        floor : float
            Smallest predicted line integral that is divided by (unitless).
        relaxation : float, optional
            Share of the difference from 1 that is kept.
        """
        quotient = np.maximum(self.measured, 0) / np.maximum(self.forward(), np.float32(floor))
        return relaxed(np.where(np.isnan(quotient), np.float32(1), quotient), relaxation)

    def residual(self, *, per_length: bool = False) -> NDArray[np.float32]:
        """Subtract predicted from measured, shape (A, C, S); 0 where nothing was measured.

        Parameters
        ----------
        per_length : bool, optional
            Divide by the ray's path through the image.
        """
        difference = np.nan_to_num(self.measured - self.forward(), nan=0.0)
        if per_length:
            difference *= inverse(self.ray_lengths, LEAST_LENGTH)[:, :, None]
        return np.asarray(difference, np.float32)

    def multiply(self, ratio: NDArray[np.float32]) -> None:
        """Multiply each pixel by the mean of its rays' `ratio`: x <- x A' ratio / A' 1."""
        correction = self.back(ratio) * inverse(self.sensitivity, LEAST_VIEW)[:, :, None]
        seen = self.sensitivity[:, :, None] > LEAST_VIEW
        self.image[...] = np.where(seen, np.maximum(self.image * correction, LEAST_ATTENUATION), self.image)

    def add(self, residual: NDArray[np.float32], *, gain: float = 1.0, nonnegative: bool = True) -> None:
        """Add the mean of its rays' `residual` to each pixel: x <- x + gain A' residual / A' 1."""
        gains = np.float32(gain) * inverse(self.sensitivity, LEAST_VIEW)
        changed = self.image + self.back(residual) * gains[:, :, None]
        self.image[...] = np.maximum(changed, 0) if nonnegative else changed

    def multiply_smoothly(self, ratio: NDArray[np.float32], strength: float, edge: float | None) -> None:
        """Multiply like `multiply`, but pull each pixel towards its ten neighbours.

        Parameters
        ----------
        ratio : ndarray of float32, shape (A, C, S)
            Measured over predicted.
        strength : float
            Unitless: a pixel that differs from its neighbours' mean by the typical attenuation is pulled as hard
            as by rays whose measured and predicted values differ by this fraction.
        edge : float or None
            Difference, as a fraction of the typical attenuation, beyond which the pull no longer grows; None:
            it always grows (quadratic penalty).
        """
        old = self.image.copy()
        above, below = (edge.copy() for edge in self.neighbours())
        self.multiply(ratio)
        seen = (self.sensitivity > LEAST_VIEW)[:, :, None]
        smooth = smoothed(old, self.image, above, below, self.typical, strength, edge)
        self.image[...] = np.where(seen, np.maximum(smooth, LEAST_ATTENUATION), old)


def relaxed(ratio: NDArray[np.float32], relaxation: float) -> NDArray[np.float32]:
    """Reduce the difference of `ratio` from 1 to a share of it, in place, and return it."""
    if relaxation != 1:
        ratio *= np.float32(relaxation)
        ratio += np.float32(1 - relaxation)
    return ratio


def inverse(values: NDArray[np.float32], least: float) -> NDArray[np.float32]:
    """Return 1 / values, and 0 where they are not above `least`."""
    large = values > least
    return np.where(large, 1 / np.where(large, values, 1), 0).astype(np.float32)


def penalty_scales(
    width: int, typical: NDArray[np.float32], strength: float, edge: float | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return strength over `typical`, and 1 over (`edge` times `typical`), for each slice of a slab so wide.

    What is beyond the slices is zero, and so is the second where there is no edge.
    """
    scale, sharpness = np.zeros((2, width), np.float32)
    scale[: len(typical)] = strength / typical
    if edge is not None:
        sharpness[: len(typical)] = 1 / (edge * typical)
    return scale, sharpness


def smoothed(
    old: NDArray[np.float32],
    wanted: NDArray[np.float32],
    above: NDArray[np.float32],
    below: NDArray[np.float32],
    typical: NDArray[np.float32],
    strength: float,
    edge: float | None,
) -> NDArray[np.float32]:
    """Solve De Pierro's decoupled penalised step for every pixel.

    With w_j the neighbours' weights (1 over distance, summing to 1), g_j = 1 or 1 / (1 + |x - x_j| / (edge * typical))
    and f = strength / typical, the new value v > 0 solves 2 F v^2 + G v = wanted with F = f sum w_j g_j and
    G = 1 - f sum w_j g_j (x + x_j).

    Parameters
    ----------
    old : ndarray of float32, shape (N, N, S)
        Image before the step; neighbours outside it are zero.
    wanted : ndarray of float32, shape (N, N, S)
        What the step without penalty gives.
    above, below : ndarray of float32, shape (N, N)
        Neighbouring slices.
    typical : ndarray of float32, shape (S,)
        Scale of each slice, 1/pixel.
    strength, edge : float
        See `SlabUpdate.multiply_smoothly`.

    Returns
    -------
    ndarray of float32, shape (N, N, S)
        The new image.
    """
    size = old.shape[0]
    padded = np.pad(old, ((1, 1), (1, 1), (0, 0)))
    padded = np.concatenate(
        (np.pad(above, 1)[:, :, None], padded, np.pad(below, 1)[:, :, None]), axis=2, dtype=np.float32
    )
    per_typical = (1 / typical).astype(np.float32)
    penalty = np.zeros_like(old)
    pull = np.zeros_like(old)
    for dy, dx, dz, weight in NEIGHBOURS:
        other = padded[1 + dy : 1 + dy + size, 1 + dx : 1 + dx + size, 1 + dz : 1 + dz + old.shape[2]]
        share = np.float32(weight * strength) * per_typical
        if edge is not None:
            share = share / (1 + np.abs(old - other) * (per_typical / np.float32(edge)))
        penalty += share
        pull += share * (old + other)
    slope = 1 - pull
    root = np.sqrt(slope * slope + 8 * penalty * wanted)
    steep = np.abs(slope) + root
    return np.where(slope >= 0, 2 * wanted / steep, steep / np.maximum(4 * penalty, np.float32(1e-30)))


_NEAR = 1 / (6 + 4 / 2**0.5)
_DIAGONAL = _NEAR / 2**0.5
NEIGHBOURS = (
    *((dy, dx, 0, _NEAR) for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1))),
    *((dy, dx, 0, _DIAGONAL) for dy, dx in ((-1, -1), (-1, 1), (1, -1), (1, 1))),
    (0, 0, -1, _NEAR),
    (0, 0, 1, _NEAR),
)
"""Neighbours (row, column, slice) of a pixel and their weights: 1 over distance, summing to 1."""
