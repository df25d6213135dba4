"""The policy of time series: reports when the sample begins to change and when that is over, and may end the run then.

Pure, as every policy: what it judges by was measured by `bluesky_streamrecon.quality.changes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.quality.policy import Evidence, Verdict, where_met
from bluesky_streamrecon.settings import CHANGE, SteeringSettings

__all__ = ["ChangePolicy"]

UNTIL = ("end", "change", "over")


@dataclass(frozen=True, slots=True)
class ChangePolicy:
    """Tells a sample that changes from noise, in a time series.

    Parameters
    ----------
    settings : SteeringSettings
        Its option ``until``: ``"end"``, the default: changes are reported and the run goes on to its end; ``"change"``:
        the run ends when one is found; ``"over"``: the run ends when one is over. No stop before
        ``minimum_projections`` and ``minimum_coverage``.
    """

    settings: SteeringSettings
    name: ClassVar[str] = CHANGE
    metrics: ClassVar[tuple[str, ...]] = ("ms-ssim", CHANGE)

    def __post_init__(self) -> None:
        options = dict(self.settings.options)
        until = options.pop("until", UNTIL[0])
        if until not in UNTIL or options:
            raise ConfigError(
                f"policy {CHANGE!r}: got options {dict(self.settings.options)}, expected none but until="
                f"{', '.join(map(repr, UNTIL))}"
            )

    def judge(self, evidence: Evidence) -> Verdict:
        """Judge by the newest comparison; MS-SSIM is reported beside it."""
        metrics = evidence.newest.metrics
        score, at = metrics.get("ms-ssim"), f"at {evidence.progress}"
        level, began, over = (metrics.get(name) for name in (CHANGE, f"{CHANGE}-began", f"{CHANGE}-over"))
        if level is None:
            return Verdict("continue", score, f"{at}: no view can be compared with one a turn before it yet")
        if began is None:
            return Verdict("continue", score, f"{at}: no change so far ({level:.2f}; 1 is one)")
        text = f"{at}: the sample changes since about projection {began:.0f}, in {evidence.volume_of(round(began))}"
        if over is not None:
            text = f"{text}; that is over at projection {over:.0f}".replace("changes since", "changed from")
        until = self.settings.options.get("until", UNTIL[0])
        if until == "end" or (until == "over" and over is None):
            return Verdict("continue", score, text)
        return where_met(
            evidence,
            self.settings,
            score,
            text,
            met=[True] * self.settings.patience,
            counted="images",
            least=self.settings.minimum_projections or 0,
        )
