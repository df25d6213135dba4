"""Where runs are stored: an embedded Tiled server, or one that $STREAMRECON_TILED_URI or `[storage] uri` names.

`catalog` is the Tiled client, `db` the same catalogue through databroker. Data go where the configuration says
(`streamrecon config show`), else to $STREAMRECON_DATA, or to ~/.local/share/bluesky-streamrecon. Without a catalogue
scans are taken all the same: their documents go to files in the directory ``not_stored`` there.
"""

import atexit
import os

from bluesky_streamrecon.config_file import load_config_file
from bluesky_streamrecon.storage import CatalogWriter, last_scan_id, open_storage

configuration = load_config_file()
try:
    storage = open_storage(
        os.environ.get("STREAMRECON_TILED_URI") or configuration.storage.uri, directory=configuration.data
    )
    atexit.register(storage.close)
    catalog, db, tiled_writer = storage.catalog, storage.databroker, storage.writer
    RE.md["scan_id"] = last_scan_id(catalog)  # noqa: F821 - numbers go on from session to session
except Exception as error:  # noqa: BLE001 - whatever it is, scans can be taken
    storage = catalog = db = None
    tiled_writer = CatalogWriter(None, backup_directory=configuration.data / "not_stored")
    atexit.register(tiled_writer.close)
    print(
        f"NO CATALOGUE ({type(error).__name__}: {error}): in this session runs go to "
        f"{configuration.data / 'not_stored'}; when the catalogue "
        "is back, start IPython anew, and `streamrecon resubmit` stores them"
    )
RE.subscribe(tiled_writer)  # noqa: F821 - made in 00-streamrecon-engine.py
