"""When an image is good enough: stopping policies, pure functions of what was measured in a run.

A policy sees every reading of the run and returns a verdict with its reason in words. It keeps no state, so it can be
applied again to a stored run, and a controller that was restarted judges as before. It never sees pixels; that a scan
is not ended for an image that shows nothing is ensured by the controller, for all policies.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.quality.coverage import HALF_TURN, AngularRange
from bluesky_streamrecon.quality.forecast import Forecast, fewest_views
from bluesky_streamrecon.quality.gain import Gain
from bluesky_streamrecon.registry import Registry, made
from bluesky_streamrecon.settings import SteeringSettings

__all__ = [
    "PREDICTED_GAIN",
    "Combination",
    "Evidence",
    "MsSsimPolicy",
    "Policy",
    "PolicyFactory",
    "PredictedGainPolicy",
    "ScoredImage",
    "Verdict",
    "get_policy",
    "policy_names",
    "register_policy",
]

PREDICTED_GAIN = "predicted-gain"
"""Name of a policy, and of what it needs, as if that were a metric."""


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
    """All that a policy may judge by.

    Parameters
    ----------
    readings : sequence of ScoredImage
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
        What was found out from line integrals, the oldest first; each says of how many projections. Only for
        policies that ask for a metric of line integrals, or for ``"predicted-gain"``, is there more in them than
        whether data are sound.
    columns : int
        Of the detector.
    over : AngularRange
        Angles that the scan is going to visit.
    """

    readings: Sequence[ScoredImage]
    planned: int = 0
    compare_to: int = 0
    largest_gap: float | None = None
    settled: int = 0
    forecasts: Sequence[Forecast] = ()
    columns: int = 0
    over: AngularRange = HALF_TURN

    @property
    def newest(self) -> ScoredImage:
        """The reading to judge."""
        return self.readings[-1]

    @property
    def progress(self) -> str:
        """Where the run is, in words: ``"57 of 180 projections"``."""
        of = f" of {self.planned}" if self.planned else ""
        return f"{self.newest.projections}{of} projections"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A policy's judgement: whether to go on, the score, and why.

    ``"invalid"``, for data that can not be a scan of one still sample, is the controller's verdict, for all policies.
    """

    verdict: Literal["continue", "enough", "invalid"]
    score: float | None
    text: str


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
        """Judge the newest reading."""


PolicyFactory = Callable[[SteeringSettings], Policy]
"""Makes a policy for one run; raises `ConfigError` for settings that can not work."""

_OURS = {"ms-ssim": f"{__name__}:ms_ssim_policy", PREDICTED_GAIN: f"{__name__}:predicted_gain_policy"}

_policies: Registry[PolicyFactory] = Registry("stopping policy", "bluesky_streamrecon.policies", _OURS)


def register_policy(name: str, factory: PolicyFactory) -> None:
    """Make a policy available by name; packages do the same with an entry point in ``bluesky_streamrecon.policies``."""
    _policies.add(name, factory)


def policy_names() -> tuple[str, ...]:
    """Names of all policies, those of installed packages among them."""
    return _policies.names()


def get_policy(name: str) -> PolicyFactory:
    """Return what makes the policy of this name for a run's settings.

    The criterion of ``"a+b"`` is met when those of both are, that of ``"a|b"`` when one is; ``+`` binds closer. Options
    are for the policies among them that do not come with this package.

    Raises
    ------
    ConfigError
        If there is no policy of this name; the message lists those there are. What is given raises it, too, where the
        policy can not be made, or what is made is none.

    Examples
    --------
    >>> policy = get_policy("ms-ssim")(SteeringSettings(threshold=0.9))
    >>> policy.judge(Evidence([ScoredImage(33, 57, {"ms-ssim": 0.953})], planned=180)).text
    'at 57 of 180 projections: MS-SSIM 0.953 >= 0.9'
    >>> get_policy("ms-ssim+predicted-gain")(SteeringSettings()).metrics
    ('ms-ssim', 'predicted-gain')
    """
    return _factory(name, {part.strip() for part in re.split(r"[|+]", name)} <= _OURS.keys())


def _factory(name: str, all_ours: bool) -> PolicyFactory:
    for sign, needed in (("|", any), ("+", all)):
        if sign in name:
            factories = [_factory(part.strip(), all_ours) for part in name.split(sign)]
            return lambda settings: Combination(name, tuple(make(settings) for make in factories), needed)
    factory = partial(_made, name, _policies.get(name))
    if name in _OURS and not all_ours:
        return lambda settings: factory(msgspec.structs.replace(settings, options={}))
    return factory


