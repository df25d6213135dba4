"""Algorithms: each equals a few lines of float64 NumPy, converges, and says what its options may be."""

from __future__ import annotations

import numpy as np
import pytest

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon import Algorithm, Engine, reconstruct
from bluesky_streamrecon.recon.algorithms import algorithms
from bluesky_streamrecon.recon.projector import projectors
from bluesky_streamrecon.recon.shear_slab import ShearProjector

NAMES = ["mlem", "osem", "sirt", "art", "pml-quadratic", "pml-hybrid", "ospml-quadratic", "ospml-hybrid"]


@pytest.fixture(scope="session", autouse=True)
def shear_without_kernels():
    """The fast projector behind the interface of a user's own."""
    projectors.add("plain-shear", ShearProjector)
    return "plain-shear"


def measured(geometry, rows, count=13, seed=0):
    """Projections (n, rows, C) of random images, and angles."""
    random = np.random.default_rng(seed)
    angles = random.uniform(-7, 7, count)
    image = random.random((geometry.size, geometry.size, rows)).astype(np.float32)
    image *= np.linspace(0.2, 1, rows, dtype=np.float32)
    return ShearProjector(geometry, angles).forward(image).transpose(0, 2, 1).copy(), angles


def made(geometry, projections, angles, *, updates=1, **settings):
    with Engine(geometry, projections.shape[1], window=None, **settings) as engine:
        for projection, angle in zip(projections, angles, strict=True):
            engine.append(projection, angle)
        for _ in range(updates):
            engine.update()
        return engine.image()


GEOMETRIES = [
    TomoGeometry(columns=40),
    TomoGeometry(columns=33, axis=10.2, size=37),
    TomoGeometry(columns=35, axis=18.4, size=35, disc=True),
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=["square", "truncated", "disc"])
@pytest.mark.parametrize("projector", ["shear", "plain-shear"])
@pytest.mark.parametrize("name", NAMES)
def test_one_step_equals_numpy(name, projector, geometry, reference):
    projections, angles = measured(geometry, rows=5)
    got = made(geometry, projections, angles, algorithm=name, options={"projector": projector})
    expected = reference.last(
        reference.stream(geometry, projections, angles, algorithm=name, window=None, step=len(angles))
    )
    np.testing.assert_allclose(got, expected, atol=1e-5 * expected.max(), rtol=0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sirt", {"relaxation": 0.3}),
        ("sirt", {"relaxation": 1.7, "nonnegative": False}),
        ("art", {"relaxation": 1.0, "nonnegative": False}),
        ("mlem", {"relaxation": 0.6}),
        ("osem", {"subsets": 7, "floor": 0.1, "relaxation": 0.9}),
        ("pml-quadratic", {"strength": 0.5}),
        ("ospml-hybrid", {"strength": 0.3, "edge": 0.02, "subsets": 3}),
    ],
)
def test_options_do_what_they_do_in_numpy(name, options, reference):
    geometry = TomoGeometry(columns=33, axis=15.2)
    projections, angles = measured(geometry, rows=3)
    if name in {"sirt", "art"}:
        projections -= projections.mean()  # so images would become negative
    got = made(geometry, projections, angles, algorithm=name, options=options)
    expected = reference.last(
        reference.stream(geometry, projections, angles, algorithm=name, window=None, step=len(angles), **options)
    )
    assert (expected.min() < 0) == (options.get("nonnegative") is False)
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("policy", ["newest", "spread"])
@pytest.mark.parametrize("name", ["mlem", "osem", "sirt", "pml-quadratic", "pml-hybrid"])
def test_a_scan_equals_numpy(name, policy, reference):
    geometry = TomoGeometry(columns=28, axis=13.1)
    projections, angles = measured(geometry, rows=3, count=30)
    with Engine(geometry, 3, algorithm=name, window=8, window_policy=policy) as engine:
        for number, (projection, angle) in enumerate(zip(projections, angles, strict=True), 1):
            engine.append(projection, angle)
            if number % 3 == 0:
                engine.update()
        got = engine.image()
    images = reference.stream(geometry, projections, angles, algorithm=name, window=8, step=3, policy=policy)
    expected = reference.last(images)
    np.testing.assert_allclose(got, expected, atol=1e-4 * expected.max(), rtol=0)


@pytest.mark.parametrize("name", [*NAMES, "fbp"])
def test_bad_values_do_no_harm(name):
    geometry = TomoGeometry(columns=30)
    projections, angles = measured(geometry, rows=3)
    projections[2, :, 7] = np.nan
    projections[3, 1, :] = np.inf
    projections[4] = -projections[4]
    projections[5] = 0
    projections[6, 0, 3] = -np.inf
    projections[7] = 30
    projections[:, 2] = 0
    image = made(geometry, projections, angles, algorithm=name, updates=5)
    assert np.isfinite(image).all()
    assert np.abs(image).max() < 1e4


@pytest.mark.parametrize("name", NAMES)
def test_missing_values_are_left_out(name):
    geometry = TomoGeometry(columns=30)
    projections, angles = measured(geometry, rows=1, count=40)
    whole = made(geometry, projections, angles, algorithm=name, updates=10)
    projections[:, :, 12] = np.nan
    without = made(geometry, projections, angles, algorithm=name, updates=10)
    assert np.sqrt(((whole - without) ** 2).mean()) < 0.25 * whole.mean()


