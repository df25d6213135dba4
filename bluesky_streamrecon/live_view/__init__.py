"""A web page that shows a run while it goes on, and lets people overrule it; on this computer only.

One connection goes to the beamline, however many look: the page's server hands on what comes. Needs the extra ``view``.
"""

from bluesky_streamrecon.live_view.server import ViewServer
from bluesky_streamrecon.live_view.source import Snapshot, Source

__all__ = ["Snapshot", "Source", "ViewServer"]
