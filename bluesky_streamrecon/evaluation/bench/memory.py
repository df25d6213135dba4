"""How much memory an image takes while it is updated, as the operating system sees it, against what is documented.

Every figure is a difference between two reconstructions, each in a process of its own: what is needed whatever
the size (interpreter, libraries, compiled kernels, tables of a geometry) falls out.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import numpy as np

from bluesky_streamrecon.errors import ConfigError, JobError
from bluesky_streamrecon.evaluation.bench.sample import scan_angles
from bluesky_streamrecon.evaluation.report import Report
from bluesky_streamrecon.geometry import TomoGeometry

__all__ = ["ALGORITHMS", "documented_per_thread", "documented_per_voxel", "measure_memory"]

ALGORITHMS = ("mlem", "osem", "pml-quadratic", "pml-hybrid", "sirt", "art")
SLAB = 16
LEAST_IMAGE_BYTES = 64 * 2**20
LEAST_THREADS_BYTES = 16 * 2**20
PEAK_RESET = Path("/proc/self/clear_refs")

logger = logging.getLogger(__name__)


def measure_memory(*, columns: int = 512, window: int = 24, algorithms: Sequence[str] = ALGORITHMS) -> Report:
    """Measure each algorithm; a minute or so, and a few hundred megabytes.

    Parameters
    ----------
    columns : int, optional
        Detector columns C.
    window : int, optional
        Projections in the window.
    algorithms : sequence of str, optional
        Registered names.

    Returns
    -------
    Report
        ``rows``, in the order of `algorithms`: ``bytes_per_voxel`` (growth of the peak with the number of slices,
        window included), ``bytes_per_thread`` (growth with the number of threads), beside each what the engine's
        documentation says, and ``peak_bytes`` of one slab on one thread, beyond interpreter and libraries.

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
    if not PEAK_RESET.exists():
        raise ConfigError(f"bench memory: expected Linux's {PEAK_RESET}, to measure a peak")
    rows = []
    for name in algorithms:
        algorithm = make_algorithm(name, {})
        in_a_pass = -(-window // algorithm.passes(window))
        logger.info("%s: %d columns, window %d", name, columns, window)
        peak = partial(_peak_of_process, name, columns, window)
        slabs = 1 + max(1, -(-LEAST_IMAGE_BYTES // (4 * SLAB * columns**2)))
        one, many = peak(SLAB, 1), peak(slabs * SLAB, 1)
        per_thread = documented_per_thread(columns, in_a_pass)
        threads = 1 + min(15, max(1, -(-LEAST_THREADS_BYTES // int(per_thread))))
        # As many slabs as threads, in both: each thread then works on a slab of its own.
        few, all_ = peak(threads * SLAB, 1), peak(threads * SLAB, threads)
        rows.append(
            {
                "algorithm": name,
                "columns": columns,
                "window": window,
                "bytes_per_voxel": (many - one) / ((slabs - 1) * SLAB * columns**2),
                "documented_per_voxel": documented_per_voxel(columns, window, coupled=algorithm.coupled),
                "bytes_per_thread": (all_ - few) / (threads - 1),
                "documented_per_thread": per_thread,
                "peak_bytes": one,
            }
        )
    return Report({"rows": rows})


def documented_per_voxel(columns: int, window: int, *, coupled: bool) -> float:
    """Return 4 bytes for the image, 1 for edge slices of penalised algorithms, and the window's share, without margins.

    Examples
    --------
    >>> documented_per_voxel(1024, 24, coupled=True)
    5.09375
    """
    return 4.0 + (1.0 if coupled else 0.0) + 4.0 * window / columns


def documented_per_thread(columns: int, projections: int) -> float:
    """Return a thread's working memory for so many projections in a pass, bytes.

    Examples
    --------
    >>> documented_per_thread(1024, 24)
    7864320.0
    """
    return 64.0 * projections * (4 * columns + columns)


def _peak_of_process(algorithm: str, columns: int, window: int, rows: int, threads: int) -> int:
    """Return the peak of a reconstruction in a fresh process, beyond what it had before, bytes."""
    fresh = multiprocessing.get_context("spawn")
    # Ctrl-C reaches the process, too; it ends with ours, without a traceback of its own.
    with ProcessPoolExecutor(
        1, mp_context=fresh, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
    ) as pool:
        try:
            return pool.submit(_peak, algorithm, columns, window, rows, threads).result()
        except (BrokenProcessPool, OSError) as error:
            what = f"{algorithm}, {rows} rows of {columns} columns, window {window}, {threads} threads"
            raise JobError(f"bench memory: {what}: the measuring process failed: {error}; is memory short?") from error


def _peak(algorithm: str, columns: int, window: int, rows: int, threads: int) -> int:
    """Reconstruct a little; return by how many bytes this process has grown at its peak."""
    from bluesky_streamrecon.recon import Engine, warm_up

    geometry = TomoGeometry(columns)
    angles = scan_angles(max(180, window + 1))
    warm_up(geometry, rows, algorithm=algorithm, threads=threads)
    projection = np.ones((rows, columns), np.float32)
    PEAK_RESET.write_text("5")
    before = _kibibytes("VmRSS")
    with Engine(geometry, rows, algorithm=algorithm, window=window, window_policy="newest", threads=threads) as engine:
        for angle in angles[:window]:
            engine.append(projection, float(angle))
        engine.update()
        engine.append(projection, float(angles[window]))
        engine.update()
        return (_kibibytes("VmHWM") - before) * 1024


def _kibibytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise OSError(f"/proc/self/status has no {name}")
