"""Where runs are stored: an embedded Tiled server, or a facility's if STREAMRECON_TILED_URI names one.

`catalog` is the Tiled client, `db` the same catalogue through databroker. Data go to $STREAMRECON_DATA, or to
~/.local/share/bluesky-streamrecon.
"""

import atexit
import os

from bluesky_streamrecon.config import data_directory  # noqa: F401 - for the files after this one
from bluesky_streamrecon.storage import open_storage

storage = open_storage(os.environ.get("STREAMRECON_TILED_URI"))
atexit.register(storage.close)

catalog = storage.catalog
db = storage.databroker
tiled_writer = storage.writer
RE.subscribe(tiled_writer)  # noqa: F821 - made in 00-streamrecon-engine.py
