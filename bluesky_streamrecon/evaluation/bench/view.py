"""What the live view costs a run, and how old its pictures are: real scans, watched and not watched in turns."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from bluesky_streamrecon.errors import ConfigError, JobError
from bluesky_streamrecon.evaluation.bench.scanning import Scanner
from bluesky_streamrecon.evaluation.bench.timing import Summary, Tell, check_repeats, percentile, silent

__all__ = ["ViewResult", "measure_view"]

WARM_UP = 12
END_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class ViewResult:
    """What was measured.

    Parameters
    ----------
    median_delay, p99_delay : float
        From an image's last slice at the controller to its PNGs in a viewer's hands, seconds.
    viewers, pictures : int
        Pages that watched, and pictures that all of them got.
    rate_ratio, spread : float
        Projections per second of a watched scan over those of one that is not, median over turns, and the spread.
    projections_per_second : float
        Of the scans that nobody watched, from the first exposure to the last verdict.
    rows, columns, ranks, num : int
        What was scanned.
    """

    median_delay: float
    p99_delay: float
    viewers: int
    pictures: int
    rate_ratio: float
    spread: float
    projections_per_second: float
    rows: int
    columns: int
    ranks: int
    num: int


def measure_view(
    *,
    viewers: int = 3,
    rows: int = 16,
    columns: int = 256,
    ranks: int = 2,
    num: int = 360,
    repeats: int = 3,
    tell: Tell = silent,
) -> ViewResult:
    """Scan as fast as detector and job can, watched and not watched in turns.

    Parameters
    ----------
    viewers : int, optional
        Pages that watch.
    rows, columns, ranks, num : int, optional
        Detector, MPI ranks, and projections of a scan.
    repeats : int, optional
        Turns.
    tell : callable, optional
        Told how far it is.

    Raises
    ------
    ConfigError
        If a number can not work.
    JobError
        If a scan or the live view fails.
    """
    check_repeats(repeats)
    if viewers < 1 or num < 2 * WARM_UP:
        raise ConfigError(f"viewers={viewers}, num={num}: expected at least 1 viewer and {2 * WARM_UP} projections")
    delays: list[float] = []
    alone, ratios = [], []
    with Scanner(rows=rows, columns=columns, ranks=ranks, exposure=0.0, num=num) as scanner:
        tell("job starts and warms up")
        scanner.scan(WARM_UP, coalesce=False)
        for turn in range(repeats):
            tell(f"turn {turn + 1} of {repeats}: nobody watches")
            alone.append(scanner.scan(num, coalesce=False).rate)
            tell(f"turn {turn + 1} of {repeats}: {viewers} watch")
            with _watched(viewers) as seen:
                watched = scanner.scan(num, coalesce=False).rate
            delays += seen
            ratios.append(watched / alone[-1])
    if not delays:
        raise JobError("benchmark: no viewer was shown a picture; is the scan too short?")
    ratio = Summary.of(ratios)
    return ViewResult(
        median_delay=percentile(delays, 50),
        p99_delay=percentile(delays, 99),
        viewers=viewers,
        pictures=len(delays),
        rate_ratio=ratio.median,
        spread=ratio.spread,
        projections_per_second=Summary.of(alone).median,
        rows=rows,
        columns=columns,
        ranks=ranks,
        num=num,
    )


@contextlib.contextmanager
def _watched(viewers: int) -> Iterator[list[float]]:
    """Have a live view and so many pages watch meanwhile; the list holds their delays afterwards."""
    delays: list[float] = []
    program = [sys.executable, "-m", "bluesky_streamrecon", "view", "--json"]
    with _started(program) as view:
        line = view.stdout.readline() if view.stdout is not None else ""
        if not line:
            raise JobError("benchmark: the live view did not start; is the extra 'view' installed?")
        pages = [sys.executable, "-m", "bluesky_streamrecon.evaluation.bench.viewers", json.loads(line)["url"]]
        with _started([*pages, str(viewers)]) as watching:
            if watching.stdout is None or watching.stdout.readline() != "True\n":
                raise JobError("benchmark: the viewers did not start; does the live view answer?")
            yield delays
            told, _ = watching.communicate(timeout=END_SECONDS)
            for found in json.loads(told):
                delays.extend(found)


@contextlib.contextmanager
def _started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(ValueError):  # communicated with already
            process.communicate(timeout=END_SECONDS)
