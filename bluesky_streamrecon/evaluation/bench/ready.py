"""How long a job takes until it waits for projections: with kernels that are on disk, and with none compiled yet.

Each sample starts new processes (`RunningJob`). Times are seconds.
"""

from __future__ import annotations

import tempfile
import time

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.bench.harness import check_repeats, take_turns
from bluesky_streamrecon.evaluation.bench.jobs import RunningJob
from bluesky_streamrecon.evaluation.report import Report
from bluesky_streamrecon.settings import ReconSettings

__all__ = ["measure_ready", "time_start"]


def measure_ready(
    *, rows: int = 16, columns: int = 512, ranks: int = 2, algorithm: str = "mlem", repeats: int = 3
) -> Report:
    """Start jobs, each once without compiled kernels and then once with what the first has compiled.

    Parameters
    ----------
    rows, columns, ranks : int, optional
        Detector, and MPI ranks.
    algorithm : str, optional
        Registered name.
    repeats : int, optional
        Pairs of starts.

    Returns
    -------
    Report
        From the start of the processes on: ``hello_seconds`` until all ranks and the controller are linked (kernels on
        disk), ``warm_seconds`` and ``cold_seconds`` until every rank waits for projections, kernels on disk and none
        compiled, their spreads, and the arguments.

    Raises
    ------
    ConfigError
        If the algorithm is unknown, or a number can not work.
    JobError
        If a job does not start.
    """
    from bluesky_streamrecon.recon.algorithms import algorithms

    check_repeats(repeats)
    algorithms.get(algorithm)
    if rows < 1 or columns < 2 or ranks < 1:
        raise ConfigError(f"rows={rows}, columns={columns}, ranks={ranks}: expected at least 1, 2 and 1")
    recon = ReconSettings(algorithm=algorithm, ranks=ranks, axis=(columns - 1) / 2)

    def turn() -> dict[str, float]:
        with tempfile.TemporaryDirectory(prefix="streamrecon-bench-") as kernels:
            _, cold = time_start((rows, columns), recon, kernels)
            linked, warm = time_start((rows, columns), recon, kernels)
        return {"hello": linked, "warm": warm, "cold": cold}

    found = take_turns(repeats, turn)
    hello, warm, cold = found["hello"], found["warm"], found["cold"]
    return Report({
        "hello_seconds": hello.median,
        "warm_seconds": warm.median,
        "warm_spread": warm.spread,
        "cold_seconds": cold.median,
        "cold_spread": cold.spread,
        "ranks": ranks, "rows": rows, "columns": columns, "algorithm": algorithm,
    })  # fmt: skip


def time_start(shape: tuple[int, int], recon: ReconSettings, kernels: str) -> tuple[float, float]:
    """Start one job for one run; return the seconds until it is linked, and until all its ranks are ready."""
    began = time.perf_counter()
    with RunningJob(recon, shape, environment={"NUMBA_CACHE_DIR": kernels}) as job:
        return job.linked_seconds, job.get_ready() - began
