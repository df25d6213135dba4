"""Whatever a run asks for, a GPU makes the images that the CPU makes: settings are drawn, from a known seed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon import Engine

ALGORITHMS = {
    "mlem": {"relaxation": (0.6, 1.0), "floor": (1e-6, 2.0)},
    "osem": {"subsets": (2, 3), "relaxation": (1.0, 0.7)},
    "pml-quadratic": {"strength": (0.02, 0.8)},
    "pml-hybrid": {"strength": (0.1, 0.9), "edge": (0.05, 0.5)},
    "ospml-quadratic": {"subsets": (2, 3), "strength": (0.02, 0.4)},
    "ospml-hybrid": {"subsets": (2, 3), "edge": (0.1, 0.3)},
    "sirt": {"relaxation": (1.0, 0.4), "nonnegative": (True, False)},
    "art": {"relaxation": (0.5, 0.2), "nonnegative": (True, False)},
}


def drawn(random, algorithm, most):
    """Return geometry, rows, window, step and other settings of a run, its angles, weights and line integrals."""
    columns = int(random.integers(9, most))
    size = int(random.integers(7, columns + 4))
    axis = float(random.uniform(0, 1) * columns if random.random() < 0.5 else (columns - 1) / 2)
    geometry = TomoGeometry(columns, axis, size, bool(random.integers(2)))
    rows, count = int(random.integers(1, 7)), 6
    turn = np.pi * int(random.integers(1, 3))  # half acquisition: a whole turn
    angles = random.permutation(random.uniform(0, np.pi) + np.arange(count) * turn / count)
    weights = random.uniform(0.5, 1.5, count) if algorithm in ("mlem", "osem") else np.ones(count)
    data = (random.random((count, rows, columns), np.float32) + 0.5) * np.float32(0.6 * size)
    data[random.random(data.shape) < 0.05] = np.nan
    data[:4, int(random.integers(rows))] = np.nan  # a slice of which nothing is known at first
    options = {name: values[int(random.integers(2))] for name, values in ALGORITHMS[algorithm].items()}
    if random.random() < 0.3:
        options["initial"] = 0.2
    settings = {
        "options": options,
        "window": [None, 3, 4][int(random.integers(3))],
        "window_policy": ["newest", "spread"][int(random.integers(2))],
        "planned": count * int(random.integers(2)),
    }
    return geometry, rows, int(random.integers(1, 4)), settings, zip(data, angles, weights, strict=True)


@pytest.mark.parametrize("seed", range(2), ids=["once", "again"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_images_of_a_drawn_run_are_those_of_the_cpu(algorithm, seed, simulated):
    random = np.random.default_rng([seed, *algorithm.encode()])
    geometry, rows, step, settings, views = drawn(random, algorithm, 18 if simulated else 90)
    settings |= {"algorithm": algorithm}
    with Engine(geometry, rows, **settings) as cpu, Engine(geometry, rows, backend="cuda", **settings) as gpu:
        for number, view in enumerate(views, 1):
            for engine in (cpu, gpu):
                engine.append(*view)
                if number % step == 0:
                    engine.update(1 + number % 2)
        expected = cpu.image()
        assert expected.max() > 0
        assert_allclose(gpu.image(), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        assert_allclose(gpu.typical, cpu.typical, rtol=1e-5)
        for found, kept in zip(gpu.kept(), cpu.kept(), strict=True):
            assert_allclose(found, kept)


@pytest.mark.parametrize(("count", "rows", "columns"), [(33, 17, 9), (33, 1, 130), (3, 17, 130)])
def test_more_angles_rows_and_columns_than_a_block_takes_make_the_image_of_the_cpu(count, rows, columns):
    """Any two of them together: all three take the simulator twice as long."""
    angles = 0.1 + np.arange(count) * np.pi / count
    data = np.random.default_rng(11).random((count, rows, columns), np.float32) * np.float32(4)
    found = {}
    for backend in ("cpu", "cuda"):
        geometry = TomoGeometry(columns, columns - 4.2, 9)  # so that the last columns see the image
        settings = {"algorithm": "sirt", "options": {"initial": 0.3}, "window": None, "backend": backend}
        with Engine(geometry, rows, **settings) as engine:
            for projection, angle in zip(data, angles, strict=True):
                engine.append(projection, float(angle))
            engine.update()
            found[backend] = engine.image()
    assert_allclose(found["cuda"], found["cpu"], rtol=0, atol=1e-5 * np.abs(found["cpu"]).max())