def _made(name: str, factory: PolicyFactory, settings: SteeringSettings) -> Policy:
    policy: Any = made("stopping policy", name, factory, settings)
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
        """Judge the newest reading; the score is that of the first which has one."""
        verdicts = [policy.judge(evidence) for policy in self.policies]
        enough = self.needed(verdict.verdict == "enough" for verdict in verdicts)
        at = f"at {evidence.progress}: "
        texts = [verdict.text.removeprefix(at) for verdict in verdicts if verdict.verdict == "enough" or not enough]
        score = next((verdict.score for verdict in verdicts if verdict.score is not None), None)
        return Verdict("enough" if enough else "continue", score, at + "; ".join(texts))


@dataclass(frozen=True, slots=True)
class MsSsimPolicy:
    """The paper's criterion: MS-SSIM to an earlier image reaches a threshold [1]_.

    Parameters
    ----------
    threshold : float
        Smallest score that is good enough, in (0, 1]. 1 never stops, not even for a score of 1.
    patience : int
        How many images in a row must reach it. An image without a score begins the count anew.
    minimum_projections : int or None
        No stop before so many projections; None: not before `Evidence.settled`.
    minimum_coverage : float
        No stop before the largest gap between angles is so small, degrees; 0: no such condition. Where the angles are
        not known, a run with this condition is not stopped.

    References
    ----------
    .. [1] Bicer et al., IEEE eScience 2017, section III-C, :doi:`10.1109/eScience.2017.53`.
    """

    threshold: float = 0.95
    patience: int = 1
    minimum_projections: int | None = None
    minimum_coverage: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"threshold: got {self.threshold}, expected 0 < threshold <= 1")
        if self.patience < 1:
            raise ConfigError(f"patience: got {self.patience}, expected 1 or more")

    @property
    def name(self) -> str:
        """``"ms-ssim"``."""
        return "ms-ssim"

    @property
    def metrics(self) -> tuple[str, ...]:
        """Only MS-SSIM."""
        return ("ms-ssim",)

    def judge(self, evidence: Evidence) -> Verdict:
        """Judge the newest reading."""
        score = evidence.newest.metrics.get("ms-ssim")
        at = f"at {evidence.progress}"
        if score is None:
            return Verdict(
                "continue", None, f"{at}: no MS-SSIM yet: no image is {evidence.compare_to} projections older"
            )
        if not math.isfinite(score):
            return Verdict("continue", None, f"{at}: MS-SSIM is {score}, which can not be judged by")
        if self.threshold >= 1:
            return Verdict("continue", score, f"{at}: MS-SSIM {score:.3f}; a threshold of 1 never stops a scan")
        if score < self.threshold:
            return Verdict("continue", score, f"{at}: MS-SSIM {_below(score, self.threshold)} < {self.threshold:g}")
        running = self._running(evidence.readings)
        text = f"{at}: MS-SSIM {_at_least(score, self.threshold)} >= {self.threshold:g}"
        if self.patience > 1:
            text += f", for {min(running, self.patience)} of {self.patience} images in a row"
        least = evidence.settled if self.minimum_projections is None else self.minimum_projections
        missing = _missing(evidence, least, self.minimum_coverage)
        if running < self.patience or missing:
            return Verdict("continue", score, "; ".join([text, *missing]))
        return Verdict("enough", score, text)

    def _running(self, readings: Sequence[ScoredImage]) -> int:
        running = 0
        for reading in reversed(readings):
            score = reading.metrics.get("ms-ssim")
            if score is None or not score >= self.threshold or running == self.patience:
                break
            running += 1
        return running


def _missing(evidence: Evidence, least: int, coverage: float) -> list[str]:
    """Return what must still come before a run may be ended, whatever its quality."""
    missing = []
    if evidence.newest.projections < least:
        missing.append(_not_before(least, evidence))
    if coverage > 0:
        gap = evidence.largest_gap
        if gap is None:
            missing.append(f"not before gaps between angles are at most {coverage:g} deg, and the angles are not known")
        elif gap > coverage + 1e-6:
            missing.append(f"not before gaps between angles are at most {coverage:g} deg (largest: {gap:.4g} deg)")
    return missing


def _not_before(least: int, evidence: Evidence) -> str:
    planned = evidence.planned
    few = f", and {planned} are planned" if planned and least > planned else ""
    return f"not before {least} projections{few}"


def _below(score: float, threshold: float) -> str:
    """Return a score with as many digits as show that it is below the threshold."""
    return next((text for digits in range(3, 17) if float(text := f"{score:.{digits}f}") < threshold), repr(score))


def _at_least(score: float, threshold: float) -> str:
    return next((text for digits in range(3, 17) if float(text := f"{score:.{digits}f}") >= threshold), repr(score))


def ms_ssim_policy(settings: SteeringSettings) -> MsSsimPolicy:
    """Make the policy ``"ms-ssim"``."""
    if settings.options:
        raise ConfigError(f"policy 'ms-ssim': got options {', '.join(settings.options)}, but it takes none")
    return MsSsimPolicy(
        threshold=settings.least_score,
        patience=settings.patience,
        minimum_projections=settings.minimum_projections,
        minimum_coverage=settings.minimum_coverage,
    )


