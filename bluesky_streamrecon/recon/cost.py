"""What a step of the live reconstruction costs, and which settings keep up with a detector.

One update of a window visits every pixel of every slice once per projection in the window, forward and back. Its time
is therefore one number of the machine, its GUPS (1e9 updates per second and core), times what is asked for::

    seconds per step       t = slices * l * C**2 * 2 / (GUPS * 1e9 * threads)
    projections per second   = s / t
    share of the machine   u = P * t / s          for a detector that takes P projections per second

u depends on the window l and the step s only as l / s: a machine that can not keep up with s = l, where each projection
is used once, can not keep up at all. Slices are computed 16 at a time; a rest of 8 or 4 costs more than its share
(`GROUPS`). Two cores that share a memory bus, small images whose tables cost as much
as their pixels, and the link are not in the model; `RESERVE` is kept for them.
"""

from __future__ import annotations

import math
from typing import Any

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon.cuda.layout import Memory
from bluesky_streamrecon.recon.window import kept_views

__all__ = [
    "USUAL_WINDOW", "advise", "bytes_per_thread", "bytes_per_voxel", "core_speed", "giga_updates", "step_seconds",
]  # fmt: skip

RESERVE = 0.8
"""Share of the kernels' rate that is counted on for the whole road."""

USUAL_WINDOW = 24
MOST_SUBSETS = 6
GROUPS = {4: 7, 8: 10, 16: 16}
"""Slices that are computed together, and as how many of a full group they count: geometry is shared by all."""


def giga_updates(algorithm: str, slices: int, window: int, columns: int) -> float:
    """Compute the updates of one pass over the window, in 1e9; filtered back projection has no forward projection.

    An update is one slice's pixel seen by one projection, once forward and once back.

    Examples
    --------
    >>> giga_updates("mlem", 16, 24, 1024)
    0.805306368
    """
    return slices * window * columns**2 * (1 if algorithm == "fbp" else 2) / 1e9


def step_seconds(gups: float, *, rows: int, columns: int, window: int, threads: int = 1, members: int = 1) -> float:
    """Return the time of one update of one rank.

    Parameters
    ----------
    gups : float
        1e9 updates per second of one core, with full groups of slices.
    rows, columns : int
        Of the rank's part of the detector.
    window : int
        Projections in the window.
    threads : int, optional
        That the rank computes on.
    members : int, optional
        Ranks that share these rows, and deal the window's projections among themselves.

    Examples
    --------
    >>> round(step_seconds(10.0, rows=16, columns=1024, window=24), 4)
    0.0805
    """
    if not 0 < gups < math.inf:
        raise ConfigError(f"gups: got {gups}, expected a positive number of 1e9 updates per second and core")
    return giga_updates("mlem", _computed(rows), window, columns) / (gups * threads * members)


def core_speed(rate: float, *, rows: int, columns: int, window: int, step: int, threads: int = 1) -> float:
    """Return the GUPS of a core that a measured rate stands for, projections per second; see `step_seconds`."""
    return rate / step * step_seconds(1.0, rows=rows, columns=columns, window=window, threads=threads)


