"""Signals that a reconstruction job shows: read with each event, settings of the run, and the request to finalize.

They are only set in the RunEngine's loop, and only where a value is new.
"""

from __future__ import annotations

import math
from typing import Any, Generic

from bluesky.protocols import Reading
from ophyd_async.core import SignalDatatypeT, SignalR, SoftSignalBackend

from bluesky_streamrecon.beamline.run_state import RunState
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings

__all__ = ["JobSignals", "ShownValue"]


class ShownValue(Generic[SignalDatatypeT]):
    """A read-only signal of ours, and its value.

    Parameters
    ----------
    datatype : type
        Of the value.
    initial : datatype
        To begin with.
    precision : int, optional
        Digits to show.
    """

    def __init__(self, datatype: type[SignalDatatypeT], initial: SignalDatatypeT, precision: int | None = None) -> None:
        self._backend = SoftSignalBackend(datatype, initial, precision=precision)
        self.signal: SignalR[SignalDatatypeT] = SignalR(self._backend)

    def set(self, value: SignalDatatypeT) -> None:
        """Show a value; subscribers are called if it is a new one."""
        old = self._backend.reading["value"]
        if value != old and not (value != value and old != old):  # noqa: PLR0124 - NaN
            self._backend.set_value(value)

    @property
    def value(self) -> SignalDatatypeT:
        """What is shown."""
        return self._backend.reading["value"]

    @property
    def reading(self) -> Reading[SignalDatatypeT]:
        """Value and time, at once: reading the signal would yield to the event loop."""
        return self._backend.reading


class JobSignals:
    """What `ReconJob` shows.

    Parameters
    ----------
    ranks : int
        MPI ranks, to begin with.
    """

    def __init__(self, ranks: int) -> None:
        self.ranks = ShownValue(int, ranks)
        self.score = ShownValue(float, math.nan, 4)
        self.lag = ShownValue(int, 0)
        self.image_number = ShownValue(int, 0)
        self.projections = ShownValue(int, 0)
        self.state = ShownValue(str, "idle")
        self.problem = ShownValue(str, "")
        self.volume = ShownValue(str, "")
        self.algorithm = ShownValue(str, "")
        self.window = ShownValue(int, 0)
        self.step = ShownValue(int, 0)
        self.policy = ShownValue(str, "")
        self.threshold = ShownValue(float, math.nan)
        self.recon_uid = ShownValue(str, "")
        self.finalize_requested = ShownValue(bool, False)

    @property
    def read_with_events(self) -> tuple[ShownValue[Any], ...]:
        """Values that each event has."""
        return (self.score, self.lag, self.image_number, self.projections, self.state, self.problem)

    @property
    def settings(self) -> tuple[ShownValue[Any], ...]:
        """Values that a run's configuration has."""
        return (self.ranks, self.algorithm, self.window, self.step, self.policy, self.threshold, self.recon_uid)

    def show_settings(self, recon: ReconSettings, steering: SteeringSettings, recon_uid: str) -> None:
        """Show what a run asks for."""
        self.algorithm.set(recon.algorithm)
        self.window.set(recon.window or 0)
        self.step.set(recon.step)
        self.policy.set(steering.rule)
        self.threshold.set(steering.least_score)
        self.recon_uid.set(recon_uid)

    def show_run(self, run: RunState | None) -> None:
        """Show how far a run is; None: none has been opened."""
        self.score.set(math.nan if run is None or run.score is None else run.score)
        self.lag.set(0 if run is None else run.lag)
        self.image_number.set(0 if run is None else run.image_number)
        self.projections.set(0 if run is None else run.used)
        self.finalize_requested.set(run is not None and run.finalize_requested)
