"""What the device has to do after an event of a run or an order; `RunState` returns these, and does none of it."""

from __future__ import annotations

from dataclasses import dataclass

from bluesky_streamrecon.beamline.processes import ProcessExit

__all__ = ["DetachStream", "Effect", "LengthenPlan", "MakeImagesAnew", "RestartProcess"]


@dataclass(frozen=True, slots=True)
class RestartProcess:
    """Start a process that has died once more, `delay` seconds from now."""

    exited: ProcessExit
    delay: float


@dataclass(frozen=True, slots=True)
class DetachStream:
    """Publish no more frames of the run: nobody takes them."""

    reason: str


@dataclass(frozen=True, slots=True)
class LengthenPlan:
    """Send the controller how long the plan has become: it predicts for all projections."""

    total: int


@dataclass(frozen=True, slots=True)
class MakeImagesAnew:
    """Send the ranks that a person has corrected the rotation axis."""

    axis: float


Effect = RestartProcess | DetachStream | LengthenPlan | MakeImagesAnew
