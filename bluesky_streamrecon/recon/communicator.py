"""How ranks agree, add up and exchange edges; the only module that imports mpi4py, and only when it is used.

MPI's blocking calls keep a core busy while they wait, and a job waits for the detector most of its life. So every
operation here is started without blocking and looked at again after pauses that grow from nothing to a few
milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.cores import own_cores
from bluesky_streamrecon.gpus import visible_gpus
from bluesky_streamrecon.partition import RowBlock

__all__ = [
    "Agreement",
    "Communicator",
    "Group",
    "MpiCommunicator",
    "Neighbours",
    "core_share",
    "neighbours",
    "place_among_alike",
]

_BUSY_LOOKS = 200
_SHORTEST_PAUSE = 1e-4
_LONGEST_PAUSE = 5e-3

_MOST_CORES = 4096
_HALO_UP, _HALO_DOWN = 11, 12


class Agreement:
    """Minimum of each of some values over all ranks; of one rank, the values themselves."""

    def __init__(self, values: Sequence[int]) -> None:
        self._least = np.asarray(values, dtype=np.int64)

    def done(self) -> bool:
        """Return whether every rank has contributed; does not wait."""
        return True

    @property
    def values(self) -> tuple[int, ...]:
        """The minima; valid once `done` returned True."""
        return tuple(int(value) for value in self._least)


class Communicator:
    """What the job needs of the other ranks; here, of one rank without MPI, there are none.

    All ranks make the same calls in the same order.

    Attributes
    ----------
    check : callable
        Called now and then while something is waited for; may raise.
    rank, size : int
        Number of this rank, 0-based, and number of ranks.
    cores : int
        Cores that this rank may use for itself.
    host : (int, int)
        Number of this rank among those of its host that see the same GPUs, if any, and how many these are.
    """

    def __init__(self) -> None:
        self.check: Callable[[], object] = lambda: None
        self.rank, self.size, self.host = 0, 1, (0, 1)
        self.cores = len(own_cores())

    def begin_minimum(self, values: Sequence[int]) -> Agreement:
        """Start to find the minimum of each value over all ranks."""
        return Agreement(values)

    def minimum(self, values: Sequence[int]) -> tuple[int, ...]:
        """Find the minimum of each value over all ranks."""
        return tuple(values)

    def sum(self, array: NDArray[np.float64] | NDArray[np.float32]) -> None:
        """Add up over all ranks, in place."""

    def group(self, blocks: Sequence[RowBlock]) -> Group | None:  # noqa: ARG002 - those with MPI need them
        """Connect ranks that share rows or hold neighbouring ones; None if this one is alone."""
        return None

    def abort(self, code: int) -> NoReturn:
        """End all ranks at once."""
        raise SystemExit(code)


def core_share(mine: Collection[int], users: Sequence[int] | NDArray[np.int64]) -> int:
    """Return the number of threads for a rank, where ranks of a host may use the same cores.

    Parameters
    ----------
    mine : collection of int
        Cores that this rank may use.
    users : sequence of int
        For each core of the host, how many ranks may use it.

    Examples
    --------
    >>> core_share({0, 1, 2, 3}, [2, 2, 2, 2]), core_share({0, 1}, [1, 1, 1, 1]), core_share({0}, [3])
    (2, 2, 1)
    """
    return max(1, int(sum(1 / users[core] for core in mine) + 1e-9))


def place_among_alike(seen: Sequence[object], rank: int) -> tuple[int, int]:
    """Return the place of a rank among those of its host that see the same GPUs, and how many these are.

    Parameters
    ----------
    seen : sequence
        What each rank of the host sees.
    rank : int
        Whose place is wanted, 0-based.

    Examples
    --------
    All four ranks see the same two GPUs, or each sees one of its own.

    >>> place_among_alike([("a", "b")] * 4, 3), place_among_alike([("a",), ("b",), ("c",), ("d",)], 3)
    ((3, 4), (0, 1))
    """
    alike = [other for other, gpus in enumerate(seen) if gpus == seen[rank]]
    return alike.index(rank), len(alike)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Ranks whose edge slices this rank needs (`above`, `below`), and those that need its own."""

    above: int | None
    below: int | None
    need_first: tuple[int, ...]
    need_last: tuple[int, ...]


def neighbours(blocks: Sequence[RowBlock], rank: int) -> Neighbours:
    """Find who exchanges edge slices with `rank`.

    Where groups of ranks share rows, all members hold the same image, so each asks one member of the neighbouring
    group.

    Parameters
    ----------
    blocks : sequence of RowBlock
        One per rank, in rank order.
    rank : int
        Whose neighbours are wanted.

    Examples
    --------
    >>> from bluesky_streamrecon.partition import partition_rows
    >>> neighbours(partition_rows(6, 3), 1)
    Neighbours(above=0, below=2, need_first=(0,), need_last=(2,))
    """

    def source(of: int, step: int) -> int | None:
        group = blocks[of].group + step
        there = [r for r, block in enumerate(blocks) if block.group == group]
        return there[blocks[of].member % len(there)] if there else None

    return Neighbours(
        above=source(rank, -1),
        below=source(rank, +1),
        need_first=tuple(r for r in range(len(blocks)) if source(r, +1) == rank),
        need_last=tuple(r for r in range(len(blocks)) if source(r, -1) == rank),
    )


