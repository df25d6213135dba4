"""Tests of the GPU's kernels: on a GPU (``pytest -m cuda``), or in Numba's simulator (``NUMBA_ENABLE_CUDASIM=1``).

Without either they are skipped; `tests/recon/test_simulated_gpu.py` runs them in the simulator.
"""

from __future__ import annotations

import gc
import importlib.util
import os
from pathlib import Path

import pytest

from bluesky_streamrecon.errors import DeviceError
from bluesky_streamrecon.recon.cuda.device import find_device

collect_ignore = ["compile_kernels.py", "driver_stand_in.py", "simulator.py"]  # which doctest would import
HERE = Path(__file__).parent
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") == "1"

if SIMULATED:
    spec = importlib.util.spec_from_file_location("fast_simulator", HERE / "simulator.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def pytest_collection_modifyitems(items):
    """Mark and skip what needs a GPU."""
    missing = ""
    if not SIMULATED:
        try:
            find_device()
        except DeviceError as error:
            missing = str(error)
    for item in items:
        if HERE in Path(item.fspath).parents and not SIMULATED:
            item.add_marker(pytest.mark.cuda)
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"needs a GPU: {missing}"))


def pytest_collection_finish():
    """Keep what has been imported out of each search for garbage."""
    gc.freeze()


@pytest.fixture(scope="session")
def simulated():
    """Whether there is only the simulator, where a pixel takes a million times longer."""
    return SIMULATED
