"""How much memory an image takes while it is updated, as the operating system sees it, against what is documented.

Every figure is a difference between two reconstructions, each in a process of its own: what is needed whatever
the size (interpreter, libraries, compiled kernels, tables of a geometry) falls out.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.bench.harness import beside, printed
from bluesky_streamrecon.evaluation.bench.sample import sample_scan
from bluesky_streamrecon.evaluation.report import Report, Row
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon.cost import bytes_per_thread, bytes_per_voxel

__all__ = ["ALGORITHMS", "measure_memory", "taken"]

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
    if min(columns, window) < 2:
        raise ConfigError(f"columns, window: got {columns}, {window}, expected at least 2 of each")
    if backend == "cpu" and not PEAK_RESET.exists():
        raise ConfigError(f"bench memory: expected Linux's {PEAK_RESET}, to measure a peak")
    return Report({"rows": [_measure(name, columns, window, on_gpu=backend == "cuda") for name in algorithms]})


def _measure(name: str, columns: int, window: int, *, on_gpu: bool) -> Row:
    """Measure one algorithm with few slices and with more, and on the CPU with one thread and with more."""
    from bluesky_streamrecon.recon.algorithms import make_algorithm

    algorithm = make_algorithm(name, {})
    in_a_pass = -(-window // algorithm.passes(window))
    logger.info("%s: %d columns, window %d", name, columns, window)
    measured = partial(_in_fresh_process, name, columns, window, on_gpu)
    few, least = SLAB, LEAST_IMAGE_BYTES * (8 if on_gpu else 1)
    many = few + SLAB * max(1, -(-least // (4 * SLAB * columns**2)))
    small, large = measured(few, 1), measured(many, 1)
    voxels = (many - few) * columns**2
    row: Row = {
        "algorithm": name,
        "columns": columns,
        "window": window,
        "bytes_per_voxel": (large - small) / voxels,
        "documented_per_voxel": bytes_per_voxel(columns, window, coupled=algorithm.coupled),
        "bytes_per_thread": 0.0,
        "documented_per_thread": 0.0,
        "peak_bytes": small,
    }
    if on_gpu:
        from bluesky_streamrecon.recon.cuda.layout import Memory

        needed = [
            Memory.of(TomoGeometry(columns), rows, kept=window, in_a_pass=in_a_pass, coupled=algorithm.coupled).total
            for rows in (few, many)
        ]
        per_voxel = (needed[1] - needed[0]) / voxels
        return row | {"documented_per_voxel": per_voxel, "peak_bytes": large, "documented_bytes": needed[1]}
    per_thread = bytes_per_thread(columns, in_a_pass)
    threads = 1 + min(15, max(1, -(-LEAST_THREADS_BYTES // int(per_thread))))
    # As many slabs as threads, in both: each thread then works on a slab of its own.
    alone, together = (measured(threads * SLAB, count) for count in (1, threads))
    return row | {"bytes_per_thread": (together - alone) / (threads - 1), "documented_per_thread": per_thread}


def _in_fresh_process(*case: object) -> int:
    """Return what `taken` finds in a process of its own, bytes."""
    with beside(taken, *case) as process:
        return int(printed(process, f"memory of {case}; is there too little?"))


def taken(_: threading.Event, algorithm: str, columns: int, window: int, on_gpu: bool, rows: int, threads: int) -> int:
    """Reconstruct a little; return by how many bytes this process has grown at its peak.

    Of a GPU: by how many bytes less memory is free than it has, the driver's needs included.
    """
    from bluesky_streamrecon.recon import Engine, warm_up

    geometry = TomoGeometry(columns)
    angles = sample_scan(2, 1, max(180, window + 2)).angles[: window + 2].tolist()
    projection = np.ones((rows, columns), np.float32)
    before = 0
    if not on_gpu:
        warm_up(geometry, rows, algorithm=algorithm, threads=threads)
        PEAK_RESET.write_text("5")
        before = _kibibytes("VmRSS")
    with Engine(
        geometry, rows, algorithm=algorithm, window=window, window_policy="newest", threads=threads,
        backend="cuda" if on_gpu else "cpu",
    ) as engine:  # fmt: skip
        for number, angle in enumerate(angles, 1):
            engine.append(projection, angle)
            if number >= window:
                engine.update()
                engine.slices([0])
        if on_gpu:
            from bluesky_streamrecon.recon.cuda.device import find_device

            device = find_device()
            return device.total - device.free
        return (_kibibytes("VmHWM") - before) * 1024


def _kibibytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise OSError(f"/proc/self/status has no {name}")
