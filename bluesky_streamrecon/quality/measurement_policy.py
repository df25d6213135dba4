"""Policy ``"measurement"``: what will still change in a measured number is less than was asked for.

How a number will come out in the end is predicted from what it was in all images and half-sets so far. What the last
doubling of views has changed falls with 1/m, or with 1/m^2 where angles are missing; the mean of both counts. The band
adds what that may be wrong by, what differs between the halves, how far the number went from one forecast to the next,
and how it scatters about its course, which need not fall at all. It is widened by as much as the scan's earlier
predictions of its later values were wrong.
``docs/explanations/steering.md`` has the figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.quality.forecast import Forecast, fewest_views
from bluesky_streamrecon.quality.measurements import MEASUREMENT, measurement_of
from bluesky_streamrecon.quality.policy import Evidence, Verdict, where_met
from bluesky_streamrecon.settings import Option, SteeringSettings

__all__ = ["Final", "Halved", "MeasurementPolicy", "parse_within", "predict_final"]

RECENT = 3
"""Forecasts that count for what the halves differ by."""

STEPS = 8
"""Forecasts that count for how far a number goes from one to the next."""

FEWEST_FORECASTS = 4
"""With fewer there are hardly any earlier predictions to check."""

OF_DOUBLING, OF_HALVES, OF_STEPS, OF_SCATTER, OF_ERRORS = 1.0, 1.0, 2.0, 3.0, 2.0
"""What counts how much for the band."""

OF_FEW = 2.0
"""By what the variance is larger where it comes from one value only."""


@dataclass(frozen=True, slots=True)
class Halved:
    """A number that was measured on images from the first projections: from all, and from either half of them."""

    projections: int
    whole: float
    first: float
    second: float

    @property
    def doubling(self) -> float:
        """How far the halves are from the whole, on average."""
        return (self.first + self.second) / 2 - self.whole


@dataclass(frozen=True, slots=True)
class Final:
    """A predicted final value of a number, with the half width of its 95 % band."""

    value: float
    plus_minus: float


def predict_final(history: Sequence[Halved], planned: int) -> Final | None:
    """Predict how a number comes out after `planned` projections; None: too little is known.

    Parameters
    ----------
    history : sequence of Halved
        From all forecasts so far, the oldest first.
    planned : int
        Projections of the whole scan.

    Examples
    --------
    >>> falling = [Halved(m, 10 + 60 / m, 10 + 121 / m, 10 + 119 / m) for m in (36, 45, 54, 63, 72)]
    >>> final = predict_final(falling, 180)
    >>> abs(final.value - (10 + 60 / 180)) < final.plus_minus
    True
    """
    if len(history) < FEWEST_FORECASTS:
        return None
    final = _extrapolated(history, planned)
    errors = []
    for now in range(max(2, len(history) - RECENT + 1), len(history)):
        for later in history[now:]:
            then = _extrapolated(history[:now], later.projections)
            errors.append(((later.whole - then.value) / max(then.plus_minus, 1e-12)) ** 2)
    return Final(final.value, final.plus_minus * max(1.0, OF_ERRORS * math.sqrt(float(np.mean(errors)))))


def _extrapolated(history: Sequence[Halved], to: int) -> Final:
    """Return how a number comes out after `to` projections; the band is not checked yet."""
    newest, recent = history[-1], history[-RECENT:]
    views = newest.projections
    if views >= to:
        return Final(newest.whole, 0.0)
    left = 1 - views / to  # of what the last doubling changed, where it falls with 1/m
    steep = (1 - (views / to) ** 2) / 3  # ... with 1/m^2
    value = newest.whole - newest.doubling * (left + steep) / 2
    doubling = np.mean([(each.doubling * each.projections / views) ** 2 for each in recent]) * left**2
    halves = np.mean([(each.first - each.second) ** 2 / 2 * each.projections / views for each in recent]) * left / 2
    last = history[-STEPS - 1 :]
    pairs = pairwise(last)
    steps = np.mean([(b.whole - a.whole) ** 2 / (1 / a.projections - 1 / b.projections) for a, b in pairs])
    steps *= left / views
    bends = np.diff([each.whole for each in last], 2)
    scatter = float(np.mean(bends**2)) / 6 if len(bends) else 0.0
    variance = OF_DOUBLING**2 * doubling + OF_HALVES**2 * halves + OF_STEPS**2 * steps + OF_SCATTER**2 * 2 * scatter
    few = 1 + OF_FEW / max(len(bends), 1)  # what comes from few values may be too small by chance
    return Final(value, math.sqrt(variance * few))


def parse_within(asked: Option | None) -> tuple[float, bool]:
    """Return what was asked for, and whether it is a share of the number itself.

    Raises
    ------
    ConfigError
        If it is neither a number nor a percentage above 0.

    Examples
    --------
    >>> parse_within("1%"), parse_within(0.02)
    ((0.01, True), (0.02, False))
    """
    text = str(asked).strip()
    share = text.endswith("%")
    try:
        value = math.nan if isinstance(asked, bool) else float(text.removesuffix("%")) / (100 if share else 1)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ConfigError(
            f"policy 'measurement': got within={asked!r}, expected how well the number is to be known: a number above "
            "0 in its own unit, as 0.01, or a share of it, as '1%'"
        )
    return value, share


class MeasurementPolicy:
    """How measured numbers will come out in the end is known as well as asked for.

    Parameters
    ----------
    settings : SteeringSettings
        ``options``: ``measure``, the name of the measurement; ``within``, what the half width of the band may be:
        a number, or a share (``"1%"``) of the number; ``pixel_size``, micrometres; others are for the measurement.
        ``patience`` and ``minimum_projections`` as for `PredictedGainPolicy`, ``minimum_coverage`` as for
        `MsSsimPolicy`.
    """

    name: ClassVar[str] = MEASUREMENT
    metrics: ClassVar[tuple[str, ...]] = (MEASUREMENT,)

    def __init__(self, settings: SteeringSettings) -> None:
        self._settings = settings
        measurement_of(settings.options)
        self._label = str(settings.options["measure"])
        self._within, self._share = parse_within(settings.options.get("within"))

    def judge(self, evidence: Evidence) -> Verdict:
        """Judge by the newest forecast that has measured something."""
        score = evidence.newest.metrics.get("ms-ssim")
        history = numbers_of(evidence.forecasts)
        least = fewest_views(evidence.planned, self._settings.minimum_projections)
        at = f"at {evidence.progress}: "
        made = max(map(len, history.values()), default=0)
        if made < FEWEST_FORECASTS or evidence.planned <= 0:
            few = f"{made} of {FEWEST_FORECASTS} measurements that a prediction needs, not before {least} projections"
            why = "the number of planned projections is not known" if evidence.planned <= 0 else few
            return Verdict("continue", score, f"{at}no prediction of {self._label}: {why}")
        finals = self._finals(history, evidence.planned)
        recorded = {
            f"{name}{end}": value
            for name, final in finals.items()
            for end, value in (
                ("-final", final.value),
                ("-low", final.value - final.plus_minus),
                ("-high", final.value + final.plus_minus),
            )
        }
        text = at + "; ".join(self._text_of(name, history[name], final) for name, final in finals.items())
        if not self._known(finals):
            return Verdict("continue", score, text + self._unsettled(history), recorded)
        earlier = ({name: each[:count] for name, each in history.items()} for count in range(made, 0, -1))
        verdict = where_met(
            evidence,
            self._settings,
            score,
            text,
            met=(self._known(self._finals(then, evidence.planned)) for then in earlier),
            counted="predictions",
            least=least,
        )
        return Verdict(verdict.verdict, verdict.score, verdict.text, recorded)

    def predicted_at(self, evidence: Evidence, count: int) -> str:
        """Return how each number will be, with its band."""
        then = self._finals(numbers_of(evidence.forecasts), count)
        parts = [f"{self._label_of(name)} {each.value:.4g} ± {each.plus_minus:.2g}" for name, each in then.items()]
        return f"{', '.join(parts)} predicted" if parts else ""

    def _finals(self, history: dict[str, list[Halved]], planned: int) -> dict[str, Final]:
        """Return the prediction of each number, of those that have been measured often enough."""
        found = {name: predict_final(each, planned) for name, each in history.items()}
        return {name: final for name, final in found.items() if final is not None}

    def _known(self, finals: dict[str, Final]) -> bool:
        return bool(finals) and all(final.plus_minus <= self._allowed(final) for final in finals.values())

    def _allowed(self, final: Final) -> float:
        return self._within * abs(final.value) if self._share else self._within

    def _label_of(self, name: str) -> str:
        own = name.removeprefix(MEASUREMENT).removeprefix("-")
        return f"{self._label} {own}" if own else self._label

    def _text_of(self, name: str, history: Sequence[Halved], final: Final) -> str:
        now, allowed = history[-1], self._allowed(final)
        asked = f"{self._within:.3g}" if not self._share else f"{100 * self._within:g} %, {allowed:.3g}"
        return (
            f"{self._label_of(name)} {now.whole:.4g} after {now.projections} projections is predicted to be "
            f"{final.value:.4g} ± {final.plus_minus:.2g} at the end (to be known within {asked})"
        )

    def _unsettled(self, history: dict[str, list[Halved]]) -> str:
        """Return which numbers go up and down by more than is allowed, in words."""
        parts = []
        for name, each in history.items():
            values = [halved.whole for halved in each[-RECENT:]]
            low, high, allowed = min(values), max(values), self._allowed(Final(values[-1], 0.0))
            if high - low > 2 * allowed:
                since = each[-len(values)].projections
                parts.append(f"; {self._label_of(name)} does not settle: {low:.4g} to {high:.4g} since {since}")
        return "".join(parts)


def numbers_of(forecasts: Sequence[Forecast]) -> dict[str, list[Halved]]:
    """Return what was measured in forecasts without a fault, by its name among the metrics."""
    found: dict[str, list[Halved]] = {}
    for forecast in forecasts:
        values = {} if forecast.fault else forecast.metrics
        for name, whole in values.items():
            first, second = values.get(f"{name}-half-1"), values.get(f"{name}-half-2")
            if name.startswith(MEASUREMENT) and whole is not None and first is not None and second is not None:
                found.setdefault(name, []).append(Halved(forecast.projections, whole, first, second))
    return found
