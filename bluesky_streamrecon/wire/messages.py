"""All messages, one frozen struct each (`Message`); defined here: those of every link, and what a job reports.

What a run is made of is defined in `run_messages`, what people's programs send and get in `operator_messages`. msgspec
checks messages on decoding (not on building); pixels travel beside the header as a frame of their own. Angles are
radians, lengths detector pixels, times seconds since the epoch (UTC), sequence numbers start at 1 and have no gaps.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from bluesky_streamrecon.selection import WHOLE_VIEW, Selection
from bluesky_streamrecon.wire.fields import (
    Address,
    Checked,
    Count,
    Counts,
    Finite,
    ItemKind,
    Key,
    Metrics,
    Name,
    Number,
    Rank,
    Size,
    Text,
    Uid,
)
from bluesky_streamrecon.wire.operator_messages import Answer, Ask, Checks, Cuts, ShowCuts
from bluesky_streamrecon.wire.run_messages import (
    AbandonRun,
    ChangeRun,
    CloseRun,
    Item,
    ItemGone,
    OpenRun,
    OpenRunSpec,
    Preview,
)

__all__ = [
    "CHANNELS",
    "COMPILING",
    "PROTOCOL_VERSION",
    "AbandonRun",
    "Ack",
    "Answer",
    "Ask",
    "ChangeRun",
    "CloseRun",
    "Cuts",
    "Heartbeat",
    "Hello",
    "Item",
    "ItemGone",
    "ItemKind",
    "Message",
    "OpenChannel",
    "OpenRun",
    "OpenRunSpec",
    "Preview",
    "PreviewAt",
    "Problem",
    "RunDone",
    "Score",
    "ShowCuts",
    "Shutdown",
    "Status",
    "VolumeDone",
    "Welcome",
]

PROTOCOL_VERSION = 3
"""Version of everything in this module; stands in the preamble of every header frame."""

# --------------------------------------------------------------------------------------------- of every link


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, tag="heartbeat"):
    """Sign of life.

    Parameters
    ----------
    time : float
        The peer's clock, seconds since 1970; 0: not known. Only compared with ours, for people.
    """

    time: float = 0.0


class Problem(msgspec.Struct, frozen=True, kw_only=True, tag="problem"):
    """Something went wrong; `fault` is seen from the one who sends this.

    A problem that answers a hello refuses it. With a number it is a report, on the channel of those. This message and
    the preamble stay the same in all versions.
    """

    seq: Count = 0
    fault: Literal["local", "remote"]
    where: Name
    text: Text
    run_uid: Uid | None = None


class Hello(Checked, frozen=True, kw_only=True, tag="hello"):
    """First message on every new link.

    Parameters
    ----------
    job_id : str
        Must be the beamline's; the job gets it when it is started.
    role : {"rank", "controller", "operator"}
        What the peer is.
    instance : str
        Made once per endpoint object: the same after a reconnect, another after a restart.
    rank, size : int
        MPI rank and number of ranks; 0 and 1 for the others.
    host, pid, software : str, int, str
        For logs and people.
    run_uid : str or None
        Run that the peer was in when the last link was lost.
    preview_address, preview_key : str or None
        Where the controller takes previews, and the public key (Z85) of that socket.
    """

    job_id: Uid
    role: Literal["rank", "controller", "operator"]
    instance: Uid
    rank: Rank = 0
    size: Size = 1
    host: Name = ""
    pid: Count = 0
    software: Name = ""
    run_uid: Uid | None = None
    preview_address: Address | None = None
    preview_key: Key | None = None

    def check(self) -> None:
        """Raise ValueError if the rank is none of its job."""
        if self.rank >= self.size:
            raise ValueError(f"got rank {self.rank} of {self.size}, expected less than the size")


class Welcome(msgspec.Struct, frozen=True, kw_only=True, tag="welcome"):
    """Answer to a hello that is accepted."""

    job_id: Uid
    heartbeat_seconds: Annotated[float, Meta(gt=0, le=3600)]
    peer_timeout: Annotated[float, Meta(gt=0, le=36000)] = 10.0


class OpenChannel(msgspec.Struct, frozen=True, kw_only=True, tag="open-channel"):
    """Numbered messages follow; what of them is there? Sent on every new link.

    Parameters
    ----------
    channel : str
        Which one, see `CHANNELS`.
    stream : str
        What the numbers belong to: a run, or an instance of the sender. Another stream than before begins with 1.
    first : int
        Messages before this one will not come any more.
    """

    channel: Name
    stream: Uid
    first: Number = 1


class Ack(msgspec.Struct, frozen=True, kw_only=True, tag="ack"):
    """What a receiver has of a channel; each ack stands for all before it.

    Parameters
    ----------
    channel, stream : str
        As they were opened.
    applied : int
        All messages up to this one are applied.
    received : int
        All messages up to this one have arrived.
    credit : int
        Messages after `applied` that the receiver is ready to hold.
    duplicate : int
        Messages that arrived again and were dropped.
    """

    channel: Name
    stream: Uid
    applied: Count
    received: Count
    credit: Count
    duplicate: Count = 0


# ---------------------------------------------------------------- from a rank or the controller to the beamline


COMPILING = "compiling kernels"  # state of a rank that finds none on its computer


class Status(msgspec.Struct, frozen=True, kw_only=True, tag="status"):
    """How far a rank is; sent when it likes, the newest counts."""

    run_uid: Uid
    rank: Rank
    state: Name
    projections: Count = 0
    image_number: Count = 0
    step_seconds: float = 0.0
    text: Text = ""


class Score(msgspec.Struct, frozen=True, kw_only=True, tag="score"):
    """Controller's judgement of one image.

    `score` is None before there is anything to compare with. `metrics` holds everything that was measured, and `axis`
    is the rotation axis that the image is about, a detector column. The first verdict of ``"enough"`` asks that the run
    be ended as a success, and `text` says why. `selection` is what was judged, of slices of
    `size` x `size` pixels. One of ``"invalid"`` says that the data are not a scan of one still
    sample, so that no score means anything. `checks` of the data come with the first score after they were made.
    """

    seq: Count = 0
    run_uid: Uid
    image_number: Count
    projections: Count
    score: float | None = None
    metrics: Metrics = {}
    axis: Finite | None = None
    selection: Selection = WHOLE_VIEW
    size: Count = 0
    verdict: Literal["continue", "enough", "invalid"] = "continue"
    policy: Name = ""
    text: Text = ""
    checks: Checks = ()


class RunDone(msgspec.Struct, frozen=True, kw_only=True, tag="run-done"):
    """A rank has applied every item of a closed run and written its part of the result.

    `ack` is its last acknowledgement, so that the ledger is complete with this message. `finishing` says that the rank
    goes on to finish the volume, and that a `VolumeDone` follows.
    """

    seq: Count = 0
    run_uid: Uid
    rank: Rank
    image_number: Count
    ack: Ack | None = None
    axis: Finite | None = None
    counts: Counts = {}
    result: Text | None = None
    text: Text = ""
    finishing: bool = False


class VolumeDone(msgspec.Struct, frozen=True, kw_only=True, tag="volume-done"):
    """The volume of a run that is done was finished from all its projections, or could not be; the first rank says so.

    Parameters
    ----------
    similarity : float or None
        MS-SSIM of the last live image and the volume, mean over the preview rows; None: not known.
    result : str or None
        File that it was added to; None: there is no volume, and `text` says why.
    """

    seq: Count = 0
    run_uid: Uid
    rank: Rank = 0
    similarity: float | None = None
    result: Text | None = None
    text: Text = ""


# ---------------------------------------------------------------- from the beamline to a rank or the controller


class PreviewAt(msgspec.Struct, frozen=True, kw_only=True, tag="preview-at"):
    """Previews go to the controller at this address (with this CURVE public key) from now on; None: to nobody."""

    address: Address | None
    key: Key | None = None


class Shutdown(msgspec.Struct, frozen=True, kw_only=True, tag="shutdown"):
    """The peer shall end its process in an orderly way."""

    reason: Text = ""


Message = (
    Hello
    | Welcome
    | Problem
    | Heartbeat
    | OpenChannel
    | Ack
    | Status
    | Score
    | RunDone
    | VolumeDone
    | OpenRun
    | Item
    | ItemGone
    | ChangeRun
    | CloseRun
    | AbandonRun
    | PreviewAt
    | Preview
    | Ask
    | Answer
    | ShowCuts
    | Cuts
    | Shutdown
)

CHANNELS: Final[dict[type[msgspec.Struct], str]] = {
    Item: "run",
    ItemGone: "run",
    ChangeRun: "run",
    CloseRun: "run",
    Score: "reports",
    RunDone: "reports",
    VolumeDone: "reports",
    Problem: "reports",
    Preview: "previews",
    Ask: "orders",
    Answer: "answers",
}
"""Channel of each message that must not be lost; the others are plain, and sent once."""
