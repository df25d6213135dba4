"""When an image is good enough: stopping policies, pure functions of what was measured in a run.

A policy sees every reading of the run and gives a verdict with its reason in words. It keeps no state, so it can be
tried again over a stored run, and a controller that was restarted judges as before. It never sees pixels, and what it
says is never acted on for an image that shows nothing: the controller sees to that for all policies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from bluesky_streamrecon.config import SteeringSettings
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.registry import Registry

__all__ = [
    "Evidence",
    "MsSsimPolicy",
    "Policy",
    "PolicyFactory",
    "Reading",
    "Verdict",
    "get_policy",
    "policy_names",
    "register_policy",
]


@dataclass(frozen=True, slots=True)
class Reading:
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
    readings : sequence of Reading
        Every image measured in this run, the oldest first; the last is the one to judge.
    planned : int
        Projections planned for the run; 0: not known.
    compare_to : int
        Distance k of compared images, projections.
    largest_gap : float or None
        Largest gap between the angles so far, degrees, modulo 180; None: not known.
    settled : int
        Projections from which on both compared images were made of full windows.
    """

    readings: Sequence[Reading]
    planned: int = 0
    compare_to: int = 0
    largest_gap: float | None = None
    settled: int = 0

    @property
    def newest(self) -> Reading:
        """The reading to judge."""
        return self.readings[-1]

    @property
    def progress(self) -> str:
        """Where the run is, in words: ``"57 of 180 projections"``."""
        of = f" of {self.planned}" if self.planned else ""
        return f"{self.newest.projections}{of} projections"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy says: whether to go on, the number that it went by, and why."""

    verdict: Literal["continue", "enough"]
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

_policies: Registry[PolicyFactory] = Registry("stopping policy", "bluesky_streamrecon.policies")


def register_policy(name: str, factory: PolicyFactory) -> None:
    """Make a policy available by name; packages do the same with an entry point in ``bluesky_streamrecon.policies``."""
    _policies.add(name, factory)


def policy_names() -> tuple[str, ...]:
    """Names of all policies, those of installed packages among them."""
    return _policies.names()


def get_policy(name: str) -> PolicyFactory:
    """Give what makes the policy of this name for a run's settings.

    Raises
    ------
    ConfigError
        If there is no policy of this name; the message lists those there are.

    Examples
    --------
    >>> policy = get_policy("ms-ssim")(SteeringSettings(threshold=0.9))
    >>> policy.judge(Evidence([Reading(33, 57, {"ms-ssim": 0.953})], planned=180)).text
    'MS-SSIM 0.953 >= 0.9 at 57 of 180 projections'
    """
    return _policies.get(name)


@dataclass(frozen=True, slots=True)
class MsSsimPolicy:
    """The paper's rule: enough when MS-SSIM to an earlier image reaches a threshold [1]_.

    Parameters
    ----------
    threshold : float
        Smallest score that is good enough, in (0, 1]. 1 never stops, not even for a score of 1.
    patience : int
        How many images running must reach it. An image without a score begins the count anew.
    minimum_projections : int or None
        Never before so many projections; None: never before `Evidence.settled`.
    minimum_coverage : float
        Never before the largest gap between angles is so small, degrees; 0: no such condition. Where the angles are
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
        """MS-SSIM is all it asks for."""
        return ("ms-ssim",)

    def judge(self, evidence: Evidence) -> Verdict:
        """Judge the newest reading."""
        score = evidence.newest.metrics.get("ms-ssim")
        at = f"at {evidence.progress}"
        if score is None:
            return Verdict("continue", None, f"no MS-SSIM yet {at}: no image {evidence.compare_to} projections older")
        if not math.isfinite(score):
            return Verdict("continue", None, f"MS-SSIM is {score} {at}: not a number to judge by")
        if self.threshold >= 1:
            return Verdict("continue", score, f"MS-SSIM {score:.3f} {at}; a threshold of 1 never stops")
        if score < self.threshold:
            return Verdict("continue", score, f"MS-SSIM {_below(score, self.threshold)} < {self.threshold:g} {at}")
        running = self._running(evidence.readings)
        text = f"MS-SSIM {_at_least(score, self.threshold)} >= {self.threshold:g} {at}"
        if self.patience > 1:
            text += f", {min(running, self.patience)} of {self.patience} times running"
        missing = []
        least = evidence.settled if self.minimum_projections is None else self.minimum_projections
        if evidence.newest.projections < least:
            missing.append(f"not before {least} projections")
        if self.minimum_coverage > 0:
            gap = evidence.largest_gap
            if gap is None:
                missing.append(f"angles not known, not before gaps are at most {self.minimum_coverage:g} deg")
            elif gap > self.minimum_coverage + 1e-6:
                missing.append(f"largest gap {gap:.4g} deg, not before it is at most {self.minimum_coverage:g} deg")
        if running < self.patience or missing:
            return Verdict("continue", score, "; ".join([text, *missing]))
        return Verdict("enough", score, text)

    def _running(self, readings: Sequence[Reading]) -> int:
        running = 0
        for reading in reversed(readings):
            score = reading.metrics.get("ms-ssim")
            if score is None or not score >= self.threshold or running == self.patience:
                break
            running += 1
        return running


def _below(score: float, threshold: float) -> str:
    """Write a score with as many digits as show that it is below the threshold."""
    return next((text for digits in range(3, 17) if float(text := f"{score:.{digits}f}") < threshold), repr(score))


def _at_least(score: float, threshold: float) -> str:
    return next((text for digits in range(3, 17) if float(text := f"{score:.{digits}f}") >= threshold), repr(score))


def _ms_ssim_policy(settings: SteeringSettings) -> MsSsimPolicy:
    if settings.options:
        raise ConfigError(f"policy 'ms-ssim': got options {', '.join(settings.options)}, but it takes none")
    return MsSsimPolicy(
        threshold=settings.threshold,
        patience=settings.patience,
        minimum_projections=settings.minimum_projections,
        minimum_coverage=settings.minimum_coverage,
    )


register_policy("ms-ssim", _ms_ssim_policy)
