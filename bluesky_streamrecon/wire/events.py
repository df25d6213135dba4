"""What the endpoints tell their users: frozen values, one per thing that happened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.wire.messages import (
    CloseRun,
    Finalize,
    Item,
    ItemGone,
    OpenRun,
    Preview,
    Problem,
    RunDone,
    Score,
    Status,
)
from bluesky_streamrecon.wire.operator_messages import Answer, Ask, ShowMe

__all__ = [
    "Acked",
    "AllRanksReady",
    "AnswerReceived",
    "BeamlineEvent",
    "ControllerEvent",
    "FinalizeReceived",
    "ItemLost",
    "ItemReceived",
    "LinkLost",
    "LinkRestored",
    "OperatorAsked",
    "OperatorEvent",
    "PeerInfo",
    "PeerJoined",
    "PeerLost",
    "PictureWanted",
    "PlanChanged",
    "PreviewMoved",
    "PreviewReceived",
    "ProblemReported",
    "RankEvent",
    "Refused",
    "RunAbandoned",
    "RunClosed",
    "RunFinished",
    "RunOpened",
    "ScoreReceived",
    "ShutdownRequested",
    "StatusReceived",
    "StreamFailed",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerInfo:
    """Who is at the other end. `linked` is False while its link is lost; `rank` is 0 for the controller.

    `ahead` is how many seconds its clock was ahead of ours, less what its message took; None: it did not tell.
    """

    role: Literal["rank", "controller", "operator"]
    rank: int
    size: int
    host: str
    pid: int
    software: str
    instance: str
    linked: bool
    ahead: float | None = None


# ----------------------------------------------------------------------------------- to the beamline


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
    """Ranks 0 to ``size - 1`` are all linked; told again each time that this becomes so."""

    size: int


@dataclass(frozen=True, slots=True)
class Acked:
    """A rank has applied all items of the run up to and with `applied`, `projections` of them projections."""

    run_uid: str
    rank: int
    applied: int
    projections: int


@dataclass(frozen=True, slots=True)
class StatusReceived:
    """A rank says how far it is."""

    status: Status


@dataclass(frozen=True, slots=True)
class ScoreReceived:
    """The controller judged an image of the open run."""

    score: Score


@dataclass(frozen=True, slots=True)
class FinalizeReceived:
    """The controller asks to end the open run (for any other run it is logged and not told)."""

    finalize: Finalize


@dataclass(frozen=True, slots=True)
class RunFinished:
    """Every rank has reported the closed run as done; `results` are in rank order."""

    run_uid: str
    results: tuple[RunDone, ...]


@dataclass(frozen=True, slots=True)
class ProblemReported:
    """The other side reports a problem. `peer` is None where the link never got past hello."""

    problem: Problem
    peer: PeerInfo | None = None


@dataclass(frozen=True, slots=True)
class StreamFailed:
    """Items of the run can not be streamed (file unreadable, disk full); told once per cause, the scan goes on."""

    run_uid: str
    text: str


@dataclass(frozen=True, slots=True)
class OperatorAsked:
    """A person's program asks something; `BeamlineEndpoint.answer` takes this with the answer."""

    link: bytes
    instance: str
    host: str
    ask: Ask


BeamlineEvent = (
    PeerJoined
    | PeerLost
    | AllRanksReady
    | Acked
    | StatusReceived
    | ScoreReceived
    | FinalizeReceived
    | RunFinished
    | ProblemReported
    | StreamFailed
    | OperatorAsked
)

# ------------------------------------------------------------------------- to ranks and the controller


@dataclass(frozen=True, slots=True)
class RunOpened:
    """A run begins (or, after a restart, begins again from its first item)."""

    run: OpenRun


@dataclass(frozen=True, slots=True)
class PlanChanged:
    """The open run is going to take so many projections by now; only the controller is told."""

    run_uid: str
    planned: int


@dataclass(frozen=True, slots=True, eq=False)
class ItemReceived:
    """The next item, exactly once and in order; `pixels` is a read-only (rows, columns) view of what came."""

    item: Item
    pixels: NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class ItemLost:
    """The next item's pixels can not be had any more; every rank is told so at this place of the sequence."""

    item: ItemGone


@dataclass(frozen=True, slots=True)
class RunClosed:
    """No items follow."""

    close: CloseRun


@dataclass(frozen=True, slots=True)
class RunAbandoned:
    """Nobody waits for this run's result any more; no items follow, and it needs no report."""

    run_uid: str
    reason: str


@dataclass(frozen=True, slots=True)
class PreviewMoved:
    """Previews go to this address (and CURVE public key) from now on; None: nobody takes any."""

    address: str | None
    key: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PreviewReceived:
    """One rank's slices of one image; `pixels` is float32, read-only, shape (len(rows), size, size).

    `lines` are the line integrals that came with it, shape (len(angles_used), len(rows), columns), or None.
    """

    preview: Preview
    pixels: NDArray[np.float32]
    lines: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class ShutdownRequested:
    """The beamline asks this process to end."""

    reason: str


@dataclass(frozen=True, slots=True)
class LinkLost:
    """Nothing comes from the beamline any more; the endpoint keeps on trying."""

    reason: str


@dataclass(frozen=True, slots=True)
class LinkRestored:
    """The beamline welcomed us (also told the first time)."""

    session: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The beamline will not have us (version, job id, size, another took our place); no further try is made."""

    text: str


@dataclass(frozen=True, slots=True)
class PictureWanted:
    """Somebody watches: one picture of a newer image than this may be sent."""

    wish: ShowMe


@dataclass(frozen=True, slots=True)
class AnswerReceived:
    """The beamline answers an operator."""

    answer: Answer


RankEvent = (
    RunOpened
    | ItemReceived
    | ItemLost
    | RunClosed
    | RunAbandoned
    | PreviewMoved
    | ShutdownRequested
    | LinkLost
    | LinkRestored
    | Refused
    | ProblemReported
)

ControllerEvent = (
    RunOpened
    | PlanChanged
    | PictureWanted
    | PreviewReceived
    | RunClosed
    | RunAbandoned
    | ShutdownRequested
    | LinkLost
    | LinkRestored
    | Refused
    | ProblemReported
)

OperatorEvent = AnswerReceived | ShutdownRequested | LinkLost | LinkRestored | Refused | ProblemReported
