"""A publisher, and where it publishes to."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from published_run import COLUMNS, ROWS, Kept

from bluesky_streamrecon.beamline import Publisher


@pytest.fixture
def sink():
    return Kept()


@pytest.fixture
def problems():
    return []


@pytest.fixture
def publisher(sink, problems):
    return Publisher(sink, on_problem=problems.append)


@pytest.fixture
def written(tmp_path):
    frames = np.arange(12 * ROWS * COLUMNS, dtype="<u2").reshape(12, ROWS, COLUMNS)
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        file["d"] = frames
    return frames
