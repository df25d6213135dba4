"""How soon two predictions of the remaining gain stop scans: the product's, and one that asks the sample's own image.

``python docs/studies/small_samples.py --out DIR`` makes scans whose truth is known, reconstructs them every 5 %, and
keeps what was predicted in ``points.csv``. With ``--points DIR/points.csv --upper 0.3 --upper 0.43`` the same numbers
are judged by other bands, in seconds.

How the effect of missing angles falls with more views depends on the sample: where all detail is of one size, it ends
at once. The image from all views so far, scanned again by the same views, would show nothing, since it holds only what
these views see. But a part of it that is half as wide is a sample in its own right, and half as many views are to it
what all are to the whole. So parts are scanned in simulation, by what stands for the views before the last doubling,
those so far, and all that are planned; what they say is averaged, geometrically, with what the arcs between views say.
Losses and gains are MS-SSIM, angles radians, lengths pixels.
"""

from __future__ import annotations

import csv
import logging
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from bluesky_streamrecon.coverage import HALF_TURN, AngularRange
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.cases import OF_EACH_KIND, kind_cases
from bluesky_streamrecon.evaluation.report import Report, Row, grouped
from bluesky_streamrecon.evaluation.scans import LineScan, ScanStack
from bluesky_streamrecon.quality import ScanLines, TrialReconstruction
from bluesky_streamrecon.quality.forecast import FARTHEST, fewest_views, why_none
from bluesky_streamrecon.quality.gain import FLOOR, FURTHER, LARGE, UPPER, band, predict_gain
from bluesky_streamrecon.quality.trials import CHI_SQUARED_MEDIAN, LARGEST_EXPONENT, UNBINNED, disc, similarity
from bluesky_streamrecon.recon.quick import QuickReconstructor
from bluesky_streamrecon.sim_devices import HELD_OUT_KINDS, KINDS

__all__ = ["Choice", "evaluate_small_samples", "judge", "made_scans", "points_of", "summarize"]

SHARES = np.arange(0.2, 0.851, 0.05)
"""Of the plan, after which predictions are made. Between them, every 2.5 %, values are interpolated."""

TOLERANCE = 0.02

PLACES = ((0.0, 0.0), (0.9, 0.0), (-0.45, 0.78), (-0.45, -0.78))
"""Middles of the parts, x and y from that of the view, over half of what is left beside a part."""

EDGE = (0.02, 0.1)
"""Of a part's radius: where its values have gone down to 0, and where they begin to."""

LEAST_LEFT = 0.05
"""Of the noise, that a reconstruction is taken to leave."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """A prediction, and the upper end of its band: as the product's, with other constants.

    Parameters
    ----------
    centre : str
        ``"today"`` or ``"tried"``, a column of the points.
    upper, large : float, optional
        See `UPPER` and `LARGE` in `bluesky_streamrecon.quality.gain`.
    """

    centre: str
    upper: float = UPPER
    large: float = LARGE

    def band(self, gain: float, single: float = 0.0) -> tuple[float, float]:
        """Return both ends of the band of a predicted gain; `single` is as the product's."""
        upper = self.upper + FURTHER * math.log(max(gain / self.large, 1))
        return band(gain, single)[0], gain * math.exp(upper) + FLOOR + single


