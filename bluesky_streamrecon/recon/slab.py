"""Slabs: rows of a block that are reconstructed together, and who computes with them.

A backend knows how a slab's image is stored and how a projector is applied to it. The engine only deals slabs
to threads. Images are float32, 1/pixel.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.recon.slab_update import Measurement, Operators, SlabUpdate
from bluesky_streamrecon.recon.store import HostStore, SlabRows, Store
from bluesky_streamrecon.recon.window import Subset

__all__ = ["Backend", "Slab", "ThreadTeam"]

_ALIGNMENT = 64


class ThreadTeam:
    """Threads that work on one slab together, and the memory they work in.

    Parameters
    ----------
    size : int
        Threads.
    executor : Executor or None
        Runs all but the first share; None where the team is one thread.
    """

    def __init__(self, size: int = 1, executor: Executor | None = None) -> None:
        self.size = size
        self._executor = executor
        self._memory: dict[str, NDArray[np.float32]] = {}

    def run(self, share: Callable[[int], None]) -> None:
        """Call ``share(0) .. share(size - 1)``, side by side, and wait for all."""
        if self._executor is None or self.size == 1:
            for number in range(self.size):
                share(number)
            return
        others = [self._executor.submit(share, number) for number in range(1, self.size)]
        try:
            share(0)
        finally:
            errors = [other.exception() for other in others]
        for error in errors:
            if error is not None:
                raise error

    def scratch(self, name: str, shape: Sequence[int]) -> NDArray[np.float32]:
        """Return aligned memory of `shape` that keeps its content until `name` is asked for again, larger."""
        count = math.prod(shape)
        memory = self._memory.get(name)
        if memory is None or memory.size < count:
            memory = self._memory[name] = aligned_zeros((count,))
        return memory[:count].reshape(shape)


def aligned_zeros(shape: Sequence[int]) -> NDArray[np.float32]:
    """Return a float32 array of zeros whose first element starts a cache line."""
    count = math.prod(shape)
    memory = np.zeros(count * 4 + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + count * 4].view(np.float32).reshape(shape)


class Slab(ABC):
    """The image of some neighbouring rows."""

    rows: SlabRows

    @abstractmethod
    def read(self, row: int) -> NDArray[np.float32]:
        """Return a view of the image of `row` (counted within the slab), shape (N, N): the next pass changes it."""

    def begin_read(self, rows: Sequence[int]) -> Callable[[], NDArray[np.float32]]:
        """Return how to get a copy of some rows as they are now, shape (k, N, N); a GPU may still have to make it."""
        copies = np.stack([self.read(row) for row in rows])
        return lambda: copies

    @abstractmethod
    def write(self, row: int, image: NDArray[np.float32]) -> None:
        """Replace the image of `row`; outside the mask it becomes zero."""

    @abstractmethod
    def fill(self, values: NDArray[np.float32]) -> None:
        """Make every row uniform, with one of `values`, shape (count,), 1/pixel; outside the mask it becomes zero."""

    @abstractmethod
    def edges(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return first and last slice, shape (N, N), as they are now: not changed by the next pass."""


class Backend(ABC):
    """How images are stored and projected.

    Attributes
    ----------
    spare : int
        Slots of a store beyond those in use that this backend can make use of.
    asynchronous : bool
        Whether a pass is only begun when it returns.
    """

    spare: int = 0
    asynchronous: bool = False

    def store(self, slabs: Sequence[SlabRows], columns: int, capacity: int) -> Store:
        """Make memory for so many projections."""
        return HostStore(slabs, columns, capacity)

    @abstractmethod
    def layout(self, rows: int) -> tuple[SlabRows, ...]:
        """Group `rows` rows into slabs."""

    @abstractmethod
    def slab(self, rows: SlabRows) -> Slab:
        """Make an image of zeros."""

    @abstractmethod
    def operators(self, subset: Subset) -> Operators:
        """Return the operators that project, and back-project, at the angles of `subset`."""

    @abstractmethod
    def slab_update(self, slab: Slab, operators: Operators, measurement: Measurement, team: ThreadTeam) -> SlabUpdate:
        """Put together what an algorithm works with in one pass."""

    def finish(self) -> None:  # noqa: B027 - most are never behind
        """Wait until all that was asked for is done."""

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Release what is held."""
