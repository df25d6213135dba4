"""What each metric costs, against the time in which the projections come that it is measured on.

    python docs/studies/metrics.py --rows 100 --columns 1024

Metrics of images are measured on every image, those of line integrals with each forecast. Both are the controller's
work, on one core, beside the ranks'. Times are seconds.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import typer
from numpy.typing import NDArray

from bluesky_streamrecon.cores import own_cores
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.bench.harness import Summary, seconds_per_call
from bluesky_streamrecon.evaluation.bench.sample import sample_scan
from bluesky_streamrecon.evaluation.report import Report
from bluesky_streamrecon.evaluation.scans import LineScan
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.quality import ImageHistory, PreviewImage, TrialMetric, make_metric
from bluesky_streamrecon.quality.data_checks import first_fault
from bluesky_streamrecon.quality.gain import predict_gain
from bluesky_streamrecon.quality.lines import ScanLines
from bluesky_streamrecon.quality.metrics import comparison_distance, measured, metrics
from bluesky_streamrecon.quality.policy import PREDICTED_GAIN
from bluesky_streamrecon.quality.session import FORECAST_SHARE
from bluesky_streamrecon.quality.trials import TrialReconstruction
from bluesky_streamrecon.recon import Engine
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings

__all__ = ["FAULTS", "measure_metrics"]

FAULTS = "faults"
"""The checks of the data, which are made with each forecast, whatever the metrics."""

PHOTONS = 1e4
TAKEN = 0.75
"""Share of the planned projections after which forecasts are measured: late ones take longest."""

SHOWN = 3

logger = logging.getLogger(__name__)


def measure_metrics(
    *, rows: int = 16, columns: int = 512, num: int = 180, repeats: int = 5, seconds: float = 0.2
) -> Report:
    """Measure every registered metric on a sample of discs with noise, with default settings.

    One of another package that fails is left out, and that is logged.

    Parameters
    ----------
    rows, columns : int, optional
        Of the detector.
    num : int, optional
        Projections planned.
    repeats : int, optional
        Samples of each figure.
    seconds : float, optional
        Least length of a sample.

    Returns
    -------
    Report
        ``update_seconds`` of the default window on all ``cores``, and ``metrics``, those of images first, each with
        ``seconds``, their ``spread``, ``every`` (projections from one measurement to the next) and ``share``: the
        seconds as a fraction of the time of `every` updates. A metric keeps up below 1.

    Raises
    ------
    ConfigError
        If a number can not work.
    """
    recon, steering = ReconSettings(), SteeringSettings(options={"measure": "porosity", "within": 0.01})
    distance = comparison_distance(recon, steering)
    if rows < 1 or columns < 64 or num < 4 * distance:
        raise ConfigError(
            f"rows={rows}, columns={columns}, num={num}: expected at least 1 row, 64 columns and {4 * distance} "
            "projections"
        )
    sample = partial(_median, repeats, seconds)
    scan = sample_scan(columns, rows, num)
    scan = replace(scan, integrals=_with_noise(scan.integrals))
    shown = tuple(sorted({rows * k // (SHOWN + 1) for k in range(1, SHOWN + 1)}))
    logger.info("updates of the default window")
    update, history = _live(scan, recon, distance, shown, sample)
    every = max(1, math.ceil(FORECAST_SHARE * num))
    taken = int(TAKEN * num)
    now = ScanLines(scan.integrals[:taken, shown], scan.angles[:taken], scan.axis, shown, num)
    study = _studies(now, every)
    works: dict[str, tuple[int, Callable[[], object]]] = {}
    for name in metrics.names():
        try:
            metric = make_metric(name, steering, distance)
        except ConfigError as error:  # of another package
            logger.warning("%s is left out: %s", name, error)
            continue
        of_lines = isinstance(metric, TrialMetric)
        work = _of_study(metric, study) if isinstance(metric, TrialMetric) else partial(metric, history)
        _, problem = measured(name, work)
        if problem:
            logger.warning("%s is left out: %s", name, problem)
            continue
        works[name] = (every if of_lines else 1), work
    works[PREDICTED_GAIN] = every, lambda: predict_gain(study())
    works[FAULTS] = every, lambda: first_fault(now)
    found = []
    for name, (step, work) in sorted(works.items(), key=lambda item: item[1][0]):
        logger.info("%s", name)
        work()
        cost = sample(work)
        share = cost.median / (step * update.median)
        found.append({"metric": name, "seconds": cost.median, "spread": cost.spread, "every": step, "share": share})
    cores = len(own_cores())
    return Report({"update_seconds": update.median, "rows": rows, "columns": columns, "cores": cores, "metrics": found})


def _median(repeats: int, seconds: float, work: Callable[[], object]) -> Summary:
    return Summary.of([seconds_per_call(work, at_least=seconds) for _ in range(repeats)])


def _with_noise(lines: NDArray[np.float32]) -> NDArray[np.float32]:
    counts = np.random.default_rng(0).poisson(PHOTONS * np.exp(-lines.astype(np.float64)))
    return np.asarray(-np.log(np.maximum(counts, 0.5) / PHOTONS), np.float32)


def _live(
    scan: LineScan,
    recon: ReconSettings,
    distance: int,
    shown: tuple[int, ...],
    sample: Callable[[Callable[[], object]], Summary],
) -> tuple[Summary, ImageHistory]:
    """Update as in a scan; return the time of one update, and two images that are compared."""
    images = []
    window = {"window": recon.window, "window_policy": recon.window_policy, "planned": len(scan)}
    with Engine(TomoGeometry(scan.columns, scan.axis), scan.rows, **window, threads=len(own_cores())) as engine:

        def update() -> None:
            number = engine.projections % len(scan)
            engine.append(scan.integrals[number], float(scan.angles[number]))
            engine.update(recon.iterations)

        for count in (distance, 2 * distance):
            while engine.projections < count:
                update()
            images.append(PreviewImage(count, count, shown, engine.slices(shown)))
        return sample(update), ImageHistory(tuple(images))


def _studies(lines: ScanLines, every: int) -> Callable[[], TrialReconstruction]:
    """Return what makes a fresh study of these projections; the one before it is there, as in a scan."""
    from bluesky_streamrecon.recon.quick import QuickReconstructor

    reconstructor = QuickReconstructor()
    reconstructor.warm_up()
    rows = range(len(lines.rows))
    before = TrialReconstruction(
        replace(lines, values=lines.values[:-every], angles=lines.angles[:-every]), rows, reconstructor
    )
    TrialReconstruction(lines, rows, reconstructor, before)  # has the earlier images made
    return lambda: TrialReconstruction(lines, rows, reconstructor, before)


def _of_study(metric: TrialMetric, study: Callable[[], TrialReconstruction]) -> Callable[[], object]:
    """Return what measures, and makes the images that the next study may want."""

    def measure() -> object:
        made = study()
        value = metric.measure(made)
        _ = made.full
        return value

    return measure


def main(rows: int = 16, columns: int = 512, num: int = 180, repeats: int = 5) -> None:
    """Print what each metric costs; *share* 1 keeps up just so with the updates of all cores."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for row in measure_metrics(rows=rows, columns=columns, num=num, repeats=repeats).fields["metrics"]:
        print("  ".join(f"{name} {value:.3g}" if name != "metric" else f"{value:24}" for name, value in row.items()))


if __name__ == "__main__":
    typer.run(main)
