"""What endpoints hand to their users besides the messages that came: frozen values, one per thing that happened."""

from __future__ import annotations

from dataclasses import dataclass

from bluesky_streamrecon.wire import messages as m

__all__ = [
    "ControllerEvent",
    "LinkEvent",
    "LinkLost",
    "LinkRestored",
    "OperatorEvent",
    "PeerInfo",
    "RankEvent",
    "Refused",
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


@dataclass(frozen=True, slots=True)
class LinkLost:
    """Nothing comes from the other end any more; the endpoint keeps on trying."""

    reason: str


@dataclass(frozen=True, slots=True)
class LinkRestored:
    """There is a link, for the first time or again: the other end has welcomed us."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The other end will not have us (version, job id, size, another took our place); no further try is made."""

    text: str


LinkEvent = LinkLost | LinkRestored | Refused | m.Problem | m.Shutdown
RankEvent = LinkEvent | m.OpenRun | m.Item | m.ItemGone | m.ChangeRun | m.CloseRun | m.AbandonRun | m.ShowCuts
ControllerEvent = LinkEvent | m.OpenRun | m.ChangeRun | m.CloseRun | m.AbandonRun | m.Preview
OperatorEvent = LinkEvent | m.Answer | m.Cuts
