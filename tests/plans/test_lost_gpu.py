"""A GPU that is lost in mid-run, or comes back, costs no projection: with a stand-in for the card, in a real job."""

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

# What a rank runs before anything else: Numba's simulator is a card, until it fails in one of the updates; or from when
# the rank is killed in one on.
STAND_IN = f"""
    import os
    import signal
    import sys
    from pathlib import Path

    FAILED = Path(__file__).with_name("failed")
    COMES = os.environ["CARD"] == "comes"

    if "job" in sys.orig_argv:
        import importlib.util

        from bluesky_streamrecon.errors import DeviceError
        from bluesky_streamrecon.recon.cuda import device

        spec = importlib.util.spec_from_file_location("fast_simulator", {str(SIMULATOR)!r})
        spec.loader.exec_module(importlib.util.module_from_spec(spec))

        def find_device(host_rank=0):
            if FAILED.exists() != COMES:
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
                        FAILED.touch()
                        raise CudaAPIError("[719] Call to cuLaunchKernel results in CUDA_ERROR_LAUNCH_FAILED")
                    self.kernel[configuration](image, size, *rest)

                return launch

        if not COMES:
            passes._forward._kernel = Failing(passes._forward._kernel)

        from bluesky_streamrecon.recon.engine import Engine

        update = Engine.update

        def killed(engine, iterations=1):
            if COMES and not FAILED.exists() and engine.image_number + 1 == int(os.environ["FAILS_IN"]):
                FAILED.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            update(engine, iterations)

        Engine.update = killed
"""


@pytest.fixture
def fails_in():
    """Which update the card, or the rank, fails in."""
    return 2


@pytest.fixture
def card():
    """Whether the card is lost then, or is only there from then on."""
    return "lost"


@pytest.fixture
def ranks():
    """How many ranks the job has."""
    return 1


@pytest.fixture
def job(tmp_path, fails_in, card, ranks):
    folder = tmp_path / "stand-in"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(textwrap.dedent(STAND_IN))
    source = Path(bluesky_streamrecon.__file__).parents[1]
    environment = {
        "PYTHONPATH": f"{folder}:{source}", "NUMBA_ENABLE_CUDASIM": "1", "FAILS_IN": str(fails_in), "CARD": card,
    }  # fmt: skip
    made = ReconJob(
        "job", ranks=ranks, output=tmp_path, backoff=0.05, keep_alive=True,
        launcher=MpiLauncher(environment=environment, log_directory=tmp_path / "logs"),
    )  # fmt: skip
    yield made
    made.close()


@pytest.fixture
def scan(run_engine, job, ranks, tmp_path):
    """Make a scan of three images; the stand-in takes longer for a finished volume than for all of them."""

    def make(final="none", **settings):
        beamline = sim_beamline(rows=2 * ranks, columns=18, directory=tmp_path, instant=True)
        plan = stream_tomo_plan(
            beamline.detector, beamline.stage, shutter=beamline.shutter, sample_table=beamline.table, job=job, num=9,
            flats=1, darks=1, window=6, step=3, axis=8.5, threshold=1.0, coalesce=False,
            final=final, **settings,
        )  # fmt: skip
        assert run_engine(plan).exit_status == "success"

    return make


@pytest.fixture
def made(scan, job):
    """Make a scan of three images; return what its file holds."""

    def make(dataset="/exchange/data", **settings):
        scan(**settings)
        with h5py.File(job.last_run.result) as file:
            return file[dataset][:], str(file.attrs["device"])

    return make


def log_of(tmp_path):
    return "".join(path.read_text() for path in (tmp_path / "logs").rglob("*.log"))


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
    assert "goes on after image 1" in log_of(tmp_path)
    expected, _ = made(backend="cpu")
    assert np.abs(found - expected).max() <= 1e-5 * expected.max()


def test_run_that_is_for_a_card_only_is_refused_when_the_card_is_lost_and_its_scan_is_complete(scan, job):
    scan(backend="cuda", checkpoint_every=1)
    record = job.last_run
    assert record.taken == 9
    assert record.result is None
    assert any("no GPU can be used: [100] CUDA_ERROR_NO_DEVICE" in problem for problem in record.problems)
    assert not any("no verdict" in problem for problem in record.problems)  # on an image that was never sent


@pytest.mark.parametrize("card", ["comes"])
def test_run_goes_on_with_a_card_from_what_the_cpu_has_made(documents, of, job, made, tmp_path):
    found, device = made(backend="auto", checkpoint_every=1)
    record = job.last_run
    assert device.startswith("GPU 0: Stand-in, compute capability 9.0, ")
    assert device.endswith("driver 1.0, numba-cuda")
    assert record.used == record.taken == 9
    assert record.image_number == 3
    assert record.ledger_totals()["balanced"]
    assert "is started again (restart 1 of 3)" in of(documents, "stop")[-1]["reason"]
    assert "goes on after image 1" in log_of(tmp_path)
    expected, _ = made(backend="cpu")
    assert np.abs(found - expected).max() <= 1e-5 * expected.max()


@pytest.mark.parametrize(("ranks", "fails_in"), [(2, 99)])
def test_ranks_with_a_card_each_make_the_image_of_the_cpu_across_their_border(made):
    chosen = {"algorithm": "pml-quadratic", "options": {"strength": 0.5}}
    found, device = made(backend="cuda", **chosen)
    assert device.startswith("GPU 0: Stand-in")
    expected, _ = made(backend="cpu", **chosen)
    assert np.abs(found - expected).max() <= 1e-5 * expected.max()
    alone, _ = made(backend="cpu", algorithm="mlem")
    assert np.abs(alone - expected).max() > 0.01 * expected.max()


@pytest.mark.parametrize("fails_in", [5])
def test_volume_is_finished_without_a_card_that_is_lost_meanwhile(job, made, tmp_path):
    chosen = {"dataset": "/exchange/volume", "final": "sirt", "final_iterations": 2}
    found, device = made(backend="auto", **chosen)
    assert device.startswith("GPU 0: Stand-in")
    assert (tmp_path / "stand-in" / "failed").exists()
    assert np.isfinite(found).all()
    expected, _ = made(backend="cpu", **chosen)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
