"""How well a policy stops: cases with known truth, judged by the product's own policies, against an oracle.

Of every scan the image is finished offline from the first m projections and from all of them. What the rest would have
added, the *loss* at m, is what a policy has to guess. The oracle knows the truth, and stops at the first m from which
on the loss stays within the tolerance. Losses are MS-SSIM, noise is photons per pixel of the open beam.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bluesky_streamrecon.config import ReconSettings, SteeringSettings
from bluesky_streamrecon.evaluation.finish import best_image, finish
from bluesky_streamrecon.evaluation.offline import Judgement, judge_offline
from bluesky_streamrecon.evaluation.scans import LineScan, measured_scan, simulated_scan
from bluesky_streamrecon.evaluation.score import Truth
from bluesky_streamrecon.ordering import make_order
from bluesky_streamrecon.sim_devices import Discs, Foam, Sample, SheppLogan

__all__ = ["Case", "CaseResult", "Summary", "held_out_cases", "required_cases", "study", "summarize"]

NOISE = (1e3, 1e4, 1e5)
PORES = 90
"""Of the foam: as many as in the study that the tolerance comes from."""

ORACLE_SHARE = 1 / 45
"""Share of the plan between two points that the oracle looks at."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One scan of one sample.

    Parameters
    ----------
    sample : str
        Name, with what sets it apart.
    noise : float or None
        Photons per pixel; None: as measured.
    seed : int or None
        Of sample and noise; None: as measured.
    scan : LineScan
        All of it.
    truth : Truth
        What its images are compared with.
    """

    sample: str
    noise: float | None
    seed: int | None
    scan: LineScan
    truth: Truth


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What became of one case; counts are projections.

    Parameters
    ----------
    sample, noise, seed
        Which case.
    stopped_at, planned : int
        By the policy; equal if it did not stop.
    quality_loss : float
        True loss there.
    predicted_loss : float or None
        What the policy thought it would be.
    oracle_stop, oracle_loss : int, float
        Of the oracle.
    paper_stop, paper_loss : int, float
        Of MS-SSIM >= 0.95 between live images, with the window of the newest projections.
    decisions, in_band : int
        Predictions up to the stop, and those whose 95 % band holds the true loss.
    all_decisions, all_in_band : int
        The same over the whole scan, as if it had gone on.
    columns : int
        Of the detector.
    """

    sample: str
    noise: float | None
    seed: int | None
    stopped_at: int
    planned: int
    quality_loss: float
    predicted_loss: float | None
    oracle_stop: int
    oracle_loss: float
    paper_stop: int
    paper_loss: float
    decisions: int
    in_band: int
    all_decisions: int
    all_in_band: int
    columns: int

    @property
    def saving(self) -> float:
        """Share of the projections that were not taken."""
        return 1 - self.stopped_at / self.planned


@dataclass(frozen=True, slots=True)
class Summary:
    """All cases together; shares are 0 to 1.

    Parameters
    ----------
    median_saving, median_oracle_saving : float
        Share of the projections that need not be taken.
    oracle_share : float
        Their ratio.
    oracle_share_by_case : float
        Median over cases of the same ratio.
    false_stops : int
        Stops with a loss above the tolerance.
    worst_loss : float
        Of the policy's stops.
    calibrated_share : float
        Decisions up to the stop in whose band the true loss is.
    calibrated_share_all : float
        The same over the whole scans.
    paper_median_saving : float
        Of the paper's rule.
    paper_false_stops : int
        Its stops with a loss above the tolerance.
    """

    cases: int
    median_saving: float
    median_oracle_saving: float
    oracle_share: float
    oracle_share_by_case: float
    false_stops: int
    worst_loss: float
    calibrated_share: float
    calibrated_share_all: float
    paper_median_saving: float
    paper_false_stops: int
    paper_worst_loss: float


