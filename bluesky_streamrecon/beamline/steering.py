"""The last verdict of the controller, as a readable device: the ``steering`` stream is made of its readings."""

from __future__ import annotations

import json
import math

from ophyd_async.core import StandardReadable, soft_signal_r_and_setter
from ophyd_async.core import StandardReadableFormat as Format

from bluesky_streamrecon.wire.messages import Score

__all__ = ["Steering"]


class Steering(StandardReadable):
    """What the controller said of an image.

    Its signals are ``image_number``, ``projections``, ``score`` (NaN: nothing to compare with yet), ``verdict``
    (``"continue"`` or ``"enough"``), ``policy``, ``text`` and ``metrics`` (a JSON object of everything measured).

    Parameters
    ----------
    name : str, optional
        Of the device.
    """

    def __init__(self, name: str = "") -> None:
        with self.add_children_as_readables(Format.UNCACHED_SIGNAL):
            self.image_number, self._set_image_number = soft_signal_r_and_setter(int, 0)
            self.projections, self._set_projections = soft_signal_r_and_setter(int, 0)
            self.score, self._set_score = soft_signal_r_and_setter(float, math.nan, precision=4)
            self.verdict, self._set_verdict = soft_signal_r_and_setter(str, "continue")
            self.policy, self._set_policy = soft_signal_r_and_setter(str, "")
            self.text, self._set_text = soft_signal_r_and_setter(str, "")
            self.metrics, self._set_metrics = soft_signal_r_and_setter(str, "{}")
        super().__init__(name=name)

    def show(self, verdict: Score) -> None:
        """Set all signals to one verdict; in the RunEngine's loop, as plans are."""
        self._set_image_number(verdict.image_number)
        self._set_projections(verdict.projections)
        self._set_score(math.nan if verdict.score is None else verdict.score)
        self._set_verdict(verdict.verdict)
        self._set_policy(verdict.policy)
        self._set_text(verdict.text)
        self._set_metrics(json.dumps(verdict.metrics, sort_keys=True))
