"""How much memory an image takes while it is updated, as the operating system sees it, against what is documented.

Every figure is a difference between two reconstructions, each in a process of its own: what is needed whatever
the size (interpreter, libraries, compiled kernels, tables of a geometry) falls out.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import numpy as np

from bluesky_streamrecon.errors import ConfigError, JobError
from bluesky_streamrecon.evaluation.bench.sample import scan_angles
from bluesky_streamrecon.evaluation.report import Report, Row
from bluesky_streamrecon.geometry import TomoGeometry

__all__ = ["ALGORITHMS", "documented_per_thread", "documented_per_voxel", "measure_memory"]

ALGORITHMS = ("mlem", "osem", "pml-quadratic", "pml-hybrid", "sirt", "art")
SLAB = 16
LEAST_IMAGE_BYTES = 64 * 2**20
LEAST_THREADS_BYTES = 16 * 2**20
PEAK_RESET = Path("/proc/self/clear_refs")

logger = logging.getLogger(__name__)


def measure_memory(
    *, columns: int = 512, window: int = 24, algorithms: Sequence[str] = ALGORITHMS, backend: str = "cpu"
) -> Report:
    """Measure each algorithm; a minute or so, and a few hundred megabytes.

    Parameters
    ----------
    columns : int, optional
        Detector columns C.
    window : int, optional
        Projections in the window.
    algorithms : sequence of str, optional
        Registered names.
    backend : {"cpu", "cuda"}, optional
        ``"cuda"``: the memory of a GPU, which has no threads; as documented is what a run is refused by.

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
    if backend == "cuda":
        return Report({"rows": [_on_gpu(name, columns, window) for name in algorithms]})
    if not PEAK_RESET.exists():
        raise ConfigError(f"bench memory: expected Linux's {PEAK_RESET}, to measure a peak")
    rows = []
    for name in algorithms:
        algorithm = make_algorithm(name, {})
        in_a_pass = -(-window // algorithm.passes(window))
        logger.info("%s: %d columns, window %d", name, columns, window)
        peak = partial(_in_fresh_process, _peak, name, columns, window)
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


def _on_gpu(name: str, columns: int, window: int) -> Row:
    """Measure the memory that a GPU loses to an engine of few rows, and of more."""
    from bluesky_streamrecon.recon.algorithms import make_algorithm
    from bluesky_streamrecon.recon.cuda.layout import Memory

    algorithm = make_algorithm(name, {})
    logger.info("%s: %d columns, window %d", name, columns, window)
    few = SLAB
    many = few + SLAB * max(1, -(-LEAST_IMAGE_BYTES * 8 // (4 * SLAB * columns**2)))
    taken = [_in_fresh_process(_taken_of_gpu, name, columns, window, rows) for rows in (few, many)]
    in_a_pass = -(-window // algorithm.passes(window))
    documented = [
        Memory.of(TomoGeometry(columns), rows, kept=window, in_a_pass=in_a_pass, coupled=algorithm.coupled).total
        for rows in (few, many)
    ]
    voxels = (many - few) * columns**2
    return {
        "algorithm": name,
        "columns": columns,
        "window": window,
        "bytes_per_voxel": (taken[1] - taken[0]) / voxels,
        "documented_per_voxel": (documented[1] - documented[0]) / voxels,
        "bytes_per_thread": 0.0,
        "documented_per_thread": 0.0,
        "peak_bytes": taken[1],
        "documented_bytes": documented[1],
    }


def _taken_of_gpu(algorithm: str, columns: int, window: int, rows: int) -> int:
    """Reconstruct a little; return by how many bytes the GPU has less free memory, the driver's needs included."""
    from bluesky_streamrecon.recon import Engine
    from bluesky_streamrecon.recon.cuda.device import find_device

    device = find_device()
    angles = scan_angles(max(180, window + 1))
    projection = np.ones((rows, columns), np.float32)
    with Engine(
        TomoGeometry(columns), rows, algorithm=algorithm, window=window, window_policy="newest", backend="cuda"
    ) as engine:
        for number, angle in enumerate(angles[: window + 2]):
            engine.append(projection, float(angle))
            if number >= window - 1:
                engine.update()
                engine.slices([0])
        return device.total - find_device().free


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


def _in_fresh_process(measure: Callable[..., int], algorithm: str, columns: int, window: int, *sizes: int) -> int:
    """Return what `measure` finds in a process of its own, bytes."""
    fresh = multiprocessing.get_context("spawn")
    # Ctrl-C reaches the process, too; it ends with ours, without a traceback of its own.
    with ProcessPoolExecutor(
        1, mp_context=fresh, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
    ) as pool:
        try:
            return pool.submit(measure, algorithm, columns, window, *sizes).result()
        except (BrokenProcessPool, OSError) as error:
            what = f"{algorithm}, {columns} columns, window {window}, {', '.join(map(str, sizes))} (rows, threads)"
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