def required_cases(
    *, columns: int = 192, seeds: Iterable[int] = range(5), num: int = 180, data: Path | None = None
) -> list[Case]:
    """Give foam and discs at every seed and noise level, Shepp-Logan at each, and a measured scan as it is."""
    cases = []
    for seed in seeds:
        for i, noise in enumerate(NOISE):
            for name, sample in (("foam", Foam(pores=PORES, seed=seed)), ("discs", Discs(seed=seed))):
                cases.append(_case(name, sample, noise, seed, columns, num, 1000 * seed + i))
    cases += [_case("shepp-logan", SheppLogan(), noise, 0, columns, num, 7 + i) for i, noise in enumerate(NOISE)]
    if data is not None:
        scan = measured_scan(data)
        cases.append(Case(scan.name, None, None, scan, best_image(scan)))
    return cases


HELD_OUT = ((160, 120), (224, 200), (256, 240), (320, 160))
"""Detector columns and projections of the scans that nothing was tuned on."""


def held_out_cases(*, sizes: Sequence[tuple[int, int]] = HELD_OUT, seeds: Iterable[int] = (7001,)) -> list[Case]:
    """Give other seeds, pore sizes, absorptions, image sizes and numbers of projections than `required_cases` has."""
    cases = []
    for columns, num in sizes:
        for seed in seeds:
            for i, noise in enumerate(NOISE):
                for name, sample in (
                    ("foam, 30 pores", Foam(pores=30, absorption=2.5, seed=seed)),
                    ("foam, 200 pores", Foam(pores=200, absorption=1.0, seed=seed + 1)),
                    ("discs, 60 balls", Discs(balls=60, absorption=3.0, seed=seed + 2)),
                ):
                    cases.append(_case(name, sample, noise, seed, columns, num, seed + 10 * i))
    return cases


def study(
    cases: Sequence[Case],
    *,
    tolerance: float = 0.02,
    recon: ReconSettings | None = None,
    steering: SteeringSettings | None = None,
    threads: int = 1,
    tell: Tell | None = None,
) -> list[CaseResult]:
    """Have the default policy and the paper's rule judge each case, and find out what was lost.

    Parameters
    ----------
    cases : sequence of Case
        Scans; those of the same angles and width are finished together, which is faster.
    tolerance : float, optional
        Loss that is allowed, for the oracle and for a false stop.
    recon, steering : optional
        Defaults of the product; the policy of `steering` is the one that is studied.
    threads : int, optional
        That compute.
    tell : callable, optional
        Told how far it is.
    """
    recon = recon or ReconSettings()
    steering = steering or SteeringSettings(tolerance=tolerance)
    paper, papers = SteeringSettings(policy="ms-ssim"), msgspec.structs.replace(recon, window_policy="newest")
    results: list[CaseResult] = []
    judged: list[tuple[Judgement, Judgement]] = []
    for number, case in enumerate(cases, 1):
        if tell is not None:
            tell(f"case {number} of {len(cases)}: {case.sample}, noise {case.noise}, seed {case.seed}")
        (ours,) = judge_offline(case.scan, recon, [steering], threads=threads)
        (theirs,) = judge_offline(case.scan, papers, [paper], threads=threads)
        judged.append((ours, theirs))
    if tell is not None:
        tell("finished offline from all prefixes that matter")
    losses = _losses(cases, judged, threads)
    for case, (ours, theirs), lost in zip(cases, judged, losses, strict=True):
        results.append(_result(case, ours, theirs, lost, tolerance))
    return results


def summarize(results: Sequence[CaseResult], *, tolerance: float = 0.02) -> Summary:
    """Put the cases together; see `Summary`."""
    savings = [result.saving for result in results]
    oracle = [1 - result.oracle_stop / result.planned for result in results]
    papers = [1 - result.paper_stop / result.planned for result in results]
    middle, best = statistics.median(savings), statistics.median(oracle)
    shares = [a / b for a, b in zip(savings, oracle, strict=True) if b > 0]
    return Summary(
        cases=len(results),
        median_saving=middle,
        median_oracle_saving=best,
        oracle_share=middle / best if best > 0 else math.nan,
        oracle_share_by_case=statistics.median(shares) if shares else math.nan,
        false_stops=sum(result.quality_loss > tolerance for result in results),
        worst_loss=max(result.quality_loss for result in results),
        calibrated_share=_share(results, "in_band", "decisions"),
        calibrated_share_all=_share(results, "all_in_band", "all_decisions"),
        paper_median_saving=statistics.median(papers),
        paper_false_stops=sum(result.paper_loss > tolerance for result in results),
        paper_worst_loss=max(result.paper_loss for result in results),
    )


