"""What endpoints hand to their users besides the messages that came: frozen values, one per thing that happened."""

from __future__ import annotations

from dataclasses import dataclass

from bluesky_streamrecon.wire import messages as m

__all__ = [
    "Acked",
    "AllRanksReady",
    "BeamlineEvent",
    "ControllerEvent",
    "LinkEvent",
    "LinkLost",
    "LinkRestored",
    "OperatorEvent",
    "PeerInfo",
    "PeerJoined",
    "PeerLost",
    "RankEvent",
    "Refused",
    "RunFinished",
]


class PeerInfo(m.Hello, frozen=True, kw_only=True):
    """Who is at the other end: its hello, and whether it is `linked` now.

    `ahead` is how many seconds its clock was ahead of ours, less what its last heartbeat took; None: not known yet.
    """

    linked: bool
    ahead: float | None = None

    def __str__(self) -> str:
        what = f"rank {self.rank} of {self.size}" if self.role == "rank" else self.role
        return f"{what} ({self.host}:{self.pid})"


# ------------------------------------------------------------------------------------------ at the beamline


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

# ------------------------------------------------------------------------------------- at the connecting side


@dataclass(frozen=True, slots=True)
class LinkLost:
    """Nothing comes from the other end any more; the endpoint keeps on trying."""

    reason: str


@dataclass(frozen=True, slots=True)
class LinkRestored:
    """The other end welcomed us (also reported the first time)."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The other end will not have us (version, job id, size, another took our place); no further try is made."""

    text: str


LinkEvent = LinkLost | LinkRestored | Refused | m.Problem | m.Shutdown
RankEvent = LinkEvent | m.OpenRun | m.Item | m.ItemGone | m.ChangeRun | m.CloseRun | m.AbandonRun | m.ShowCuts
ControllerEvent = LinkEvent | m.OpenRun | m.ChangeRun | m.CloseRun | m.AbandonRun | m.Preview
OperatorEvent = LinkEvent | m.Answer | m.Cuts
