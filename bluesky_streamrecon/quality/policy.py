"""Stopping policies: when an image is good enough, as pure functions of what was measured in a run.

A policy is given all values measured in the run and returns a verdict with its reason in words. It keeps no state, so
it can be applied again to a stored run, and a controller that was restarted judges as before. It never sees pixels; the
controller ensures, for all policies, that a scan is not ended for an image that shows nothing.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice, takewhile
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import msgspec

from bluesky_streamrecon.coverage import HALF_TURN, AngularRange
from bluesky_streamrecon.errors import ConfigError, DataError
from bluesky_streamrecon.quality.forecast import Forecast
from bluesky_streamrecon.registry import Registry, made
from bluesky_streamrecon.settings import CHANGE, SteeringSettings

__all__ = [
    "NOT_OF_IMAGES",
    "PREDICTED_GAIN",
    "PREDICTED_STOP",
    "Combination",
    "Evidence",
    "MsSsimPolicy",
    "Policy",
    "PolicyFactory",
    "Predicting",
    "ScoredImage",
    "Verdict",
    "ask_policy",
    "at_budget",
    "get_policy",
    "measured_by",
    "not_before",
    "policies",
    "refuse_options",
    "where_met",
]

logger = logging.getLogger(__name__)

PREDICTED_GAIN = "predicted-gain"
"""Name of a policy, and of the prediction that it needs, as if that were a metric."""

PREDICTED_STOP = "predicted-stop"
"""Name of the metric that says at how many projections a policy expects its criterion to be met."""

NOT_OF_IMAGES = (PREDICTED_GAIN, CHANGE)
"""What policies ask for as a metric, and the controller measures on line integrals itself."""


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """What was measured on one image.

    Parameters
    ----------
    image_number : int
        Image that was measured.
    projections : int
        How many projections went into it.
    metrics : mapping of str to float or None
        Value of each metric that the policy asks for; None: not yet, or not on this image.
    """

    image_number: int
    projections: int
    metrics: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a policy is given.

    Parameters
    ----------
    images : sequence of ScoredImage
        Every image measured in this run, the oldest first; the last is the one to judge.
    planned : int
        Projections planned for the run; 0: not known.
    compare_to : int
        Distance k of compared images, projections.
    largest_gap : float or None
        Largest gap between the angles so far, degrees, modulo 180; None: not known.
    settled : int
        Projections from which on both compared images were made of full windows.
    forecasts : sequence of Forecast
        Results from line integrals, the oldest first, each with its number of projections. They hold more than a check
        of the data only for policies that ask for a metric of line integrals, or for ``"predicted-gain"``.
    over : AngularRange
        Angles that the scan is going to visit.
    turns : int
        Volumes of a time series; 1: the scan is none.
    allowed : int
        Projections that the run's budget allows; 0: there is none, or this is not known.
    """

    images: Sequence[ScoredImage]
    planned: int = 0
    compare_to: int = 0
    largest_gap: float | None = None
    settled: int = 0
    forecasts: Sequence[Forecast] = ()
    over: AngularRange = HALF_TURN
    turns: int = 1
    allowed: int = 0

    @property
    def newest(self) -> ScoredImage:
        """The image to judge."""
        return self.images[-1]

    @property
    def progress(self) -> str:
        """Where the run is, in words: ``"57 of 180 projections"``; ``"305 of 720 projections, in volume 2 of 4"``."""
        of = f" of {self.planned}" if self.planned else ""
        volume = f", in {self.volume_of(self.newest.projections)}" if self.turns > 1 and self.planned else ""
        return f"{self.newest.projections}{of} projections{volume}"

    def volume_of(self, projection: int) -> str:
        """Return in words which volume of a time series a projection (from 1) belongs to."""
        return f"volume {(projection - 1) * self.turns // self.planned + 1} of {self.turns}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A policy's judgement: whether to go on, the score, and why.

    ``"invalid"``, for data that can not be a scan of one still sample, is the controller's verdict, for all policies.
    `metrics` are numbers that the policy has computed, which are recorded beside those that were measured.
    """

    verdict: Literal["continue", "enough", "invalid"]
    score: float | None
    text: str
    metrics: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Policy(Protocol):
    """Turns what was measured into a verdict."""

    @property
    def name(self) -> str:
        """As registered."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that it needs."""

    def judge(self, evidence: Evidence) -> Verdict:
        """Judge the newest image."""


