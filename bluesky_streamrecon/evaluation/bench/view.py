"""What the live view costs a run, and how old its pictures are: scans, watched and not watched in turns.

Documents go through publisher, job and controller as at a beamline (`RunningJob`); there is a live view, and viewers
that fetch what a browser fetches. Times are seconds.
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import statistics
import subprocess
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from bluesky_streamrecon.errors import ConfigError, JobError
from bluesky_streamrecon.evaluation.bench import viewer
from bluesky_streamrecon.evaluation.bench.harness import Summary, beside, printed, started, take_turns
from bluesky_streamrecon.evaluation.bench.jobs import RunningJob, running_job
from bluesky_streamrecon.evaluation.bench.sample import counts_of, sample_scan
from bluesky_streamrecon.evaluation.report import Report, Row
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings

__all__ = ["measure_view"]

WARM_UP = 12
STEERING = SteeringSettings(policy="ms-ssim", threshold=1.0, preview_rows=(0,), advisory=True)

Case = tuple[int, int]
"""Viewers, and how many of them are faulty."""

logger = logging.getLogger(__name__)


def measure_view(
    *,
    viewers: Sequence[int] = (1, 5),
    rows: int = 2,
    columns: int = 2048,
    ranks: int = 1,
    num: int = 150,
    exposure: float = 0.1,
    repeats: int = 3,
) -> Report:
    """Scan at a detector's pace, not watched and watched by so many viewers in turns.

    Parameters
    ----------
    viewers : sequence of int, optional
        Pages that watch, a process each. Where there are more than two, they watch once more, and one of them is killed
        and one stopped at the first image.
    rows, columns, ranks, num : int, optional
        Detector, MPI ranks, and projections of a scan.
    exposure : float, optional
        Seconds per projection.
    repeats : int, optional
        Turns.

    Returns
    -------
    Report
        ``rows``: for each number of `viewers`, 0 first, with how many of them are ``faulty``:
        ``projections_per_second`` from the first exposure to the last verdict, each with an image, and
        ``processor_seconds`` of beamline, job and controller per image, without live view and viewers;
        ``rate_ratio`` and ``processor_ratio``, the same over those of the scan without viewers, with their ``spread``;
        of all ``pictures``, ``median_delay`` and ``p99_delay`` from an image at rank 0 to its cuts in a viewer's hands;
        and ``pictures_per_second`` of a viewer. The last row's also as single fields, with ``side`` of the largest cut.

    Raises
    ------
    ConfigError
        If a number can not work.
    JobError
        If a scan or the live view fails.
    """
    if num < 2 * WARM_UP:
        raise ConfigError(f"num: got {num} projections, expected at least {2 * WARM_UP}")
    cases = [(0, 0), *((number, 0) for number in viewers), *((number, 2) for number in viewers if number > 2)]
    delays: dict[Case, list[float]] = {case: [] for case in cases}
    # An update of few slices by one projection is quick: what is measured is not how fast images are made.
    recon = ReconSettings(axis=(columns - 1) / 2, ranks=ranks, window=1, coalesce=False)
    scan = sample_scan(columns, rows, num)
    counts, angles = counts_of(scan.integrals), scan.angles
    logger.info("job starts and warms up")
    with running_job(recon, (rows, columns)) as job:
        job.scan(counts[:WARM_UP], angles, steering=STEERING, interval=exposure)

        def turn() -> dict[tuple[str, Case], float]:
            found: dict[tuple[str, Case], float] = {}
            for case in cases:
                with _watched(job, *case) as seen:
                    exposed, events = job.scan(counts, angles, steering=STEERING, interval=exposure), job.events
                delays[case] += seen
                rate = (num - 1) / (max(events.judged_at.values()) - exposed[0])
                seconds = (events.spent_at[num] - events.spent_at[1]) / (num - 1)
                found["projections_per_second", case], found["processor_seconds", case] = rate, seconds
                found["rate_ratio", case] = rate / found["projections_per_second", cases[0]]
                found["processor_ratio", case] = seconds / (found["processor_seconds", cases[0]] or math.nan)
                found["pictures_per_second", case] = len(seen) / max(case[0] - case[1], 1) * rate / num
                logger.info("%d viewers, %d of them faulty: %.4g projections per second", *case, rate)
            return found

        found = take_turns(repeats, turn)
    if not all(delays[case] for case in cases[1:]):
        raise JobError("benchmark: viewers were shown no picture; is the scan too short?")
    table = [_row(case, found, delays[case]) for case in cases]
    return Report({
        **table[-1],
        "side": min(viewer.SIDES[0], max(rows, columns)),
        "rows": table,
        "columns": columns, "ranks": ranks, "num": num, "exposure": exposure,
    })  # fmt: skip


def _row(case: Case, found: Mapping[tuple[str, Case], Summary], delays: Sequence[float]) -> Row:
    return {
        "viewers": case[0],
        "faulty": case[1],
        **{name: summary.median for (name, of), summary in found.items() if of == case},
        "spread": found["rate_ratio", case].spread,
        "pictures": len(delays),
        "median_delay": statistics.median(delays) if delays else None,
        "p99_delay": float(np.percentile(delays, 99)) if delays else None,
    }


@contextlib.contextmanager
def _watched(job: RunningJob, viewers: int, faulty: int) -> Iterator[list[float]]:
    """Run a live view of a job with so many pages meanwhile; the list holds their delays afterwards.

    Of those that are `faulty` the first is killed at its first picture, and the second stopped.
    """
    delays: list[float] = []
    with contextlib.ExitStack() as stack:
        pages: list[subprocess.Popen[str]] = []
        if viewers:
            at = ("--address", job.endpoint.address, "--job-id", job.endpoint.job_id)
            page = stack.enter_context(started("bluesky_streamrecon", "view", "--json", *at))
            url = printed(page, "live view (needs the extra 'view')")["url"]
            faults = [signal.SIGKILL.name, signal.SIGSTOP.name][:faulty] + [""] * (viewers - faulty)
            pages = [stack.enter_context(beside(viewer.watch, url, fault)) for fault in faults]
        for page in pages:
            printed(page, "viewer")
        yield delays
        for page in pages[faulty:]:
            if page.stdin is not None:
                page.stdin.close()
            delays += printed(page, "viewer")