@dataclass(frozen=True, slots=True)
class PredictedGainPolicy:
    """The projections that are left are predicted to improve the image by less than a tolerance.

    The gain in MS-SSIM that they would add is predicted, with a 95 % band, from all projections so far (see
    `bluesky_streamrecon.quality.gain`). A prediction is made every 5 % of the scan, and holds until the next one.

    Parameters
    ----------
    tolerance : float
        Gain in MS-SSIM that is given up for an earlier end: the upper end of the band must be below it.
    patience : int
        How many predictions in a row must be below it.
    minimum_projections : int or None
        No stop before so many projections; None: 24, and a fifth of the plan.
    minimum_coverage : float
        As for `MsSsimPolicy`.
    """

    tolerance: float = 0.02
    patience: int = 1
    minimum_projections: int | None = None
    minimum_coverage: float = 0.0

    @property
    def name(self) -> str:
        """``"predicted-gain"``."""
        return PREDICTED_GAIN

    @property
    def metrics(self) -> tuple[str, ...]:
        """The prediction, and MS-SSIM, which is reported beside it."""
        return ("ms-ssim", PREDICTED_GAIN)

    def judge(self, evidence: Evidence) -> Verdict:
        """Judge by the newest prediction."""
        score = evidence.newest.metrics.get("ms-ssim")
        beside = "" if score is None else f"; MS-SSIM {score:.3f} to the image {evidence.compare_to} projections before"
        at = f"at {evidence.progress}"
        made = [gain for each in evidence.forecasts if (gain := each.gain_of(evidence.planned)) is not None]
        if not made:
            return Verdict("continue", score, f"{at}: no prediction: {self._why_none(evidence)}{beside}")
        gain = made[-1]
        text = self._predicted(gain, evidence)
        if gain.upper >= self.tolerance:
            return Verdict("continue", score, f"{at}: {text}{self._when(gain, evidence)}{beside}")
        running = self._running(made)
        if self.patience > 1:
            text += f", in {min(running, self.patience)} of {self.patience} predictions in a row"
        missing = _missing(evidence, self._least(evidence), self.minimum_coverage)
        if running < self.patience or missing:
            return Verdict("continue", score, f"{at}: " + "; ".join([text, *missing]) + beside)
        return Verdict("enough", score, f"{at}: {text}{beside}")

    def _least(self, evidence: Evidence) -> int:
        return fewest_views(evidence.planned, self.minimum_projections)

    def _why_none(self, evidence: Evidence) -> str:
        """Return why there is no prediction for the rest of the scan."""
        now, least = evidence.newest.projections, self._least(evidence)
        last = evidence.forecasts[-1] if evidence.forecasts else None
        if last is not None and last.why_not:
            return last.why_not if last.projections == now else f"{last.why_not} (at {last.projections} projections)"
        if 0 < evidence.planned <= now:
            return "all projections are taken"
        return _not_before(least, evidence) if now < least else "the first one is being made"

    def _predicted(self, gain: Gain, evidence: Evidence) -> str:
        """Return the prediction in words, and how old it is."""
        left, older = gain.planned - gain.projections, evidence.newest.projections > gain.projections
        tense, since = ("were", f"after {gain.projections}, ") if older else ("are", "")
        text = (
            f"{since}the remaining {left} {tense} predicted to improve the image by {gain.gain:.3f} ± "
            f"{gain.upper - gain.gain:.3f} MS-SSIM (tolerance {self.tolerance:g})"
        )
        last = evidence.forecasts[-1]
        none = last.why_not if last.gain is None and last.projections > gain.projections else ""
        return f"{text}; no newer prediction: {none}" if none else text

    def _when(self, gain: Gain, evidence: Evidence) -> str:
        now = evidence.newest.projections
        if now >= gain.planned:
            return ""
        enough = gain.enough_at(self.tolerance, evidence.over, evidence.columns) if evidence.columns else gain.planned
        if enough is None or enough >= gain.planned:
            return "; all of them are needed"
        return f"; about {enough - now} more are needed" if enough > now else "; the next prediction will tell"

    def _running(self, made: Sequence[Gain]) -> int:
        running = 0
        for gain in reversed(made):
            if gain.upper >= self.tolerance:
                break
            running += 1
        return running


def predicted_gain_policy(settings: SteeringSettings) -> PredictedGainPolicy:
    """Make the policy ``"predicted-gain"``."""
    if settings.options:
        raise ConfigError(f"policy 'predicted-gain': got options {', '.join(settings.options)}, but it takes none")
    return PredictedGainPolicy(
        tolerance=settings.tolerance,
        patience=settings.patience,
        minimum_projections=settings.minimum_projections,
        minimum_coverage=settings.minimum_coverage,
    )