class MpiCommunicator(Communicator):
    """All ranks of the MPI job that this process belongs to."""

    def __init__(self) -> None:
        from mpi4py import MPI

        super().__init__()
        self._mpi = MPI
        self._world = MPI.COMM_WORLD
        # Agreements may be under way while something else is exchanged; each needs a channel of its own.
        self._agreements = self._world.Dup()
        self._work = self._world.Dup()
        self.rank, self.size = int(self._world.Get_rank()), int(self._world.Get_size())
        here = self._world.Split_type(MPI.COMM_TYPE_SHARED)
        mine = own_cores()
        users = np.zeros(_MOST_CORES, dtype=np.int64)
        users[[core for core in mine if core < _MOST_CORES]] = 1
        here.Allreduce(MPI.IN_PLACE, users, op=MPI.SUM)
        self.host = place_among_alike(here.allgather(visible_gpus()), int(here.Get_rank()))
        here.Free()
        self.cores = core_share([core for core in mine if core < _MOST_CORES], users)

    def begin_minimum(self, values: Sequence[int]) -> Agreement:
        """Start to find the minimum of each value over all ranks."""
        return _MpiMinimum(self._mpi, self._agreements, values)

    def minimum(self, values: Sequence[int]) -> tuple[int, ...]:
        """Find the minimum of each value over all ranks."""
        agreement = _MpiMinimum(self._mpi, self._work, values)
        self.wait(agreement.done)
        return agreement.values

    def sum(self, array: NDArray[np.float64] | NDArray[np.float32]) -> None:
        """Add up over all ranks, in place."""
        self.wait(self._work.Iallreduce(self._mpi.IN_PLACE, array, op=self._mpi.SUM).Test)

    def group(self, blocks: Sequence[RowBlock]) -> Group | None:
        """Connect ranks that share rows or hold neighbouring ones; None if this one is alone."""
        return Group(self, self._mpi, self._work, blocks) if self.size > 1 else None

    def abort(self, code: int) -> NoReturn:
        """End all ranks at once."""
        self._world.Abort(code)
        raise SystemExit(code)

    def wait(self, done: Callable[[], bool]) -> None:
        """Look until `done`, first often, then every few milliseconds."""
        for _ in range(_BUSY_LOOKS):
            if done():
                return
        pause = _SHORTEST_PAUSE
        while not done():
            self.check()
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


class _MpiMinimum(Agreement):
    """A minimum over ranks that is being found."""

    def __init__(self, mpi: Any, channel: Any, values: Sequence[int]) -> None:
        super().__init__(values)
        self._mine = self._least.copy()
        self._request = channel.Iallreduce(self._mine, self._least, op=mpi.MIN)

    def done(self) -> bool:
        return bool(self._request.Test())


class Group:
    """Ranks that share rows or hold neighbouring rows. All make the same calls in the same order.

    Attributes
    ----------
    member, members : int
        Number of this rank among those that share its rows, 0-based, and how many these are.
    """

    def __init__(self, owner: MpiCommunicator, mpi: Any, channel: Any, blocks: Sequence[RowBlock]) -> None:
        self._owner = owner
        self._mpi = mpi
        self._channel = channel
        block = blocks[owner.rank]
        self.member = block.member
        self.members = block.members
        # Splitting takes all ranks, also those that share their rows with nobody.
        shared = any(each.members > 1 for each in blocks)
        self._sharing = channel.Split(block.group, block.member) if shared else None
        self._near = neighbours(blocks, owner.rank)

    def sum(self, array: NDArray[np.float32]) -> None:
        """Add up over the ranks that share these rows, in place; the same bits on each, of an array in C's order."""
        if self._sharing is not None:
            self._owner.wait(self._sharing.Iallreduce(self._mpi.IN_PLACE, array, op=self._mpi.SUM).Test)

    def exchange(
        self, first_slice: NDArray[np.float32], last_slice: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
        """Return the slices just above and just below this rank's; None at the detector's edge."""
        near = self._near
        first, last = np.ascontiguousarray(first_slice), np.ascontiguousarray(last_slice)
        above = None if near.above is None else np.empty_like(first)
        below = None if near.below is None else np.empty_like(last)
        requests = []
        if above is not None:
            requests.append(self._channel.Irecv(above, source=near.above, tag=_HALO_DOWN))
        if below is not None:
            requests.append(self._channel.Irecv(below, source=near.below, tag=_HALO_UP))
        requests += [self._channel.Isend(first, dest=rank, tag=_HALO_UP) for rank in near.need_first]
        requests += [self._channel.Isend(last, dest=rank, tag=_HALO_DOWN) for rank in near.need_last]
        self._owner.wait(lambda: self._mpi.Request.Testall(requests))
        return above, below

    def free(self) -> None:
        """Release its channels; all ranks do so together."""
        if self._sharing is not None:
            self._sharing.Free()
            self._sharing = None
