"""How well a policy stops: `cases` with known truth, judged by the product's own policies, against an oracle.

Of every scan the image is finished offline from the first m projections and from all of them. What the rest would have
added, the *loss* at m, is what a policy has to predict. The oracle knows the truth, and stops at the first m from which
on the loss stays within the tolerance. Losses are MS-SSIM, noise is photons per pixel of the open beam.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from bluesky_streamrecon.evaluation.figures import new_figure, predictions
from bluesky_streamrecon.evaluation.images import finish
from bluesky_streamrecon.evaluation.offline import Judgement, judge_offline
from bluesky_streamrecon.evaluation.report import Row, grouped
from bluesky_streamrecon.evaluation.scans import LineScan, ScanStack
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_cases", "judge_cases", "summarize"]

ORACLE_SHARE = 1 / 45
"""Share of the plan between two points that the oracle looks at."""

MARKS = {
    "oracle": ("|", "C2", "oracle_stop", "oracle_loss"),
    "MS-SSIM 0.95": ("x", "C3", "paper_stop", "paper_loss"),
    "predicted gain": ("o", "C0", "stopped_at", "quality_loss"),
}
"""Mark and colour of each rule, and the fields with its stop and its loss."""

logger = logging.getLogger(__name__)


def judge_cases(
    cases: Sequence[LineScan], *, tolerance: float = 0.02, recon: ReconSettings | None = None, threads: int = 1
) -> list[Row]:
    """Judge each case by the default policy and by the paper's rule, and compute what was lost.

    Parameters
    ----------
    cases : sequence of LineScan
        With their truths; those of the same angles and width are finished together, which is faster.
    tolerance : float, optional
        Loss that is allowed, for the policy, the oracle, and a false stop.
    recon : ReconSettings, optional
        Of the live image; the product's defaults if not given.
    threads : int, optional
        That compute.

    Returns
    -------
    list of Row
        For each case ``sample``, ``noise``, ``seed``, ``columns`` and ``planned``; where the policy stopped
        (``stopped_at``; `planned` if it did not), the true ``quality_loss`` there, and ``predicted_loss``, what the
        policy thought it would be; stop and loss of the oracle (``oracle_stop``, ``oracle_loss``) and of MS-SSIM of at
        least 0.95 between live images with the window of the newest projections (``paper_stop``, ``paper_loss``);
        ``decisions`` up to the stop, those ``in_band`` (whose 95 % band holds the true loss), and the same over the
        whole scan, as if it had gone on (``all_decisions``, ``all_in_band``). Counts are projections.
    """
    recon = recon or ReconSettings()
    policy, paper = SteeringSettings(tolerance=tolerance), SteeringSettings(policy="ms-ssim")
    newest = msgspec.structs.replace(recon, window_policy="newest")
    judged: list[tuple[Judgement, Judgement]] = []
    for number, case in enumerate(cases, 1):
        logger.info("case %d of %d: %s, noise %s, seed %s", number, len(cases), case.name, case.noise, case.seed)
        ours = judge_offline(case, recon, policy, threads=threads)
        judged.append((ours, judge_offline(case, newest, paper, threads=threads)))
    logger.info("finished offline from all prefixes that matter")
    losses = _losses(cases, judged, threads)
    return [
        _result(case, ours, theirs, lost, tolerance)
        for case, (ours, theirs), lost in zip(cases, judged, losses, strict=True)
    ]


def summarize(results: Sequence[Row], *, tolerance: float = 0.02) -> dict[str, Any]:
    """Summarize all cases; shares are 0 to 1.

    Returns
    -------
    dict
        ``cases``; ``median_saving`` and ``median_oracle_saving`` (projections that need not be taken), ``oracle_share``
        (their ratio) and ``oracle_share_by_case`` (median of each case's); ``false_stops`` with a loss above the
        tolerance, and the ``worst_loss``; ``calibrated_share`` of decisions up to the stop in whose band the true loss
        is, and ``calibrated_share_all`` over the whole scans; and the paper's rule's ``paper_median_saving``,
        ``paper_false_stops`` and ``paper_worst_loss``.
    """
    savings = [1 - result["stopped_at"] / result["planned"] for result in results]
    oracle = [1 - result["oracle_stop"] / result["planned"] for result in results]
    middle, best = statistics.median(savings), statistics.median(oracle)
    shares = [a / b for a, b in zip(savings, oracle, strict=True) if b > 0]

    def share(part: str, whole: str) -> float:
        total = sum(result[whole] for result in results)
        return sum(result[part] for result in results) / total if total else math.nan

    return {
        "cases": len(results),
        "median_saving": middle,
        "median_oracle_saving": best,
        "oracle_share": middle / best if best > 0 else math.nan,
        "oracle_share_by_case": statistics.median(shares) if shares else math.nan,
        "false_stops": sum(result["quality_loss"] > tolerance for result in results),
        "worst_loss": max(result["quality_loss"] for result in results),
        "calibrated_share": share("in_band", "decisions"),
        "calibrated_share_all": share("all_in_band", "all_decisions"),
        "paper_median_saving": statistics.median(1 - result["paper_stop"] / result["planned"] for result in results),
        "paper_false_stops": sum(result["paper_loss"] > tolerance for result in results),
        "paper_worst_loss": max(result["paper_loss"] for result in results),
    }


def draw_cases(cases: Sequence[Row], tolerance: float) -> Figure:
    """Draw a line for each kind of case: where the policy, the paper's rule and the oracle stopped, and their loss."""
    ordered = sorted(cases, key=lambda case: (case["sample"], -(case["noise"] or 0.0), case["columns"]))
    kinds = grouped(ordered, "sample", "noise", "columns")
    figure = new_figure(9.6, 1.2 + 0.22 * len(kinds))
    left, right = figure.subplots(1, 2, sharey=True)
    for y, alike in enumerate(kinds.values()):
        for mark, color, at, loss in MARKS.values():
            left.plot([case[at] / case["planned"] for case in alike], [y] * len(alike), mark, color=color, ms=6)
            right.plot([case[loss] for case in alike], [y] * len(alike), mark, color=color, ms=6)
    several = len({c["columns"] for c in cases if c["noise"] is not None}) > 1
    labels = [
        name + (f", {columns} px" if several else "") + (f", {noise:g} photons" if noise else ", measured")
        for name, noise, columns in kinds
    ]
    left.set_yticks(range(len(kinds)), labels, fontsize=8)
    left.set(xlim=(0, 1.02), xlabel="stopped at (share of the plan)")
    right.axvline(tolerance, color="0.3", lw=1, ls="--")
    right.set(xlabel="what the rest would have added (MS-SSIM)")
    right.set_xlim(left=0)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    for name, (mark, color, *_) in MARKS.items():
        left.plot([], [], mark, color=color, label=name)
    left.plot([], [], color="0.3", lw=1, ls="--", label=f"tolerance {tolerance:g}")
    figure.legend(loc="outside upper center", ncols=4, fontsize=8)
    return figure


def _oracle_points(planned: int) -> range:
    return range(max(8, planned // 10), planned + 1, max(1, round(planned * ORACLE_SHARE)))


def _losses(
    cases: Sequence[LineScan], judged: Sequence[tuple[Judgement, Judgement]], threads: int
) -> list[dict[int, float]]:
    """Finish every case from all prefixes that matter to it; return the losses by projections."""
    alike: dict[tuple[bytes, int, float, int], list[int]] = {}  # in half acquisition, span follows from angles
    for number, case in enumerate(cases):
        alike.setdefault((case.angles.tobytes(), case.columns, case.axis, case.size), []).append(number)
    scores: list[dict[int, float]] = [{} for _ in cases]
    for members in alike.values():
        stack = ScanStack.of([cases[number] for number in members])
        planned = len(stack.whole)
        wanted = {*_oracle_points(planned), planned}
        for ours, theirs in (judged[number] for number in members):
            wanted |= {*predictions(ours.scores), ours.used, theirs.used}
        for projections in sorted(wanted):
            image = finish(stack.whole.first(projections), threads=threads)
            for number, row in zip(members, stack.compare(projections, image), strict=True):
                scores[number][projections] = row["ms_ssim"]
    return [{at: score[max(score)] - value for at, value in score.items()} for score in scores]


def _result(case: LineScan, ours: Judgement, theirs: Judgement, lost: Mapping[int, float], tolerance: float) -> Row:
    points = [*_oracle_points(len(case)), len(case)]
    bad = [at for at in points if lost[at] > tolerance]
    oracle = next((at for at in points if not bad or at > bad[-1]), len(case))
    made = predictions(ours.scores)
    hits = {at: low <= lost[at] <= high for at, (_, low, high) in made.items() if at < len(case)}
    until = {at: hit for at, hit in hits.items() if at <= ours.used}
    at_stop = [gain for at, (gain, _, _) in made.items() if at <= ours.used]
    return {
        "sample": case.name,
        "noise": case.noise,
        "seed": case.seed,
        "stopped_at": ours.used,
        "planned": ours.planned,
        "quality_loss": lost[ours.used],
        "predicted_loss": at_stop[-1] if at_stop and ours.stopped_at is not None else None,
        "oracle_stop": oracle,
        "oracle_loss": lost[oracle],
        "paper_stop": theirs.used,
        "paper_loss": lost[theirs.used],
        "decisions": len(until),
        "in_band": sum(until.values()),
        "all_decisions": len(hits),
        "all_in_band": sum(hits.values()),
        "columns": case.columns,
    }
