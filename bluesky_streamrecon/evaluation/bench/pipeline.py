"""How fast projections get all the way, and how much of the kernels' speed is left of it.

Everything is as in a scan but the devices (`running_job`). Before and after each scan, one `Engine` in this process
works on as many projections with as many threads as all ranks have. The first images, whose window is not full, are
not counted. Rates are projections per second, times seconds.

On a machine that other programs use at the same time, rates mean little, and so does their ratio. Processor time means
more: that of the kernels alone, as a share of that of all processes together.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Mapping, Sequence

import numpy as np

from bluesky_streamrecon.cores import own_cores
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.bench.harness import take_turns
from bluesky_streamrecon.evaluation.bench.jobs import running_job
from bluesky_streamrecon.evaluation.bench.sample import counts_of, moving_engine, sample_scan
from bluesky_streamrecon.evaluation.report import Report
from bluesky_streamrecon.quality import get_policy
from bluesky_streamrecon.settings import Option, ReconSettings, SteeringSettings

__all__ = ["measure_pipeline"]

PACE = 0.8
"""Share of the sustained rate at which projections come while latency is measured: nothing piles up."""

PHASE: dict[str, Option] = {"step": "paganin", "delta_beta": 200, "energy": 25, "distance": 60, "pixel_size": 1.5}
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
    exposure: float | None = None,
    policy: str = "ms-ssim",
    backend: str = "cpu",
    preparation: Sequence[str | Mapping[str, Option]] = (),
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
    exposure : float, optional
        Seconds from one projection to the next while latency is measured; by default they come at `PACE` of the
        sustained rate.
    policy : str, optional
        That judges the images; not the product's default, since figures must stay comparable.
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
        ``image_latency_p99`` until every rank has reported the image, ``update_seconds``, the median time of an update
        meanwhile (of ranks the slowest one counts); ``images`` and ``scores``, those made and scored while latency was
        measured; and the arguments.

    Raises
    ------
    ConfigError
        If algorithm or policy are unknown, or a number can not work.
    JobError
        If the job can not be started, or reports a problem.
    """
    from bluesky_streamrecon.recon.algorithms import algorithms

    algorithms.get(algorithm)
    get_policy(policy)
    if threads is None:
        threads = max(1, len(own_cores()) // max(1, ranks))
    wanted = (PHASE if each == "paganin" else each for each in preparation)
    steps = tuple(each if isinstance(each, str) else dict(each) for each in wanted)
    recon = ReconSettings(
        algorithm=algorithm, window=window, step=step, axis=(columns - 1) / 2, disc=disc, threads=threads, ranks=ranks,
        coalesce=False, backend=backend, preparation=steps,
    )  # fmt: skip
    if projections < window + 2 * step:
        raise ConfigError(
            f"projections: got {projections}, expected at least window + 2 * step = {window + 2 * step}, so that full "
            "windows can be timed"
        )
    scan, steering = sample_scan(columns, rows, projections), SteeringSettings(policy=policy, advisory=True)
    counts, angles = counts_of(scan.integrals), scan.angles
    # Projections, in whole steps, after which the window is full, and all of them.
    first, last = -(-window // step) * step, projections // step * step

    def alone() -> tuple[float, float]:
        """Return the rate of the engine alone, and the processor time of as many projections as are counted."""
        with moving_engine(
            algorithm, rows=rows, columns=columns, window=window, threads=ranks * threads, backend=backend, disc=disc
        ) as (engine, move):
            engine.finish()
            start, began = time.perf_counter(), time.process_time()
            for _ in range(first, last, step):
                move(step)
            engine.finish()
            return (last - first) / (time.perf_counter() - start), time.process_time() - began

    logger.info("job of %d ranks and controller start", ranks)
    with running_job(recon, (rows, columns), threads=threads) as job:
        logger.info("both warm up")
        job.scan(counts[: first + step], angles, steering=steering)
        before = alone()

        def turn() -> dict[str, float]:
            nonlocal before
            job.scan(counts, angles, steering=steering)
            imaged, spent = job.events.imaged_at, job.events.spent_at
            rate, used = (last - first) / (imaged[last] - imaged[first]), spent[last] - spent[first]
            earlier, before = before, alone()
            share, kernels = 2 * rate / (earlier[0] + before[0]), before
            return {"rate": rate, "kernels": kernels[0], "share": share, "cpu": kernels[1] / used if used else math.nan}

        found = take_turns(repeats, turn)
        sustained = found["rate"]
        images, scores, updates, scored = [math.nan], [math.nan], [math.nan], 0
        if latency:
            interval = exposure or 1 / (PACE * sustained.median)
            logger.info("latency, at %.3g projections per second", 1 / interval)
            handed, events = job.scan(counts, angles, steering=steering, interval=interval), job.events
            counted = range(first, last + 1, step)
            images = [events.imaged_at[n] - handed[n - 1] for n in counted if n in events.imaged_at]
            # A controller that is behind leaves images out; what they would have shown comes with a later one.
            judged = events.judged_at.items()
            scores = [min(at for number, at in judged if number >= n) - handed[n - 1] for n in counted]
            scored = sum(n in events.judged_at for n in counted)
            updates = list(events.update_seconds.values())
    return Report({
        "projections_per_second": sustained.median,
        "spread": sustained.spread,
        "kernel_projections_per_second": found["kernels"].median,
        "kernel_share": found["share"].median,
        "processor_share": None if math.isnan(found["cpu"].median) else found["cpu"].median,
        "latency_median": statistics.median(scores),
        "latency_p99": float(np.percentile(scores, 99)),
        "image_latency_median": statistics.median(images),
        "image_latency_p99": float(np.percentile(images, 99)),
        "update_seconds": statistics.median(updates),
        "images": len(images) if latency else 0,
        "scores": scored,
        "rows": rows, "columns": columns, "window": window, "step": step, "ranks": ranks, "threads": threads,
        "projections": projections, "algorithm": algorithm, "disc": disc, "policy": policy, "backend": backend,
        "preparation": list(preparation),
    })  # fmt: skip
