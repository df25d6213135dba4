"""How fast projections get all the way, and how much of the kernels' speed is left of it.

Everything is as in a scan but the devices (`RunningJob`). Before and after each scan, one `Engine` in this process
works on the same projections with as many threads as all ranks have. The first images, whose window is not full, are
not counted. Rates are projections per second, times seconds.

On a machine that other programs use at the same time, rates mean little, and so does their ratio. Processor time means
more: that of the kernels alone, as a share of that of all processes together.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence

import msgspec

from bluesky_streamrecon.cores import own_cores
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.bench.harness import check_repeats, percentile, take_turns
from bluesky_streamrecon.evaluation.bench.jobs import RunningJob
from bluesky_streamrecon.evaluation.bench.sample import counts_of, disc_scan
from bluesky_streamrecon.evaluation.images import live_engine
from bluesky_streamrecon.evaluation.report import Report
from bluesky_streamrecon.evaluation.scans import LineScan
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings

__all__ = ["measure_pipeline"]

PACE = 0.8
"""Share of the sustained rate at which projections come while latency is measured: nothing piles up."""

STEERING = SteeringSettings(policy="ms-ssim", threshold=1.0, advisory=True)
"""By name, since figures must stay comparable."""

PHASE: Mapping[str, float | int | str | bool] = {
    "step": "paganin",
    "delta_beta": 200,
    "energy": 25,
    "distance": 60,
    "pixel_size": 1.5,
}
"""A kernel of 4.6 pixels, cut off after 33 rows."""

logger = logging.getLogger(__name__)


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
    backend: str = "cpu",
    preparation: Sequence[str | Mapping[str, float | int | str | bool]] = (),
) -> Report:
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
    backend : str, optional
        What the ranks, and the engine alone, compute on.
    preparation : sequence of str or mapping, optional
        As in the settings; ``"paganin"`` alone has the options of `PHASE`. The engine alone gets projections that are
        prepared.

    Returns
    -------
    Report
        ``projections_per_second`` (every step made) and its ``spread``; ``kernel_projections_per_second`` of the engine
        alone; ``kernel_share``, their ratio, each scan compared with the mean of the engine's rates before and after
        it; ``processor_share``, processor time of the engine alone over that of all processes, for the same images
        (None where the system does not report it); ``latency_median`` and ``latency_p99`` from handing over the
        projection that completes a step to the first score of an image that has it, ``image_latency_median`` and
        ``image_latency_p99`` until every rank has reported the image; ``images`` and ``scores``, those made and scored
        while latency was measured; and the arguments.

    Raises
    ------
    ConfigError
        If the algorithm is unknown, or a number can not work.
    JobError
        If the job can not be started, or reports a problem.
    """
    from bluesky_streamrecon.recon.algorithms import algorithms

    check_repeats(repeats)
    algorithms.get(algorithm)
    if threads is None:
        threads = max(1, len(own_cores()) // max(1, ranks))
    recon = ReconSettings(
        algorithm=algorithm, window=window, step=step, axis=(columns - 1) / 2, disc=disc, threads=threads, ranks=ranks,
        coalesce=False, backend=backend,
        preparation=tuple(_step(each) for each in preparation),
    )  # fmt: skip
    if rows < 1 or projections < window + 2 * step:
        raise ConfigError(
            f"rows={rows}, projections={projections}: expected at least 1 row, and at least window + 2 * step = "
            f"{window + 2 * step} projections, so that full windows can be timed"
        )
    scan = disc_scan(columns, rows, projections)
    counts, angles = counts_of(scan.integrals), scan.angles
    # Projections, in whole steps, after which the window is full, and all of them.
    first, last = -(-window // step) * step, projections // step * step

    def alone() -> tuple[float, float]:
        return _engine_alone(scan, recon, (first, last), ranks * threads)

    logger.info("job of %d ranks and controller start", ranks)
    with RunningJob(recon, (rows, columns), threads=threads) as job:
        logger.info("both warm up")
        alone()
        job.scan(counts[: first + step], angles, steering=STEERING)
        before = alone()

        def turn() -> dict[str, float]:
            nonlocal before
            job.scan(counts, angles, steering=STEERING)
            imaged, spent = job.events.imaged_at, job.events.spent_at
            rate, used = (last - first) / (imaged[last] - imaged[first]), spent[last] - spent[first]
            earlier, before = before, alone()
            share, kernels = 2 * rate / (earlier[0] + before[0]), before
            return {"rate": rate, "kernels": kernels[0], "share": share, "cpu": kernels[1] / used if used else math.nan}

        found = take_turns(repeats, turn)
        sustained = found["rate"]
        images, scores, scored = [math.nan], [math.nan], 0
        if latency:
            pace = PACE * sustained.median
            logger.info("latency, at %.3g projections per second", pace)
            handed, events = job.scan(counts, angles, steering=STEERING, interval=1 / pace), job.events
            counted = range(first, last + 1, step)
            images = [events.imaged_at[n] - handed[n - 1] for n in counted if n in events.imaged_at]
            # A controller that is behind leaves images out; what they would have shown comes with a later one.
            scores = [events.first_judged(n) - handed[n - 1] for n in counted]
            scored = sum(n in events.judged_at for n in counted)
    return Report({
        "projections_per_second": sustained.median,
        "spread": sustained.spread,
        "kernel_projections_per_second": found["kernels"].median,
        "kernel_share": found["share"].median,
        "processor_share": None if math.isnan(found["cpu"].median) else found["cpu"].median,
        "latency_median": percentile(scores, 50),
        "latency_p99": percentile(scores, 99),
        "image_latency_median": percentile(images, 50),
        "image_latency_p99": percentile(images, 99),
        "images": len(images) if latency else 0,
        "scores": scored,
        "rows": rows, "columns": columns, "window": window, "step": step, "ranks": ranks, "threads": threads,
        "projections": projections, "algorithm": algorithm, "disc": disc, "backend": backend,
        "preparation": list(preparation),
    })  # fmt: skip


def _step(given: str | Mapping[str, float | int | str | bool]) -> str | dict[str, float | int | str | bool]:
    step = PHASE if given == "paganin" else given
    return step if isinstance(step, str) else dict(step)


def _engine_alone(scan: LineScan, recon: ReconSettings, counted: tuple[int, int], threads: int) -> tuple[float, float]:
    """Take in all projections, as a new run; return the rate of those that are counted, and their processor time."""
    first, last = counted
    start = began = 0.0
    recon = msgspec.structs.replace(recon, threads=threads)
    with live_engine(scan, recon, backend=recon.backend, disc=recon.disc) as engine:
        for number in range(1, last + 1):
            engine.append(scan.integrals[number - 1], float(scan.angles[number - 1]))
            if number % recon.step == 0:
                engine.update()
            if number == first:
                engine.finish()
                start, began = time.perf_counter(), time.process_time()
        engine.finish()
        return (last - first) / (time.perf_counter() - start), time.process_time() - began
