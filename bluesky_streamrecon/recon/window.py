"""The window's projections, as the kernels want them: slices innermost, in slots. And which projections these are.

Line integrals are unitless, angles radians. What is not finite is kept as NaN: a missing value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.config import WINDOW_POLICIES
from bluesky_streamrecon.errors import ConfigError, DataError, GeometryError

__all__ = ["SlabRows", "Subset", "Window", "pass_order", "spread_views"]

GOLDEN = (math.sqrt(5) - 1) / 2

_FIRST_CAPACITY = 16


@dataclass(frozen=True, slots=True)
class SlabRows:
    """Rows of a block that are reconstructed together: `count` from `first` on, stored `width` wide."""

    first: int
    count: int
    width: int


@dataclass(frozen=True, slots=True, eq=False)
class Subset:
    """Projections of the window that one pass of an algorithm works on.

    Parameters
    ----------
    angles : ndarray of float64, shape (A,)
        Angles of this member's projections, radians.
    slots : ndarray of int64, shape (A,)
        Where those projections lie in the window's arrays.
    all_angles : ndarray of float64, shape (B,)
        Angles of all members' projections; equal to `angles` where rows are not shared.
    """

    angles: NDArray[np.float64]
    slots: NDArray[np.int64]
    all_angles: NDArray[np.float64]


class Window:
    """Projections of a block of rows.

    Parameters
    ----------
    length : int or None
        Projections used by an update; None uses all. Those that may be used again are kept: `length` of them, or all,
        doubling the memory as needed.
    columns : int
        Detector columns C.
    slabs : sequence of SlabRows
        How the rows are grouped.
    policy : str, optional
        ``"newest"``, or ``"spread"`` (see `spread_views`), which keeps all projections.

    Attributes
    ----------
    data : list of ndarray of float32, shape (slots, C, width)
        Line integrals, one array per slab; lanes without a row stay zero.
    total : int
        Projections appended so far.

    Raises
    ------
    ConfigError
        If `length` is less than 1, or there is no such policy.
    """

    def __init__(self, length: int | None, columns: int, slabs: Sequence[SlabRows], *, policy: str = "newest") -> None:
        if length is not None and length < 1:
            raise ConfigError(f"window: got {length}, expected at least 1 projection, or None to keep all")
        if policy not in WINDOW_POLICIES:
            raise ConfigError(f"window_policy: got {policy!r}, expected one of {', '.join(WINDOW_POLICIES)}")
        self._length = length
        self._spread = policy == "spread" and length is not None
        self._grows = self._spread or length is None
        self._chosen: NDArray[np.int64] | None = None
        self._columns = columns
        self._slabs = tuple(slabs)
        self._rows = sum(slab.count for slab in slabs)
        capacity = _FIRST_CAPACITY if self._grows or length is None else length
        self._angles = np.zeros(capacity, np.float64)
        self.data = [np.zeros((capacity, columns, slab.width), np.float32) for slab in slabs]
        self.total = 0

    def __len__(self) -> int:
        return self.total if self._length is None else min(self.total, self._length)

    @property
    def angles(self) -> NDArray[np.float64]:
        """Angles in the window, in the order of arrival, radians."""
        return self._angles[self.slots]

    @property
    def slots(self) -> NDArray[np.int64]:
        """Slots in use, in the order of arrival."""
        if self._chosen is not None:
            return self._chosen
        capacity = len(self._angles)
        return np.arange(self.total - len(self), self.total, dtype=np.int64) % capacity

    def append(self, projection: NDArray[np.float32], angle: float) -> None:
        """Take a projection in; the window moves on to the newest, until `choose` is called.

        Parameters
        ----------
        projection : ndarray of float32, shape (rows, C)
            Line integrals, unitless.
        angle : float
            Radians.

        Raises
        ------
        DataError
            If the projection has another shape.
        GeometryError
            If the angle is not finite.
        """
        if projection.shape != (self._rows, self._columns):
            raise DataError(
                f"projection {self.total + 1}: got shape {projection.shape}, expected "
                f"{(self._rows, self._columns)} (rows, columns); was the detector ROI changed during the run?"
            )
        if not math.isfinite(angle):
            raise GeometryError(f"projection {self.total + 1}: got angle {angle}, expected finite radians")
        if self._grows and self.total == len(self._angles):
            self._grow()
        slot = self.total % len(self._angles)
        for slab, data in zip(self._slabs, self.data, strict=True):
            part = data[slot, :, : slab.count]
            part[...] = projection[slab.first : slab.first + slab.count].T
            if not np.isfinite(part).all():
                part[~np.isfinite(part)] = np.nan
        self._angles[slot] = angle
        self.total += 1
        self._chosen = None

    def choose(self, number: int, fresh: int) -> bool:
        """Choose the projections of an update; say whether they are others than before.

        Parameters
        ----------
        number : int
            Updates before this one.
        fresh : int
            Projections since the last update: these are in the window, if it is long enough.
        """
        if not self._spread or self._length is None or self.total <= self._length:
            return False
        before = self.slots
        self._chosen = spread_views(self._angles[: self.total], self._length, number, fresh)
        return not np.array_equal(before, self._chosen)

    def subset(self, number: int, passes: int, member: int, members: int) -> Subset:
        """Give the projections of pass `number` of `passes`, and of them this member's share.

        Each subset is spread evenly over the half turn; successive passes are far from each other.
        """
        slots = self.slots
        angles = self._angles[slots]
        if passes > 1:
            by_angle = np.argsort(np.mod(angles, math.pi), kind="stable")
            mine = by_angle[pass_order(passes)[number] :: passes]
            slots, angles = slots[mine], angles[mine]
        return Subset(angles[member::members], slots[member::members], angles)

    def _grow(self) -> None:
        self._angles = np.concatenate((self._angles, np.zeros_like(self._angles)))
        self.data = [np.concatenate((data, np.zeros_like(data))) for data in self.data]


def spread_views(angles: NDArray[np.float64], length: int, number: int, fresh: int = 1) -> NDArray[np.int64]:
    """Choose the newest half of a window, and fill it up with older projections from all angles.

    The older ones are cut by angle into as many strata as are wanted, each as full as the others, and one is taken from
    each; from update to update the place in the stratum moves on by the golden section, so that all have their turn.
    What is chosen depends on nothing but the arguments: it is the same on all ranks, and after a restart.

    Parameters
    ----------
    angles : ndarray of float64, shape (n,)
        Angles of all projections so far, in the order of arrival, radians.
    length : int
        Projections wanted.
    number : int
        Updates before this one.
    fresh : int, optional
        Newest projections that no update has used yet.

    Returns
    -------
    ndarray of int64, shape (min(n, length),)
        Places in `angles`, ascending.

    Examples
    --------
    >>> quarter_turns = np.radians([0, 90, 45, 135, 22, 67, 112, 157])
    >>> spread_views(quarter_turns, 4, 0), spread_views(quarter_turns, 4, 1)
    (array([0, 5, 6, 7]), array([1, 4, 6, 7]))
    """
    total = len(angles)
    newest = min(max(length - length // 2, fresh), length, total)
    older = np.arange(total - newest)
    wanted = min(length - newest, len(older))
    if wanted == 0:
        return np.arange(total - newest, total)
    by_angle = older[np.argsort(np.mod(angles[: total - newest], math.pi), kind="stable")]
    edges = np.arange(wanted + 1) * len(older) // wanted
    places = edges[:-1] + np.floor((number * GOLDEN) % 1 * np.diff(edges)).astype(np.int64)
    return np.concatenate((np.sort(by_angle[places]), np.arange(total - newest, total)))


def pass_order(passes: int) -> list[int]:
    """Order of `passes` subsets in which each is far from the one before.

    Steps of the golden section through the cycle, made coprime with its length so that each comes once.

    Examples
    --------
    >>> pass_order(8)
    [0, 5, 2, 7, 4, 1, 6, 3]
    """
    step = max(1, round(passes * (math.sqrt(5) - 1) / 2))
    while math.gcd(step, passes) != 1:
        step += 1
    return [i * step % passes for i in range(passes)]
