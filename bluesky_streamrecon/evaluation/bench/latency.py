"""How long after an exposure the decision whether to end the scan is there, with default settings.

Documents go through publisher, link, MPI ranks, previews and controller, as in a scan; only the RunEngine and its
devices are left out, since they are to be on another computer than the job. Times are seconds.
"""

from __future__ import annotations

import statistics
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.beamline.link import LinkEvent
from bluesky_streamrecon.beamline.publisher import Publisher
from bluesky_streamrecon.config import ReconSettings, SteeringSettings
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.bench.documents import ScanDocuments
from bluesky_streamrecon.evaluation.bench.listening import Ear, running_job
from bluesky_streamrecon.evaluation.bench.sample import (
    DARK_COUNT,
    FLAT_COUNT,
    counts_of,
    disc_projections,
    scan_angles,
)
from bluesky_streamrecon.evaluation.bench.timing import Summary, Tell, check_repeats, percentile, silent
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.wire.events import StatusReceived

__all__ = ["LatencyResult", "measure_latency"]

IMAGE_SECONDS = 60.0
WARM_UP = 30


@dataclass(frozen=True, slots=True)
class LatencyResult:
    """From the end of an exposure to the verdict on the first image that has it.

    Parameters
    ----------
    latency_median, latency_p99 : float
        Seconds.
    update_seconds : float
        Median time of one update of the image from its window, in the same scans; of ranks the slowest one counts.
    updates_per_latency, spread : float
        Ratio of the two medians, of each scan; median over scans, and their spread.
    decisions : int
        Exposures that were counted: those with a full window.
    images, judged : int
        Images made in the scans, and those that were judged.
    rows, columns, ranks, num : int
        What was scanned.
    exposure : float
        Seconds.
    algorithm : str
        What made the images.
    """

    latency_median: float
    latency_p99: float
    update_seconds: float
    updates_per_latency: float
    spread: float
    decisions: int
    images: int
    judged: int
    rows: int
    columns: int
    ranks: int
    num: int
    exposure: float
    algorithm: str


def measure_latency(
    *,
    rows: int = 16,
    columns: int = 512,
    ranks: int = 2,
    num: int = 120,
    exposure: float = 0.1,
    algorithm: str = "mlem",
    repeats: int = 3,
    tell: Tell = silent,
) -> LatencyResult:
    """Scan, and time each decision.

    Parameters
    ----------
    rows, columns : int, optional
        Of the detector.
    ranks : int, optional
        MPI ranks.
    num : int, optional
        Projections per scan.
    exposure : float, optional
        Seconds per projection.
    algorithm : str, optional
        What makes the images.
    repeats : int, optional
        Scans.
    tell : callable, optional
        Told how far it is.

    Raises
    ------
    ConfigError
        If the algorithm is unknown, or a number can not work.
    JobError
        If a scan fails.
    """
    from bluesky_streamrecon.recon import get_algorithm

    check_repeats(repeats)
    get_algorithm(algorithm)
    recon = ReconSettings(axis=TomoGeometry(columns).axis, ranks=ranks, algorithm=algorithm)
    first = (recon.window or 0) + 1
    if rows < 1 or num < 2 * first or not 0 < exposure <= 10:
        raise ConfigError(
            f"rows={rows}, num={num}, exposure={exposure}: expected at least 1 row, {2 * first} projections, and up to "
            "10 s for each"
        )
    latencies: list[float] = []
    updates, ratios = [], []
    images = judged = 0
    with _Beamline(rows, columns, num, recon) as beamline:
        tell("job starts and warms up")
        beamline.scan(WARM_UP, exposure)
        for turn in range(repeats):
            tell(f"scan {turn + 1} of {repeats}")
            found = beamline.scan(num, exposure)[first - 1 :]
            latencies += found
            updates.append(statistics.median(beamline.updates.values()))
            ratios.append(percentile(found, 50) / updates[-1])
            images += beamline.images
            judged += beamline.judged
    ratio = Summary.of(ratios)
    return LatencyResult(
        latency_median=percentile(latencies, 50),
        latency_p99=percentile(latencies, 99),
        update_seconds=Summary.of(updates).median,
        updates_per_latency=ratio.median,
        spread=ratio.spread,
        decisions=len(latencies),
        images=images,
        judged=judged,
        rows=rows,
        columns=columns,
        ranks=ranks,
        num=num,
        exposure=exposure,
        algorithm=algorithm,
    )


class _Beamline:
    """Publisher, link, job and controller; as if there were a RunEngine."""

    def __init__(self, rows: int, columns: int, num: int, recon: ReconSettings) -> None:
        self._angles = scan_angles(num)
        self._frames: NDArray[np.uint16] = counts_of(disc_projections(TomoGeometry(columns), self._angles, rows))
        self._recon = recon
        self._ear = Ear()
        self._held = ExitStack()
        self.updates: dict[int, float] = {}

    def __enter__(self) -> _Beamline:
        with ExitStack() as stack:
            link = stack.enter_context(running_job(self._ear, self._recon.ranks, hear=self._hear))
            self._publisher = Publisher(link.endpoint, on_problem=self._ear.fail)
            self._held = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    @property
    def images(self) -> int:
        """Images of the last scan."""
        return len(self._ear.imaged_at)

    @property
    def judged(self) -> int:
        """Those of them that were judged."""
        return len(self._ear.judged_at)

    def scan(self, num: int, exposure: float) -> list[float]:
        """Take one scan; give the seconds from each exposure's end to the first verdict on an image that has it."""
        scan = ScanDocuments(self._frames.shape[1:], num, self._recon, SteeringSettings(advisory=True))
        publisher, ear, pause = self._publisher, self._ear, threading.Event()
        ear.begin(scan.uid)
        self.updates = {}
        documents = scan.start()
        for stream, count in (("dark", DARK_COUNT), ("flat", FLAT_COUNT)):
            frame = np.full(self._frames.shape[1:], count, np.uint16)
            documents += [*scan.stream(stream), *scan.frame(stream, 0.0, frame)]
        for document in [*documents, *scan.stream("primary")]:
            publisher(*document)
        exposed, start = [], time.perf_counter()
        for i in range(num):
            pause.wait(max(0.0, start + (i + 1) * exposure - time.perf_counter()))
            exposed.append(time.perf_counter())
            for document in scan.frame("primary", float(self._angles[i]), self._frames[i]):
                publisher(*document)
        ear.wait("the last image's verdict", lambda: num in ear.judged_at, IMAGE_SECONDS)
        for document in scan.stop():
            publisher(*document)
        ear.wait("the end of the run", lambda: ear.finished, IMAGE_SECONDS)
        judged = sorted(ear.judged_at.items())
        return [next(at for has, at in judged if has >= n) - moment for n, moment in enumerate(exposed, 1)]

    def _hear(self, event: LinkEvent) -> None:
        if isinstance(event, StatusReceived) and event.status.step_seconds > 0:
            number, seconds = event.status.image_number, event.status.step_seconds
            self.updates[number] = max(seconds, self.updates.get(number, 0.0))
        self._ear(event)
