"""Which backend computes: the CPU, or a GPU where there is one that works and has the memory.

``"auto"`` takes a GPU if it can, and else says in one line why not; ``"cuda"`` refuses instead.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bluesky_streamrecon.cores import own_cores
from bluesky_streamrecon.errors import ConfigError, DeviceError
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon.algorithms.base import Algorithm
from bluesky_streamrecon.recon.cuda.layout import Memory
from bluesky_streamrecon.recon.plain import PlainBackend
from bluesky_streamrecon.recon.projector import projectors
from bluesky_streamrecon.recon.slab import Backend
from bluesky_streamrecon.recon.window import Spread, most_kept
from bluesky_streamrecon.settings import BACKENDS

__all__ = ["FAST", "Choice", "Demand", "choose_backend", "make_backend", "projector_of", "rows_at_once"]

log = logging.getLogger(__name__)

FAST = "shear"
_UNPLANNED = 180
_ROWS_OF_A_THREAD = 16
"""As many as are stored side by side."""
_ROWS_OF_A_GPU = 128
"""With fewer, small images leave it idle; with more, the projections of so many rows fill the host's memory."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A backend, and what is said about it.

    Parameters
    ----------
    name : {"cpu", "cuda"}
        Which.
    device : str
        What computes: the card, its driver and the library, or how many cores.
    note : str
        Why it is not the one that was preferred; empty if it is.
    broken : bool
        There is a GPU that can not run the kernels, so it is not to be tried again.
    """

    name: str
    device: str
    note: str = ""
    broken: bool = False


@dataclass(frozen=True, slots=True)
class Demand:
    """What a block of rows asks of a backend.

    Parameters
    ----------
    geometry : TomoGeometry
        Detector and image.
    rows : int
        Of the block.
    algorithm : Algorithm
        With its options.
    projector : str
        Registered name.
    window : int or None
        Projections of an update.
    window_policy : str or Spread
        Which these are.
    planned : int
        Projections that are expected; 0: not known.
    shared : bool
        Whether other ranks work on the same rows.
    host : (int, int)
        Number of the rank among those of its host, which take GPUs in turn, and how many these are.
    """

    geometry: TomoGeometry
    rows: int
    algorithm: Algorithm
    projector: str = FAST
    window: int | None = None
    window_policy: str | Spread = "spread"
    planned: int = 0
    shared: bool = False
    host: tuple[int, int] = (0, 1)

    def gpu_memory(self, rows: int) -> int:
        """Return the bytes that so many rows need on a GPU."""
        length = self.window or self.planned or _UNPLANNED
        return Memory.of(
            self.geometry,
            rows,
            kept=most_kept(self.geometry.columns, self.window, self.window_policy, self.planned or _UNPLANNED),
            in_a_pass=-(-length // max(1, min(length, self.algorithm.passes(length)))),
            coupled=self.algorithm.coupled,
        ).total

    def rows_that_fit(self, free: int) -> int:
        """Return how many of the rows fit so many bytes of a GPU."""
        return bisect_right(range(1, self.rows + 1), free, key=self.gpu_memory)


def choose_backend(name: str, demand: Demand) -> Choice:
    """Choose what computes.

    Parameters
    ----------
    name : {"auto", "cpu", "cuda"}
        What is wanted.
    demand : Demand
        What it is for.

    Raises
    ------
    ConfigError
        If there is no such backend.
    DeviceError
        If it is ``"cuda"``, and that can not be.
    """
    if name not in BACKENDS:
        raise ConfigError(f"backend: got {name!r}, expected one of {', '.join(BACKENDS)}")
    cores = f"CPU, {len(own_cores())} cores"
    if name == "cpu":
        return Choice("cpu", cores)
    if demand.projector != FAST:
        return Choice("cpu", cores, f"projector {demand.projector!r} computes with NumPy, so on the CPU")
    try:
        return Choice("cuda", _gpu(demand, simulator=name == "cuda"))
    except DeviceError as error:
        if name == "cuda":
            raise
        return Choice("cpu", cores, f"on the CPU: {error}")


def _gpu(demand: Demand, *, simulator: bool) -> str:
    """Select a GPU; return what it is called."""
    from bluesky_streamrecon.recon.cuda.device import find_device

    if demand.shared:
        raise DeviceError("ranks can not share rows on a GPU; expected share = 1, and no more ranks than rows")
    rank, sharers = demand.host
    device = find_device(rank)
    if device.simulated and not simulator:
        raise DeviceError("NUMBA_ENABLE_CUDASIM is set, so there is only a simulator")
    needed, free = demand.gpu_memory(demand.rows), device.free_for(sharers)
    log.info("%s: %s bytes of %s free ones are needed", device, f"{needed:,}", f"{free:,}")
    if needed > free:
        most = demand.rows_that_fit(device.free)
        would = (
            f"{-(-demand.rows // most)} such GPUs, with one rank each, would do" if most else "not even one row fits"
        )
        raise DeviceError(
            f"{demand.rows} rows need {needed:,} bytes, and {free:,} of GPU {device.number} ({device.name}) are free "
            f"for this rank; {would}"
        )
    return str(device)


def rows_at_once(name: str, demand: Demand, threads: int) -> int:
    """Return how many rows to reconstruct together where images are made part by part: on a GPU, as many as fit it.

    Parameters
    ----------
    name, demand
        See `choose_backend`.
    threads : int
        That compute where the CPU does.
    """
    if demand.algorithm.coupled:
        return demand.rows
    if choose_backend(name, replace(demand, rows=1)).name == "cuda":
        from bluesky_streamrecon.recon.cuda.device import find_device

        rank, sharers = demand.host
        return max(1, min(_ROWS_OF_A_GPU, demand.rows_that_fit(find_device(rank).free_for(sharers))))
    return _ROWS_OF_A_THREAD * threads


def make_backend(choice: str, demand: Demand) -> Backend:
    """Make the backend that was chosen."""
    if demand.projector != FAST:
        return PlainBackend(demand.geometry, projectors.get(demand.projector))
    if choice == "cuda":
        from bluesky_streamrecon.recon.cuda.backend import CudaBackend

        return CudaBackend(demand.geometry, coupled=demand.algorithm.coupled)
    from bluesky_streamrecon.recon.shear_slab import ShearBackend

    return ShearBackend(demand.geometry)


def projector_of(options: Mapping[str, Any] | None) -> str:
    """Return the name of the projector that options ask for."""
    return str((options or {}).get("projector", FAST))
