"""How fast a window is projected forward and back, against what the processor can do.

The unit is GUPS: 1e9 updates per second (`giga_updates`). The yardstick is the processor's rate of fused multiply-adds
on as many threads, measured in turns with the kernels; a ratio to it means the same on a busy machine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from typing import Any

from bluesky_streamrecon.evaluation.bench.harness import Summary, take_turns
from bluesky_streamrecon.evaluation.bench.sample import moving_engine, seconds_per_update
from bluesky_streamrecon.evaluation.report import Report, Row
from bluesky_streamrecon.recon.cost import USUAL_WINDOW, core_speed, giga_updates

__all__ = ["ALGORITHMS", "engine_rate", "kernel_speed", "measure_kernels"]

ALGORITHMS = ("mlem", "pml-quadratic", "pml-hybrid", "sirt")
PROBE_SECONDS = 0.002
PROBES = 9
ENGINE_SECONDS = 0.3
SPEED = {"rows": 16, "columns": 1024, "window": USUAL_WINDOW, "step": 1, "threads": 1}
GPU_ROWS = 96
"""A GPU has much to do at once; few rows would not show how fast it is."""
ASKED = 3

logger = logging.getLogger(__name__)


def measure_kernels(
    *,
    columns: Sequence[int] = (256, 1024),
    windows: Sequence[int] = (24,),
    threads: Sequence[int] = (1,),
    algorithms: Sequence[str] = ALGORITHMS,
    slices: int = 16,
    repeats: int = 5,
    seconds: float = 0.2,
    backend: str = "cpu",
) -> Report:
    """Measure every combination of the arguments.

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
    backend : str, optional
        What computes; a GPU has no threads.

    Returns
    -------
    Report
        ``probe_gfma`` and ``probe_spread`` (1e9 multiply-adds per second of one thread), and ``rows``: columns slowest,
        algorithms fastest, each with ``gups`` and its ``spread`` (all threads together, the window as it is),
        ``gups_moving`` (every update follows a new projection, as in a scan), ``gups_per_gfma`` (`gups` per 1e9
        multiply-adds per second), ``host_ms`` (milliseconds of the host for a projection and an update), ``backend``
        and ``device``.

    Raises
    ------
    ConfigError
        If an algorithm is unknown.
    """
    from bluesky_streamrecon.recon.algorithms import algorithms as registered

    for name in algorithms:
        registered.get(name)
    probes = [_multiply_adds(1) for _ in range(repeats)]
    rows = []
    for c, window, count, algorithm in product(columns, windows, threads, algorithms):
        logger.info("%s: %d columns, window %d, %d slices, %d threads", algorithm, c, window, slices, count)
        rows.append(_measure(algorithm, c, window, slices, count, repeats, seconds, probes, backend))
    probe = Summary.of(probes)
    return Report({"probe_gfma": probe.median, "probe_spread": probe.spread, "rows": rows})


def engine_rate(
    algorithm: str,
    *,
    rows: int,
    columns: int,
    window: int,
    step: int,
    threads: int,
    repeats: int = 3,
    backend: str = "cpu",
) -> float:
    """Measure the engine alone, its window full and moving on; projections per second, median."""
    case: dict[str, Any] = {"rows": rows, "columns": columns, "window": window, "threads": threads, "backend": backend}
    with moving_engine(algorithm, **case) as (engine, move):
        times = [seconds_per_update(engine, partial(move, step), at_least=ENGINE_SECONDS) for _ in range(repeats)]
    return step / Summary.of(times).median


def kernel_speed(columns: int, *, gpu: bool = False) -> float:
    """Measure this machine's GUPS per core, or those of a GPU, in about a second, with at most 1024 columns."""
    case = SPEED | {"columns": min(columns, SPEED["columns"])} | ({"rows": GPU_ROWS} if gpu else {})
    rate = engine_rate("mlem", **case, backend="cuda" if gpu else "cpu")
    return core_speed(rate, **case)


def _measure(
    algorithm: str, columns: int, window: int, slices: int, threads: int, repeats: int, seconds: float,
    probes: list[float], backend: str,
) -> Row:  # fmt: skip
    """Measure one row; add what a thread's multiply-adds were meanwhile to `probes`."""
    work = giga_updates(algorithm, slices, window, columns)
    with moving_engine(algorithm, rows=slices, columns=columns, window=window, threads=threads, backend=backend) as (
        engine,
        move,
    ):
        choice = engine.choice

        def asked() -> float:
            engine.finish()
            before = time.perf_counter()
            move(1)
            return time.perf_counter() - before

        def turn() -> dict[str, float]:
            before = _multiply_adds(threads)
            still = work / seconds_per_update(engine, engine.update, at_least=seconds)
            after = _multiply_adds(threads)
            moving = work / seconds_per_update(engine, partial(move, 1), at_least=seconds)
            probes.extend((before / threads, after / threads))
            host = 1e3 * Summary.of([asked() for _ in range(ASKED)]).median
            per_gfma = still / ((before + after) / 2)
            return {"gups": still, "gups_moving": moving, "gups_per_gfma": per_gfma, "host_ms": host}

        found = take_turns(repeats, turn)
    return {
        "algorithm": algorithm,
        "columns": columns,
        "window": window,
        "slices": slices,
        "threads": threads,
        "spread": found["gups"].spread,
        "backend": choice.name,
        "device": choice.device,
        **{name: summary.median for name, summary in found.items()},
    }


def _multiply_adds(threads: int) -> float:
    """Measure 1e9 multiply-adds per second on so many threads together."""
    if threads == 1:
        return _probe(0)
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(_probe, range(threads)))


def _probe(_thread: int) -> float:
    """Return the median of several short samples, most of which are not interrupted by other programs."""
    from bluesky_streamrecon.recon.kernels.probes import multiply_add_rate

    return Summary.of([multiply_add_rate(seconds=PROBE_SECONDS) for _ in range(PROBES)]).median
