"""Where scans and images are kept: DXfile and NXtomo files, and a Tiled catalogue.

Tiled is imported when it is first used.
"""

from bluesky_streamrecon.hdf5 import LazyFrames
from bluesky_streamrecon.storage.catalog import (
    Storage,
    open_catalog,
    open_live_images,
    open_storage,
)
from bluesky_streamrecon.storage.details import ScanDetails, scan_details
from bluesky_streamrecon.storage.dxfile import read_dxfile, write_dxfile
from bluesky_streamrecon.storage.embedded import EmbeddedTiled
from bluesky_streamrecon.storage.importing import import_scan
from bluesky_streamrecon.storage.listing import find_run, last_scan_id, list_runs
from bluesky_streamrecon.storage.nxtomo import read_nxtomo, write_nxtomo
from bluesky_streamrecon.storage.portable import (
    PortableRun,
    PortableScan,
    export_run,
    read_scan,
)
from bluesky_streamrecon.storage.reconstruction import (
    compose_reconstruction,
    reconstruction_documents,
)
from bluesky_streamrecon.storage.references import StoredReferences, load_references
from bluesky_streamrecon.storage.runs import (
    IMAGES,
    find_reconstruction,
    finished_images,
    load_reconstruction,
    load_run,
    load_scores,
    stored_dataset,
)
from bluesky_streamrecon.storage.scan import Frames, TomoScan
from bluesky_streamrecon.storage.volume_files import (
    LAYOUTS,
    VOLUME_LAYOUTS,
    ExportedVolume,
    chosen_layout,
    export_volume,
)
from bluesky_streamrecon.storage.writer import CatalogWriter, NotSent, Resubmitted, resubmit

__all__ = [
    "IMAGES",
    "LAYOUTS",
    "VOLUME_LAYOUTS",
    "CatalogWriter",
    "EmbeddedTiled",
    "ExportedVolume",
    "Frames",
    "LazyFrames",
    "NotSent",
    "PortableRun",
    "PortableScan",
    "Resubmitted",
    "ScanDetails",
    "Storage",
    "StoredReferences",
    "TomoScan",
    "chosen_layout",
    "compose_reconstruction",
    "export_run",
    "export_volume",
    "find_reconstruction",
    "find_run",
    "finished_images",
    "import_scan",
    "last_scan_id",
    "list_runs",
    "load_reconstruction",
    "load_references",
    "load_run",
    "load_scores",
    "open_catalog",
    "open_live_images",
    "open_storage",
    "read_dxfile",
    "read_nxtomo",
    "read_scan",
    "reconstruction_documents",
    "resubmit",
    "scan_details",
    "stored_dataset",
    "write_dxfile",
    "write_nxtomo",
]
