"""FBP and reconstruction in one call."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from bluesky_streamrecon.errors import ConfigError, DataError
from bluesky_streamrecon.recon import reconstruct
from bluesky_streamrecon.recon.fbp import FILTERS, angular_weights, filter_sinogram


def disc(size, angles, axis):
    """A uniform disc of attenuation 1/size: image, and projections (n, 1, C)."""
    radius, half = 0.35 * size, (size - 1) / 2
    y, x = np.mgrid[0:size, 0:size] - half
    chord = 2 * np.sqrt(np.maximum(radius**2 - (np.arange(size) - axis) ** 2, 0)) / size
    return (x**2 + y**2 < radius**2) / size, np.tile(chord, (len(angles), 1, 1)).astype(np.float32)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("projector", ["shear", "siddon"])
def test_fbp_gives_attenuation_in_its_unit(name, projector):
    angles = np.arange(120) * math.pi / 120
    truth, projections = disc(80, angles, 41.0)
    image = reconstruct(projections, angles, axis=41.0, algorithm="fbp", filter=name, projector=projector)
    assert image[0, 30:50, 30:50].mean() == pytest.approx(1 / 80, rel=0.02)
    assert np.abs(image[0, 2:8, 30:50]).mean() < 0.03 / 80
    assert np.sqrt(((image[0] - truth) ** 2).mean()) < 0.25 * truth.mean() + 0.1 / 80


def test_fbp_weighs_uneven_angles():
    angles = np.concatenate((np.arange(60) * math.pi / 60, np.arange(60) * math.pi / 240))
    _, projections = disc(60, angles, 29.5)
    image = reconstruct(projections, angles, algorithm="fbp")
    assert image[0, 25:35, 25:35].mean() == pytest.approx(1 / 60, rel=0.02)


def test_angular_weights_add_up_to_half_a_turn():
    random = np.random.default_rng(0)
    angles = np.concatenate((random.uniform(-9, 9, 17), [0.0, math.pi, 0.0]))
    weights = angular_weights(angles)
    assert weights.sum() == pytest.approx(math.pi)
    assert (weights > 0).all()
    parts = [angular_weights(angles[member::3], angles).sum() for member in range(3)]
    assert sum(parts) == pytest.approx(math.pi)
    assert angular_weights(np.zeros(0)).shape == (0,)


def test_filter_fills_missing_values_from_their_neighbours():
    sinogram = np.linspace(1, 2, 30, dtype=np.float32)[None, :, None].repeat(2, axis=2)
    holes = sinogram.copy()
    holes[0, 11:13, 1] = np.nan
    np.testing.assert_allclose(filter_sinogram(holes), filter_sinogram(sinogram), atol=1e-6)
    assert np.isfinite(filter_sinogram(np.full((1, 8, 1), np.nan, np.float32))).all()


def test_reconstruct_live_equals_engine_step_by_step(reference):
    from bluesky_streamrecon.geometry import TomoGeometry

    angles = np.arange(18) * 2.4
    _, projections = disc(30, angles, 14.5)
    got = reconstruct(projections, angles, window=6, step=3, threads=1)
    images = list(reference.stream(TomoGeometry(columns=30), projections, angles, window=6, step=3))
    np.testing.assert_allclose(got, images[-1], atol=1e-4 * images[-1].max())
    assert len(images) == 6


def test_reconstruct_refuses_what_does_not_fit():
    projections = np.ones((4, 2, 8), np.float32)
    with pytest.raises(DataError, match="got 3 for 4 projections"):
        reconstruct(projections, np.zeros(3))
    with pytest.raises(DataError, match=r"got shape \(4, 2\)"):
        reconstruct(projections[:, :, 0], np.zeros(4))
    with pytest.raises(ConfigError, match="expected 1 <= step <= window"):
        reconstruct(projections, np.zeros(4), window=2, step=3)


def test_importing_the_room_loads_neither_numba_nor_mpi():
    code = (
        "import sys, bluesky_streamrecon.recon as r; dir(r); r.algorithm_names(); r.get_algorithm('mlem'); "
        "assert not {'numba', 'mpi4py', 'scipy'} & set(sys.modules), sorted(sys.modules); "
        "r.reconstruct; r.Engine; assert 'mpi4py' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=50)
