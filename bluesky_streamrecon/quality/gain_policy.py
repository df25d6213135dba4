"""The default policy: a scan ends when what the rest of it would add to the image is small enough, as predicted.

Pure, as every policy: what it judges by was predicted by `bluesky_streamrecon.quality.forecast`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from bluesky_streamrecon.quality.forecast import fewest_views
from bluesky_streamrecon.quality.gain import Gain, band
from bluesky_streamrecon.quality.policy import (
    PREDICTED_GAIN,
    PREDICTED_STOP,
    Evidence,
    Verdict,
    not_before,
    refuse_options,
    where_met,
)
from bluesky_streamrecon.settings import SteeringSettings

__all__ = ["PredictedGainPolicy"]


@dataclass(frozen=True, slots=True)
class PredictedGainPolicy:
    """The projections that are left are predicted to improve the image by less than a tolerance.

    The gain in MS-SSIM that they would add is predicted, with a 95 % band, from all projections so far (see
    `bluesky_streamrecon.quality.gain`). A prediction is made every 5 % of the scan, twice as often
    when the upper end of its band is below twice the tolerance, and holds until the next one.

    Parameters
    ----------
    settings : SteeringSettings
        ``tolerance``, the gain in MS-SSIM that is given up for an earlier end: the upper end of the band must be below
        it. ``patience``, how many predictions in a row must be. No stop before ``minimum_projections`` (None: 24, and a
        fifth of the plan), nor before ``minimum_coverage``, as for `MsSsimPolicy`.
    """

    settings: SteeringSettings
    name: ClassVar[str] = PREDICTED_GAIN
    metrics: ClassVar[tuple[str, ...]] = ("ms-ssim", PREDICTED_GAIN)

    def __post_init__(self) -> None:
        refuse_options(self.name, self.settings)

    def judge(self, evidence: Evidence) -> Verdict:
        """Judge by the newest prediction; MS-SSIM is reported beside it."""
        tolerance = self.settings.tolerance
        score = evidence.newest.metrics.get("ms-ssim")
        beside = "" if score is None else f"; MS-SSIM {score:.3f} to the image {evidence.compare_to} projections before"
        at = f"at {evidence.progress}"
        made = _gains(evidence)
        if not made:
            return Verdict("continue", score, f"{at}: no prediction: {self._why_none(evidence)}{beside}")
        gain, stop = made[-1], self._stop(made[-1], evidence)
        text, known = f"{at}: {self._predicted(gain, evidence)}", {PREDICTED_STOP: float(stop)}
        if gain.upper >= tolerance:
            return Verdict("continue", score, f"{text}{self._when(stop, gain, evidence)}{beside}", known)
        verdict = where_met(
            evidence,
            self.settings,
            score,
            text,
            met=(each.upper < tolerance for each in reversed(made)),
            counted="predictions",
            least=self._least(evidence),
            beside=beside,
        )
        return replace(verdict, metrics=known)

    def _least(self, evidence: Evidence) -> int:
        return fewest_views(evidence.planned, self.settings.minimum_projections)

    def _why_none(self, evidence: Evidence) -> str:
        """Return why there is no prediction for the rest of the scan."""
        now, least = evidence.newest.projections, self._least(evidence)
        last = evidence.forecasts[-1] if evidence.forecasts else None
        if last is not None and last.why_not:
            return last.why_not if last.projections == now else f"{last.why_not} (at {last.projections} projections)"
        if 0 < evidence.planned <= now:
            return "all projections are taken"
        return not_before(least, evidence) if now < least else "the first one is being made"

    def _predicted(self, gain: Gain, evidence: Evidence) -> str:
        """Return the prediction in words, and how old it is."""
        left, older = gain.planned - gain.projections, evidence.newest.projections > gain.projections
        tense, since = ("were", f"after {gain.projections}, ") if older else ("are", "")
        text = (
            f"{since}the remaining {left} {tense} predicted to improve the image by {gain.gain:.3f} MS-SSIM, "
            f"at most {gain.upper:.3f} (tolerance {self.settings.tolerance:g})"
        )
        last = evidence.forecasts[-1]
        none = last.why_not if last.gain is None and last.projections > gain.projections else ""
        return f"{text}; no newer prediction: {none}" if none else text

    def predicted_at(self, evidence: Evidence, count: int) -> str:
        """Return how far the image will be from that of the whole scan."""
        made = _gains(evidence)
        if not made:
            return ""
        left = made[-1].left_at(max(count, made[-1].projections), evidence.over)
        return (
            f"an image predicted to be {left:.3f} MS-SSIM from that of all {made[-1].planned}, "
            f"at most {band(left, made[-1].single)[1]:.3f}"
        )

    def _stop(self, gain: Gain, evidence: Evidence) -> int:
        """Return, roughly, at how many projections the criterion will be met; all if it will not."""
        enough = gain.enough_at(self.settings.tolerance, evidence.over)
        return gain.planned if enough is None else min(enough, gain.planned)

    def _when(self, stop: int, gain: Gain, evidence: Evidence) -> str:
        now = evidence.newest.projections
        if now >= gain.planned:
            return ""
        if stop >= gain.planned:
            return "; all of them are needed"
        return f"; about {stop - now} more are needed" if stop > now else "; the next prediction decides"


def _gains(evidence: Evidence) -> list[Gain]:
    """Return what was predicted for the plan as it is by now, the oldest first."""
    return [gain for each in evidence.forecasts if (gain := each.gain_of(evidence.planned)) is not None]
