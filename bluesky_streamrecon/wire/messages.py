"""What travels between beamline, ranks and controller: one frozen struct per message.

msgspec checks each of them on decoding (not on building); pixels travel beside the header as a frame of their
own. Nothing here opens a socket or reads a clock. Angles are radians, lengths detector pixels, times seconds
since the epoch (UTC), sequence numbers start at 1 and have no gaps.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from bluesky_streamrecon.config import ReconSettings, SteeringSettings
from bluesky_streamrecon.partition import RowBlock
from bluesky_streamrecon.wire.fields import (
    MAXIMUM_SIDE,
    PIXEL_TYPES,
    Address,
    Count,
    Counts,
    ItemKind,
    Key,
    Metrics,
    Name,
    Number,
    PixelType,
    PreviewRows,
    Rank,
    Row,
    Shape2,
    Side,
    Size,
    Text,
    Uid,
)
from bluesky_streamrecon.wire.operator_messages import Answer, Ask, Picture, ShowMe

__all__ = [
    "PIXEL_TYPES",
    "PROTOCOL_VERSION",
    "AbandonRun",
    "Ack",
    "Answer",
    "Ask",
    "CloseRun",
    "DownMessage",
    "Finalize",
    "Heartbeat",
    "Hello",
    "Item",
    "ItemGone",
    "ItemKind",
    "Noted",
    "OpenRun",
    "OpenRunSpec",
    "Picture",
    "Preview",
    "PreviewAck",
    "PreviewAt",
    "PreviewDownMessage",
    "PreviewHello",
    "PreviewUpMessage",
    "PreviewWelcome",
    "Problem",
    "Report",
    "RunDone",
    "Score",
    "ShowMe",
    "Shutdown",
    "Status",
    "UpMessage",
    "Welcome",
]

PROTOCOL_VERSION = 1
"""Version of everything in this module; stands in the preamble of every header frame."""

# ---------------------------------------------------------------------------------------------- both ways


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, tag="heartbeat"):
    """Nothing to say, still here.

    Parameters
    ----------
    time : float
        As in a hello.
    """

    time: float = 0.0


class Problem(msgspec.Struct, frozen=True, kw_only=True, tag="problem"):
    """Something went wrong; `fault` is seen from the one who sends this.

    A problem that answers a hello refuses it. This message and the preamble stay the same in all versions.
    """

    fault: Literal["local", "remote"]
    where: Name
    text: Text
    run_uid: Uid | None = None


# -------------------------------------------------------------------------- up: rank or controller to beamline


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """First message on every new link.

    Parameters
    ----------
    version : int
        Protocol version of the sender, as in the preamble.
    job_id : str
        Must be the beamline's; told to the job when it is started.
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
    last_applied : int
        Last item of that run which the peer has applied; it is sent the items after that one.
    noted : int
        Reports of this instance up to this number are settled.
    preview_address, preview_key : str or None
        Where the controller takes previews, and the public key (Z85) of that socket.
    time : float
        The peer's clock when it said so, seconds since 1970; 0: it does not tell. Only compared with ours, for people.
    """

    version: Annotated[int, Meta(ge=0, le=255)] = PROTOCOL_VERSION
    job_id: Uid
    role: Literal["rank", "controller", "operator"]
    instance: Uid
    rank: Rank = 0
    size: Size = 1
    host: Name = ""
    pid: Count = 0
    software: Name = ""
    run_uid: Uid | None = None
    last_applied: Count = 0
    noted: Count = 0
    preview_address: Address | None = None
    preview_key: Key | None = None
    time: float = 0.0


class Ack(msgspec.Struct, frozen=True, kw_only=True, tag="ack"):
    """What a receiver has; each ack stands for all before it.

    Parameters
    ----------
    run_uid : str
        Run whose items are acknowledged.
    applied : int
        All items up to this one are applied.
    received : int
        All items up to this one have arrived.
    credit : int
        Items after `applied` that the receiver is ready to hold.
    duplicate, gaps : int
        Items that arrived again and were dropped; items refused because one before them was missing.
    resend : bool
        Something is missing: go back to item ``received + 1``.
    """

    run_uid: Uid
    applied: Count
    received: Count
    credit: Count
    duplicate: Count = 0
    gaps: Count = 0
    resend: bool = False


class Status(msgspec.Struct, frozen=True, kw_only=True, tag="status"):
    """How far a rank is; sent when it likes, the newest counts."""

    run_uid: Uid
    rank: Rank
    state: Name
    projections: Count = 0
    image_number: Count = 0
    lag: Count = 0
    step_seconds: float = 0.0
    text: Text = ""


class Score(msgspec.Struct, frozen=True, kw_only=True, tag="score"):
    """Controller's judgement of one image.

    `score` is None before there is anything to compare with. `metrics` holds everything that was measured. A verdict
    of ``"invalid"`` says that the data are not a scan of one still sample, so that no score means anything.
    """

    run_uid: Uid
    image_number: Count
    projections: Count
    score: float | None = None
    metrics: Metrics = {}
    verdict: Literal["continue", "enough", "invalid"] = "continue"
    policy: Name = ""
    text: Text = ""


class Finalize(msgspec.Struct, frozen=True, kw_only=True, tag="finalize"):
    """Controller asks that the named run be ended as a success."""

    run_uid: Uid
    reason: Text
    score: float | None = None
    threshold: float | None = None
    projections: Count = 0
    image_number: Count = 0


class RunDone(msgspec.Struct, frozen=True, kw_only=True, tag="run-done"):
    """A rank has applied every item of a closed run and written its part of the result.

    `applied` counts the items that are in the image, flat or dark. `received`, `duplicate` and `gaps` are as in
    `Ack`, so that the ledger is complete with this message.
    """

    run_uid: Uid
    rank: Rank
    applied: Count
    image_number: Count
    received: Count = 0
    duplicate: Count = 0
    gaps: Count = 0
    axis: float | None = None
    counts: Counts = {}
    result: Text | None = None
    text: Text = ""


class Report(msgspec.Struct, frozen=True, kw_only=True, tag="report"):
    """Carries a message that must not be lost; `number` counts 1, 2, 3, ... per instance."""

    number: Number
    body: Score | Finalize | RunDone | Problem


UpMessage = Hello | Ack | Heartbeat | Status | Report | Problem | Ask | Picture

# -------------------------------------------------------------------------- down: beamline to rank or controller


class Welcome(msgspec.Struct, frozen=True, kw_only=True, tag="welcome"):
    """Answer to a hello that is accepted.

    `noted` is the last report of this instance that has arrived; reports after it are sent again.
    """

    version: Annotated[int, Meta(ge=0, le=255)] = PROTOCOL_VERSION
    job_id: Uid
    session: Uid
    heartbeat_seconds: Annotated[float, Meta(gt=0, le=3600)]
    peer_timeout: Annotated[float, Meta(gt=0, le=36000)] = 10.0
    noted: Count = 0


class Noted(msgspec.Struct, frozen=True, kw_only=True, tag="noted"):
    """All reports up to this number have arrived."""

    number: Count


class OpenRun(msgspec.Struct, frozen=True, kw_only=True, tag="open-run"):
    """A run begins; sent to a peer again after each hello until it acknowledges the run.

    Parameters
    ----------
    run_uid, recon_uid : str
        Raw run, and the run that the reconstruction will be stored as.
    planned : int
        Projections planned; fewer or none may come.
    detector_shape : (int, int)
        Rows and columns of a whole frame.
    dtype : str
        NumPy type string of the pixels, as in the items.
    block : RowBlock
        Rows of this rank, and its place among the ranks that share them; the controller gets all rows.
    recon, steering : ReconSettings, SteeringSettings
        What the user asked for.
    preview_rows : tuple of int
        Detector rows that are shown and scored.
    preview_address, preview_key : str or None
        Where previews go; None as long as no controller is there (`PreviewAt` tells later).
    output : str or None
        Directory for the result's file.
    metadata : dict of str
        Anything else worth keeping with the result.
    redo : int
        A process before this one died when so many projections had been taken: the same images are to be made again, so
        steps are not taken together before these are in the image and it has been caught up.
    """

    run_uid: Uid
    recon_uid: Uid
    planned: Count
    detector_shape: Shape2
    dtype: PixelType
    block: RowBlock
    recon: ReconSettings
    steering: SteeringSettings
    preview_rows: PreviewRows = ()
    preview_address: Address | None = None
    preview_key: Key | None = None
    output: Text | None = None
    metadata: Annotated[dict[Name, Text], Meta(max_length=256)] = {}
    redo: Count = 0

    @property
    def rows(self) -> tuple[int, int]:
        """Detector rows ``[first, stop)`` of this rank."""
        return (self.block.first, self.block.stop)


class Item(msgspec.Struct, frozen=True, kw_only=True, tag="item"):
    """Header of one flat, dark or projection; the pixels of the rank's rows follow as the second frame.

    `index` counts 1, 2, 3, ... within the kind. `angle` is radians, 0 for flats and darks. `shape` is
    ``(stop - first, columns)``.
    """

    run_uid: Uid
    seq: Number
    kind: ItemKind
    index: Number
    angle: float
    rows: tuple[Row, Row]
    dtype: PixelType
    shape: Shape2


class ItemGone(msgspec.Struct, frozen=True, kw_only=True, tag="item-gone"):
    """Stands in an item's place when its frame can not be read any more; counted as dropped."""

    run_uid: Uid
    seq: Number
    kind: ItemKind
    index: Number
    angle: float
    why: Text


