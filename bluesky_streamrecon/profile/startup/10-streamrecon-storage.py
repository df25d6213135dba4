"""Where runs are stored: an embedded Tiled server, or one that $STREAMRECON_TILED_URI or `[storage] uri` names.

`catalog` is the Tiled client, `db` the same catalogue through databroker. Data go where the configuration says
(`streamrecon config show`), else to $STREAMRECON_DATA, or to ~/.local/share/bluesky-streamrecon.
"""

import atexit
import os

from bluesky_streamrecon.configuration import load_configuration
from bluesky_streamrecon.storage import open_storage

configuration = load_configuration()
storage = open_storage(
    os.environ.get("STREAMRECON_TILED_URI") or configuration.storage.uri, directory=configuration.data
)
atexit.register(storage.close)

catalog = storage.catalog
db = storage.databroker
tiled_writer = storage.writer
RE.subscribe(tiled_writer)  # noqa: F821 - made in 00-streamrecon-engine.py
