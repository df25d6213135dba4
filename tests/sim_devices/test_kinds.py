"""Samples of polygons and random fields: their line integrals, and what a simulated beamline sees of them."""

from __future__ import annotations

import numpy as np
import pytest

from bluesky_streamrecon.sim_devices import KINDS, Exposure, FrameKind, Kind, Noise, sim_beamline
from bluesky_streamrecon.sim_devices.prisms import Polygons
from bluesky_streamrecon.sim_devices.samples import crack

QUIET = Noise(poisson=False, readout=0, dark=0, stripes=0, gain=0, dead=0, hot=0)


@pytest.mark.parametrize("kind", KINDS)
def test_line_integrals_of_a_kind_are_those_of_its_image(kind):
    body = Kind(kind, seed=3).body(1, 28)
    image = body.image(64)[0].astype(float)
    for angle, sums in ((0.0, image.sum(axis=0)), (np.pi / 2, image.sum(axis=1))):  # x, then y along the detector
        assert body.projection(angle, 64, 31.5)[0] == pytest.approx(sums, abs=0.04 * sums.max())
    moments = [float(body.projection(angle, 64, 31.5).sum()) for angle in (0.3, 1.0, 2.2)]
    assert moments == pytest.approx([image.sum()] * 3, rel=2e-3)
    at = (np.arange(64) - 31.5) @ image.sum(axis=0), (np.arange(64) - 31.5) @ image.sum(axis=1)
    turned = (np.arange(64) - 31.5) @ body.projection(0.5, 64, 31.5)[0]
    assert turned == pytest.approx(at[0] * np.cos(0.5) + at[1] * np.sin(0.5), abs=0.02 * image.sum())


@pytest.mark.parametrize("off", [0.0, 1e-12, 1e-7, -1e-6])
@pytest.mark.parametrize("turn", range(4))
def test_edges_along_the_rays_count_as_the_others_do(turn, off):
    left, right, low, high = -5.25, 7.5, -3.4, 4.1
    box = np.array([(left, low), (right, low), (right, high), (left, high)])
    seen = Polygons((box,), (0.5,)).projection(turn * np.pi / 2 + off, 32, 15.5)
    across, (first, stop) = (high - low, (left, right)) if turn % 2 == 0 else (right - left, (low, high))
    first, stop = (first, stop) if turn in (0, 1) else (-stop, -first)
    edges = np.clip(np.arange(33) - 16.0, first, stop)
    np.testing.assert_allclose(seen, 0.5 * across * np.diff(edges), atol=2e-5)


@pytest.mark.parametrize("kind", ["grains", "porous"])
def test_every_row_sees_the_same_about_its_own_axis_and_moves_with_the_sample(kind):
    body = Kind(kind).body(3, 20)
    seen = body.projection(0.4, 64, np.array([30.0, 32.0, 30.0]), shift=(5.0, 2.0))
    for row, axis in zip(seen, (30.0, 32.0, 30.0), strict=True):
        moved = axis + 5 * np.cos(0.4) + 2 * np.sin(0.4)
        np.testing.assert_array_equal(row, Kind(kind).body(1, 20).projection(0.4, 64, moved)[0])
    assert body.image(48).shape == (3, 48, 48)
    assert body.taken_from(np.array([2, 0])).rows == 2


@pytest.mark.parametrize("kind", ["grains", "porous", "shells"])
def test_a_crack_is_as_empty_as_the_sample_is_dense_on_average(kind):
    body = Kind(kind).body(2, 20)
    mass = body.image(64).sum(axis=(1, 2), dtype=float)
    np.testing.assert_allclose(body.mean * np.pi * 20**2, mass, rtol=0.02)
    np.testing.assert_allclose(crack(body).density, -body.mean)


def test_a_beamline_has_a_sample_of_any_kind_by_name_also_with_a_tilted_axis():
    for tilt in (0.0, 1.0):
        camera = sim_beamline("fibres", rows=3, columns=96, seed=2, tilt=tilt, noise=QUIET).camera
        shown = FrameKind.PROJECTION, FrameKind.FLAT
        seen, flat = (camera.frame(Exposure(kind, 30.0, 0)).astype(float) for kind in shown)
        lines = -np.log(seen / flat)
        expected = camera.sample.projection(np.radians(30), 96, camera.axis)
        assert 0.5 < expected.max() < 3
        np.testing.assert_allclose(lines[1], expected[1], atol=2e-3 if tilt == 0 else 0.02)
    assert not np.array_equal(seen[0], seen[2])
