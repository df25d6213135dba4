"""The beamline's end of all links: it serves a run to ranks and controller, and answers people's programs.

Frames are kept until every rank has them in its image, and sent again after whatever has happened to a link or a
process. Nothing here knows Bluesky. Angles are radians, times seconds.
"""

from bluesky_streamrecon.beamline.serving.endpoint import BeamlineEndpoint
from bluesky_streamrecon.beamline.serving.events import (
    Acked,
    AllRanksReady,
    BeamlineEvent,
    PeerJoined,
    PeerLost,
    RunFinished,
)
from bluesky_streamrecon.beamline.serving.frames import QueuedFrame

__all__ = [
    "Acked",
    "AllRanksReady",
    "BeamlineEndpoint",
    "BeamlineEvent",
    "PeerJoined",
    "PeerLost",
    "QueuedFrame",
    "RunFinished",
]