class CloseRun(msgspec.Struct, frozen=True, kw_only=True, tag="close-run"):
    """No items follow; numbered after the last of them, so it can not overtake or be lost."""

    run_uid: Uid
    seq: Number
    projections: Count
    flats: Count
    darks: Count
    exit_status: Name
    reason: Text = ""


class AbandonRun(msgspec.Struct, frozen=True, kw_only=True, tag="abandon-run"):
    """Forget this run: nobody waits for its result any more."""

    run_uid: Uid
    reason: Text = ""


class PreviewAt(msgspec.Struct, frozen=True, kw_only=True, tag="preview-at"):
    """The controller's previews go to this address from now on; None: nobody takes any."""

    address: Address | None
    key: Key | None = None


class Shutdown(msgspec.Struct, frozen=True, kw_only=True, tag="shutdown"):
    """The peer shall end its process in an orderly way."""

    reason: Text = ""


DownMessage = (
    Welcome
    | Noted
    | OpenRun
    | Item
    | ItemGone
    | CloseRun
    | AbandonRun
    | PreviewAt
    | Heartbeat
    | Shutdown
    | Problem
    | ShowMe
    | Answer
)

# -------------------------------------------------------------------------- across: rank to controller and back


class PreviewHello(msgspec.Struct, frozen=True, kw_only=True, tag="preview-hello"):
    """A rank is about to send previews of a run; first message on every new preview link."""

    version: Annotated[int, Meta(ge=0, le=255)] = PROTOCOL_VERSION
    job_id: Uid
    instance: Uid
    rank: Rank
    run_uid: Uid
    first: Number = 1  # oldest preview that the rank still has


