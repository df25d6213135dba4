"""The GPU makes the images that the definition and the CPU engine make."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bluesky_streamrecon.errors import DeviceError
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon import Algorithm, Engine
from bluesky_streamrecon.recon.algorithms import algorithms

TINY = TomoGeometry(18)
ALGORITHMS = ("mlem", "osem", "pml-quadratic", "pml-hybrid", "sirt", "art", "fbp")


def half_turn(count, start=0.2):
    return start + np.arange(count) * np.pi / count


def scan(geometry, rows, angles, seed=3):
    random = np.random.default_rng(seed)
    data = (random.random((len(angles), rows, geometry.columns), np.float32) + 0.5) * np.float32(0.6 * geometry.size)
    data[random.random(data.shape) < 0.01] = np.nan
    return data


def images(geometry, data, angles, *, step=None, weights=None, **settings):
    """Return the image after each step, as (rows, N, N)."""
    with Engine(geometry, data.shape[1], planned=len(data), **settings) as engine:
        weights = np.ones(len(data)) if weights is None else weights
        for number, (projection, angle, weight) in enumerate(zip(data, angles, weights, strict=True), 1):
            engine.append(projection, float(angle), weight)
            if number % (step or len(data)) == 0:
                engine.update()
                yield engine.image()


def assert_same(image, expected, tolerance=1e-6):
    assert np.isfinite(image).all()
    assert_allclose(image, expected, rtol=0, atol=tolerance * np.abs(expected).max())


GEOMETRIES = {
    "full": (TomoGeometry(40), TomoGeometry(40), half_turn(5)),
    "disc, odd sizes, axis off": (TomoGeometry(37, 15.3, 35, True), TomoGeometry(200, 83.3, 187, True), half_turn(4)),
    "small image, far axis": (TomoGeometry(24, -4.0, 18), TomoGeometry(128, -20.0, 96), half_turn(3)),
    "all steep": (TomoGeometry(20), TomoGeometry(256), np.array([0.0, 0.1, -0.3, 3.0])),
    "all flat, ties at 45 degrees": (TomoGeometry(20), TomoGeometry(256), np.array([1.57, 1.3, -1.5, np.pi / 4])),
    "two_tiles": (TomoGeometry(70, 30.3, 67, True), TomoGeometry(512), np.array([0.0, 0.785, 1.6, 2.5])),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_mlem_is_what_its_definition_says_in_any_geometry(name, reference, simulated):
    tiny, large, angles = GEOMETRIES[name]
    geometry = tiny if simulated else large
    data = scan(geometry, 2, angles)
    expected = list(reference.stream(geometry, data, angles, window=None, step=len(angles)))[-1]
    assert_same(list(images(geometry, data, angles, window=None, backend="cuda"))[-1], expected)


@pytest.mark.parametrize("seed", range(4))
def test_projection_and_back_projection_are_what_they_are_by_definition_in_drawn_geometries(
    seed, reference, simulated, monkeypatch
):
    random = np.random.default_rng(seed)
    columns = int(random.integers(9, 24 if simulated else 300))
    size = int(random.integers(5, columns + 6))
    geometry = TomoGeometry(columns, float(random.uniform(-0.2, 1.2) * columns), size, bool(seed % 2))
    angles = random.uniform(-np.pi, 3 * np.pi, 3)  # more than a turn
    image, sinogram = random.random((2, size, size)) * geometry.mask(), random.random((3, 2, columns))

    @dataclasses.dataclass(frozen=True)
    class Looking(Algorithm):
        def step(self, problem):
            problem.image = image.transpose(1, 2, 0)
            found["forward"] = problem.forward().transpose(0, 2, 1).copy()
            found["back"] = problem.back(turned(problem.angles).transpose(0, 2, 1)).transpose(2, 0, 1)
            found["order"] = problem.angles

    def turned(order):
        return sinogram[[int(np.flatnonzero(angles == angle)[0]) for angle in order]].astype(np.float32)

    found = {}
    monkeypatch.setitem(algorithms._added, "looking", Looking)
    ones = np.ones((3, 2, columns), np.float32)
    list(images(geometry, ones, angles, algorithm="looking", window=None, backend="cuda"))
    projector = reference.ReferenceProjector(geometry, found["order"])
    assert_same(found["forward"], projector.forward(image))
    assert_same(found["back"], projector.back(turned(found["order"])))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_algorithm_makes_the_image_of_the_cpu_and_of_its_definition(algorithm, reference, simulated):
    geometry = TINY if simulated else TomoGeometry(130, 61.2, 0, True)
    angles = half_turn(4 if simulated else 24)
    several = not simulated or algorithm in ("mlem", "pml-quadratic")  # groups of four slices
    data = scan(geometry, 5 if several else 3, angles)
    (expected,) = images(geometry, data, angles, algorithm=algorithm, window=None)
    (image,) = images(geometry, data, angles, algorithm=algorithm, window=None, backend="cuda")
    assert_same(image, expected, 1e-5)
    if algorithm != "fbp":
        (expected,) = reference.stream(geometry, data, angles, algorithm=algorithm, window=None, step=len(angles))
        assert_same(image, expected, 1e-6 if simulated else 2e-6)


@pytest.mark.parametrize("policy", ["newest", "spread"])
def test_window_moves_on_as_on_the_cpu(policy, simulated):
    angles = half_turn(8 if simulated else 60)
    data = scan(TINY, 2, angles)
    settings = {"window": 4, "window_policy": policy, "step": 2}
    expected = list(images(TINY, data, angles, **settings))
    for image, wanted in zip(images(TINY, data, angles, backend="cuda", **settings), expected, strict=True):
        assert_same(image, wanted, 1e-5)


def test_relaxed_signed_and_weighted_updates_are_those_of_the_cpu():
    angles = half_turn(4)
    data = scan(TINY, 2, angles)
    for algorithm, options, weights in (
        ("mlem", {"relaxation": 0.5}, None),
        ("sirt", {"nonnegative": False, "initial": 0.3}, None),
        ("mlem", {}, [0.6, 1.4, 0.8, 1.2]),
    ):
        settings = {"algorithm": algorithm, "options": options, "window": None, "weights": weights}
        (expected,) = images(TINY, data, angles, **settings)
        (image,) = images(TINY, data, angles, backend="cuda", **settings)
        assert_same(image, expected, 1e-5)


class Neighbour:
    """Stands in for the blocks above and below: slices of a fixed value."""

    members = 1

    def __init__(self, above, below):
        self.values = above, below

    def exchange(self, first, last):
        return tuple(None if value is None else np.full_like(first, value) for value in self.values)


@pytest.mark.parametrize(("algorithm", "rows"), [("pml-quadratic", 5), ("pml-hybrid", 4)])
def test_neighbouring_blocks_pull_at_the_outermost_slices(algorithm, rows):
    angles = half_turn(2)
    data = scan(TINY, rows, angles)
    settings = {"algorithm": algorithm, "window": None, "options": {"strength": 0.5}}
    (alone,) = images(TINY, data, angles, backend="cuda", **settings)
    (expected,) = images(TINY, data, angles, group=Neighbour(3.0, None), **settings)
    (image,) = images(TINY, data, angles, backend="cuda", group=Neighbour(3.0, None), **settings)
    assert_same(image, expected, 1e-5)
    assert np.abs(image[0] - alone[0]).max() > 0.01 * alone[0].max()
    (expected,) = images(TINY, data, angles, group=Neighbour(None, 2.0), **settings)
    (image,) = images(TINY, data, angles, backend="cuda", group=Neighbour(None, 2.0), **settings)
    assert_same(image, expected, 1e-5)


def test_either_backend_goes_on_from_the_other():
    angles = half_turn(6)
    data = scan(TINY, 3, angles)
    settings = {"algorithm": "pml-quadratic", "window": 4}

    def halves(first, second):
        with Engine(TINY, 3, backend=first, **settings) as engine:
            for projection, angle in zip(data[:4], angles[:4], strict=True):
                engine.append(projection, float(angle))
            engine.update()
            kept_angles, kept = engine.kept()
            saved = (engine.image(), engine.image_number)
            typical = engine.typical
        with Engine(TINY, 3, backend=second, **settings) as engine:
            for projection, angle in zip(kept, kept_angles, strict=True):
                engine.append(projection, float(angle))
            engine.load(*saved, typical=typical)
            for projection, angle in zip(data[4:], angles[4:], strict=True):
                engine.append(projection, float(angle))
            engine.update()
            return engine.image()

    expected = halves("cpu", "cpu")
    assert_same(halves("cpu", "cuda"), expected, 1e-5)
    assert_same(halves("cuda", "cpu"), expected, 1e-5)


@dataclasses.dataclass(frozen=True)
class Curious(Algorithm):
    """A user's algorithm, which looks at everything with NumPy."""

    positive = True

    def step(self, problem):
        ratio = problem.ratio(1e-6)
        ratio = ratio**0.5
        problem.multiply(ratio)
        problem.image[...] *= np.float32(1.5)
        predicted = problem.forward().copy()  # the next comparison may use its memory
        missing = np.isnan(problem.measured)
        residual = problem.residual()
        residual[missing] = 0
        weight = 1 / np.maximum(problem.sensitivity, 1)[:, :, None]
        problem.image += weight * problem.back(residual * (predicted / np.maximum(predicted, 1e-3)))
        np.maximum(problem.image, np.float32(0.05), out=problem.image)  # so that no ratio is that of the floor
        late = problem.ratio(1e-6)  # not computed yet: it must be of the image as it is now
        problem.image[...] *= np.float32(0.5)
        problem.multiply(late)
        problem.image[...] *= np.float32(1.2)  # which is what is read


def test_users_algorithm_runs_with_copies(monkeypatch):
    monkeypatch.setitem(algorithms._added, "curious", Curious)
    angles = half_turn(3)
    data = scan(TINY, 2, angles)
    (expected,) = images(TINY, data, angles, algorithm="curious", window=None)
    (image,) = images(TINY, data, angles, algorithm="curious", window=None, backend="cuda")
    assert expected.max() < 10
    assert_same(image, expected, 1e-5)


def test_rows_are_not_shared_on_a_gpu():
    class Member:
        member, members = 0, 2

        def sum(self, array):
            raise AssertionError("not reached")

    with pytest.raises(DeviceError, match="ranks can not share rows on a GPU"):
        Engine(TINY, 2, backend="cuda", group=Member())
