"""What a reconstruction job shows: signals that are read with each event, settings, and the last verdict.

Signals are only set in the RunEngine's loop.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any

from bluesky.protocols import Reading
from ophyd_async.core import Device, StandardReadable, soft_signal_r_and_setter
from ophyd_async.core import StandardReadableFormat as Format

from bluesky_streamrecon.beamline.progress import RunProgress
from bluesky_streamrecon.beamline.steering import Decision, Steering
from bluesky_streamrecon.config import ReconSettings, SteeringSettings

__all__ = ["JobSignals", "JobState"]


class JobState(StrEnum):
    """What the signal ``state`` can say."""

    IDLE = "idle"
    STARTING = "starting"
    READY = "ready"
    RUNNING = "running"
    DISCONNECTED = "disconnected"
    RESTARTING = "restarting"
    FINISHING = "finishing"
    FINISHED = "finished"
    LOST = "lost"


class JobSignals(StandardReadable):
    """The readable half of `ReconJob`.

    Parameters
    ----------
    name : str
        Of the device.
    ranks : int
        MPI ranks, to begin with.
    """

    def __init__(self, name: str, ranks: int) -> None:
        self.score, self._set_score = soft_signal_r_and_setter(float, math.nan, precision=4)
        self.lag, self._set_lag = soft_signal_r_and_setter(int, 0)
        self.image_number, self._set_image_number = soft_signal_r_and_setter(int, 0)
        self.projections, self._set_projections = soft_signal_r_and_setter(int, 0)
        self.state, self._set_state_signal = soft_signal_r_and_setter(str, JobState.IDLE.value)
        self.problem, self._set_problem_signal = soft_signal_r_and_setter(str, "")
        self.add_readables([self.score, self.lag], Format.HINTED_SIGNAL)  # in this order, so that tables have it
        self.add_readables([self.image_number, self.projections, self.state, self.problem], Format.UNCACHED_SIGNAL)
        self.ranks, self._set_ranks = soft_signal_r_and_setter(int, ranks)
        self.algorithm, self._set_algorithm = soft_signal_r_and_setter(str, "")
        self.window, self._set_window = soft_signal_r_and_setter(int, 0)
        self.step, self._set_step = soft_signal_r_and_setter(int, 0)
        self.policy, self._set_policy = soft_signal_r_and_setter(str, "")
        self.threshold, self._set_threshold = soft_signal_r_and_setter(float, math.nan)
        self.recon_uid, self._set_recon_uid = soft_signal_r_and_setter(str, "")
        settings: list[Device] = [self.ranks, self.algorithm, self.window, self.step, self.policy]
        self.add_readables([*settings, self.threshold, self.recon_uid], Format.CONFIG_SIGNAL)
        self.finalize_requested, self._set_finalize = soft_signal_r_and_setter(bool, False)
        self.steering = Steering()
        self._problem = ""
        self._state = JobState.IDLE
        super().__init__(name=name)

    async def read(self) -> dict[str, Reading[Any]]:
        """Give the signals of one moment; without a pause in between, so that no interruption can cut it short."""
        readings: dict[str, Reading[Any]] = {}
        for signal in (self.score, self.lag, self.image_number, self.projections, self.state, self.problem):
            backend: Any = signal._connector.backend  # signal.read() would yield to the loop
            readings[signal.name] = backend.reading
        return readings

    @property
    def problem_text(self) -> str:
        """What went wrong last, or nothing."""
        return self._problem

    def _show_settings(self, recon: ReconSettings, steering: SteeringSettings, recon_uid: str) -> None:
        self._set_algorithm(recon.algorithm)
        self._set_window(recon.window or 0)
        self._set_step(recon.step)
        self._set_policy(steering.rule)
        self._set_threshold(steering.least_score)
        self._set_recon_uid(recon_uid)

    def _show_progress(self, run: RunProgress) -> None:
        self._set_lag(run.lag)
        self._set_projections(run.used)
        self._set_image_number(run.image_number)

    def _clear_signals(self) -> None:
        self._set_score(math.nan)
        self._set_lag(0)
        self._set_image_number(0)
        self._set_projections(0)
        self._set_problem("")
        self._set_finalize(False)
        self.steering.show(Decision())

    def _set_problem(self, text: str) -> None:
        self._problem = text
        self._set_problem_signal(text)

    def _set_state(self, state: JobState) -> None:
        self._state = state
        self._set_state_signal(state.value)