@runtime_checkable
class Predicting(Protocol):
    """What a policy has, too, if it predicts how the image will be: that is said where a budget ends the scan."""

    def predicted_at(self, evidence: Evidence, count: int) -> str:
        """Return in words, after "with", what is predicted for `count` projections; empty: nothing yet."""


PolicyFactory = Callable[[SteeringSettings], Policy]
"""Makes a policy for one run; raises `ConfigError` for settings that can not work."""

_WITHOUT_OPTIONS = {
    "ms-ssim": f"{__name__}:MsSsimPolicy",
    PREDICTED_GAIN: "bluesky_streamrecon.quality.gain_policy:PredictedGainPolicy",
}
_OURS = _WITHOUT_OPTIONS | {
    CHANGE: "bluesky_streamrecon.quality.change_policy:ChangePolicy",
    "measurement": "bluesky_streamrecon.quality.measurement_policy:MeasurementPolicy",
    "resolution": "bluesky_streamrecon.quality.resolution_policy:ResolutionPolicy",
}

policies: Registry[PolicyFactory] = Registry("stopping policy", "bluesky_streamrecon.policies", _OURS)


def get_policy(name: str) -> PolicyFactory:
    """Return the factory of the policy of this name, to be called with a run's settings.

    The criterion of ``"a+b"`` is met when those of both are, that of ``"a|b"`` when one is; ``+`` binds closer. Options
    are for the policies among them that take any.

    Raises
    ------
    ConfigError
        If there is no policy of this name; the message lists those there are. The factory raises it, too, where the
        policy can not be made, or the result is none.

    Examples
    --------
    >>> policy = get_policy("ms-ssim")(SteeringSettings(threshold=0.9))
    >>> policy.judge(Evidence([ScoredImage(33, 57, {"ms-ssim": 0.953})], planned=180)).text
    'at 57 of 180 projections: MS-SSIM 0.953 >= 0.9'
    >>> get_policy("ms-ssim+predicted-gain")(SteeringSettings()).metrics
    ('ms-ssim', 'predicted-gain')
    """
    return _factory(name, {part.strip() for part in re.split(r"[|+]", name)} <= _WITHOUT_OPTIONS.keys())


def _factory(name: str, without_options: bool) -> PolicyFactory:
    for sign, needed in (("|", any), ("+", all)):
        if sign in name:
            factories = [_factory(part.strip(), without_options) for part in name.split(sign)]
            return lambda settings: Combination(name, tuple(make(settings) for make in factories), needed)
    factory = partial(_made, name, policies.get(name))
    if name in _WITHOUT_OPTIONS and not without_options:
        return lambda settings: factory(msgspec.structs.replace(settings, options={}))
    return factory


def _made(name: str, factory: PolicyFactory, settings: SteeringSettings) -> Policy:
    def make() -> Policy:
        policy: Any = factory(settings)
        if not isinstance(policy, Policy):
            raise ConfigError(
                f"stopping policy {name!r}: its factory returned {policy!r}, expected an object with name, metrics and "
                "judge"
            )
        metrics: object = policy.metrics
        if not isinstance(metrics, tuple | list) or not all(isinstance(metric, str) for metric in metrics):
            raise ConfigError(
                f"stopping policy {name!r}: got metrics {metrics!r}, expected a tuple of names, such as ('ms-ssim',)"
            )
        return policy

    return made("stopping policy", name, make)