def made_scans(kinds: Sequence[str], seed: int, cases: Sequence[int]) -> list[list[tuple[Row, LineScan]]]:
    """Return scans of these kinds, and what they are, together with those of the same angles, width and axis.

    Raises
    ------
    ConfigError
        If there is no kind of a name, or no such case, or its pixels are taken together for a prediction.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ConfigError(f"kinds: got {', '.join(unknown)}, expected some of {', '.join(KINDS)}")
    narrow = [number for number, (_, columns, *_) in enumerate(OF_EACH_KIND) if columns <= UNBINNED]
    if wrong := [case for case in cases if case not in narrow]:
        raise ConfigError(f"cases: got {wrong}, expected some of {narrow}, those of at most {UNBINNED} columns")
    alike: dict[tuple[bytes, int, float, int], list[tuple[Row, LineScan]]] = {}
    for kind in kinds:
        for case in cases:
            (scan,) = kind_cases(kind, seed=seed, only=[case])
            about = {"kind": kind, "seed": seed, "case": case, "noise": scan.noise, "columns": scan.columns}
            same = scan.angles.tobytes(), scan.columns, scan.axis, scan.size
            alike.setdefault(same, []).append((about, scan))
    return list(alike.values())


def points_of(alike: Sequence[tuple[Row, LineScan]], threads: int = 1) -> list[Row]:
    """Reconstruct scans of the same angles, width and axis from their first projections, every 5 % and from all.

    Returns
    -------
    list of Row
        For each scan and number of ``projections`` the ``similarity`` to the truth, and, unless nothing is predicted,
        the gain predicted by the product (``today``) and the other way (``tried``), and what the upper end has more
        where edges run in few directions (``single``). What the latter is made of:
        ``doubling``, what the last doubling of views has brought; ``noise_share``, the share of it that is noise; and
        what the rest of the scan adds over what the doubling has added, of noise (``by_noise``), and of missing angles,
        as the arcs between views say (``by_arcs``) and as parts of the image say (``by_parts``).
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
        compared = stack.compare(projections, study.full)
        predicted = _predicted(study, reconstructor) if fewest_views(planned, None) <= projections < planned else {}
        for row, ((about, _), found) in enumerate(zip(alike, compared, strict=True)):
            here = {"planned": planned, "projections": projections}
            points.append(about | here | {"similarity": found["ms_ssim"]} | predicted.get(row, {}))
    return points


def _predicted(study: TrialReconstruction, reconstructor: QuickReconstructor) -> dict[int, Row]:
    """Return both predictions of each row for which there are any."""
    trials = (_one_row(study, row, reconstructor) for row in range(len(study.rows)))
    parts = {row: part for row, part in enumerate(trials) if not why_none(part, FARTHEST)}
    if not parts:
        return {}
    noisier, excess = _with_noise(study, reconstructor)
    half, now, last = study.angles[study.half_sets[0]], study.angles, study.lines.planned_angles
    over, size = study.lines.over, study.size
    variance = [over.variance(angles) for angles in (half, now, last)]
    arcs = [over.aliasing(angles, size) for angles in (half, now, last)]
    by_parts = _by_parts(study, reconstructor)
    found = {}
    for row, part in parts.items():
        gain, full, shown = predict_gain(part), part.seen(part.full[0]), part.contrast(0)
        doubling = 1 - similarity(part.seen(part.halves[0][0]), full, shown)
        noise = excess[row] * (1 - similarity(part.seen(noisier[row]), full, shown))
        values: Row = {
            "today": gain.gain,
            "single": gain.single,
            "doubling": doubling,
            "noise_share": min(max(noise / max(doubling, 1e-12), 0.0), 1.0),
            "by_noise": (variance[1] - variance[2]) / (variance[0] - variance[1]),
            "by_arcs": (arcs[1] - arcs[2]) / (arcs[0] - arcs[1]),
            "by_parts": by_parts[row],
        }
        angles = (1 - values["noise_share"]) * math.sqrt(values["by_arcs"] * values["by_parts"])
        found[row] = values | {"tried": max(doubling * (values["noise_share"] * values["by_noise"] + angles), 1e-5)}
    return found


def _one_row(study: TrialReconstruction, row: int, reconstructor: QuickReconstructor) -> TrialReconstruction:
    """Return the trial of one row, with images that have been made for all of them together."""
    part = TrialReconstruction(study.lines, [row], reconstructor)
    halves = tuple(half[[row]] for half in study.halves)
    vars(part).update(full=study.full[[row]], noisier=study.noisier[[row]], halves=halves, model=study.model[:, [row]])
    return part


