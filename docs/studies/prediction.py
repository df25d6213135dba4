"""How soon the predicted gain stops scans of samples of every kind, and how often its band holds what they gain.

``python docs/studies/prediction.py --out DIR`` makes scans whose truth is known, reconstructs them every 2.5 %, and
keeps what the product predicts in ``points.csv``. With ``--points DIR/points.csv --upper 0.2 --upper 0.3`` the same
numbers are judged by other bands, in seconds. Losses and gains are MS-SSIM, angles radians.
"""

from __future__ import annotations

import csv
import logging
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.cases import OF_EACH_KIND, kind_cases
from bluesky_streamrecon.evaluation.report import Report, Row, grouped
from bluesky_streamrecon.evaluation.scans import LineScan, ScanStack
from bluesky_streamrecon.quality import ScanLines, TrialReconstruction
from bluesky_streamrecon.quality.forecast import FARTHEST, fewest_views, why_none
from bluesky_streamrecon.quality.gain import FLOOR, FURTHER, LARGE, UPPER, band, predict_gain
from bluesky_streamrecon.recon.quick import QuickReconstructor
from bluesky_streamrecon.sim_devices import HELD_OUT_KINDS, KINDS

__all__ = ["evaluate_prediction", "judge", "made_scans", "points_of", "summarize"]

SHARES = np.arange(0.2, 0.976, 0.025)
"""Of the plan, after which predictions are made."""

TOLERANCE = 0.02

logger = logging.getLogger(__name__)


def made_scans(kinds: Sequence[str], seed: int, cases: Sequence[int]) -> list[list[tuple[Row, LineScan]]]:
    """Return scans of these kinds, and what they are, together with those of the same angles, width and axis.

    Raises
    ------
    ConfigError
        If there is no kind of a name, or no such case.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ConfigError(f"kinds: got {', '.join(unknown)}, expected some of {', '.join(KINDS)}")
    if wrong := [case for case in cases if not 0 <= case < len(OF_EACH_KIND)]:
        raise ConfigError(f"cases: got {wrong}, expected some of 0 to {len(OF_EACH_KIND) - 1}")
    alike: dict[tuple[bytes, int, float, int], list[tuple[Row, LineScan]]] = {}
    for kind in kinds:
        for case in cases:
            (scan,) = kind_cases(kind, seed=seed, only=[case])
            about = {"kind": kind, "seed": seed, "case": case, "noise": scan.noise, "columns": scan.columns}
            same = scan.angles.tobytes(), scan.columns, scan.axis, scan.size
            alike.setdefault(same, []).append((about, scan))
    return list(alike.values())


def points_of(alike: Sequence[tuple[Row, LineScan]], threads: int = 1) -> list[Row]:
    """Reconstruct scans of the same angles, width and axis from their first projections, every 2.5 % and from all.

    Returns
    -------
    list of Row
        For each scan and number of ``projections`` the ``similarity`` to the truth, and, unless nothing is predicted,
        the predicted ``gain`` and what the upper end has more where edges run in few directions (``single``).
    """
    stack, reconstructor = ScanStack.of([scan for _, scan in alike]), QuickReconstructor(threads)
    whole, planned = stack.whole, len(stack.whole)
    points = []
    for projections in sorted({*(round(planned * share) for share in SHARES.tolist()), planned}):
        logger.info("%d scans of %d columns: %d of %d projections", len(alike), whole.columns, projections, planned)
        first = whole.first(projections)
        lines = ScanLines(
            first.integrals, first.angles, whole.axis, tuple(range(whole.rows)), planned, whole.over, size=whole.size
        )
        study = TrialReconstruction(lines, range(whole.rows), reconstructor)
        image = study.full
        if study.binning > 1:
            weights = whole.over.view_weights(first.angles)
            size = max(whole.size, whole.columns)
            image = reconstructor.reconstruct(
                np.maximum(first.integrals, 0), first.angles, weights, axis=whole.axis, size=size
            )
        compared = stack.compare(projections, image)
        predicted = fewest_views(planned, None) <= projections < planned
        for row, ((about, _), found) in enumerate(zip(alike, compared, strict=True)):
            point = about | {"planned": planned, "projections": projections, "similarity": found["ms_ssim"]}
            part = _one_row(study, row, reconstructor)
            if predicted and not why_none(part, FARTHEST):
                made = predict_gain(part)
                point |= {"gain": made.gain, "single": made.single}
            points.append(point)
    return points


def _one_row(study: TrialReconstruction, row: int, reconstructor: QuickReconstructor) -> TrialReconstruction:
    """Return the trial of one row, with images that have been made for all of them together."""
    part = TrialReconstruction(study.lines, [row], reconstructor)
    halves = tuple(half[[row]] for half in study.halves)
    vars(part).update(full=study.full[[row]], noisier=study.noisier[[row]], halves=halves, model=study.model[:, [row]])
    return part


def ends_of(gain: float, single: float = 0.0, upper: float = UPPER) -> tuple[float, float]:
    """Return both ends of the band of a predicted gain, as the product's but for another `UPPER`."""
    reach = upper + FURTHER * math.log(max(gain / LARGE, 1))
    return band(gain, single)[0], gain * math.exp(reach) + FLOOR + single


