"""How long a job takes until it waits for projections: with kernels that are on disk, and with none compiled yet.

Publisher, link, MPI ranks and controller are real; each sample starts new processes. Times are seconds.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bluesky_streamrecon.beamline.link import LinkEvent
from bluesky_streamrecon.beamline.publisher import Publisher
from bluesky_streamrecon.config import ReconSettings, SteeringSettings
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.bench.documents import ScanDocuments
from bluesky_streamrecon.evaluation.bench.listening import START_SECONDS, Ear, running_job
from bluesky_streamrecon.evaluation.bench.timing import Summary, Tell, check_repeats, silent
from bluesky_streamrecon.wire.events import StatusReceived

__all__ = ["ReadyResult", "measure_ready", "time_start"]

READY = "waiting for projections"


@dataclass(frozen=True, slots=True)
class ReadyResult:
    """From the start of the processes on.

    Parameters
    ----------
    hello_seconds : float
        Until all ranks and the controller are linked; median, kernels on disk.
    warm_seconds, warm_spread : float
        Until every rank waits for projections, kernels on disk; median and spread.
    cold_seconds, cold_spread : float
        The same where no kernel has been compiled yet.
    ranks, rows, columns : int
        What was started, and for which detector.
    algorithm : str
        Registered name.
    """

    hello_seconds: float
    warm_seconds: float
    warm_spread: float
    cold_seconds: float
    cold_spread: float
    ranks: int
    rows: int
    columns: int
    algorithm: str


def measure_ready(
    *,
    rows: int = 16,
    columns: int = 512,
    ranks: int = 2,
    algorithm: str = "mlem",
    repeats: int = 3,
    tell: Tell = silent,
) -> ReadyResult:
    """Start jobs, each once without compiled kernels and then once with what the first has compiled.

    Parameters
    ----------
    rows, columns : int, optional
        Of the detector.
    ranks : int, optional
        MPI ranks.
    algorithm : str, optional
        Registered name.
    repeats : int, optional
        Pairs of starts.
    tell : callable, optional
        Told how far it is.

    Raises
    ------
    ConfigError
        If the algorithm is unknown, or a number can not work.
    JobError
        If a job does not start.
    """
    from bluesky_streamrecon.recon import get_algorithm

    check_repeats(repeats)
    get_algorithm(algorithm)
    if rows < 1 or columns < 2 or ranks < 1:
        raise ConfigError(f"rows={rows}, columns={columns}, ranks={ranks}: expected at least 1, 2 and 1")
    cold, warm, hello = [], [], []
    recon = ReconSettings(algorithm=algorithm, ranks=ranks, axis=(columns - 1) / 2)
    for turn in range(repeats):
        with tempfile.TemporaryDirectory(prefix="streamrecon-bench-") as kernels:
            tell(f"start {turn + 1} of {repeats}, nothing compiled")
            cold.append(time_start(rows, columns, recon, Path(kernels))[1])
            tell(f"start {turn + 1} of {repeats}, kernels on disk")
            linked, ready = time_start(rows, columns, recon, Path(kernels))
            hello.append(linked)
            warm.append(ready)
    warmed, cooled = Summary.of(warm), Summary.of(cold)
    return ReadyResult(
        hello_seconds=Summary.of(hello).median,
        warm_seconds=warmed.median,
        warm_spread=warmed.spread,
        cold_seconds=cooled.median,
        cold_spread=cooled.spread,
        ranks=ranks,
        rows=rows,
        columns=columns,
        algorithm=algorithm,
    )


class _Watched(Ear):
    """Also hears when each rank is ready."""

    def __init__(self) -> None:
        super().__init__()
        self.ready: dict[int, float] = {}

    def __call__(self, event: LinkEvent) -> None:
        if isinstance(event, StatusReceived) and event.status.state == READY:
            self.ready.setdefault(event.status.rank, time.perf_counter())
        super().__call__(event)


def time_start(rows: int, columns: int, recon: ReconSettings, kernels: Path) -> tuple[float, float]:
    """Start one job for one run; give the seconds until it is linked, and until all its ranks are ready."""
    ear = _Watched()
    began = time.perf_counter()
    with running_job(ear, recon.ranks, environment={"NUMBA_CACHE_DIR": str(kernels)}) as link:
        linked = time.perf_counter() - began
        scan = ScanDocuments((rows, columns), 180, recon, SteeringSettings())
        ear.begin(scan.uid)
        publisher = Publisher(link.endpoint, on_problem=ear.fail)
        for document in [*scan.start(), *scan.stream("dark")]:
            publisher(*document)
        ear.wait("ranks that are ready", lambda: len(ear.ready) == recon.ranks, START_SECONDS)
        return linked, max(ear.ready.values()) - began
