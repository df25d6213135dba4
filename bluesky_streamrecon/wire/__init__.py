"""The road between beamline, reconstruction job and controller: messages, sessions, endpoints, keys.

Items go down to the ranks exactly once and in order, whatever the network does; reports come up the same way.
See ``docs/reference/protocol.md``. Angles are radians, lengths detector pixels, times seconds.
"""

from bluesky_streamrecon.wire.beamline_endpoint import BeamlineEndpoint
from bluesky_streamrecon.wire.controller_endpoint import ControllerEndpoint
from bluesky_streamrecon.wire.events import (
    Acked,
    AllRanksReady,
    BeamlineEvent,
    ControllerEvent,
    FinalizeReceived,
    ItemLost,
    ItemReceived,
    LinkLost,
    LinkRestored,
    PeerInfo,
    PeerJoined,
    PeerLost,
    PreviewMoved,
    PreviewReceived,
    ProblemReported,
    RankEvent,
    Refused,
    RunAbandoned,
    RunClosed,
    RunFinished,
    RunOpened,
    ScoreReceived,
    ShutdownRequested,
    StatusReceived,
    StreamFailed,
)
from bluesky_streamrecon.wire.messages import (
    PROTOCOL_VERSION,
    CloseRun,
    Finalize,
    Item,
    ItemGone,
    ItemKind,
    OpenRun,
    OpenRunSpec,
    Preview,
    Problem,
    RunDone,
    Score,
    Status,
)
from bluesky_streamrecon.wire.preview_endpoint import PreviewSender
from bluesky_streamrecon.wire.rank_endpoint import RankEndpoint
from bluesky_streamrecon.wire.security import ClientSecurity, KeyPair, ServerSecurity
from bluesky_streamrecon.wire.sessions import Ledger
from bluesky_streamrecon.wire.sockets import generate_keys, make_keys
from bluesky_streamrecon.wire.store import FrameSource

__all__ = [
    "PROTOCOL_VERSION",
    "Acked",
    "AllRanksReady",
    "BeamlineEndpoint",
    "BeamlineEvent",
    "ClientSecurity",
    "CloseRun",
    "ControllerEndpoint",
    "ControllerEvent",
    "Finalize",
    "FinalizeReceived",
    "FrameSource",
    "Item",
    "ItemGone",
    "ItemKind",
    "ItemLost",
    "ItemReceived",
    "KeyPair",
    "Ledger",
    "LinkLost",
    "LinkRestored",
    "OpenRun",
    "OpenRunSpec",
    "PeerInfo",
    "PeerJoined",
    "PeerLost",
    "Preview",
    "PreviewMoved",
    "PreviewReceived",
    "PreviewSender",
    "Problem",
    "ProblemReported",
    "RankEndpoint",
    "RankEvent",
    "Refused",
    "RunAbandoned",
    "RunClosed",
    "RunDone",
    "RunFinished",
    "RunOpened",
    "Score",
    "ScoreReceived",
    "ServerSecurity",
    "ShutdownRequested",
    "Status",
    "StatusReceived",
    "StreamFailed",
    "generate_keys",
    "make_keys",
]
