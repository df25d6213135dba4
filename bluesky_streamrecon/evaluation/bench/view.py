"""What the live view costs a run, and how old its pictures are: scans, watched and not watched in turns.

Documents go through publisher, job and controller as at a beamline (`RunningJob`); there is a live view, and viewers
that fetch what a browser fetches. Times are seconds.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import signal
import statistics
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from bluesky_streamrecon.errors import ConfigError, JobError
from bluesky_streamrecon.evaluation.bench import viewer
from bluesky_streamrecon.evaluation.bench.harness import (
    END_SECONDS,
    Summary,
    check_repeats,
    started,
    take_turns,
)
from bluesky_streamrecon.evaluation.bench.jobs import RunningJob, running_job
from bluesky_streamrecon.evaluation.bench.sample import counts_of, sample_scan
from bluesky_streamrecon.evaluation.report import Report, Row
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings

__all__ = ["measure_view"]

WARM_UP = 12
STEERING = SteeringSettings(policy="ms-ssim", threshold=1.0, preview_rows=(0,), advisory=True)

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
    check_repeats(repeats)
    if min(viewers, default=0) < 1 or rows < 1 or num < 2 * WARM_UP or not 0 < exposure <= 10:
        raise ConfigError(
            f"viewers={viewers}, rows={rows}, num={num}, exposure={exposure}: expected at least 1 viewer and 1 row, "
            f"{2 * WARM_UP} projections, and up to 10 s for each"
        )
    cases = [(0, 0), *((number, 0) for number in viewers), *((number, 2) for number in viewers if number > 2)]
    delays: dict[tuple[int, int], list[float]] = {case: [] for case in cases}
    # An update of few slices by one projection is quick: what is measured is not how fast images are made.
    recon = ReconSettings(axis=(columns - 1) / 2, ranks=ranks, window=1, coalesce=False)
    scan = sample_scan(columns, rows, num)
    counts, angles = counts_of(scan.integrals), scan.angles
    logger.info("job starts and warms up")
    with running_job(recon, (rows, columns)) as job:
        job.scan(counts[:WARM_UP], angles, steering=STEERING, interval=exposure)

        def taken() -> dict[str, float]:
            exposed, events = job.scan(counts, angles, steering=STEERING, interval=exposure), job.events
            return {
                "projections_per_second": (num - 1) / (max(events.judged_at.values()) - exposed[0]),
                "processor_seconds": (events.spent_at[num] - events.spent_at[1]) / (num - 1),
            }

        def turn() -> dict[str, float]:
            found: dict[str, float] = {}
            alone: Mapping[str, float] = {}
            for case in cases:
                number, faulty = case
                with _watched(job, number, faulty) as seen:
                    measured = taken()
                alone = alone or measured
                delays[case] += seen
                measured["rate_ratio"] = measured["projections_per_second"] / alone["projections_per_second"]
                measured["processor_ratio"] = measured["processor_seconds"] / (alone["processor_seconds"] or math.nan)
                each = len(seen) / max(number - faulty, 1)
                measured["pictures_per_second"] = each * measured["projections_per_second"] / num
                logger.info("%d viewers, %d of them faulty: %s", number, faulty, measured)
                found |= {f"{name} {case}": value for name, value in measured.items()}
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


def _row(case: tuple[int, int], found: Mapping[str, Summary], delays: Sequence[float]) -> Row:
    names = ("projections_per_second", "processor_seconds", "rate_ratio", "processor_ratio")
    return {
        "viewers": case[0],
        "faulty": case[1],
        **{name: found[f"{name} {case}"].median for name in names},
        "spread": found[f"rate_ratio {case}"].spread,
        "pictures": len(delays),
        "pictures_per_second": found[f"pictures_per_second {case}"].median,
        "median_delay": statistics.median(delays) if delays else None,
        "p99_delay": float(np.percentile(delays, 99)) if delays else None,
    }


@contextlib.contextmanager
def _watched(job: RunningJob, viewers: int, faulty: int) -> Iterator[list[float]]:
    """Run a live view of a job with so many pages meanwhile; the list holds their delays afterwards.

    Of those that are `faulty` the first is killed at its first picture, and the second stopped.
    """
    delays: list[float] = []
    if not viewers:
        yield delays
        return
    with contextlib.ExitStack() as stack:
        at = ("--address", job.endpoint.address, "--job-id", job.endpoint.job_id)
        view = stack.enter_context(started("bluesky_streamrecon", "view", "--json", *at))
        line = view.stdout.readline() if view.stdout is not None else ""
        if not line:
            raise JobError("benchmark: the live view did not start; is the extra 'view' installed?")
        faults = (signal.SIGKILL, signal.SIGSTOP)[:faulty]
        pages: list[subprocess.Popen[str]] = []
        for _ in range(viewers):
            pages.append(stack.enter_context(started(viewer.__name__, json.loads(line)["url"])))
            stack.callback(pages[-1].kill)  # one that is stopped does not end when it is asked to
        for page in pages:
            if page.stdout is None or page.stdout.readline() != "watches\n":
                raise JobError("benchmark: the viewers did not start; does the live view answer?")

        def fail(page: subprocess.Popen[str], fault: signal.Signals) -> None:
            if page.stdout is not None and page.stdout.readline():
                page.send_signal(fault)

        failing = [threading.Thread(target=fail, args=each) for each in zip(pages, faults, strict=False)]
        for thread in failing:
            thread.start()
        yield delays
        for page in pages[faulty:]:
            found, _ = page.communicate(timeout=END_SECONDS)
            delays.extend(json.loads(found.splitlines()[-1]))
        for page, thread in zip(pages, failing, strict=False):
            page.kill()
            thread.join()
