"""What is asked of the GPU is done in an order that makes the right image, however late or early each part is."""

from __future__ import annotations

import importlib.util
import os
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numba import cuda
from numpy.testing import assert_allclose

from bluesky_streamrecon.errors import DeviceError
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon import Engine, window

if os.environ.get("NUMBA_ENABLE_CUDASIM", "0") != "1":
    pytest.skip("the driver is stood in for, in Numba's simulator (NUMBA_ENABLE_CUDASIM=1)", allow_module_level=True)

from bluesky_streamrecon.recon.cuda import backend, operators, store, streams

TINY = TomoGeometry(18)
spec = importlib.util.spec_from_file_location("driver_stand_in", Path(__file__).with_name("driver_stand_in.py"))
stand_in = importlib.util.module_from_spec(spec)
spec.loader.exec_module(stand_in)


@pytest.fixture
def eager():
    """What is done as early as it may be."""
    return "nothing"


@pytest.fixture
def driver(eager, monkeypatch):
    made = stand_in.Driver(eager=eager)
    kind = type(cuda.device_array(1, np.float32))
    place = property(lambda array: {"data": (array._ary.ctypes.data, False)})
    monkeypatch.setattr(kind, "__cuda_array_interface__", place, raising=False)
    numba = SimpleNamespace(
        stream=made.handle, event=lambda timing: made.handle(), device_array=cuda.device_array,
        pinned_array=made.pinned_array, current_context=made.current_context,
    )  # fmt: skip
    for name, value in (
        ("SIMULATED", False),
        ("driver", made),
        ("cuda", numba),
        ("_contexts", []),
        ("_lost", ExitStack()),
    ):
        monkeypatch.setattr(streams, name, value, raising=False)

    def launch(launcher, *args):
        made.launch(launcher, *args)

    monkeypatch.setattr(streams.Launcher, "__call__", launch)
    monkeypatch.setattr(backend.CudaBackend, "spare", 0)  # so that slots are used again at once
    monkeypatch.setattr(store, "_STAGED", 2)
    monkeypatch.setattr(operators, "_QUEUED", 2)
    return made


def scan(rows, count):
    random = np.random.default_rng(5)
    angles = 0.2 + np.arange(count // 2) * 2 * np.pi / count
    data = (random.random((count, rows, 18), np.float32) + 0.5) * np.float32(10)
    return data, np.concatenate((angles, angles))


@pytest.mark.parametrize(
    ("algorithm", "iterations", "eager"),
    [
        ("mlem", 1, "nothing"), ("mlem", 1, "copies"), ("mlem", 2, "beside"), ("pml-quadratic", 1, "copies"),
        ("osem", 1, "nothing"), ("osem", 2, "copies"),
    ],
)  # fmt: skip
def test_updates_and_previews_are_right_whatever_is_late(driver, algorithm, iterations):
    data, angles = scan(2, 6)
    options = {"subsets": 3} if algorithm == "osem" else {}
    settings = {"algorithm": algorithm, "options": options, "window": 3, "window_policy": "newest"}
    shown = {}
    for what in ("cpu", "cuda"):
        asked, shown[what] = [], []
        with Engine(TINY, 2, backend=what, **settings) as engine:
            for number, (projection, angle) in enumerate(zip(data, angles, strict=True), 1):
                engine.append(projection, float(angle))
                if number >= 3:
                    engine.update(iterations)
                    asked.append(engine.begin_slices([1, 0]))
                if len(asked) > 2:  # what was asked for before two more updates
                    shown[what].append(asked.pop(0)())
            shown[what] += [wait() for wait in asked]
    assert driver.launches > 0
    for found, expected in zip(shown["cuda"], shown["cpu"], strict=True):
        assert_allclose(found, expected, rtol=0, atol=1e-5 * expected.max())


def test_updates_are_right_after_the_window_was_given_more_memory(driver, monkeypatch):
    monkeypatch.setattr(window, "_FIRST_CAPACITY", 4)
    data, angles = scan(1, 10)
    shown = {}
    for what in ("cpu", "cuda"):
        with Engine(TINY, 1, window=2, backend=what) as engine:
            for projection, angle in zip(data, angles, strict=True):
                engine.append(projection, float(angle))
                engine.update()
            shown[what] = engine.image()
    assert driver.launches > 0
    assert_allclose(shown["cuda"], shown["cpu"], rtol=0, atol=1e-5 * shown["cpu"].max())


def test_host_is_at_most_two_updates_ahead(driver):
    data, angles = scan(1, 2)
    with Engine(TINY, 1, window=None, backend="cuda") as engine:
        engine.append(data[0], float(angles[0]))
        engine.update()
        engine.finish()
        engine.update()  # recorded
        engine.update()
        most = driver.waiting()
        assert most > 0
        for _ in range(2):
            engine.update()
            assert driver.waiting() <= most
        engine.finish()
        assert driver.waiting() == 0


@pytest.mark.parametrize("algorithm", ["mlem", "pml-quadratic", "pml-hybrid", "sirt"])
def test_steady_step_asks_the_driver_for_one_graph_and_few_things_besides(driver, algorithm, monkeypatch):
    monkeypatch.setattr(streams.Launcher, "__call__", lambda *_: None)  # what kernels would make is not looked at
    data, angles = scan(1, 4)

    def step(number):
        engine.append(data[number % 4], float(angles[number % 4]))
        engine.update()

    with Engine(TINY, 1, algorithm=algorithm, window=2, window_policy="newest", backend="cuda") as engine:
        for number in range(12):
            step(number)
        driver.launches = driver.calls = 0
        step(12)
        assert driver.launches == 1
        assert driver.calls <= 11  # two copies, the rest are events


def test_what_the_driver_reports_ends_an_update_with_one_line(driver):
    data, angles = scan(1, 2)
    with Engine(TINY, 1, window=None, backend="cuda") as engine:
        engine.append(data[0], float(angles[0]))
        engine.update()
        driver.failure = "CUDA_ERROR_ILLEGAL_ADDRESS"
        with pytest.raises(DeviceError, match="the GPU failed: CUDA_ERROR_ILLEGAL_ADDRESS; is its memory full") as told:
            engine.update()
        assert "\n" not in str(told.value)
    assert driver.context.deallocations.disabled
    assert driver.context.memory_manager.deallocations.disabled
