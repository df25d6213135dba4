"""The window's projections, as the kernels want them: slices innermost, in slots. And which projections these are.

Those that a later update may use are kept, never more than a fixed number of them. Line integrals are unitless, angles
radians. What is not finite is kept as NaN: a missing value.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError, DataError, GeometryError
from bluesky_streamrecon.recon.store import HostStore, SlabRows, Store
from bluesky_streamrecon.settings import WINDOW_POLICIES

__all__ = [
    "SlabRows",
    "Spread",
    "Subset",
    "Window",
    "kept_views",
    "most_kept",
    "pass_order",
    "redundant_view",
    "spread_views",
]

GOLDEN = (math.sqrt(5) - 1) / 2

OLDER = 0.5
"""Share of a spread window that is older than the newest."""

_SAME_GAP = 1e-9
"""Radians: equal steps of the stage differ by rounding, which must not decide."""

_FIRST_CAPACITY = 16
_KEPT_WINDOWS = 4


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
    all_slots : ndarray of int64, shape (B,)
        Where all members' projections lie.
    weights : ndarray of float32, shape (B,)
        How much each of these views counts.
    """

    angles: NDArray[np.float64]
    slots: NDArray[np.int64]
    all_angles: NDArray[np.float64]
    all_slots: NDArray[np.int64]
    weights: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Spread:
    """A window that is spread over all angles so far, in part; its defaults are what ``"spread"`` means.

    Parameters
    ----------
    older : float
        Share of the window that is older than the newest, where each update takes in one projection.
    older_of_steps : float
        The same where an update takes in more: the fewer updates there are, the more it helps that the newest are new.
    kept : int or None
        Projections that are kept to choose from, at least as many as are in the window; None: see `kept_views`.
    newest_kept : bool
        These are the newest: the oldest is forgotten, not the one that adds least to the angles.

    Raises
    ------
    ConfigError
        If a share is not from 0 to below 1, or fewer than 1 are to be kept.
    """

    older: float = OLDER
    older_of_steps: float = 0.25
    kept: int | None = None
    newest_kept: bool = False

    def __post_init__(self) -> None:
        for name, share in (("older", self.older), ("older_of_steps", self.older_of_steps)):
            if not 0 <= share < 1:
                raise ConfigError(f"{name}: got {share!r}, expected a share of the window, at least 0 and below 1")
        if self.kept is not None and self.kept < 1:
            raise ConfigError(f"kept: got {self.kept}, expected at least 1 projection, or None")


