"""One embedded server for the room: it takes seconds to start."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from bluesky_streamrecon.storage import Storage, TomoScan, open_storage


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """A catalogue that may read `storage.detector_directory`."""
    with open_storage(directory=tmp_path_factory.mktemp("catalogue")) as opened:
        yield opened


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """Another catalogue, which runs are carried to."""
    with open_storage(directory=tmp_path_factory.mktemp("elsewhere")) as opened:
        yield opened


@pytest.fixture(scope="session")
def scan() -> TomoScan:
    """A small scan in memory, angles in no order."""
    rng = np.random.default_rng(0)
    stack = [rng.integers(0, 60000, (count, 3, 8), dtype=np.uint16) for count in (5, 2, 4)]
    return TomoScan(*stack, angles_deg=np.array([0.0, 90.0, 45.0, 22.5, 67.5]))