def _with_noise(
    study: TrialReconstruction, reconstructor: QuickReconstructor
) -> tuple[NDArray[np.float32], list[float]]:
    """Return images with noise added to all views, and for each row the variance of the noise in them over that added.

    As much is added as fourth differences of the views tell, which is too much where structure is as fine as a pixel.
    What these tell of the difference to the model may be too little, since a reconstruction follows noise, the more so
    the fewer views there are; by how much, shows in what it follows of the noise that was added.
    """
    lines, model, over = study.projections, study.model, study.lines.over
    noise = np.random.default_rng(study.lines.projections).standard_normal(lines.shape, dtype=np.float32)
    levels = [_fourth(lines[:, row], model[:, row])[0] for row in range(len(study.rows))]
    noise *= np.sqrt(np.array(levels)[:, None] * np.exp(np.minimum(model, LARGEST_EXPONENT))).astype(np.float32)
    weights = over.view_weights(study.angles)
    noisier = reconstructor.reconstruct(
        np.maximum(lines + noise, 0), study.angles, weights, axis=study.axis, size=study.size
    )
    followed = reconstructor.project(noisier, study.angles, axis=study.axis, columns=study.columns) - model
    excess = []
    for row, level in enumerate(levels):
        added, mean = noise[:, row], model[:, row]
        left = _fourth(added - followed[:, row], mean)[1] / max(_fourth(added, mean)[1], 1e-30)
        rest = _fourth(lines[:, row] - mean, mean)[0] / min(max(left, LEAST_LEFT), 1.0)
        excess.append(min(rest, level) / max(level, 1e-12))
    return noisier, excess


def _fourth(values: NDArray[np.float32], model: NDArray[np.float32]) -> tuple[float, float]:
    """Return a in variance = a exp(model) of values (m, C), and the mean square of their fourth differences."""
    smooth = (model[:, 1:-3] + model[:, 2:-2] + model[:, 3:-1]) / 3
    inside = smooth > 0.15 * np.percentile(smooth, 99.5)
    squares = np.diff(values.astype(np.float64), 4, axis=1)[inside] ** 2
    scaled = squares / (70 * np.exp(np.minimum(smooth[inside], LARGEST_EXPONENT)))
    return float(np.median(scaled)) / CHI_SQUARED_MEDIAN, float(np.mean(squares))


