"""The last decision about a run, as a readable device: the ``steering`` stream is made of its readings."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ophyd_async.core import StandardReadable, soft_signal_r_and_setter
from ophyd_async.core import StandardReadableFormat as Format

from bluesky_streamrecon.wire.messages import Score

__all__ = ["BUDGET", "OPERATOR", "Decision", "Steering"]

OPERATOR = "operator"
"""Stands as the policy of what a person has decided."""

ABOUT: dict[str, dict[str, Any]] = {"score": {"precision": 4}, "when": {"units": "s"}}
"""How signals are shown."""

BUDGET = "budget"
"""Stands as the policy of how many projections time and dose allow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One row of the ``steering`` stream: a verdict of the controller, or an order of a person.

    Parameters
    ----------
    image_number, projections : int
        Newest image that was known, and the projections in it; of an order, projections taken.
    verdict : str
        ``"continue"``, ``"enough"`` or ``"invalid"`` of the controller; ``"finish"``, ``"hold"``, ``"release"``,
        ``"extend"``, ``"axis"`` or ``"region"`` of a person; ``"would stop"`` where a person's order kept the run from
        being ended.
    score : float or None
        The newest.
    policy : str
        What decided; ``"operator"``: a person; ``"budget"``: how many projections time and dose allow by now.
    text : str
        Why.
    metrics : mapping
        Everything that was measured.
    who, place : str
        The person, and from where; empty for the controller.
    time : float
        When it reached the beamline, seconds (UTC).
    """

    image_number: int = 0
    projections: int = 0
    verdict: str = "continue"
    score: float | None = None
    policy: str = ""
    text: str = ""
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    who: str = ""
    place: str = ""
    time: float = 0.0

    @classmethod
    def of(cls, score: Score, time: float) -> Decision:
        """Return a verdict of the controller as a decision."""
        return cls(
            image_number=score.image_number,
            projections=score.projections,
            verdict=score.verdict,
            score=score.score,
            policy=score.policy,
            text=score.text,
            metrics=score.metrics,
            time=time,
        )


class Steering(StandardReadable):
    """What was decided last, and by whom.

    Its signals are the fields of `Decision`: ``score`` is NaN where there was nothing to compare with yet, ``metrics``
    a JSON object, and ``when`` the time.

    Parameters
    ----------
    name : str, optional
        Of the device.
    """

    def __init__(self, name: str = "") -> None:
        self._setters: dict[str, Callable[[Any], None]] = {}
        with self.add_children_as_readables(Format.UNCACHED_SIGNAL):
            for shown, value in _shown(Decision()).items():
                signal, self._setters[shown] = soft_signal_r_and_setter(type(value), value, **ABOUT.get(shown, {}))
                setattr(self, shown, signal)
        super().__init__(name=name)

    def show(self, decision: Decision) -> None:
        """Set all signals to one decision; in the RunEngine's loop, as plans are."""
        for shown, value in _shown(decision).items():
            self._setters[shown](value)


def _shown(decision: Decision) -> dict[str, Any]:
    """Return what the signals are set to, by their names."""
    values = {each.name: getattr(decision, each.name) for each in fields(decision)}
    values["score"] = math.nan if decision.score is None else decision.score
    values["metrics"] = json.dumps(dict(decision.metrics), sort_keys=True)
    values["when"] = values.pop("time")
    return values
