"""A web page that shows a run while it is taken, with controls to overrule its stopping; on this computer only.

One connection goes to the beamline, whatever the number of viewers: the page's server serves them all. Needs the extra
``view``.
"""

from bluesky_streamrecon.live_view.server import ViewServer
from bluesky_streamrecon.live_view.source import Snapshot, Source

__all__ = ["Snapshot", "Source", "ViewServer"]
