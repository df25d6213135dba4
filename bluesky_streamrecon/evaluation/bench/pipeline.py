"""How fast projections get all the way, and how much of the kernels' speed is left of it.

Everything is as in a scan but the devices: documents go through the publisher, the link and the MPI ranks of a real
job, previews to the controller, its scores back. Before and after that, one `Engine` in this process works on the same
projections with as many threads as all ranks have. The first images, whose window is not full, are not counted.
Rates are projections per second, times seconds.

On a machine that other programs use at the same time, rates say little, not even their ratio. Processor time says more:
what the kernels alone need, as a share of what all processes need together.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.beamline.publisher import Publisher
from bluesky_streamrecon.config import ReconSettings, SteeringSettings
from bluesky_streamrecon.cores import own_cores
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.bench.documents import Document, ScanDocuments
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

__all__ = ["PipelineResult", "measure_pipeline"]

IMAGE_SECONDS = 300.0
SCORE_SECONDS = 30.0
PACE = 0.8
"""Share of the sustained rate at which projections come while latency is measured: nothing piles up."""


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """The whole road, against the kernels alone.

    Parameters
    ----------
    projections_per_second : float
        Sustained, every step made; median.
    spread : float
        Of its samples, as a fraction of the median.
    kernel_projections_per_second : float
        Of the engine alone, median.
    kernel_share : float
        Their ratio, median over turns; each turn is compared with the mean of the engine's rates before and after it.
    processor_share : float or None
        Processor time of the engine alone, over that of all processes of the whole road, for the same images; median
        over turns. None where the system does not tell (no ``/proc``).
    latency_median, latency_p99 : float
        From handing the publisher the projection that completes a step, to the first score of an image that has it.
    image_latency_median, image_latency_p99 : float
        From the same moment until every rank has told that the image is made.
    images, scores : int
        Images made while latency was measured, and those that were scored.
    rows, columns, window, step, ranks, threads, projections : int
        What was measured; `threads` per rank.
    algorithm : str
        Registered name.
    disc : bool
        Only the inscribed disc was reconstructed.
    """

    projections_per_second: float
    spread: float
    kernel_projections_per_second: float
    kernel_share: float
    processor_share: float | None
    latency_median: float
    latency_p99: float
    image_latency_median: float
    image_latency_p99: float
    images: int
    scores: int
    rows: int
    columns: int
    window: int
    step: int
    ranks: int
    threads: int
    projections: int
    algorithm: str
    disc: bool


@dataclass(frozen=True, slots=True)
class _Case:
    """What is measured, and the projections for it."""

    geometry: TomoGeometry
    rows: int
    recon: ReconSettings
    angles: NDArray[np.float64]
    integrals: NDArray[np.float32]
    counts: NDArray[np.uint16]

    @property
    def first(self) -> int:
        """Projections after which the window is full, in whole steps."""
        window, step = self.recon.window or 1, self.recon.step
        return -(-window // step) * step

    @property
    def last(self) -> int:
        """Projections in whole steps."""
        return len(self.angles) // self.recon.step * self.recon.step


def measure_pipeline(
    *,
    rows: int,
    columns: int,
    window: int = 24,
    step: int = 1,
    ranks: int = 2,
    threads: int | None = None,
    projections: int = 180,
    algorithm: str = "mlem",
    disc: bool = False,
    repeats: int = 3,
    latency: bool = True,
    tell: Tell = silent,
) -> PipelineResult:
    """Measure one case.

    Parameters
    ----------
    rows, columns : int
        Of the detector (uint16).
    window, step, algorithm, disc
        As for a reconstruction.
    ranks, threads : int, optional
        MPI ranks, and threads of each; by default this computer's cores are shared by the ranks.
    projections : int, optional
        Of a run.
    repeats : int, optional
        Turns.
    latency : bool, optional
        Measure that, too; without, it is NaN.
    tell : callable, optional
        Told how far it is.

    Raises
    ------
    ConfigError
        If the algorithm is unknown, or a number can not work.
    JobError
        If the job can not be started, or reports a problem.
    """
    from bluesky_streamrecon.recon import get_algorithm

    check_repeats(repeats)
    get_algorithm(algorithm)
    if threads is None:
        threads = max(1, len(own_cores()) // max(1, ranks))
    geometry = TomoGeometry(columns, disc=disc)
    recon = ReconSettings(
        algorithm=algorithm,
        window=window,
        step=step,
        axis=geometry.axis,
        disc=disc,
        threads=threads,
        ranks=ranks,
        coalesce=False,
    )
    if rows < 1 or projections < window + 2 * step:
        raise ConfigError(
            f"rows={rows}, projections={projections}: expected at least 1 row, and at least window + 2 * step = "
            f"{window + 2 * step} projections, so that full windows can be timed"
        )
    angles = scan_angles(projections)
    integrals = disc_projections(geometry, angles, rows)
    case = _Case(geometry, rows, recon, angles, integrals, counts_of(integrals))
    with ExitStack() as stack:
        alone = _Alone(case, ranks * threads)
        road = stack.enter_context(_Road(case, threads, tell))
        tell("both warm up")
        alone.rate()
        road.run(case.first + step)
        whole: list[float] = []
        processor: list[float] = []
        tell("kernels alone")
        kernel = [alone.rate()]
        for turn in range(repeats):
            tell(f"turn {turn + 1} of {repeats}: the whole road, then kernels alone")
            whole.append(road.rate())
            kernel.append(alone.rate())
            if road.spent > 0:
                processor.append(alone.spent / road.spent)
        around = [(a + b) / 2 for a, b in pairwise(kernel)]
        sustained = Summary.of(whole)
        images, scores, scored = [math.nan], [math.nan], 0
        if latency:
            tell(f"latency, at {PACE * sustained.median:.3g} projections per second")
            images, scores, scored = road.latencies(PACE * sustained.median)
    return PipelineResult(
        projections_per_second=sustained.median,
        spread=sustained.spread,
        kernel_projections_per_second=Summary.of(kernel).median,
        kernel_share=Summary.of([a / b for a, b in zip(whole, around, strict=True)]).median,
        processor_share=Summary.of(processor).median if len(processor) == repeats else None,
        latency_median=percentile(scores, 50),
        latency_p99=percentile(scores, 99),
        image_latency_median=percentile(images, 50),
        image_latency_p99=percentile(images, 99),
        images=len(images) if latency else 0,
        scores=scored,
        rows=rows,
        columns=columns,
        window=window,
        step=step,
        ranks=ranks,
        threads=threads,
        projections=projections,
        algorithm=algorithm,
        disc=disc,
    )


class _Alone:
    """The engine in this process, with the threads of all ranks; `spent` is the last run's processor time."""

    def __init__(self, case: _Case, threads: int) -> None:
        self._case = case
        self._threads = threads
        self.spent = 0.0

    def rate(self) -> float:
        """Take in all projections, as a new run; give how many of those with a full window per second."""
        from bluesky_streamrecon.recon import Engine

        case, recon = self._case, self._case.recon
        start = began = 0.0
        with Engine(
            case.geometry,
            case.rows,
            algorithm=recon.algorithm,
            window=recon.window,
            window_policy=recon.window_policy,
            planned=len(case.angles),
            threads=self._threads,
        ) as engine:
            for number, (integrals, angle) in enumerate(zip(case.integrals, case.angles, strict=True), 1):
                engine.append(integrals, float(angle))
                if number % recon.step == 0:
                    engine.update()
                if number == case.first:
                    start, began = time.perf_counter(), time.process_time()
                if number == case.last:
                    break
            self.spent = time.process_time() - began
            return (case.last - case.first) / (time.perf_counter() - start)


