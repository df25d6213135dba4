"""A GPU that is lost in mid-run costs no projection: with a stand-in for the card, in a real job."""

from __future__ import annotations

import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest

import bluesky_streamrecon
from bluesky_streamrecon.beamline import ReconJob
from bluesky_streamrecon.beamline.launcher import MpiLauncher
from bluesky_streamrecon.plans import stream_tomo_plan
from bluesky_streamrecon.sim_devices import sim_beamline

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(180), pytest.mark.usefixtures("no_orphans")]
SIMULATOR = Path(__file__).parents[1] / "recon" / "cuda" / "simulator.py"

# What a rank runs before anything else: Numba's simulator is a card, until it fails in one of the updates.
STAND_IN = f"""
    import os
    import sys
    from pathlib import Path

    LOST = Path(__file__).with_name("lost")

    if "job" in sys.orig_argv:
        import importlib.util

        from bluesky_streamrecon.errors import DeviceError
        from bluesky_streamrecon.recon.cuda import device

        spec = importlib.util.spec_from_file_location("fast_simulator", {str(SIMULATOR)!r})
        spec.loader.exec_module(importlib.util.module_from_spec(spec))

        def find_device(host_rank=0):
            if LOST.exists():
                raise DeviceError("no GPU can be used: [100] CUDA_ERROR_NO_DEVICE")
            return device.CudaDevice(0, "Stand-in", (9, 0), "1.0", "numba-cuda", 2**40, 2**40)

        device.find_device = find_device

        from bluesky_streamrecon.recon.cuda import passes

        class CudaAPIError(Exception):
            pass

        class Failing:
            def __init__(self, kernel):
                self.kernel, self.updates = kernel, 0

            def __getitem__(self, configuration):
                def launch(image, size, *rest):
                    self.updates += size > 8  # a smaller image is that of the warm-up
                    if self.updates == int(os.environ["FAILS_IN"]):
                        LOST.touch()
                        raise CudaAPIError("[719] Call to cuLaunchKernel results in CUDA_ERROR_LAUNCH_FAILED")
                    self.kernel[configuration](image, size, *rest)

                return launch

        passes._forward._kernel = Failing(passes._forward._kernel)
"""


@pytest.fixture
def fails_in():
    """Which update the card fails in."""
    return 2


@pytest.fixture
def job(tmp_path, fails_in):
    folder = tmp_path / "stand-in"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(textwrap.dedent(STAND_IN))
    source = Path(bluesky_streamrecon.__file__).parents[1]
    environment = {"PYTHONPATH": f"{folder}:{source}", "NUMBA_ENABLE_CUDASIM": "1", "FAILS_IN": str(fails_in)}
    made = ReconJob(
        "job", ranks=1, output=tmp_path, launcher=MpiLauncher(environment=environment, log_directory=tmp_path / "logs"),
        backoff=0.05, keep_alive=True,
    )  # fmt: skip
    yield made
    made.close()


@pytest.fixture
def made(run_engine, job, tmp_path):
    """Make a scan of three images; return what its file holds."""

    def make(dataset="/exchange/data", **settings):
        beamline = sim_beamline(rows=2, columns=18, directory=tmp_path, instant=True)
        plan = stream_tomo_plan(
            beamline.detector, beamline.stage, shutter=beamline.shutter, sample_table=beamline.table, job=job, num=9,
            flats=1, darks=1, window=6, step=3, axis=8.5, threshold=1.0, coalesce=False, **settings,
        )  # fmt: skip
        assert run_engine(plan).exit_status == "success"
        with h5py.File(job.last_run.result) as file:
            return file[dataset][:], str(file.attrs["device"])

    return make


def log_of(tmp_path):
    return "".join(path.read_text() for path in (tmp_path / "logs").rglob("*") if path.is_file())


def test_run_goes_on_without_a_card_that_is_lost_in_mid_run(documents, of, job, made, tmp_path):
    found, device = made(backend="auto", checkpoint_every=1)
    record, stop = job.last_run, of(documents, "stop")[-1]
    assert device.startswith("CPU")
    assert record.used == record.taken == 9
    assert record.image_number == 3
    assert record.ledger_totals()["balanced"]
    assert "is started again (restart 1 of 3)" in stop["reason"]
    assert any("the GPU failed: [719]" in problem for problem in record.problems), record.problems
    assert "rank 0 failed: the GPU failed: [719]" in log_of(tmp_path)
    assert "Traceback" not in log_of(tmp_path)
    expected, _ = made(backend="cpu")
    assert np.abs(found - expected).max() <= 1e-5 * expected.max()


@pytest.mark.parametrize("fails_in", [5])
def test_volume_is_finished_without_a_card_that_is_lost_meanwhile(job, made, tmp_path):
    chosen = {"dataset": "/exchange/volume", "final": "sirt", "final_iterations": 2}
    found, device = made(backend="auto", **chosen)
    assert device.startswith("GPU 0: Stand-in")
    assert (tmp_path / "stand-in" / "lost").exists()
    assert np.isfinite(found).all()
    expected, _ = made(backend="cpu", **chosen)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
