"""The images of a real run reach a client of Tiled while the scan goes on."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from tiled_server import WATCHING, Watcher

from bluesky_streamrecon.config_file import ConfigFile, StorageSection
from bluesky_streamrecon.live_view import store_live_images
from bluesky_streamrecon.storage import open_storage

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.usefixtures("no_orphans"),
    pytest.mark.timeout(240),
    *WATCHING,
]


def test_subscribed_client_has_the_image_of_a_scan_while_it_goes_on(overruled, kept_job, tmp_path):
    from tiled.client import from_uri

    seen = []
    with open_storage(directory=tmp_path / "catalogue") as storage:
        client = from_uri(storage.uri)
        watcher = Watcher(client)
        writer = store_live_images(kept_job, ConfigFile(storage=StorageSection(live_images=100)), storage.uri)

        def look():  # a kept job shows the last image of the run before first
            while kept_job.runs.open.spec.run_uid not in client["live"]:
                seen.append(watcher.next()[1])

        try:
            (uid,) = overruled(look, threshold=1.0).run_start_uids
            while client["live"][uid].metadata["images"][-1]["projections"] < 24:
                seen.append(watcher.next()[1])
        finally:
            writer.close()
            watcher.close()
        array = client["live"][uid]
        last, known = array.read()[-1], array.metadata["images"][-1]
        client.context.close()
    with h5py.File(kept_job.last_run.result) as file:
        image = file["exchange/data"][:][array.metadata["rows"]]
    assert np.any(seen[0])
    assert len(array) == len(array.metadata["images"]) > 1
    assert known["projections"] == 24
    np.testing.assert_array_equal(last, image)