class Preview(msgspec.Struct, frozen=True, kw_only=True, tag="preview"):
    """Header of some slices of one image; pixels follow: float32, shape ``(len(rows), size, size)``.

    Parameters
    ----------
    run_uid, seq, rank : str, int, int
        Which preview of which rank.
    image_number, projections : int
        Which image, and how many projections went into it.
    final : bool
        It is the run's last image.
    rows, size : tuple of int, int
        Detector rows of the slices, and their side.
    angles_used : tuple of float
        Radians, in order of arrival; of the views whose line integrals come along.
    columns : int
        0, or the columns of a second frame: the line integrals of these rows that no preview before this one
        brought, float32, shape ``(len(angles_used), len(rows), columns)``. What is NaN was not measured.
    lines_first, lines_counts : int, tuple of int
        Projections before the first of them, and how many each is the mean of (long scans); empty: one each.
    axis : float or None
        Detector column of the rotation axis.
    """

    run_uid: Uid
    seq: Number
    rank: Rank
    image_number: Count
    projections: Count
    final: bool = False
    rows: PreviewRows
    size: Side
    angles_used: Annotated[tuple[float, ...], Meta(max_length=100_000)] = ()
    columns: Annotated[int, Meta(ge=0, le=MAXIMUM_SIDE)] = 0
    lines_first: Count = 0
    lines_counts: Annotated[tuple[Number, ...], Meta(max_length=100_000)] = ()
    axis: float | None = None


PreviewUpMessage = PreviewHello | Preview | Heartbeat | Problem


class PreviewWelcome(msgspec.Struct, frozen=True, kw_only=True, tag="preview-welcome"):
    """The controller has the previews of this rank's run up to `last_received`, and used those up to `last_applied`."""

    version: Annotated[int, Meta(ge=0, le=255)] = PROTOCOL_VERSION
    job_id: Uid
    run_uid: Uid
    rank: Rank
    last_applied: Count
    last_received: Count
    credit: Count
    heartbeat_seconds: Annotated[float, Meta(gt=0, le=3600)]
    peer_timeout: Annotated[float, Meta(gt=0, le=36000)] = 10.0


class PreviewAck(msgspec.Struct, frozen=True, kw_only=True, tag="preview-ack"):
    """As `Ack`, for the previews of one rank."""

    run_uid: Uid
    rank: Rank
    applied: Count
    received: Count
    credit: Count
    resend: bool = False


PreviewDownMessage = PreviewWelcome | PreviewAck | Heartbeat | Problem

# ---------------------------------------------------------------------------------------------- not on the wire


class OpenRunSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What the beamline knows of a run when it opens it; each peer is sent an `OpenRun` made of it.

    Parameters are those of `OpenRun`; rows are dealt, and the preview's address filled in, by the endpoint.
    """

    run_uid: str
    recon_uid: str
    planned: int
    detector_shape: tuple[int, int]
    dtype: str
    recon: ReconSettings = ReconSettings()
    steering: SteeringSettings = SteeringSettings()
    preview_rows: tuple[int, ...] = ()
    output: str | None = None
    metadata: dict[str, str] = {}