class _Road:
    """Publisher, link, job and controller, from the first hello to the last process's end.

    `spent` is the processor time of all of them for the images of the last rate; 0 if the system does not tell.
    """

    def __init__(self, case: _Case, threads: int, tell: Tell) -> None:
        self._case = case
        self._threads = threads
        self._tell = tell
        self._ear = Ear(meter=_processor_seconds)
        self.spent = 0.0
        self._held = ExitStack()
        self._publisher: Publisher | None = None

    def __enter__(self) -> _Road:
        with ExitStack() as stack:
            ranks = self._case.recon.ranks
            self._tell(f"job of {ranks} ranks and controller start")
            link = stack.enter_context(running_job(self._ear, ranks, threads=self._threads))
            self._publisher = Publisher(link.endpoint, on_problem=self._ear.fail)
            self._held = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def rate(self) -> float:
        """Stream all projections as fast as they are taken; give how many with a full window per second."""
        case, ear = self._case, self._ear
        self.run(len(case.angles))
        self.spent = ear.spent_at[case.last] - ear.spent_at[case.first]
        return (case.last - case.first) / (ear.imaged_at[case.last] - ear.imaged_at[case.first])

    def latencies(self, rate: float) -> tuple[list[float], list[float], int]:
        """Stream all projections at this rate; give seconds to each image, to its score, and how many were scored."""
        case, ear = self._case, self._ear
        handed = self.run(len(case.angles), rate)
        counted = range(case.first, case.last + 1, case.recon.step)
        images = [ear.imaged_at[number] - handed[number - 1] for number in counted if number in ear.imaged_at]
        # A controller that is behind leaves images out; what they would have shown comes with a later one.
        judged = first_to_have(counted, ear.judged_at)
        scores = [moment - handed[number - 1] for number, moment in zip(counted, judged, strict=True)]
        return images, scores, sum(number in ear.judged_at for number in counted)

    def run(self, projections: int, rate: float | None = None) -> list[float]:
        """Publish one run and wait for its last score; give when each projection was handed to the publisher."""
        case, ear, publisher = self._case, self._ear, self._publisher
        assert publisher is not None  # noqa: S101 - entered
        # Advisory, since the scan must go on to its end; by name, since figures must stay comparable.
        steering = SteeringSettings(policy="ms-ssim", threshold=1.0, advisory=True)
        scan = ScanDocuments((case.rows, case.geometry.columns), projections, case.recon, steering)

        def publish(documents: list[Document]) -> None:
            for name, document in documents:
                publisher(name, document)

        ear.begin(scan.uid)
        publish(scan.start())
        for stream, count in (("dark", DARK_COUNT), ("flat", FLAT_COUNT)):
            publish(scan.stream(stream))
            publish(scan.frame(stream, 0.0, np.full(case.counts.shape[1:], count, np.uint16)))
        publish(scan.stream("primary"))
        handed = _paced(
            projections,
            rate,
            lambda i: publish(scan.frame("primary", float(case.angles[i]), case.counts[i])),
        )
        last = projections // case.recon.step * case.recon.step
        ear.wait("the last image", lambda: last in ear.imaged_at, IMAGE_SECONDS)
        publish(scan.stop())
        ear.wait("the end of the run", lambda: ear.finished, IMAGE_SECONDS)
        ear.wait("the last image's score", lambda: projections in ear.judged_at, SCORE_SECONDS)
        return handed


def _processor_seconds(pids: Collection[int]) -> float:
    """Give the processor time so far of this process and of others; 0 if the system does not tell."""
    total = 0.0
    try:
        for pid in {os.getpid(), *pids}:
            # After the name, which is in parentheses, user and system time are the 12th and 13th field.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return 0.0
    return total


def first_to_have(wanted: Sequence[int], moments: Mapping[int, float]) -> list[float]:
    """Give, for each number of projections, when the first image came that has as many or more.

    Examples
    --------
    >>> first_to_have([2, 4, 6], {2: 1.0, 6: 3.0})
    [1.0, 3.0, 3.0]
    """
    return [min(moment for number, moment in moments.items() if number >= least) for least in wanted]


def _paced(count: int, rate: float | None, hand: Callable[[int], None]) -> list[float]:
    """Call ``hand(0) .. hand(count - 1)`` at this rate, or without a pause; give when each call began."""
    pause = threading.Event()
    start = time.perf_counter()
    began = []
    for i in range(count):
        if rate is not None:
            wait = start + i / rate - time.perf_counter()
            if wait > 0:
                pause.wait(wait)
        began.append(time.perf_counter())
        hand(i)
    return began
