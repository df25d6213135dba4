"""A web page and PVs that show a run while it is taken, with controls to overrule its stopping.

One connection goes to the beamline, whatever the number of viewers. The page needs the extra ``view``, PVs ``pva``.
"""

from bluesky_streamrecon.live_view.pvs import PvServer
from bluesky_streamrecon.live_view.server import ViewServer
from bluesky_streamrecon.live_view.source import Snapshot, Source

__all__ = ["PvServer", "Snapshot", "Source", "ViewServer"]
