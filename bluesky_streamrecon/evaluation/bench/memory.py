"""How much memory an image takes while it is updated, as the operating system sees it, against what is documented.

Every figure is a difference between two reconstructions, each in a process of its own: what is needed whatever
the size (interpreter, libraries, compiled kernels, tables of a geometry) falls out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from bluesky_streamrecon.errors import ConfigError, JobError
from bluesky_streamrecon.evaluation.bench.timing import Tell, silent

__all__ = ["ALGORITHMS", "MemoryRow", "documented_per_thread", "documented_per_voxel", "measure_memory"]

ALGORITHMS = ("mlem", "osem", "pml-quadratic", "pml-hybrid", "sirt", "art")
SLAB = 16
LEAST_IMAGE_BYTES = 64 * 2**20
LEAST_THREADS_BYTES = 16 * 2**20
TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """Memory of one algorithm.

    Parameters
    ----------
    algorithm : str
        Registered name.
    columns, window : int
        Detector columns C (the image is C x C) and projections in the window.
    bytes_per_voxel : float
        Growth of the peak with the number of slices, per voxel, window included.
    documented_per_voxel : float
        What the engine's documentation says.
    bytes_per_thread : float
        Growth of the peak with the number of threads.
    documented_per_thread : float
        What the engine's documentation says.
    peak_bytes : int
        Of the smallest reconstruction (one slab, one thread), beyond interpreter and libraries.
    """

    algorithm: str
    columns: int
    window: int
    bytes_per_voxel: float
    documented_per_voxel: float
    bytes_per_thread: float
    documented_per_thread: float
    peak_bytes: int


def measure_memory(
    *,
    columns: int = 512,
    window: int = 24,
    algorithms: Sequence[str] = ALGORITHMS,
    tell: Tell = silent,
) -> tuple[MemoryRow, ...]:
    """Measure each algorithm; a minute or so, and a few hundred megabytes.

    Parameters
    ----------
    columns : int, optional
        Detector columns C.
    window : int, optional
        Projections in the window.
    algorithms : sequence of str, optional
        Registered names.
    tell : callable, optional
        Told how far it is.

    Returns
    -------
    tuple of MemoryRow
        In the order of `algorithms`.

    Raises
    ------
    ConfigError
        If an algorithm is unknown, a number can not work, or the system has no ``/proc``.
    JobError
        If a measuring process fails.
    """
    from bluesky_streamrecon.recon.algorithms import make_algorithm

    if min(columns, window) < 2:
        raise ConfigError(f"columns, window: got {columns}, {window}, expected at least 2 of each")
    if not os.path.exists("/proc/self/clear_refs"):  # noqa: PTH110 - it is no file in the usual sense
        raise ConfigError("bench memory: expected Linux's /proc/self/clear_refs, to measure a peak")
    rows = []
    for name in algorithms:
        algorithm = make_algorithm(name, {})
        in_a_pass = -(-window // algorithm.passes(window))
        tell(f"{name}: {columns} columns, window {window}")
        peak = partial(_peak, name, columns, window)
        slabs = 1 + max(1, -(-LEAST_IMAGE_BYTES // (4 * SLAB * columns**2)))
        one, many = peak(SLAB, 1), peak(slabs * SLAB, 1)
        per_thread = documented_per_thread(columns, in_a_pass)
        threads = 1 + min(15, max(1, -(-LEAST_THREADS_BYTES // int(per_thread))))
        # As many slabs as threads, in both: each thread then works on a slab of its own.
        few, all_ = peak(threads * SLAB, 1), peak(threads * SLAB, threads)
        rows.append(
            MemoryRow(
                algorithm=name,
                columns=columns,
                window=window,
                bytes_per_voxel=(many - one) / ((slabs - 1) * SLAB * columns**2),
                documented_per_voxel=documented_per_voxel(columns, window, coupled=algorithm.coupled),
                bytes_per_thread=(all_ - few) / (threads - 1),
                documented_per_thread=per_thread,
                peak_bytes=one,
            )
        )
    return tuple(rows)


def documented_per_voxel(columns: int, window: int, *, coupled: bool) -> float:
    """Give 4 bytes for the image, 1 for edge slices of penalised algorithms, and the window's share; without margins.

    Examples
    --------
    >>> documented_per_voxel(1024, 24, coupled=True)
    5.09375
    """
    return 4.0 + (1.0 if coupled else 0.0) + 4.0 * window / columns


def documented_per_thread(columns: int, projections: int) -> float:
    """Give a thread's working memory for so many projections in a pass, bytes.

    Examples
    --------
    >>> documented_per_thread(1024, 24)
    7864320.0
    """
    return 64.0 * projections * (4 * columns + columns)


def _peak(algorithm: str, columns: int, window: int, rows: int, threads: int) -> int:
    """Give the peak of a reconstruction in a fresh process, beyond what it had before, bytes."""
    task = {"algorithm": algorithm, "columns": columns, "window": window, "rows": rows, "threads": threads}
    command = [sys.executable, "-m", "bluesky_streamrecon.evaluation.bench.memory_probe", json.dumps(task)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    except subprocess.SubprocessError as error:
        said = (getattr(error, "stderr", None) or "").strip()
        raise JobError(f"bench memory: {task} failed: {error}; it said: {said or 'nothing'}") from error
    return int(done.stdout.split()[-1])