def _by_parts(study: TrialReconstruction, reconstructor: QuickReconstructor) -> list[float]:
    """Return, for each row, what all missing views add to parts of its image, over what the last doubling has added."""
    over, width = study.lines.over, study.width // 2 // 2 * 2
    place = np.arange(width) - (width - 1) / 2
    fading = np.clip((1 - EDGE[0] - np.hypot(place[:, None], place) / (width / 2)) / (EDGE[1] - EDGE[0]), 0, 1)
    corners = [[round((study.size - width + (study.width - width) * at) / 2) for at in middle] for middle in PLACES]
    parts = np.array(
        [full[y : y + width, x : x + width] * fading.astype(np.float32) for full in study.full for x, y in corners]
    )
    now = study.angles[study.half_sets[0]]
    before, last = now[_every_other(over, now)], over.even(round(len(study.lines.planned_angles) / 2))
    if over.turn > math.pi:  # a part is seen from all sides
        over, before, now, last = HALF_TURN, *(np.mod(angles, math.pi) for angles in (before, now, last))
    images = [_scanned(parts, angles, over, reconstructor) for angles in (before, now, last)]
    inside, shown = disc(width), [study.contrast(row) for row in range(len(study.rows)) for _ in PLACES]

    def loss(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
        pairs = zip(first * inside, second * inside, shown, strict=True)
        each = [1 - similarity(a, b, value) for a, b, value in pairs]
        return np.asarray(np.mean(np.reshape(each, (-1, len(PLACES))), axis=1))

    rest = loss(images[1], parts) - loss(images[2], parts)
    return (np.maximum(rest, 0) / np.maximum(loss(images[0], images[1]), 1e-9)).tolist()


def _every_other(over: AngularRange, angles: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the views of every other direction by angle."""
    places = over.directions(angles).of_view
    by_angle = np.argsort(places, kind="stable")
    return by_angle[places[by_angle] % 2 == 0]


def _scanned(
    samples: NDArray[np.float32], angles: NDArray[np.float64], over: AngularRange, reconstructor: QuickReconstructor
) -> NDArray[np.float32]:
    """Reconstruct images from their own line integrals, without noise."""
    size = samples.shape[1]
    lines = np.maximum(reconstructor.project(samples, angles, axis=(size - 1) / 2, columns=size), 0)
    return reconstructor.reconstruct(lines, angles, over.view_weights(angles), axis=(size - 1) / 2, size=size)


def judge(points: Sequence[Row], choice: Choice) -> Row:
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
    made = [point for point in points if point.get(choice.centre) is not None]
    stop, hits, place = float(planned), [], 0
    if len(made) > 1:
        known = [point["projections"] for point in made]
        ends = np.array([choice.band(point[choice.centre], point.get("single") or 0.0) for point in made])
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
        "centre": choice.centre,
        "upper": choice.upper,
        "large": choice.large,
        "stopped_at": stop,
        "loss": float(np.interp(stop, at, losses)),
        "oracle": float(grid[min(bad[-1] + 1, len(grid) - 1)] if len(bad) else grid[0]),
        "decisions": len(hits),
        "in_band": sum(hits),
    }


def summarize(judged: Sequence[Row]) -> Row:
    """Return medians and counts of all scans that one choice has judged, and shares of medians and of means."""
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


def evaluate_small_samples(points: Sequence[Row], choices: Sequence[Choice]) -> Report:
    """Judge the points of scans by each choice.

    Returns
    -------
    Report
        ``cases``: see `judge`. ``summary``: see `summarize`, for each choice: of all scans, each kind, and each case.
    """
    judged, summary = [], []
    for choice in choices:
        rows = [judge(scan, choice) for scan in grouped(points, "kind", "seed", "case").values()]
        some = {"all": rows} | {
            f"{name} {key}": part for name in ("kind", "case") for (key,), part in grouped(rows, name).items()
        }
        about = {"centre": choice.centre, "upper": choice.upper, "large": choice.large}
        summary += [about | {"of": of} | summarize(part) for of, part in some.items()]
        judged += rows
    return Report({"summary": summary}, data={"cases": judged, "summary": summary})


def read_points(path: Path) -> list[Row]:
    """Return what is in a ``points.csv``."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"kind", "similarity", "today", "tried"} <= rows[0].keys():
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
    seeds: Annotated[list[int] | None, typer.Option(help="2 and 3 by default.")] = None,
    cases: Annotated[list[int] | None, typer.Option(help="Scans of a kind; 0 to 10 by default.")] = None,
    points: Annotated[list[Path] | None, typer.Option(help="Judge those in this points.csv, and make none.")] = None,
    upper: Annotated[list[float] | None, typer.Option(help="Of the band, natural logarithm; 0.3 by default.")] = None,
    large: Annotated[float, typer.Option(help="Gain from which on the band is wider.")] = 0.0125,
    threads: Annotated[int, typer.Option(help="Threads that compute.")] = 1,
) -> None:
    """Stop scans by both predictions; --kinds, --seeds, --cases, --points and --upper may be repeated."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    found = [row for path in points or [] for row in read_points(path)]
    for seed in [] if points else seeds or [2, 3]:
        for alike in made_scans(kinds or HELD_OUT_KINDS, seed, cases or range(11)):
            found += points_of(alike, threads)
            Report({}, data={"points": found}).write(out)
    wanted = {"kind": kinds, "seed": seeds, "case": cases}
    found = [row for row in found if all(not some or row[name] in some for name, some in wanted.items())]
    if not found:
        raise ConfigError(f"no points of kinds {kinds or 'any'}, seeds {seeds or 'any'} and cases {cases or 'any'}")
    ends = upper or [0.3]
    choices = [Choice("today"), *(Choice(centre, end, large) for end in ends for centre in ("today", "tried"))]
    report = evaluate_small_samples(found, choices)
    report.write(out)
    summary = report.fields["summary"]
    print("|", " | ".join(summary[0]), "|\n|", " --- |" * len(summary[0]))
    for row in summary:
        print("|", " | ".join(str(value) for value in row.values()), "|")


if __name__ == "__main__":
    typer.run(main)
