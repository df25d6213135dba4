"""Analytic projections against the geometry they claim."""

from __future__ import annotations

import numpy as np
import pytest

from bluesky_streamrecon.errors import ConfigError, GeometryError
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.sim_devices import Discs, Ellipses, Foam, SheppLogan, sample_named


def one_ellipse(**values: float) -> Ellipses:
    full = {"u": 0.0, "v": 0.0, "a": 10.0, "b": 10.0, "phi": 0.0, "density": 1.0} | values
    return Ellipses(rows=1, row=np.array([0]), **{name: np.array([value]) for name, value in full.items()})


def test_projection_of_a_disc_is_its_chords():
    seen = one_ellipse(a=20.0, b=20.0, density=0.05).projection(0.7, 101, 50.0)[0]
    t = np.arange(101) - 50.0
    edges = np.linspace(-0.5, 0.5, 201)
    chords = 0.05 * 2 * np.sqrt(np.maximum(20.0**2 - (t[:, None] + edges[None, :]) ** 2, 0)).mean(axis=1)
    np.testing.assert_allclose(seen, chords, atol=2e-3)


@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 2, 2.0, np.pi, 5.5])
def test_projection_keeps_mass_and_lands_where_the_geometry_says(angle):
    ellipse = one_ellipse(u=11.0, v=-7.0, a=9.0, b=4.0, phi=0.6, density=0.02)
    geometry = TomoGeometry(columns=96, axis=50.25)
    seen = ellipse.projection(angle, 96, 50.25)[0].astype(float)
    assert seen.sum() == pytest.approx(np.pi * 9 * 4 * 0.02, rel=1e-5)
    centre = geometry.detector_column(geometry.half + 11.0, geometry.half - 7.0, angle)
    assert (seen * np.arange(96)).sum() / seen.sum() == pytest.approx(centre, abs=5e-3)


@pytest.mark.parametrize("sample", [Foam(seed=3), Discs(seed=3), SheppLogan()], ids=lambda s: type(s).__name__)
def test_projection_equals_the_sum_over_the_image(sample):
    ellipses = sample.body(2, 60.0)
    image = ellipses.image(128, oversample=8)
    axis = (128 - 1) / 2
    np.testing.assert_allclose(ellipses.projection(0.0, 128, axis), image.sum(axis=1), atol=0.02)
    np.testing.assert_allclose(ellipses.projection(np.pi / 2, 128, axis), image.sum(axis=2), atol=0.02)


def test_opposite_projections_mirror_each_other():
    ellipses = Foam(seed=1).body(3, 50.0)
    forward, back = ellipses.projection(0.3, 121, 60.0), ellipses.projection(0.3 + np.pi, 121, 60.0)
    np.testing.assert_allclose(forward, back[:, ::-1], atol=1e-5)


def test_shift_of_the_sample_moves_the_projection_by_its_component():
    ellipse = one_ellipse(density=0.1)
    moved = ellipse.projection(np.pi / 2, 64, 32.0, shift=(100.0, 5.0))
    np.testing.assert_allclose(moved, ellipse.projection(0.0, 64, 37.0), atol=1e-5)


def test_a_truncated_field_of_view_sees_what_falls_on_it():
    ellipse = one_ellipse(a=40.0, b=40.0)
    wide, narrow = ellipse.projection(0.2, 100, 50.0), ellipse.projection(0.2, 40, 20.0)
    np.testing.assert_allclose(narrow, wide[:, 30:70], rtol=1e-6)


@pytest.mark.parametrize("name", ["foam", "discs", "shepp-logan"])
def test_samples_stay_in_their_radius_and_absorb_sensibly(name):
    ellipses = sample_named(name).body(4, 100.0)
    assert ellipses.radius <= 100.0 + 1e-9
    seen = ellipses.projection(0.3, 256, 127.5)
    assert seen.min() >= -1e-6
    assert 0.8 < seen.max() < 3.0


def test_rows_of_a_sample_differ_a_little():
    image = Foam().body(8, 60.0).image(121, oversample=2)
    step = np.abs(np.diff(image, axis=0)).mean() / image.mean()
    assert 0.001 < step < 0.5


def test_pores_do_not_touch():
    foam = Foam(seed=2).body(1, 100.0)
    pores = np.flatnonzero(foam.a < 100.0)
    distance = np.hypot(foam.u[pores, None] - foam.u[pores], foam.v[pores, None] - foam.v[pores])
    distance += np.eye(pores.size) * 1e9
    assert np.all(distance > foam.a[pores, None] + foam.a[pores])
    assert 25 <= pores.size <= 55


def test_seed_decides_the_foam():
    one, same, other = (Foam(seed=seed).body(2, 50.0).image(101, oversample=1) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0


def test_unknown_sample_is_refused_with_the_names_there_are():
    with pytest.raises(ConfigError, match="foam, discs, shepp-logan"):
        sample_named("brick")


def test_ellipses_that_do_not_fit_together_are_refused():
    with pytest.raises(GeometryError, match="one shape"):
        Ellipses(1, np.zeros(2, int), *[np.ones(1)] * 6)
    with pytest.raises(GeometryError, match="stack of 1"):
        Ellipses(1, np.array([1]), *[np.ones(1)] * 6)
    with pytest.raises(GeometryError, match="zero or negative"):
        one_ellipse(a=0.0)