@dataclass(frozen=True, slots=True)
class Combination:
    """Several policies that judge the same evidence.

    Parameters
    ----------
    name : str
        As asked for.
    policies : tuple of Policy
        At least two.
    needed : callable
        `all` or `any`: of how many the criterion must be met.
    """

    name: str
    policies: tuple[Policy, ...]
    needed: Callable[[Iterable[bool]], bool]

    @property
    def metrics(self) -> tuple[str, ...]:
        """What any of them needs."""
        return tuple(dict.fromkeys(metric for policy in self.policies for metric in policy.metrics))

    def judge(self, evidence: Evidence) -> Verdict:
        """Judge the newest image; the score is that of the first policy which has one."""
        verdicts = [policy.judge(evidence) for policy in self.policies]
        enough = self.needed(verdict.verdict == "enough" for verdict in verdicts)
        at = f"at {evidence.progress}: "
        texts = [verdict.text.removeprefix(at) for verdict in verdicts if verdict.verdict == "enough" or not enough]
        score = next((verdict.score for verdict in verdicts if verdict.score is not None), None)
        metrics = {name: value for verdict in verdicts for name, value in verdict.metrics.items()}
        return Verdict("enough" if enough else "continue", score, at + "; ".join(texts), metrics)

    def predicted_at(self, evidence: Evidence, count: int) -> str:
        """Return what each of them predicts."""
        return " and ".join(_predicted_at(policy, evidence, count) for policy in self.policies)


def ask_policy(policy: Policy, evidence: Evidence) -> Verdict:
    """Return a policy's verdict, with what it predicts for the end of a budget; an error becomes its text."""
    try:
        verdict = policy.judge(evidence)
        if verdict.verdict not in ("continue", "enough"):
            raise DataError(f"got verdict {verdict.verdict!r}, expected 'continue' or 'enough'")
        if not isinstance(verdict.text, str):
            raise DataError(f"got text {verdict.text!r} with verdict {verdict.verdict!r}, expected a string")
        if verdict.score is not None and not math.isfinite(verdict.score):
            raise DataError(f"got score {verdict.score} with verdict {verdict.verdict!r}, expected a finite number")
        if not all(isinstance(value, float) for value in dict(verdict.metrics).values()):
            raise DataError(f"got metrics {verdict.metrics!r:.100}, expected floats by name")
        if verdict.verdict == "enough":
            return verdict
        return replace(verdict, text=verdict.text + at_budget(policy, evidence))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        logger.exception("policy %r failed on image %d", policy.name, evidence.newest.image_number)
        text = f"policy {policy.name!r} failed at {evidence.progress}: {type(error).__name__}: {error}"
        return Verdict("continue", None, text)


def at_budget(policy: Policy, evidence: Evidence) -> str:
    """Return in words when the budget ends the scan, and what the policy predicts for then; empty if it does not."""
    if not evidence.newest.projections < evidence.allowed < evidence.planned:
        return ""
    predicted = _predicted_at(policy, evidence, evidence.allowed)
    return f"; the budget ends the scan after about {evidence.allowed}, with {predicted}"


def _predicted_at(policy: Policy, evidence: Evidence, count: int) -> str:
    if not isinstance(policy, Predicting):
        return f"no prediction of the image then (policy {policy.name!r} makes none)"
    return policy.predicted_at(evidence, count) or "no prediction of the image then yet"


@dataclass(frozen=True, slots=True)
class MsSsimPolicy:
    """The paper's criterion: MS-SSIM to an earlier image reaches a threshold [1]_.

    Parameters
    ----------
    settings : SteeringSettings
        ``threshold``, the smallest score that is accepted; 1 never stops, not even for a score of 1. ``patience``, how
        many images in a row must reach it; an image without a score begins the count anew. No stop before
        ``minimum_projections`` (None: `Evidence.settled`), nor before the largest gap between angles is
        ``minimum_coverage`` degrees or less; where the angles are not known, a run with this condition is not stopped.

    References
    ----------
    .. [1] Bicer et al., IEEE eScience 2017, section III-C, :doi:`10.1109/eScience.2017.53`.
    """

    settings: SteeringSettings
    name: ClassVar[str] = "ms-ssim"
    metrics: ClassVar[tuple[str, ...]] = ("ms-ssim",)

    def __post_init__(self) -> None:
        refuse_options(self.name, self.settings)

    def judge(self, evidence: Evidence) -> Verdict:
        """Judge the newest image."""
        threshold = self.settings.least_score
        score = evidence.newest.metrics.get("ms-ssim")
        at = f"at {evidence.progress}"
        if score is None:
            return Verdict(
                "continue", None, f"{at}: no MS-SSIM yet: no image is {evidence.compare_to} projections older"
            )
        if not math.isfinite(score):
            return Verdict("continue", None, f"{at}: MS-SSIM is {score}, which can not be judged by")
        if threshold >= 1:
            return Verdict("continue", score, f"{at}: MS-SSIM {score:.3f}; a threshold of 1 never stops a scan")
        shown = _on_its_side(score, threshold)
        if score < threshold:
            return Verdict("continue", score, f"{at}: MS-SSIM {shown} < {threshold:g}")
        scores = (image.metrics.get("ms-ssim") for image in reversed(evidence.images))
        least = evidence.settled if self.settings.minimum_projections is None else self.settings.minimum_projections
        return where_met(
            evidence,
            self.settings,
            score,
            f"{at}: MS-SSIM {shown} >= {threshold:g}",
            met=(each is not None and each >= threshold for each in scores),
            counted="images",
            least=least,
        )