@pytest.mark.parametrize("name", ["mlem", "sirt", "art", "osem", "pml-quadratic", "pml-hybrid"])
@pytest.mark.parametrize("sample", ["foam", "shepp-logan"])
def test_fast_projector_converges_like_line_integrals(name, sample, phantoms):
    size, angles = 96, np.arange(60) * np.pi / 60
    ellipses = phantoms.foam() if sample == "foam" else phantoms.SHEPP_LOGAN
    truth = phantoms.raster(ellipses, size)
    projections = phantoms.sinogram(ellipses, size, angles, size, (size - 1) / 2).astype(np.float32)[:, None]
    error = {}
    for projector in ("shear", "line-integrals"):
        times = {"art": 1, "osem": 3}.get(name, 12)
        image = reconstruct(projections, angles, algorithm=name, iterations=times, projector=projector, threads=1)
        error[projector] = phantoms.nrmse(image[0], truth)
    assert error["shear"] < 0.6
    # Rounding to half pixels, and the detector's columns, blur the head's thin skull; less so on finer grids.
    assert error["shear"] < error["line-integrals"] * (1.02 if sample == "foam" else 1.04)


@pytest.mark.parametrize("name", ["pml-quadratic", "pml-hybrid"])
def test_strength_means_the_same_in_any_unit(name):
    geometry = TomoGeometry(columns=30)
    projections, angles = measured(geometry, rows=2)
    one = made(geometry, projections, angles, algorithm=name, updates=4)
    other = made(geometry, 1000 * projections, angles, algorithm=name, updates=4)
    np.testing.assert_allclose(other, 1000 * one, rtol=1e-3, atol=1e-3 * other.max())


def test_stronger_penalty_gives_smoother_image():
    geometry = TomoGeometry(columns=40)
    projections, angles = measured(geometry, rows=2, count=30)
    roughness = [
        np.abs(
            np.diff(made(geometry, projections, angles, algorithm="pml-quadratic", updates=8, options=options))
        ).mean()
        for options in ({"strength": 0}, {"strength": 0.1}, {"strength": 10.0})
    ]
    assert roughness[0] > 1.1 * roughness[1] > 1.3 * roughness[2]
    mlem = made(geometry, projections, angles, algorithm="mlem", updates=8)
    none = made(geometry, projections, angles, algorithm="pml-quadratic", updates=8, options={"strength": 0})
    np.testing.assert_allclose(none, mlem, rtol=1e-4)


def test_users_algorithm_is_a_few_lines():
    class Landweber(Algorithm):
        """Plain gradient descent."""

        def step(self, problem):
            problem.image += problem.back(problem.residual()) / (problem.sensitivity.max() * len(problem.image))

    algorithms.add("landweber-of-a-test", Landweber)
    geometry = TomoGeometry(columns=40)
    projections, angles = measured(geometry, rows=3, count=30)
    errors = []
    for updates in (1, 10, 100):
        image = made(geometry, projections, angles, algorithm="landweber-of-a-test", updates=updates)
        predicted = ShearProjector(geometry, angles).forward(image.transpose(1, 2, 0).copy())
        errors.append(np.abs(predicted - projections.transpose(0, 2, 1)).mean())
    assert errors[0] > 1.5 * errors[1] > 3 * errors[2]


@pytest.mark.parametrize("projector", ["shear", "line-integrals"])
def test_operations_take_any_sinogram_and_give_arrays(projector):
    geometry = TomoGeometry(columns=30)
    seen = {}

    class Probe(Algorithm):
        """Looks at everything a problem offers."""

        def step(self, problem):
            forward = problem.forward()
            straight, turned = forward.copy(), forward[:, ::-1].copy()
            seen["turned"] = problem.back(forward[:, ::-1]).copy(), problem.back(turned).copy()
            seen["same"] = problem.back(problem.forward()).copy(), problem.back(straight).copy()
            assert problem.measured.shape == forward.shape == (13, 30, 3)
            assert problem.ray_lengths.shape == (13, 30)
            assert problem.sensitivity.shape == (30, 30)
            assert sorted(problem.angles) == sorted(problem.all_angles)
            problem.image = 2 * problem.image

    algorithms.add(f"probe-of-a-test-{projector}", Probe)
    projections, angles = measured(geometry, rows=3)
    options = {"projector": projector, "initial": 0.5}
    image = made(geometry, projections, angles, algorithm=f"probe-of-a-test-{projector}", options=options)
    assert (image == 1).all()
    for one, other in seen.values():
        np.testing.assert_array_equal(one, other)


def test_algorithms_are_found_by_name():
    assert set(NAMES) | {"fbp"} <= set(algorithms.names())
    assert algorithms.get("mlem").__name__ == "MLEM"
    with pytest.raises(ConfigError, match=r"algorithm: got 'em', expected one of art, fbp, .*mlem, osem"):
        algorithms.get("em")
    with pytest.raises(ConfigError, match="comes with the package"):
        algorithms.add("mlem", algorithms.get("mlem"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mlem", {"beta": 1}, r"got option 'beta', expected one of: floor=1e-06"),
        ("mlem", {"floor": 0}, "floor: got 0; expected `float` > 0"),
        ("sirt", {"relaxation": 2.5}, "relaxation: got 2.5; expected `float` <= 2"),
        ("sirt", {"nonnegative": 1}, "nonnegative: got 1; expected `bool`"),
        ("osem", {"subsets": 0}, "subsets: got 0; expected `int` >= 1"),
        ("pml-quadratic", {"strength": -1}, "strength: got -1"),
        ("pml-hybrid", {"edge": "sharp"}, "edge: got 'sharp'"),
        ("fbp", {"filter": "box"}, "filter: got 'box'; expected one of ramp, shepp-logan"),
        ("mlem", {"initial": -1}, "initial: got -1"),
        ("mlem", {"projector": "joseph"}, "projector: got 'joseph'"),
    ],
)
def test_options_that_can_not_work_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        Engine(TomoGeometry(columns=8), 1, algorithm=name, options=options)
