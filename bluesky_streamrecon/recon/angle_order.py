"""Angles that are kept in order while some come and some go, so that nothing has to be sorted for each projection."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["HALF_TURN", "TURN", "AngleOrder"]

TURN, HALF_TURN = 2 * math.pi, math.pi


class AngleOrder:
    """Angles modulo a period, in ascending order, equal ones as they came.

    Parameters
    ----------
    period : float
        Radians.
    capacity : int
        Angles that there is room for at first.
    """

    def __init__(self, period: float, capacity: int) -> None:
        self._period = period
        self._angles = np.zeros(capacity, np.float64)
        self._keys = np.zeros(capacity, np.int64)
        self._count = 0

    @classmethod
    def of(cls, angles: NDArray[np.float64], period: float) -> AngleOrder:
        """Return angles, (n,), radians, in order; their keys are their places."""
        order = cls(period, 1)
        reduced = np.mod(angles, period, dtype=np.float64)
        order._keys = np.argsort(reduced, kind="stable")
        order._angles, order._count = reduced[order._keys], len(reduced)
        return order

    @property
    def angles(self) -> NDArray[np.float64]:
        """The angles, 0 to the period, radians."""
        return self._angles[: self._count]

    @property
    def keys(self) -> NDArray[np.int64]:
        """What they were added with."""
        return self._keys[: self._count]

    def add(self, angle: float, key: int) -> None:
        """Take an angle in, radians, any range, under a key that no other has."""
        from bluesky_streamrecon.recon.kernels.angles import insert

        if self._count == len(self._angles):
            self._angles = np.concatenate((self._angles, np.zeros_like(self._angles)))
            self._keys = np.concatenate((self._keys, np.zeros_like(self._keys)))
        insert(self._angles, self._keys, self._count, angle % self._period, key)
        self._count += 1

    def remove(self, key: int) -> None:
        """Let the angle with this key go."""
        from bluesky_streamrecon.recon.kernels.angles import remove

        remove(self._angles, self._keys, self._count, key)
        self._count -= 1
