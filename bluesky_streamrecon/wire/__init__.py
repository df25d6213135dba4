"""How beamline, reconstruction job and controller talk to each other: messages, channels, links, sockets, keys.

What goes on a channel arrives exactly once and in order, whatever the network does. Here is what all ends share, and
the ends that connect: of a rank, the controller and people's programs. The end that these connect to, with the run
that they are served, is the beamline's (`bluesky_streamrecon.beamline.serving`).
See ``docs/reference/protocol.md``. Angles are radians, lengths detector pixels, times seconds.
"""

from bluesky_streamrecon.cuts import Cut
from bluesky_streamrecon.wire.events import ControllerEvent, LinkLost, LinkRestored, PeerInfo, RankEvent, Refused
from bluesky_streamrecon.wire.messages import (
    PROTOCOL_VERSION,
    AbandonRun,
    ChangeRun,
    CloseRun,
    Item,
    ItemGone,
    ItemKind,
    OpenRun,
    OpenRunSpec,
    PreviewAt,
    Problem,
    RunDone,
    Score,
    Shutdown,
    Status,
    VolumeDone,
)
from bluesky_streamrecon.wire.operator_endpoint import OperatorEndpoint
from bluesky_streamrecon.wire.operator_messages import (
    CHECKS,
    Answer,
    Ask,
    Check,
    Cuts,
    Judged,
    Order,
    OrderAction,
    RunStatus,
    ShowCuts,
)
from bluesky_streamrecon.wire.peers import ControllerEndpoint, RankEndpoint
from bluesky_streamrecon.wire.run_messages import Preview
from bluesky_streamrecon.wire.security import ClientSecurity, KeyPair, ServerSecurity
from bluesky_streamrecon.wire.sockets import generate_keys, make_keys

__all__ = [
    "CHECKS",
    "PROTOCOL_VERSION",
    "AbandonRun",
    "Answer",
    "Ask",
    "ChangeRun",
    "Check",
    "ClientSecurity",
    "CloseRun",
    "ControllerEndpoint",
    "ControllerEvent",
    "Cut",
    "Cuts",
    "Item",
    "ItemGone",
    "ItemKind",
    "Judged",
    "KeyPair",
    "LinkLost",
    "LinkRestored",
    "OpenRun",
    "OpenRunSpec",
    "OperatorEndpoint",
    "Order",
    "OrderAction",
    "PeerInfo",
    "Preview",
    "PreviewAt",
    "Problem",
    "RankEndpoint",
    "RankEvent",
    "Refused",
    "RunDone",
    "RunStatus",
    "Score",
    "ServerSecurity",
    "ShowCuts",
    "Shutdown",
    "Status",
    "VolumeDone",
    "generate_keys",
    "make_keys",
]