@dataclass(slots=True, eq=False)
class _Stack:
    """Cases that were taken alike, as the rows of one scan."""

    members: list[int] = field(default_factory=list)
    wanted: set[int] = field(default_factory=set)


def _case(name: str, sample: Sample, noise: float, seed: int, columns: int, num: int, noise_seed: int) -> Case:
    order = make_order("optimized-interleaved", num=num)
    scan = simulated_scan(name, sample, columns=columns, order=order, counts=noise, seed=noise_seed)
    assert scan.truth is not None  # noqa: S101 - simulated
    return Case(name, noise, seed, scan, Truth.known(scan.truth))


def _predictions(judgement: Judgement) -> dict[int, tuple[float, float, float]]:
    """Give each prediction that was made: projections that it was made from, gain, and its band."""
    made: dict[int, tuple[float, float, float]] = {}
    for score in judgement.scores:
        names = [f"predicted-gain{end}" for end in ("-at", "", "-low", "-high")]
        at, gain, low, high = (score.metrics.get(name) for name in names)
        if at is not None and gain is not None and low is not None and high is not None:
            made.setdefault(int(at), (gain, low, high))
    return made


def _oracle_points(planned: int) -> range:
    return range(max(8, planned // 10), planned + 1, max(1, round(planned * ORACLE_SHARE)))


def _losses(
    cases: Sequence[Case], judged: Sequence[tuple[Judgement, Judgement]], threads: int
) -> list[dict[int, float]]:
    """Finish every case from all prefixes that matter to it; give the losses by projections."""
    stacks: dict[Any, _Stack] = {}
    for number, (case, (ours, theirs)) in enumerate(zip(cases, judged, strict=True)):
        key = (case.scan.angles.tobytes(), case.scan.integrals.shape[2], case.scan.axis)
        stack = stacks.setdefault(key, _Stack())
        stack.members.append(number)
        stack.wanted |= {*_oracle_points(len(case.scan)), *_predictions(ours), ours.used, theirs.used, len(case.scan)}
    scores: list[dict[int, float]] = [{} for _ in cases]
    for stack in stacks.values():
        members = [cases[number] for number in stack.members]
        rows = np.cumsum([0] + [case.scan.rows for case in members])
        together = np.concatenate([case.scan.integrals for case in members], axis=1)
        whole = replace(members[0].scan, integrals=together, truth=None)
        for projections in sorted(stack.wanted):
            image = finish(whole.first(projections), threads=threads)
            for number, case, first, stop in zip(stack.members, members, rows[:-1], rows[1:], strict=True):
                scores[number][projections] = case.truth.similarity(image[first:stop])
    return [{at: score[max(score)] - value for at, value in score.items()} for score in scores]


def _result(case: Case, ours: Judgement, theirs: Judgement, lost: Mapping[int, float], tolerance: float) -> CaseResult:
    points = [*_oracle_points(len(case.scan)), len(case.scan)]
    bad = [at for at in points if lost[at] > tolerance]
    oracle = next((at for at in points if not bad or at > bad[-1]), len(case.scan))
    made = _predictions(ours)
    hits = {at: low <= lost[at] <= high for at, (_, low, high) in made.items() if at < len(case.scan)}
    until = {at: hit for at, hit in hits.items() if at <= ours.used}
    at_stop = [gain for at, (gain, _, _) in made.items() if at <= ours.used]
    return CaseResult(
        sample=case.sample,
        noise=case.noise,
        seed=case.seed,
        stopped_at=ours.used,
        planned=ours.planned,
        quality_loss=lost[ours.used],
        predicted_loss=at_stop[-1] if at_stop and ours.stopped_at is not None else None,
        oracle_stop=oracle,
        oracle_loss=lost[oracle],
        paper_stop=theirs.used,
        paper_loss=lost[theirs.used],
        decisions=len(until),
        in_band=sum(until.values()),
        all_decisions=len(hits),
        all_in_band=sum(hits.values()),
        columns=int(case.scan.integrals.shape[2]),
    )


def _share(results: Sequence[CaseResult], part: str, whole: str) -> float:
    total = sum(getattr(result, whole) for result in results)
    return sum(getattr(result, part) for result in results) / total if total else math.nan