def advise(
    *,
    rows: int,
    columns: int,
    rate: float,
    ranks: int,
    gups: float,
    threads: int = 1,
    window: int = USUAL_WINDOW,
    gpu: bool = False,
    memory: int | None = None,
) -> dict[str, Any]:
    """Find the settings that make the best image while keeping up: the shortest step that can be sustained.

    Parameters
    ----------
    rows, columns : int
        Of the detector.
    rate : float
        Projections per second.
    ranks, threads : int
        MPI ranks that there are, and threads of each.
    gups : float
        See `step_seconds`.
    window : int, optional
        To keep to; shorter windows cost less per step, but not per projection.
    gpu : bool, optional
        Each rank computes on a GPU of its own: rows are not shared, and memory is that of the GPU.
    memory : int, optional
        Bytes that each rank has; by default enough.

    Returns
    -------
    dict
        ``window`` and ``step`` (a step of more than 1 is best taken in ``subsets``), ``ranks`` and ``threads``,
        ``share`` (ranks that share one block of rows, where there are more ranks than rows), ``sustained`` projections
        per second and whether they are ``feasible``, as fast as the detector and within the memory; ``ranks_needed``,
        the fewest ranks with which they would be (0: none would do); ``gups``; ``bytes_per_second`` that the detector
        sends (16-bit pixels); and ``memory_per_rank``, bytes of the image and of as many projections as are kept in a
        long scan.

    Raises
    ------
    ConfigError
        If a number can not work.

    Examples
    --------
    >>> found = advise(rows=2048, columns=2048, rate=10, ranks=64, gups=10.0)
    >>> found["window"], found["step"], found["subsets"], found["feasible"]
    (24, 9, 6, True)
    """
    least = min(rows, columns, ranks, threads, window)
    if least < 1 or not 0 < rate < math.inf:
        raise ConfigError(
            f"rows={rows}, columns={columns}, ranks={ranks}, threads={threads}, window={window}, rate={rate}: expected "
            "whole numbers of at least 1, and a rate above 0"
        )

    def load(number: int) -> float:
        """Return the projections that come in the time in which one is used once."""
        share, block = _dealt(rows, number)
        seconds = step_seconds(gups, rows=block, columns=columns, window=1, threads=threads, members=share)
        return rate * seconds / RESERVE

    def fits(number: int) -> bool:
        return memory is None or _memory(_dealt(rows, number)[1], columns, window, gpu=gpu) <= memory

    share, block = _dealt(rows, ranks)
    step = min(max(1, math.ceil(load(ranks) * window)), window)
    seconds = step_seconds(gups, rows=block, columns=columns, window=window, threads=threads, members=share)
    sustained = RESERVE * step / seconds
    # Numbers of ranks that make a difference; a group can not have more members than projections.
    candidates = {math.ceil(rows / size) for size in range(1, rows + 1)}
    if not gpu:
        candidates |= {rows * k for k in range(1, window + 1)}
    return {
        "window": window,
        "step": step,
        "ranks": ranks,
        "threads": threads,
        "share": share,
        "subsets": min(step, MOST_SUBSETS),
        "sustained": sustained,
        "feasible": sustained >= rate and fits(ranks) and not (gpu and share > 1),
        "ranks_needed": next((number for number in sorted(candidates) if load(number) <= 1 and fits(number)), 0),
        "gups": gups,
        "bytes_per_second": 2.0 * rows * columns * rate,
        "memory_per_rank": _memory(block, columns, window, gpu=gpu),
    }


def bytes_per_voxel(columns: int, window: int, *, coupled: bool) -> float:
    """Return 4 bytes for the image, 1 for edge slices of penalised algorithms, and the window's share, without margins.

    Examples
    --------
    >>> bytes_per_voxel(1024, 24, coupled=True)
    5.09375
    """
    return 4.0 + (1.0 if coupled else 0.0) + 4.0 * window / columns


def bytes_per_thread(columns: int, projections: int) -> float:
    """Return a thread's working memory for so many projections in a pass, bytes.

    Examples
    --------
    >>> bytes_per_thread(1024, 24)
    7864320.0
    """
    return 64.0 * projections * (4 * columns + columns)


def _memory(rows: int, columns: int, window: int, *, gpu: bool) -> float:
    """Return the bytes of a rank that has so many rows, in a scan that is long enough for all that is kept."""
    kept = kept_views(columns, window)
    if gpu:
        return float(Memory.of(TomoGeometry(columns), rows, kept=kept, in_a_pass=window, coupled=False).total)
    return rows * columns**2 * bytes_per_voxel(columns, kept, coupled=False)


def _computed(rows: int) -> int:
    """Return as how many slices of full groups so many rows count."""
    widest = max(GROUPS)
    whole, rest = divmod(rows, widest)
    return whole * widest + (next(cost for group, cost in GROUPS.items() if group >= rest) if rest else 0)


def _dealt(rows: int, ranks: int) -> tuple[int, int]:
    """Return how many ranks share a block of rows, and the rows of the largest block."""
    share = max(1, ranks // rows)
    return share, math.ceil(rows / max(1, ranks // share))
