"""Policy ``"resolution"``: the image resolves what was asked for, or the rest of the scan would hardly improve that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.quality.forecast import fewest_views
from bluesky_streamrecon.quality.policy import Evidence, Verdict, where_met
from bluesky_streamrecon.settings import SteeringSettings

__all__ = ["ResolutionPolicy"]

FRC = "half-set-frc"

KNOWN = {"resolution": math.inf, "pixel_size": math.inf, "least_share": 1.0}
"""Options, and what they must be below."""


class ResolutionPolicy:
    """The resolution that was asked for is reached, or the rest of the scan is predicted to bring less than a share.

    Resolution is the period up to which images from two half-sets agree, see `HalfSetResolution`.

    Parameters
    ----------
    settings : SteeringSettings
        ``options``: ``resolution``, in pixels, or in micrometres where ``pixel_size`` gives those of a pixel;
        ``least_share``: the scan ends, too, when the rest would make the period shorter by less than this share. At
        least one of the two. ``patience``, ``minimum_projections`` and ``minimum_coverage`` as for the policy
        ``"predicted-gain"``.
    """

    name: ClassVar[str] = "resolution"
    metrics: ClassVar[tuple[str, ...]] = (FRC,)

    def __init__(self, settings: SteeringSettings) -> None:
        self._settings = settings
        options = settings.options
        for name, value in options.items():
            if name not in KNOWN and "measure" not in options:  # those of a measurement beside it are not ours
                raise ConfigError(f"policy 'resolution': got option {name!r}, expected one of {', '.join(KNOWN)}")
            number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
            if name in KNOWN and not 0 < number < KNOWN[name]:
                expected = "a share between 0 and 1" if name == "least_share" else "a number above 0"
                raise ConfigError(f"policy 'resolution': got {name}={value!r}, expected {expected}")
        if not options.keys() & {"resolution", "least_share"}:
            raise ConfigError(
                "policy 'resolution': got neither resolution nor least_share; expected what is to be reached, as in "
                "policy_options={'resolution': 4, 'least_share': 0.05} (pixels; micrometres with 'pixel_size')"
            )
        self._pixel = float(options.get("pixel_size", 1.0))
        self._unit = "µm" if "pixel_size" in options else "px"
        self._wanted = float(options.get("resolution", 0.0))
        self._share = float(options.get("least_share", 0.0))

    def judge(self, evidence: Evidence) -> Verdict:
        """Judge by the newest measurement."""
        score = evidence.newest.metrics.get("ms-ssim")
        made = _made(evidence)
        least = fewest_views(evidence.planned, self._settings.minimum_projections)
        at = f"at {evidence.progress}: "
        if not made:
            early = evidence.newest.projections < least
            why = f"not before {least} projections" if early else "the first measurement is being made"
            return Verdict("continue", score, f"{at}no resolution yet: {why}")
        text = at + self._text(*made[-1], evidence.planned)
        if not self._enough(made[-1][1], evidence.planned):
            return Verdict("continue", score, text)
        return where_met(
            evidence,
            self._settings,
            score,
            text,
            met=(self._enough(values, evidence.planned) for _, values in reversed(made)),
            counted="measurements",
            least=least,
        )

    def predicted_at(self, evidence: Evidence, count: int) -> str:
        """Return the resolution then; it is predicted for the budget as that was when it was measured last."""
        made = _made(evidence)
        if not made:
            return ""
        then, allowed = (made[-1][1].get(f"{FRC}-{name}") for name in ("budget", "allowed"))
        if then is None or allowed is None:
            return "no prediction of the resolution before two thirds of that"
        after = "" if allowed == count else f" after {allowed:.0f}"
        return f"a resolution of {then * self._pixel:.3g} {self._unit} predicted{after}"

    def _enough(self, values: Mapping[str, float | None], planned: int) -> bool:
        now, final = self._now(values), self._final(values, planned)
        return now <= self._wanted or (final is not None and now - final < self._share * now)

    def _now(self, values: Mapping[str, float | None]) -> float:
        return (values.get(FRC) or math.inf) * self._pixel

    def _final(self, values: Mapping[str, float | None], planned: int) -> float | None:
        """Return what is predicted for the end of this plan."""
        final = values.get(f"{FRC}-final") if values.get(f"{FRC}-planned") == planned else None
        return None if final is None else final * self._pixel

    def _text(self, projections: int, values: Mapping[str, float | None], planned: int) -> str:
        final = self._final(values, planned)
        text = f"resolution {self._now(values):.3g} {self._unit} after {projections} projections (half-set FRC of 1/7)"
        text += ", not predicted before two thirds of the plan" if final is None else (
            f", predicted to be {final:.3g} {self._unit} at the end"
        )  # fmt: skip
        asked = [f"{self._wanted:g} {self._unit} asked for"] if self._wanted else []
        asked += [f"ends where the rest brings less than {100 * self._share:g} %"] if self._share else []
        return f"{text} ({'; '.join(asked)})"


def _made(evidence: Evidence) -> list[tuple[int, Mapping[str, float | None]]]:
    """Return what was measured, the oldest first, with the projections that it was measured at."""
    return [
        (each.projections, each.metrics)
        for each in evidence.forecasts
        if not each.fault and each.metrics.get(FRC) is not None
    ]
