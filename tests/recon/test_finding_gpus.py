"""Which GPU a rank takes, and what is said of one that it can not take: with a stand-in for the driver."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bluesky_streamrecon.errors import DeviceError
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon import compiling
from bluesky_streamrecon.recon.algorithms import make_algorithm
from bluesky_streamrecon.recon.backends import Demand, choose_backend
from bluesky_streamrecon.recon.cuda import device
from bluesky_streamrecon.settings import ReconSettings

GIBI = 2**30
DEMAND = Demand(TomoGeometry(64), 4, make_algorithm("mlem", {}), window=24, planned=180)


class Cuda:
    """What is used of `numba.cuda`, for cards that are told by their compute capability."""

    def __init__(self, *capabilities, error=None):
        self.gpus = capabilities
        self.error = error
        self.selected = None
        self.cleared = 0
        self.cudadrv = SimpleNamespace(driver=SimpleNamespace(driver=SimpleNamespace(get_version=lambda: (13, 0))))

    def select_device(self, number):
        if self.error is not None:
            raise self.error
        self.selected = number

    def get_current_device(self):
        return SimpleNamespace(name=b"NVIDIA Card", compute_capability=self.gpus[self.selected])

    def current_context(self):
        def clear():
            self.cleared += 1

        unused = SimpleNamespace(clear=clear)
        return SimpleNamespace(
            deallocations=unused, memory_manager=SimpleNamespace(deallocations=unused),
            get_memory_info=lambda: (3 * GIBI, 4 * GIBI),
        )  # fmt: skip


@pytest.fixture
def cards(monkeypatch, tmp_path):
    """Make a machine of such cards."""
    toolkit = pytest.importorskip("bluesky_streamrecon.recon.cuda.toolkit")
    module = tmp_path / "version"
    module.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue\n")

    def made(*capabilities, error=None):
        cuda = Cuda(*capabilities, error=error)
        monkeypatch.setattr(toolkit, "cuda", cuda)
        monkeypatch.setattr(toolkit, "SIMULATED", False)
        monkeypatch.setattr(device, "open_driver", lambda: None)
        monkeypatch.setattr(device, "_KERNEL_MODULE", module)
        return cuda

    return made


def test_card_is_named_with_driver_library_and_memory(cards):
    cuda = cards((9, 0))
    said = choose_backend("auto", DEMAND).device
    assert said.startswith("GPU 0: NVIDIA Card, compute capability 9.0, 3,221,225,472 of 4,294,967,296 bytes free, ")
    assert "driver 580.159.04 (CUDA 13.0), numba-cuda " in said
    assert cuda.cleared == 2  # what engines before this one had is free


def test_ranks_take_the_cards_that_they_see_in_turn(cards):
    cards((9, 0), (8, 0))
    assert [device.find_device(rank).number for rank in range(3)] == [0, 1, 0]
    assert [device.find_device(rank).capability for rank in range(2)] == [(9, 0), (8, 0)]
    assert device.find_device().free_for(4) == 3 * GIBI // 2  # two ranks on each


@pytest.mark.parametrize(
    ("capabilities", "error", "expected"),
    [
        ([(7, 5)], None, "NVIDIA Card has compute capability 7.5, expected at least 8.0"),
        ([], None, "the driver finds no GPU; is CUDA_VISIBLE_DEVICES empty?"),
        ([(9, 0)], RuntimeError("[100] cuInit:\n  no device"), "no GPU can be used: [100] cuInit: no device"),
    ],
)
def test_card_that_can_not_be_used_leaves_the_run_on_the_cpu_with_one_line(cards, capabilities, error, expected):
    cards(*capabilities, error=error)
    choice = choose_backend("auto", DEMAND)
    assert (choice.name, choice.note) == ("cpu", f"on the CPU: {expected}")
    with pytest.raises(DeviceError) as told:
        choose_backend("cuda", DEMAND)
    assert str(told.value) == expected


def test_card_whose_kernels_do_not_compile_is_not_tried_again_and_the_run_computes_on_the_cpu(cards, monkeypatch):
    cards((9, 0))
    warm_up = compiling.warm_up

    def failing(*args, backend, **settings):
        if backend == "cuda":
            raise RuntimeError("libnvvm.so:\n not found")
        return warm_up(*args, backend=backend, **settings)

    monkeypatch.setattr(compiling, "warm_up", failing)
    choice, _ = compiling.prepare_backend(ReconSettings(backend="auto"), DEMAND.geometry, 4)
    assert (choice.name, choice.broken) == ("cpu", True)
    assert choice.note == "on the CPU: no kernels for the GPU: RuntimeError: libnvvm.so: not found"
    with pytest.raises(RuntimeError, match="libnvvm"):
        compiling.prepare_backend(ReconSettings(backend="cuda"), DEMAND.geometry, 4)