def judge(points: Sequence[Row], upper: float = UPPER) -> Row:
    """Return where a scan stops by its points, where the oracle stops, and how often the band held the true loss.

    As in the product, a prediction is made every 5 %, and twice as often where the upper end is below twice the
    tolerance. The oracle stops where the loss stays within the tolerance from then on.
    """
    planned = points[0]["planned"]
    at = [point["projections"] for point in points]
    losses = [points[-1]["similarity"] - point["similarity"] for point in points]
    grid = np.arange(0.2, 1.001, 0.0125) * planned
    lost = np.interp(grid, at, losses)
    bad = np.nonzero(lost > TOLERANCE)[0]
    made = [point for point in points if point.get("gain") is not None]
    stop, hits, place = float(planned), [], 0
    if len(made) > 1:
        known = [point["projections"] for point in made]
        ends = np.array([ends_of(max(point["gain"], 1e-6), point["single"], upper) for point in made])
        low, high = np.interp(grid, known, ends[:, 0]), np.exp(np.interp(grid, known, np.log(ends[:, 1])))
        while grid[place] <= known[-1] + 1e-6:
            if grid[place] >= known[0]:
                hits.append(bool(low[place] <= lost[place] <= high[place]))
                if high[place] < TOLERANCE:
                    stop = float(grid[place])
                    break
            near = grid[place] < known[0] or high[place] < 2 * TOLERANCE
            place += 2 if near else 4
    about = {name: points[0][name] for name in ("kind", "seed", "case", "noise", "columns", "planned")}
    return about | {
        "upper": upper,
        "stopped_at": stop,
        "loss": float(np.interp(stop, at, losses)),
        "oracle": float(grid[min(bad[-1] + 1, len(grid) - 1)] if len(bad) else grid[0]),
        "decisions": len(hits),
        "in_band": sum(hits),
    }


def summarize(judged: Sequence[Row]) -> Row:
    """Return medians and counts of all scans that one band has judged, and shares of medians and of means."""
    savings, oracles = ([1 - row[name] / row["planned"] for row in judged] for name in ("stopped_at", "oracle"))
    saving, oracle = statistics.median(savings), statistics.median(oracles)
    return {
        "scans": len(judged),
        "oracle": round(oracle, 3),
        "saving": round(saving, 3),
        "share": round(saving / oracle, 2) if oracle else None,
        "mean_share": round(sum(savings) / sum(oracles), 2) if oracle else None,
        "false_stops": sum(row["loss"] > TOLERANCE for row in judged),
        "worst_loss": round(max(row["loss"] for row in judged), 4),
        "decisions": sum(row["decisions"] for row in judged),
        "in_band": sum(row["in_band"] for row in judged),
    }


def evaluate_prediction(points: Sequence[Row], uppers: Sequence[float]) -> Report:
    """Judge the points of scans by bands with each of these upper ends.

    Returns
    -------
    Report
        ``cases``: see `judge`. ``summary``: see `summarize`, for each band: of all scans, each kind, and each case.
    """
    judged, summary = [], []
    for upper in uppers:
        rows = [judge(scan, upper) for scan in grouped(points, "kind", "seed", "case").values()]
        some = {"all": rows} | {
            f"{name} {key}": part for name in ("kind", "case") for (key,), part in grouped(rows, name).items()
        }
        summary += [{"upper": upper, "of": of} | summarize(part) for of, part in some.items()]
        judged += rows
    return Report({"summary": summary}, data={"cases": judged, "summary": summary})


def read_points(path: Path) -> list[Row]:
    """Return what is in a ``points.csv``."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"kind", "similarity", "gain", "single"} <= rows[0].keys():
        raise ConfigError(
            f"{path}: got columns {', '.join(rows[0]) if rows else 'none'}, expected those of a points.csv"
        )
    whole = ("seed", "case", "columns", "planned", "projections")
    return [
        {k: v if k == "kind" else int(v) if k in whole else float(v) if v else None for k, v in row.items()}
        for row in rows
    ]


def main(
    out: Annotated[Path, typer.Option(help="Directory for points.csv, cases.csv and summary.csv.")],
    kinds: Annotated[list[str] | None, typer.Option(help="Of samples; those held out by default.")] = None,
    seeds: Annotated[list[int] | None, typer.Option(help="16 and 17 by default.")] = None,
    cases: Annotated[list[int] | None, typer.Option(help="Scans of a kind; 0 to 10 by default.")] = None,
    points: Annotated[list[Path] | None, typer.Option(help="Judge those in this points.csv, and make none.")] = None,
    upper: Annotated[list[float] | None, typer.Option(help="Of the band, ln; the product's by default.")] = None,
    threads: Annotated[int, typer.Option(help="Threads that compute.")] = 1,
) -> None:
    """Stop scans by their predictions; --kinds, --seeds, --cases, --points and --upper may be repeated."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    found = [row for path in points or [] for row in read_points(path)]
    for seed in [] if points else seeds or [16, 17]:
        for alike in made_scans(kinds or HELD_OUT_KINDS, seed, cases or range(11)):
            found += points_of(alike, threads)
            Report({}, data={"points": found}).write(out)
    wanted = {"kind": kinds, "seed": seeds, "case": cases}
    found = [row for row in found if all(not some or row[name] in some for name, some in wanted.items())]
    if not found:
        raise ConfigError(f"no points of kinds {kinds or 'any'}, seeds {seeds or 'any'} and cases {cases or 'any'}")
    report = evaluate_prediction(found, upper or [UPPER])
    report.write(out)
    summary = report.fields["summary"]
    print("|", " | ".join(summary[0]), "|\n|", " --- |" * len(summary[0]))
    for row in summary:
        print("|", " | ".join(str(value) for value in row.values()), "|")


if __name__ == "__main__":
    typer.run(main)
