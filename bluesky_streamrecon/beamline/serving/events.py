"""What the beamline's endpoint reports besides the messages that came: frozen values, one per thing that happened."""

from __future__ import annotations

from dataclasses import dataclass

from bluesky_streamrecon.wire import messages as m
from bluesky_streamrecon.wire.events import PeerInfo

__all__ = ["Acked", "AllRanksReady", "BeamlineEvent", "PeerJoined", "PeerLost", "RunFinished"]


@dataclass(frozen=True, slots=True)
class PeerJoined:
    """A peer said hello and was welcomed, for the first time or again."""

    peer: PeerInfo


@dataclass(frozen=True, slots=True)
class PeerLost:
    """A peer's link is gone; nothing that was sent to it is forgotten."""

    peer: PeerInfo
    reason: str


@dataclass(frozen=True, slots=True)
class AllRanksReady:
    """Ranks 0 to ``size - 1`` are all linked; reported again each time that this becomes so."""

    size: int


@dataclass(frozen=True, slots=True)
class Acked:
    """A rank has applied all items of the run up to and with `applied`, `projections` of them projections."""

    run_uid: str
    rank: int
    applied: int
    projections: int


@dataclass(frozen=True, slots=True)
class RunFinished:
    """Every rank has reported the closed run as done; `results` are in rank order."""

    run_uid: str
    results: tuple[m.RunDone, ...]


BeamlineEvent = (
    PeerJoined | PeerLost | AllRanksReady | Acked | m.Status | m.Score | RunFinished | m.VolumeDone | m.Problem | m.Ask
)
