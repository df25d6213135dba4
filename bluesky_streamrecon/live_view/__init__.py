"""A web page and PVs that show a run while it is taken, with controls to overrule its stopping.

One connection goes to the beamline, whatever the number of viewers. The page needs the extra ``view``, PVs ``pva``.
Images go to Tiled, too, for its clients to subscribe to.
"""

from bluesky_streamrecon.beamline.source import Snapshot, Source
from bluesky_streamrecon.live_view.pvs import PvServer
from bluesky_streamrecon.live_view.server import ViewServer
from bluesky_streamrecon.live_view.stored import open_stored_run
from bluesky_streamrecon.live_view.tiled_images import LiveImageWriter, store_live_images

__all__ = ["LiveImageWriter", "PvServer", "Snapshot", "Source", "ViewServer", "open_stored_run", "store_live_images"]