class Window:
    """Projections of a block of rows.

    Parameters
    ----------
    length : int or None
        Projections used by an update; None uses all, and keeps them.
    columns : int
        Detector columns C.
    slabs : sequence of SlabRows
        How the rows are grouped.
    policy : str or Spread, optional
        ``"newest"``: `length` projections are kept. ``"spread"`` (see `Spread`, `spread_views`): `kept_views` of them;
        when there are more, the one that adds least to the angles is forgotten (see `redundant_view`).
    planned : int, optional
        Projections that are expected. Memory is set aside for them at once; it is doubled as needed if there are more.
    store : callable, optional
        Makes the memory for projections, from the slabs, the detector columns and a number of slots.
    spare : int, optional
        Slots beyond those that are kept: so many projections may come before a slot that was given up is used again.

    Attributes
    ----------
    store : Store
        The projections themselves.
    total : int
        Projections appended so far.

    Raises
    ------
    ConfigError
        If `length` is less than 1, or there is no such policy.
    """

    def __init__(
        self,
        length: int | None,
        columns: int,
        slabs: Sequence[SlabRows],
        *,
        policy: str | Spread = "newest",
        planned: int = 0,
        store: Callable[[Sequence[SlabRows], int, int], Store] = HostStore,
        spare: int = 0,
    ) -> None:
        if length is not None and length < 1:
            raise ConfigError(f"window: got {length}, expected at least 1 projection, or None to keep all")
        if isinstance(policy, str) and policy not in WINDOW_POLICIES:
            raise ConfigError(f"window_policy: got {policy!r}, expected one of {', '.join(WINDOW_POLICIES)}")
        self._length = length
        spread = policy if isinstance(policy, Spread) else Spread() if policy == "spread" else None
        self._spread = None if length is None else spread
        self._limit = _limit(columns, length, policy)
        self._chosen: NDArray[np.int64] | None = None
        self._shape = (sum(slab.count for slab in slabs), columns)
        capacity = self._limit or kept_views(columns, 1)
        if length is None or self._spread is not None:
            capacity = min(max(planned, _FIRST_CAPACITY), capacity)
        self._spare = spare if length is not None else 0
        capacity += self._spare
        self._angles = np.zeros(capacity, np.float64)
        self._weights = np.ones(capacity, np.float32)
        self._order = np.zeros(capacity, np.int64)
        self._free = deque(range(capacity))
        self._kept = 0
        self.store = store(slabs, columns, capacity)
        self.total = 0

    def __len__(self) -> int:
        return self._kept if self._length is None else min(self._kept, self._length)

    @property
    def angles(self) -> NDArray[np.float64]:
        """Angles in the window, in the order of arrival, radians."""
        return self._angles[self.slots]

    @property
    def slots(self) -> NDArray[np.int64]:
        """Slots in use, in the order of arrival."""
        return self.kept_slots[self._kept - len(self) :] if self._chosen is None else self._chosen

    @property
    def kept_slots(self) -> NDArray[np.int64]:
        """Slots of all projections that are kept, in the order of arrival."""
        return self._order[: self._kept]

    def kept(self) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return a copy of all that is kept, oldest first: a window that is given these goes on in the same way.

        Returns
        -------
        angles : ndarray of float64, shape (A,)
            Radians.
        projections : ndarray of float32, shape (A, rows, C)
            Line integrals, unitless.
        """
        slots = self.kept_slots
        projections = np.empty((len(slots), *self._shape), np.float32)
        for projection, slot in zip(projections, slots, strict=True):
            projection[...] = self.store.projection(int(slot))
        return self._angles[slots], projections

    def append(self, projection: NDArray[np.float32], angle: float, weight: float = 1.0) -> None:
        """Append a projection; the window moves on to the newest, until `choose` is called.

        Parameters
        ----------
        projection : ndarray of float32, shape (rows, C)
            Line integrals, unitless.
        angle : float
            Radians.
        weight : float, optional
            How much the view counts; it is in `projection` already.

        Raises
        ------
        DataError
            If the projection has another shape.
        GeometryError
            If the angle is not finite.
        """
        if projection.shape != self._shape:
            raise DataError(
                f"projection {self.total + 1}: got shape {projection.shape}, expected {self._shape} (rows, columns); "
                f"was the detector ROI changed during the run?"
            )
        if not math.isfinite(angle):
            raise GeometryError(f"projection {self.total + 1}: got angle {angle}, expected finite radians")
        slot = self._free_slot()
        self.store.write(slot, projection)
        self._angles[slot], self._weights[slot] = angle, weight
        self._order[self._kept] = slot
        self._kept += 1
        self.total += 1
        self._chosen = None

    def choose(self, number: int, fresh: int) -> bool:
        """Choose the projections of an update, and return whether they are others than before.

        Parameters
        ----------
        number : int
            Updates before this one.
        fresh : int
            Projections since the last update: these are in the window, if it is long enough.
        """
        if self._spread is None or self._length is None or self._kept <= self._length:
            return False
        before = self.slots
        kept = self.kept_slots
        older = self._spread.older if fresh <= 1 else self._spread.older_of_steps
        self._chosen = kept[spread_views(self._angles[kept], self._length, number, fresh, older)]
        return bool((before != self._chosen).any())  # both are as long as the window

    def subset(self, number: int, passes: int, member: int, members: int) -> Subset:
        """Return the projections of pass `number` of `passes`, and of them this member's share.

        Each subset is spread evenly over the half turn; successive passes are far from each other.
        """
        slots = self.slots
        angles = self._angles[slots]
        if passes > 1:
            by_angle = np.argsort(np.mod(angles, math.pi), kind="stable")
            mine = by_angle[pass_order(passes)[number] :: passes]
            slots, angles = slots[mine], angles[mine]
        return Subset(angles[member::members], slots[member::members], angles, slots, self._weights[slots])

    def _free_slot(self) -> int:
        """Return a slot for the next projection: the one that has been free for longest."""
        if self._kept == self._limit:
            place = 0
            if self._spread is not None:
                candidates = 1 if self._spread.newest_kept else max(self._limit - (self._length or 0), 1)
                place = redundant_view(self._angles[self.kept_slots], candidates)
            self._free.append(int(self._order[place]))
            self._order[place : self._kept - 1] = self._order[place + 1 : self._kept]
            self._kept -= 1
        if not self._free:
            self._grow()
        return self._free.popleft()

    def _grow(self) -> None:
        capacity = len(self._angles)
        more = self._kept if self._limit is None else min(self._kept, self._limit + self._spare - capacity)
        self._angles = np.concatenate((self._angles, np.zeros(more)))
        self._weights = np.concatenate((self._weights, np.ones(more, np.float32)))
        self._order = np.concatenate((self._order, np.zeros(more, np.int64)))
        self._free.extend(range(capacity, capacity + more))
        self.store.grow(more)


def kept_views(columns: int, length: int) -> int:
    """Return how many projections a spread window keeps: a fully sampled half turn, and at least four windows.

    Examples
    --------
    >>> kept_views(1024, 24), kept_views(16, 24)
    (1609, 96)
    """
    return max(math.ceil(math.pi / 2 * columns), _KEPT_WINDOWS * length)


def most_kept(columns: int, length: int | None, policy: str | Spread, planned: int) -> int:
    """Return how many projections a window keeps at most, of so many that are planned.

    Examples
    --------
    >>> [most_kept(1024, length, policy, 180) for length, policy in ((24, "newest"), (24, "spread"), (None, "newest"))]
    [24, 180, 180]
    """
    limit = _limit(columns, length, policy)
    return planned if limit is None else min(limit, max(planned, length or 0))


def _limit(columns: int, length: int | None, policy: str | Spread) -> int | None:
    """Return how many projections a window keeps, however many come; None: all."""
    if length is None or policy == "newest":
        return length
    kept = policy.kept if isinstance(policy, Spread) else None
    return kept_views(columns, length) if kept is None else max(kept, length)


def redundant_view(angles: NDArray[np.float64], candidates: int) -> int:
    """Find the projection that the others best make up for: without it, the gap between its neighbours is smallest.

    Where gaps are equal, it is the oldest. Neighbours are those on the full turn: seen from behind, an object that
    reaches beyond the detector is not the same.

    Parameters
    ----------
    angles : ndarray of float64, shape (n,)
        At least two, in the order of arrival, radians.
    candidates : int
        So many of the oldest may be chosen, 1 to n.

    Examples
    --------
    >>> redundant_view(np.radians([0, 90, 45, 135, 60, 182]), 4)
    2
    """
    if candidates == 1:
        return 0
    turned = np.mod(angles, 2 * math.pi)
    order = np.argsort(turned, kind="stable")
    around = turned[order]
    around = np.concatenate((around[-1:] - 2 * math.pi, around, around[:1] + 2 * math.pi))
    gaps = np.empty(len(angles))
    gaps[order] = np.rint((around[2:] - around[:-2]) / _SAME_GAP)
    return int(gaps[:candidates].argmin())


def spread_views(
    angles: NDArray[np.float64], length: int, number: int, fresh: int = 1, older: float = OLDER
) -> NDArray[np.int64]:
    """Choose the newest part of a window, and fill it up with older projections from all angles.

    Older ones are cut by angle into as many strata as are wanted, each as full as the others, and one is taken from
    each; from update to update the place in the stratum moves on by the golden section, so that all have their turn.
    What is chosen depends on nothing but the arguments: it is the same on all ranks, and after a restart.

    Parameters
    ----------
    angles : ndarray of float64, shape (n,)
        Of the projections to choose from, in the order of arrival, radians; they count modulo a half turn.
    length : int
        Projections wanted.
    number : int
        Updates before this one.
    fresh : int, optional
        Newest projections that no update has used yet.
    older : float, optional
        Share of the window for older ones.

    Returns
    -------
    ndarray of int64, shape (min(n, length),)
        Places in `angles`, ascending.

    Examples
    --------
    >>> angles = np.radians([0, 90, 45, 135, 22, 67, 112, 157])
    >>> spread_views(angles, 4, 0), spread_views(angles, 4, 1)
    (array([0, 5, 6, 7]), array([1, 4, 6, 7]))
    """
    total = len(angles)
    newest = min(max(length - int(older * length), fresh), length, total)
    count = total - newest
    wanted = min(length - newest, count)
    by_angle = np.argsort(np.mod(angles[:count], math.pi), kind="stable")
    bounds = np.arange(wanted + 1) * count // max(wanted, 1)
    within = ((number * GOLDEN) % 1 * (bounds[1:] - bounds[:-1])).astype(np.int64)
    return np.concatenate((np.sort(by_angle[bounds[:-1] + within]), np.arange(count, total)))


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
