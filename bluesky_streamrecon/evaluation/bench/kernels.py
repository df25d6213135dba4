"""How fast a window is projected forward and back, against what the processor can do.

The unit is GUPS: 1e9 updates per second, where an update is one slice's pixel seen by one projection, once forward and
once back. The yardstick is the processor's rate of fused multiply-adds on as many threads, measured in turns
with the kernels; a ratio to it means the same on a busy machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.bench.sample import disc_projections, scan_angles
from bluesky_streamrecon.evaluation.bench.timing import Summary, Tell, check_repeats, seconds_per_call, silent
from bluesky_streamrecon.geometry import TomoGeometry

__all__ = ["ALGORITHMS", "KernelBench", "KernelRow", "StreamRow", "giga_updates", "measure_kernels"]

ALGORITHMS = ("mlem", "pml-quadratic", "pml-hybrid", "sirt")
STREAMS = (("level 1", 16), ("level 2", 256), ("level 3", 4 * 1024), ("memory", 128 * 1024))
PROBE_SECONDS = 0.002
PROBES = 9


@dataclass(frozen=True, slots=True)
class KernelRow:
    """Speed of one algorithm.

    Parameters
    ----------
    algorithm : str
        Registered name.
    columns, window, slices, threads : int
        What was reconstructed, and on how many threads.
    gups : float
        1e9 updates per second, median, all threads together; the window stays as it is.
    spread : float
        Of the samples, as a fraction of the median.
    gups_moving : float
        The same where every update follows a new projection, as in a scan, so that tables are made anew.
    gups_per_gfma : float
        `gups` per 1e9 multiply-adds per second, median of the ratios.
    """

    algorithm: str
    columns: int
    window: int
    slices: int
    threads: int
    gups: float
    spread: float
    gups_moving: float
    gups_per_gfma: float


@dataclass(frozen=True, slots=True)
class StreamRow:
    """Rate of the kernels' inner operation (load, add, multiply-add) on data of one size, on one thread."""

    level: str
    kibibytes: int
    gupdates: float


@dataclass(frozen=True, slots=True)
class KernelBench:
    """All of a run.

    Parameters
    ----------
    probe_gfma : float
        1e9 multiply-adds per second of one thread, median over the whole run.
    probe_spread : float
        Of its samples.
    streams : tuple of StreamRow
        What the caches and the memory deliver.
    rows : tuple of KernelRow
        The kernels.
    """

    probe_gfma: float
    probe_spread: float
    streams: tuple[StreamRow, ...]
    rows: tuple[KernelRow, ...]


def measure_kernels(
    *,
    columns: Sequence[int] = (256, 1024),
    windows: Sequence[int] = (24,),
    threads: Sequence[int] = (1,),
    algorithms: Sequence[str] = ALGORITHMS,
    slices: int = 16,
    repeats: int = 5,
    seconds: float = 0.2,
    tell: Tell = silent,
) -> KernelBench:
    """Measure every combination of what is given.

    Parameters
    ----------
    columns, windows, threads, algorithms : sequence
        Detector columns C (the image is C x C), projections in the window, threads, registered names.
    slices : int, optional
        Detector rows.
    repeats : int, optional
        Samples of each figure.
    seconds : float, optional
        Least length of a sample.
    tell : callable, optional
        Told how far it is.

    Returns
    -------
    KernelBench
        Rows in the order of the arguments: columns slowest, algorithms fastest.

    Raises
    ------
    ConfigError
        If an algorithm is unknown, or a number can not work.
    """
    from bluesky_streamrecon.recon import get_algorithm
    from bluesky_streamrecon.recon.kernels.probes import update_rate

    check_repeats(repeats)
    for name in algorithms:
        get_algorithm(name)
    least = min((slices, *columns, *windows, *threads))
    if least < 1:
        raise ConfigError(f"slices, columns, windows and threads: got {least}, expected at least 1")
    tell("probes: multiply-adds, caches, memory")
    streams = tuple(
        StreamRow(
            level,
            size,
            Summary.of([update_rate(size * 1024, seconds=PROBE_SECONDS) for _ in range(PROBES)]).median,
        )
        for level, size in STREAMS
    )
    probes = [_multiply_adds(1) for _ in range(repeats)]
    rows = []
    for c, window, count, algorithm in product(columns, windows, threads, algorithms):
        tell(f"{algorithm}: {c} columns, window {window}, {slices} slices, {count} threads")
        row, seen = _measure(algorithm, c, window, slices, count, repeats, seconds)
        rows.append(row)
        probes += seen
    probe = Summary.of(probes)
    return KernelBench(probe.median, probe.spread, streams, tuple(rows))


def giga_updates(algorithm: str, slices: int, window: int, columns: int) -> float:
    """Give the updates of one pass over the window, in 1e9; filtered back projection has no forward projection.

    Examples
    --------
    >>> giga_updates("mlem", 16, 24, 1024)
    0.805306368
    """
    return slices * window * columns**2 * (1 if algorithm == "fbp" else 2) / 1e9


def _measure(
    algorithm: str, columns: int, window: int, slices: int, threads: int, repeats: int, seconds: float
) -> tuple[KernelRow, list[float]]:
    """Measure one row; give it, and what a thread's multiply-adds were meanwhile."""
    from bluesky_streamrecon.recon import Engine

    geometry = TomoGeometry(columns)
    work = giga_updates(algorithm, slices, window, columns)
    angles = scan_angles(max(180, window))
    projections = disc_projections(geometry, angles[:window], slices)
    still: list[float] = []
    moving: list[float] = []
    ratios: list[float] = []
    probes: list[float] = []
    with Engine(geometry, slices, algorithm=algorithm, window=window, planned=len(angles), threads=threads) as engine:
        for projection, angle in zip(projections, angles, strict=False):
            engine.append(projection, float(angle))
        engine.update()

        def move() -> None:
            number = engine.projections
            engine.append(projections[number % window], float(angles[number % len(angles)]))
            engine.update()

        move()
        for _ in range(repeats):
            before = _multiply_adds(threads)
            still.append(work / seconds_per_call(engine.update, at_least=seconds))
            after = _multiply_adds(threads)
            moving.append(work / seconds_per_call(move, at_least=seconds))
            ratios.append(still[-1] / ((before + after) / 2))
            probes += [before / threads, after / threads]
    speed = Summary.of(still)
    row = KernelRow(
        algorithm=algorithm,
        columns=columns,
        window=window,
        slices=slices,
        threads=threads,
        gups=speed.median,
        spread=speed.spread,
        gups_moving=Summary.of(moving).median,
        gups_per_gfma=Summary.of(ratios).median,
    )
    return row, probes


def _multiply_adds(threads: int) -> float:
    """Measure 1e9 multiply-adds per second on so many threads together."""
    if threads == 1:
        return _probe(0)
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(_probe, range(threads)))


def _probe(_thread: int) -> float:
    """Take several short samples, most of which nobody interrupts; give their median."""
    from bluesky_streamrecon.recon.kernels.probes import multiply_add_rate

    return Summary.of([multiply_add_rate(seconds=PROBE_SECONDS) for _ in range(PROBES)]).median
