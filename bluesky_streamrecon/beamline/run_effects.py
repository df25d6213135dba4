"""What the device has to do after an event of a run or an order; `RunState` returns these, and does none of it."""

from __future__ import annotations

from dataclasses import dataclass

from bluesky_streamrecon.beamline.processes import ProcessExit
from bluesky_streamrecon.wire.messages import ChangeRun

__all__ = ["DetachStream", "Effect", "RestartProcess"]


@dataclass(frozen=True, slots=True)
class RestartProcess:
    """Start a process that has died once more, `delay` seconds from now."""

    exited: ProcessExit
    delay: float


@dataclass(frozen=True, slots=True)
class DetachStream:
    """Publish no more frames of the run: nobody takes them."""

    reason: str


Effect = RestartProcess | DetachStream | ChangeRun
"""A `ChangeRun` is to be sent to ranks and controller."""
