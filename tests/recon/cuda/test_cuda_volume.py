"""What is made of a run beside its live image is the same on a GPU: cuts through it, and its finished volume."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bluesky_streamrecon.cuts import Cut, interpolated, points_of
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon import Engine, backends
from bluesky_streamrecon.recon.algorithms import make_algorithm
from bluesky_streamrecon.recon.past_volume import finished_volume
from bluesky_streamrecon.settings import ReconSettings
from bluesky_streamrecon.wire import OpenRunSpec

ROWS, COLUMNS = 5, 18
ANGLES = 0.2 + np.arange(6) * np.pi / 6


@pytest.fixture
def data():
    random = np.random.default_rng(7)
    return (random.random((len(ANGLES), ROWS, COLUMNS), np.float32) + 0.5) * np.float32(10)


def updated(data, backend):
    engine = Engine(TomoGeometry(COLUMNS), ROWS, window=3, backend=backend)
    for projection, angle in zip(data[:3], ANGLES[:3], strict=True):
        engine.append(projection, float(angle))
    engine.update()
    return engine


def test_cut_through_the_volume_is_that_of_the_cpu(data):
    oblique = Cut(corner=(0.2, 3, 2), through=(2.5, 0, 0), down=(1.5, 9, 0), across=(0, 2, 11), shape=(7, 9), layers=2)
    points, _ = points_of([oblique], (ROWS, COLUMNS, COLUMNS))
    shown = {}
    for backend in ("cpu", "cuda"):
        with updated(data, backend) as engine:
            shown[backend] = interpolated(points, ROWS, engine.view)
    assert shown["cpu"].max() > 0
    assert_allclose(shown["cuda"], shown["cpu"], rtol=0, atol=1e-5 * shown["cpu"].max())


@pytest.mark.parametrize("final", ["osem", "fbp"])
def test_volume_is_finished_part_by_part_as_on_the_cpu(final, data, monkeypatch):
    monkeypatch.setattr(backends, "_ROWS_OF_A_GPU", 4)
    made = []
    monkeypatch.setattr(backends, "make_backend", lambda *args: made.append(args[1].rows) or make(*args))

    def volume(backend):
        recon = ReconSettings(
            axis=8.5, pixel_values="line-integrals", backend=backend, final=final, final_iterations=1,
            final_options={} if final == "fbp" else {"subsets": 2}, disc=True,
        )  # fmt: skip
        spec = OpenRunSpec(
            run_uid="run", recon_uid="recon", planned=len(ANGLES), detector_shape=(ROWS, COLUMNS), dtype="<f4",
            recon=recon,
        )  # fmt: skip
        views = zip(data, ANGLES, strict=True)
        frames = [("projection", number, frame, float(angle), 1.0) for number, (frame, angle) in enumerate(views, 1)]
        return finished_volume(spec, frames, threads=1)

    from bluesky_streamrecon.recon import engine

    make = engine.make_backend
    monkeypatch.setattr(engine, "make_backend", backends.make_backend)
    expected = volume("cpu")
    made.clear()
    assert_allclose(volume("cuda"), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert made[-2:] == [4, 1]


@pytest.mark.parametrize(
    ("algorithm", "window", "policy", "planned"),
    [("mlem", 12, "newest", 0), ("sirt", 12, "spread", 90), ("art", 24, "newest", 0), ("mlem", None, "newest", 30),
     ("ospml-hybrid", 24, "spread", 90)],
)  # fmt: skip
def test_no_more_memory_is_taken_than_a_run_is_refused_by(algorithm, window, policy, planned, simulated, monkeypatch):
    if not simulated:
        pytest.skip("measured by `streamrecon bench memory --backend cuda`")
    from bluesky_streamrecon.recon.cuda import layout, streams

    taken, most = 0, 0
    device_array = streams.cuda.device_array

    def counted(count, kind):
        nonlocal taken, most
        array, size = device_array(count, kind), count * np.dtype(kind).itemsize
        taken += size
        most = max(most, taken)
        weakref.finalize(array, released, size)
        return array

    def released(size):
        nonlocal taken
        taken -= size

    monkeypatch.setattr(streams.cuda, "device_array", counted)
    monkeypatch.setattr(streams.Launcher, "__call__", lambda *_: None)  # what would be computed is not looked at
    geometry, rows = TomoGeometry(128), 10
    settings = {"window": window, "window_policy": policy, "planned": planned}
    demand = backends.Demand(geometry, rows, make_algorithm(algorithm, {}), **settings)
    with Engine(geometry, rows, algorithm=algorithm, backend="cuda", **settings) as engine:
        for number in range(planned or 60):
            engine.append(np.ones((rows, 128), np.float32), 0.05 * number)
            if number % 10 == 9:
                engine.update()
                engine.begin_slices([0, 4, 9])()
    needed = demand.gpu_memory(rows) - layout._CONTEXT
    assert 0.5 * needed < most <= needed


def test_memory_of_a_gpu_is_released_with_the_engine(data):
    engine = updated(data, "cuda")
    engine.begin_slices([0, 1])()
    kept = [weakref.ref(engine._slabs[0].image), weakref.ref(engine._window.store.data)]
    assert all(array() is not None for array in kept)
    gc.disable()  # memory must not wait for it
    try:
        engine.close()
        del engine
        assert [array() for array in kept] == [None, None]
    finally:
        gc.enable()