def where_met(
    evidence: Evidence,
    settings: SteeringSettings,
    score: float | None,
    text: str,
    *,
    met: Iterable[bool],
    counted: str,
    least: int,
    beside: str = "",
) -> Verdict:
    """Return the verdict where a policy's own criterion is met; the run ends unless something else is missing.

    Parameters
    ----------
    evidence, settings, score, text
        What is judged, and the verdict's score and text so far.
    met : iterable of bool
        Whether the criterion is met, the newest first; as many in a row as `settings.patience` are needed.
    counted : str
        What these are, for the text.
    least : int
        No stop before so many projections.
    beside : str, optional
        End of the text.
    """
    missing = []
    if evidence.newest.projections < least:
        missing.append(not_before(least, evidence))
    coverage, gap = settings.minimum_coverage, evidence.largest_gap
    if coverage > 0 and (gap is None or gap > coverage + 1e-6):
        why = ", and the angles are not known" if gap is None else f" (largest: {gap:.4g} deg)"
        missing.append(f"not before gaps between angles are at most {coverage:g} deg{why}")
    in_a_row = sum(1 for _ in islice(takewhile(bool, met), settings.patience))
    if settings.patience > 1:
        text += f", for {in_a_row} of {settings.patience} {counted} in a row"
    enough = in_a_row == settings.patience and not missing
    return Verdict("enough" if enough else "continue", score, "; ".join([text, *missing]) + beside)


def not_before(least: int, evidence: Evidence) -> str:
    """Return from how many projections on a run may be ended, in words."""
    planned = evidence.planned
    few = f", and {planned} are planned" if planned and least > planned else ""
    return f"not before {least} projections{few}"


def _on_its_side(score: float, threshold: float) -> str:
    """Return a score with as many digits as show on which side of the threshold it is."""
    texts = (f"{score:.{digits}f}" for digits in range(3, 17))
    return next((text for text in texts if (float(text) >= threshold) == (score >= threshold)), repr(score))


def refuse_options(name: str, settings: SteeringSettings) -> None:
    """Raise `ConfigError` if options are given to a policy that takes none."""
    if settings.options:
        raise ConfigError(f"policy {name!r}: got options {', '.join(settings.options)}, but it takes none")


def measured_by(forecasts: Sequence[Forecast], planned: int) -> dict[str, float | None]:
    """Return the newest values of metrics that forecasts hold.

    A prediction is that of a still sample: where the newest forecast has found a fault, there is none.
    """
    values: dict[str, float | None] = dict(forecasts[-1].metrics)
    gains = (forecast.gain_of(planned) for forecast in reversed(forecasts))
    gain = next((gain for gain in gains if gain is not None), None)
    if gain is not None and forecasts[-1].fault is None:
        values[PREDICTED_GAIN] = gain.gain
        values |= {f"{PREDICTED_GAIN}-low": gain.lower, f"{PREDICTED_GAIN}-high": gain.upper}
        values[f"{PREDICTED_GAIN}-at"] = float(gain.projections)
    return values
