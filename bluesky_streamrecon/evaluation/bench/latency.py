"""How long after an exposure the decision whether to end the scan is there, with default settings (`RunningJob`)."""

from __future__ import annotations

import logging
import statistics

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.bench.harness import check_repeats, percentile, take_turns
from bluesky_streamrecon.evaluation.bench.jobs import RunningJob
from bluesky_streamrecon.evaluation.bench.sample import counts_of, disc_scan
from bluesky_streamrecon.evaluation.report import Report
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings

__all__ = ["measure_latency"]

WARM_UP = 30
STEERING = SteeringSettings(advisory=True)

logger = logging.getLogger(__name__)


def measure_latency(
    *,
    rows: int = 16,
    columns: int = 512,
    ranks: int = 2,
    num: int = 120,
    exposure: float = 0.1,
    algorithm: str = "mlem",
    repeats: int = 3,
) -> Report:
    """Scan, and time each decision.

    Parameters
    ----------
    rows, columns, ranks, num : int, optional
        Detector, MPI ranks, and projections of a scan.
    exposure : float, optional
        Seconds per projection.
    algorithm : str, optional
        What makes the images.
    repeats : int, optional
        Scans.

    Returns
    -------
    Report
        ``latency_median`` and ``latency_p99``: seconds from the end of an exposure to the verdict on the first image
        that has it, of ``decisions`` exposures with a full window; ``update_seconds``, the median time of an update of
        the image in the same scans (of ranks the slowest one counts); ``updates_per_latency``, the ratio of the two
        medians of each scan, and its ``spread``; ``images`` made and ``judged``; and the arguments.

    Raises
    ------
    ConfigError
        If the algorithm is unknown, or a number can not work.
    JobError
        If a scan fails.
    """
    from bluesky_streamrecon.recon.algorithms import algorithms

    check_repeats(repeats)
    algorithms.get(algorithm)
    recon = ReconSettings(axis=(columns - 1) / 2, ranks=ranks, algorithm=algorithm)
    full = recon.window or 0
    if rows < 1 or num < 2 * (full + 1) or not 0 < exposure <= 10:
        raise ConfigError(
            f"rows={rows}, num={num}, exposure={exposure}: expected at least 1 row, {2 * (full + 1)} projections, and "
            "up to 10 s for each"
        )
    scan = disc_scan(columns, rows, num)
    counts, angles = counts_of(scan.integrals), scan.angles
    latencies: list[float] = []
    images = judged = 0
    logger.info("job starts and warms up")
    with RunningJob(recon, (rows, columns)) as job:
        job.scan(counts[:WARM_UP], angles, steering=STEERING, interval=exposure)

        def turn() -> dict[str, float]:
            nonlocal images, judged
            exposed, events = job.scan(counts, angles, steering=STEERING, interval=exposure), job.events
            found = [events.first_judged(n) - moment for n, moment in enumerate(exposed, 1) if n > full]
            latencies.extend(found)
            images, judged = images + len(events.imaged_at), judged + len(events.judged_at)
            update = statistics.median(events.update_seconds.values())
            return {"update": update, "ratio": percentile(found, 50) / update}

        found = take_turns(repeats, turn)
    return Report({
        "latency_median": percentile(latencies, 50),
        "latency_p99": percentile(latencies, 99),
        "update_seconds": found["update"].median,
        "updates_per_latency": found["ratio"].median,
        "spread": found["ratio"].spread,
        "decisions": len(latencies),
        "images": images,
        "judged": judged,
        "rows": rows, "columns": columns, "ranks": ranks, "num": num, "exposure": exposure, "algorithm": algorithm,
    })  # fmt: skip
