"""The GPU's kernels, run by Numba's simulator in a process of its own: it has to be chosen before Numba is imported."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import weakref
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from bluesky_streamrecon.errors import ConfigError, DeviceError
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon.algorithms import make_algorithm
from bluesky_streamrecon.recon.backends import Demand, choose_backend, rows_at_once
from bluesky_streamrecon.recon.cuda import device as cuda_device
from bluesky_streamrecon.recon.cuda.layout import Memory
from bluesky_streamrecon.recon.window import Window
from bluesky_streamrecon.settings import ReconSettings

DEMAND = Demand(TomoGeometry(1024), 100, make_algorithm("mlem", {}), window=24, planned=180)


def simulated(*tests, **environment):
    # In one process, without what `tests/conftest.py` imports: Bluesky and Tiled take as long as the kernels.
    alone = ["-n", "0", f"--confcutdir={Path(__file__).parent}"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "280", *alone, *tests]
    return subprocess.run(
        command,
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1", **environment},
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("chosen", "card"),
    [
        ("not again", "new"),
        pytest.param("test_drawn_runs and again", "new", marks=pytest.mark.nightly),
        ("two_tiles or (each_algorithm and pml-quadratic)", "old"),
    ],
    ids=["all", "more drawn runs", "tiles of older cards"],
)
def test_gpu_is_right_in_the_simulator(chosen, card):
    done = simulated(str(Path(__file__).parent / "cuda"), "-k", chosen, STREAMRECON_SIMULATED_GPU=card)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout


@pytest.fixture
def no_driver(monkeypatch):
    monkeypatch.setenv("NUMBA_CUDA_DRIVER", "/nowhere/libcuda.so.1")


def test_auto_falls_back_to_the_cpu_with_one_plain_line(no_driver):
    choice = choose_backend("auto", DEMAND)
    assert choice.name == "cpu"
    assert choice.note.startswith("on the CPU: there is no NVIDIA driver here")
    assert "\n" not in choice.note


def test_a_gpu_that_is_asked_for_and_missing_is_refused(no_driver):
    with pytest.raises(DeviceError, match="there is no NVIDIA driver here"):
        choose_backend("cuda", DEMAND)


@pytest.fixture
def card(monkeypatch):
    """A GPU with so many bytes of memory, of which there are two."""

    def found(free):
        def find(host_rank=0):
            return cuda_device.CudaDevice(
                host_rank % 2, "Card", (9, 0), "1.0 (CUDA 13.0)", "numba-cuda 1", free, free, 2
            )

        monkeypatch.setattr(cuda_device, "find_device", find)

    return found


def test_run_that_does_not_fit_is_reported_in_bytes_and_cards(card):
    needed = Memory.of(DEMAND.geometry, 100, kept=180, in_a_pass=24, coupled=False).total
    free = DEMAND.gpu_memory(40)
    card(free)
    note = choose_backend("auto", DEMAND).note
    assert f"100 rows need {needed:,} bytes, and {free:,} of GPU 0 (Card) are free" in note
    assert "3 such GPUs, with one rank each, would do" in note
    assert [choose_backend("auto", replace(DEMAND, rows=rows)).name for rows in (50, 34)] == ["cpu", "cuda"]
    card(needed // 2)
    assert "not even one row fits" in choose_backend("auto", DEMAND).note
    card(needed)
    choice = choose_backend("auto", DEMAND)
    assert (choice.name, choice.note) == ("cuda", "")
    assert choice.device == (
        f"GPU 0: Card, compute capability 9.0, {needed:,} of {needed:,} bytes free, driver 1.0 (CUDA 13.0), "
        "numba-cuda 1"
    )


def test_images_made_part_by_part_take_as_many_rows_as_fit_the_gpu(card, no_driver, monkeypatch):
    every = replace(DEMAND, window=None, rows=2048)
    assert rows_at_once("auto", every, 2) == 32  # of two threads
    card(every.gpu_memory(40))
    assert rows_at_once("auto", every, 2) == 40
    card(every.gpu_memory(100))
    assert rows_at_once("auto", every, 2) == 100
    assert 0 < rows_at_once("auto", replace(every, host=(2, 3)), 2) < 50  # of the GPU that two share
    assert rows_at_once("cpu", every, 2) == 32
    card(2**40)
    assert rows_at_once("auto", every, 2) == 128
    assert rows_at_once("auto", replace(every, algorithm=make_algorithm("pml-hybrid", {})), 2) == 2048
    card(2**20)
    assert rows_at_once("auto", every, 2) == 32
    with pytest.raises(DeviceError, match="not even one row fits"):
        rows_at_once("cuda", every, 2)


def test_ranks_of_a_host_take_its_gpus_in_turn_and_share_their_memory(card):
    needed = Memory.of(DEMAND.geometry, 100, kept=180, in_a_pass=24, coupled=False).total
    card(needed)
    assert [choose_backend("auto", replace(DEMAND, host=(rank, 2))).device[:5] for rank in (0, 1)] == [
        "GPU 0",
        "GPU 1",
    ]
    assert choose_backend("auto", replace(DEMAND, host=(2, 3))).name == "cpu"


def test_shared_rows_and_other_projectors_stay_on_the_cpu(card):
    card(2**40)
    shared = Demand(DEMAND.geometry, 100, DEMAND.algorithm, shared=True)
    assert "ranks can not share rows on a GPU" in choose_backend("auto", shared).note
    other = Demand(DEMAND.geometry, 100, DEMAND.algorithm, projector="line-integrals")
    assert "projector 'line-integrals' computes with NumPy" in choose_backend("cuda", other).note


def test_settings_refuse_what_no_gpu_does():
    with pytest.raises(ConfigError, match="backend: got 'gpu', expected one of auto, cpu, cuda"):
        ReconSettings(backend="gpu")
    with pytest.raises(ConfigError, match="share=2 with backend='cuda': expected share=1"):
        ReconSettings(backend="cuda", share=2, ranks=2)


@pytest.mark.parametrize(("lost", "given_back"), [(True, []), (False, [1, 2])], ids=["lost", "full"])
def test_nothing_is_given_back_to_a_gpu_that_is_lost(lost, given_back, monkeypatch, capsys):
    driver = pytest.importorskip("numba.cuda.cudadrv.driver")
    from bluesky_streamrecon.recon.cuda import streams

    monkeypatch.setattr(driver, "_logger", logging.getLogger("numba"), raising=False)  # made with the first GPU
    queues, done = [driver._PendingDeallocs(0), driver._PendingDeallocs(0)], []
    context = SimpleNamespace(deallocations=queues[0], memory_manager=SimpleNamespace(deallocations=queues[1]))
    monkeypatch.setattr(streams, "_contexts", [context])
    monkeypatch.setattr(streams, "_lost", ExitStack())
    monkeypatch.setattr(streams, "driver", SimpleNamespace(cuCtxSynchronize=lambda: (700 if lost else 0,)))
    with pytest.raises(DeviceError, match="the GPU failed: 700"):
        streams._checked((700,))
    for number, queue in enumerate(queues, 1):
        finalizer = weakref.finalize(queue, queue.add_item, done.append, number, 8)
        finalizer()
        queue.clear()
    assert done == given_back
    assert capsys.readouterr().err == ""


def test_slot_that_was_given_up_is_used_again_last():
    class Slots:
        def __init__(self, *_):
            self.written = []

        def write(self, slot, _projection):
            self.written.append(slot)

    import numpy as np

    window = Window(2, 4, (), store=Slots, spare=3)
    for angle in range(9):
        window.append(np.zeros((0, 4), np.float32), angle)
    assert window.store.written == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert window.slots.tolist() == [2, 3]
