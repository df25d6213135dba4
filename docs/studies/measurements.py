"""How well policies stop by what is measured: numbers at the end of simulated scans, and what was predicted of them.

``python docs/studies/measurements.py --out DIR``, or with ``--seeds 1 --columns 96 --num 90`` for a quick look.
Every case is judged by the product's own policies, by forecasts every 5 % of the scan. What is predicted is the number
that is measured on the image from all projections, so that no truth is needed. Images of all cases that were taken
alike are made together, which is faster; noise is photons per pixel of the open beam.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from bluesky_streamrecon.evaluation.report import Report, Row, grouped
from bluesky_streamrecon.evaluation.scans import LineScan, ScanStack, simulated_scan
from bluesky_streamrecon.ordering import make_order
from bluesky_streamrecon.quality import Evidence, ScanLines, ScoredImage, TrialReconstruction, get_policy, make_metric
from bluesky_streamrecon.quality.forecast import Forecast, fewest_views
from bluesky_streamrecon.quality.metrics import TrialMetric, measured
from bluesky_streamrecon.quality.session import FORECAST_SHARE
from bluesky_streamrecon.recon.quick import QuickReconstructor
from bluesky_streamrecon.settings import SteeringSettings
from bluesky_streamrecon.sim_devices import Discs, Foam, Kind, Sample

__all__ = ["evaluate_measurements", "measured_cases"]

NOISE = (1e3, 1e4, 1e5, 1e6)
FIRST_SEED = 100
"""No constant was chosen by samples from here on."""

CLOSE = 0.15
"""Relative error of a predicted resolution that is small enough."""

ASKED: dict[str, tuple[str, Mapping[str, Any]]] = {
    "porosity": ("measurement", {"measure": "porosity", "within": 0.01}),
    "largest-pore": ("measurement", {"measure": "largest-pore", "within": "5%"}),
    "resolution": ("resolution", {"least_share": 0.05}),
}
"""What is asked of which policy."""

logger = logging.getLogger(__name__)


def measured_cases(*, columns: int = 128, num: int = 150, seeds: int = 5) -> list[LineScan]:
    """Return scans of foam, grains and a random field with holes at every seed and noise level."""
    order = make_order("optimized-interleaved", num=num)
    cases = []
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        samples: dict[str, Sample | Kind] = {
            "foam": Foam(pores=90, seed=seed),
            "grains": Discs(balls=60, seed=seed),
            "porous": Kind("porous", seed),
        }
        for name, sample in samples.items():
            for number, counts in enumerate(NOISE):
                scan = simulated_scan(
                    name, sample, columns=columns, order=order, counts=counts, seed=10 * seed + number
                )
                cases.append(replace(scan, seed=seed))
    return cases


def evaluate_measurements(
    *, columns: int = 128, num: int = 150, seeds: int = 5, asked: Iterable[str] = tuple(ASKED), threads: int = 1
) -> Report:
    """Stop scans by porosity, by the largest pore, and by resolution, and compare with the end of the scans.

    Parameters
    ----------
    columns, num, seeds : int, optional
        Detector columns and projections of a scan, and how many seeds of each sample.
    asked : iterable of str, optional
        Keys of `ASKED`.
    threads : int, optional
        That compute.

    Returns
    -------
    Report
        ``cases``: for each case and what was asked where it stopped (``stopped_at``; `planned` if it did not), the
        value ``predicted`` there (None: without a stop) and the ``final`` one, whether that is ``in_band`` (of a
        resolution: within 15 %), and how many ``decisions`` there were and how many of them were ``right`` in the same
        sense. ``summary``: for each that was asked, and each sample, shares of these and the median ``saving``.
    """
    asked = tuple(asked)
    cases = measured_cases(columns=columns, num=num, seeds=seeds)
    forecasts = _forecasts(cases, asked, threads)
    rows = [_result(case, what, forecasts[what][number]) for number, case in enumerate(cases) for what in asked]
    kinds = [("all", rows), *((kind, some) for (kind,), some in grouped(rows, "sample").items())]
    summary = [_summary(what, kind, grouped(some, "asked")[what,]) for what in asked for kind, some in kinds]
    return Report({"cases": rows, "summary": summary}, data={"measurements": rows, "summary": summary})


def _forecasts(cases: Sequence[LineScan], asked: Sequence[str], threads: int) -> dict[str, list[list[Forecast]]]:
    """Return all forecasts of each case, the last one from all projections, for each that is asked."""
    whole = ScanStack.of(cases).whole
    planned, reconstructor = len(whole), QuickReconstructor(threads)
    at = range(fewest_views(planned, None), planned, math.ceil(FORECAST_SHARE * planned))
    found: dict[str, list[list[Forecast]]] = {what: [[] for _ in cases] for what in asked}
    metrics = {what: _metric(what) for what in asked}
    for projections in (*at, planned):
        logger.info("%d cases after %d of %d projections", len(cases), projections, planned)
        first = whole.first(projections)
        lines = ScanLines(first.integrals, first.angles, whole.axis, tuple(range(whole.rows)), planned)
        together = TrialReconstruction(lines, range(whole.rows), reconstructor)
        for number in range(len(cases)):
            part = _part(together, number)
            for what, metric in metrics.items():
                values, problem = measured(metric.name, partial(metric.measure, part))
                found[what][number].append(Forecast(projections, metrics=values, failed=(problem,) if problem else ()))
    return found


def _part(together: TrialReconstruction, row: int) -> TrialReconstruction:
    """Return the trial of one row, with images that have been made for all of them together."""
    part = TrialReconstruction(together.lines, [row], QuickReconstructor())
    vars(part).update(full=together.full[[row]], halves=tuple(half[[row]] for half in together.halves))
    return part


def _metric(what: str) -> TrialMetric:
    rule, options = ASKED[what]
    settings = SteeringSettings(policy=rule, options=dict(options))
    metric = make_metric(get_policy(rule)(settings).metrics[0], settings, 0)
    assert isinstance(metric, TrialMetric)
    return metric


def _result(case: LineScan, what: str, forecasts: Sequence[Forecast]) -> Row:
    rule, options = ASKED[what]
    policy = get_policy(rule)(SteeringSettings(policy=rule, options=dict(options)))
    planned, name = len(case), policy.metrics[0]
    final = forecasts[-1].metrics[name]
    assert final is not None
    row: Row = {"asked": what, "sample": case.name, "noise": case.noise, "seed": case.seed, "planned": planned}
    stop: Row = {"stopped_at": planned, "predicted": None, "final": final, "in_band": None}
    decisions = right = 0
    for count, newest in enumerate(forecasts[:-1], 1):
        evidence = Evidence([ScoredImage(count, newest.projections, {})], planned, forecasts=forecasts[:count])
        verdict = policy.judge(evidence)
        values = {**newest.metrics, **verdict.metrics}
        predicted = values.get(f"{name}-final")
        if predicted is None:
            continue
        if rule == "measurement":
            hit = verdict.metrics[f"{name}-low"] <= final <= verdict.metrics[f"{name}-high"]
        else:
            hit = abs(predicted - final) <= CLOSE * final
        decisions, right = decisions + 1, right + hit
        if verdict.verdict == "enough" and stop["in_band"] is None:
            stop |= {"stopped_at": newest.projections, "predicted": predicted, "in_band": bool(hit)}
    return row | stop | {"decisions": decisions, "right": right}


def _summary(what: str, kind: str, rows: Sequence[Row]) -> Row:
    stopped = [row for row in rows if row["in_band"] is not None]
    decisions = sum(row["decisions"] for row in rows)
    return {
        "asked": what,
        "sample": kind,
        "cases": len(rows),
        "stopped": len(stopped),
        "in_band_at_stop": sum(row["in_band"] for row in stopped) / len(stopped) if stopped else math.nan,
        "in_band": sum(row["right"] for row in rows) / decisions if decisions else math.nan,
        "saving": statistics.median(1 - row["stopped_at"] / row["planned"] for row in rows),
    }


def main(
    out: Annotated[Path, typer.Option(help="Directory for measurements.csv (all cases) and summary.csv.")],
    columns: Annotated[int, typer.Option(help="Detector columns.")] = 128,
    num: Annotated[int, typer.Option(help="Projections of a scan.")] = 150,
    seeds: Annotated[int, typer.Option(help="Seeds of each sample and noise level.")] = 5,
    threads: Annotated[int, typer.Option(help="Threads that compute.")] = 1,
) -> None:
    """Stop scans of foam, grains and a porous field by porosity, largest pore and resolution."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    evaluate_measurements(columns=columns, num=num, seeds=seeds, threads=threads).write(out)


if __name__ == "__main__":
    typer.run(main)
