"""Projectors: matched with their adjoint, equal to float64, and inside their memory."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bluesky_streamrecon.errors import ConfigError, GeometryError
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon import reconstruct
from bluesky_streamrecon.recon import shear as shear_module
from bluesky_streamrecon.recon.projector import projectors
from bluesky_streamrecon.recon.shear import ShearLayout, ShearTables, slab_rows
from bluesky_streamrecon.recon.shear_slab import ShearProjector

SiddonProjector = projectors.get("line-integrals")
EXACT = [0.0, math.pi / 4, math.pi / 2, 3 * math.pi / 4, math.pi, -math.pi / 2, 3 * math.pi / 2, 2 * math.pi]
slow_first_call = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@st.composite
def geometries(draw):
    columns = draw(st.integers(2, 70))
    return TomoGeometry(
        columns=columns,
        axis=draw(st.floats(-columns, 2 * columns) | st.just((columns - 1) / 2)),
        size=draw(st.integers(2, 70)),
        disc=draw(st.booleans()),
    )


angle_sets = st.lists(st.floats(-10, 10) | st.sampled_from(EXACT), min_size=1, max_size=9)


def adjoint_error(projector, slices, seed):
    random = np.random.default_rng(seed)
    image = random.random((*projector.domain_shape, slices)).astype(np.float32)
    sinogram = random.random((*projector.range_shape, slices)).astype(np.float32)
    forward, back = projector.forward(image), projector.back(sinogram)
    assert forward.dtype == back.dtype == np.float32
    left = (forward.astype(np.float64) * sinogram).sum()
    right = (back.astype(np.float64) * image).sum()
    return abs(left - right) / max(abs(left), 1e-3)


@pytest.mark.parametrize("kind", [ShearProjector, SiddonProjector])
@slow_first_call
@given(geometry=geometries(), angles=angle_sets, slices=st.integers(1, 20), seed=st.integers(0, 99))
def test_back_projection_is_adjoint_of_forward(kind, geometry, angles, slices, seed):
    assert adjoint_error(kind(geometry, np.array(angles)), slices, seed) <= 1e-6


@slow_first_call
@given(geometry=geometries(), angles=angle_sets, slices=st.sampled_from([1, 5, 16, 18]))
def test_shear_projector_agrees_with_float64(reference, geometry, angles, slices):
    random = np.random.default_rng(1)
    fast, slow = ShearProjector(geometry, np.array(angles)), reference.ReferenceProjector(geometry, angles)
    image = random.random((*fast.domain_shape, slices)).astype(np.float32)
    sinogram = random.random((*fast.range_shape, slices)).astype(np.float32)
    expected = slow.forward(image.transpose(2, 0, 1).astype(np.float64)).transpose(0, 2, 1)
    np.testing.assert_allclose(fast.forward(image), expected, atol=1e-6 * max(1, expected.max()), rtol=0)
    expected = slow.back(sinogram.transpose(0, 2, 1).astype(np.float64)).transpose(1, 2, 0)
    np.testing.assert_allclose(fast.back(sinogram), expected, atol=1e-6 * max(1, expected.max()), rtol=0)


@slow_first_call
@given(geometry=geometries(), angles=angle_sets)
def test_sensitivity_and_ray_lengths_are_projections_of_ones(geometry, angles):
    angles = np.array(angles)
    projector = ShearProjector(geometry, angles)
    tables = ShearTables(ShearLayout(geometry), angles)
    seen = projector.back(np.ones((*projector.range_shape, 1), np.float32))[:, :, 0]
    np.testing.assert_allclose(tables.sensitivity(), seen, atol=1e-5)
    weights = np.random.default_rng(2).uniform(0.5, 2, len(angles)).astype(np.float32)
    weighted = projector.back(np.ones((*projector.range_shape, 1), np.float32) * weights[:, None, None])[:, :, 0]
    np.testing.assert_allclose(tables.sensitivity(weights), weighted, atol=2e-5)
    size = geometry.size
    gains = tables.gains()[:size, :size]
    well = geometry.mask() & (seen > 0.01)
    np.testing.assert_allclose(gains[well] * seen[well], 1, rtol=1e-3)
    assert np.isnan(gains[~geometry.mask()]).all()
    assert np.isnan(gains[seen < 5e-4]).all()
    paths = projector.forward(np.ones((*projector.domain_shape, 1), np.float32))[tables.order, :, 0]
    np.testing.assert_allclose(tables.ray_lengths, paths, atol=1e-5 * size)


def test_whole_pixels_in_field_of_view_are_seen_by_every_angle():
    geometry = TomoGeometry(columns=100, size=40)
    angles = np.linspace(0, 7, 11)
    np.testing.assert_allclose(ShearTables(ShearLayout(geometry), angles).sensitivity(), 11, rtol=1e-6)


def test_siddon_measures_chords_exactly():
    size, angle = 50, math.atan(0.5)
    projector = SiddonProjector(TomoGeometry(columns=51, size=size), np.array([0, math.pi / 2, angle]))
    chords = projector.forward(np.ones((size, size, 1), np.float32))[:, :, 0]
    np.testing.assert_allclose(chords[0, 1:-1], size, rtol=1e-6)
    np.testing.assert_allclose(chords[1, 1:-1], size, rtol=1e-6)
    assert chords[2, 25] == pytest.approx(size / math.cos(angle), rel=1e-6)


@pytest.mark.parametrize(("kind", "tolerance"), [(ShearProjector, 0.01), (SiddonProjector, 0.04)])
def test_smooth_sample_is_seen_where_it_is(kind, tolerance):
    geometry = TomoGeometry(columns=100, axis=46.3, size=96)
    width, left, top = 8.0, 9.0, -5.0
    y, x = np.mgrid[0:96, 0:96] - geometry.half
    image = np.exp(-((x - left) ** 2 + (y - top) ** 2) / (2 * width**2)).astype(np.float32)[:, :, None]
    angles = np.concatenate((EXACT, np.arange(25) * 0.26))
    seen = kind(geometry, angles).forward(image)[:, :, 0]
    middle = 46.3 + left * np.cos(angles) + top * np.sin(angles)
    expected = width * math.sqrt(2 * math.pi) * np.exp(-((np.arange(100) - middle[:, None]) ** 2) / (2 * width**2))
    np.testing.assert_allclose(seen, expected, atol=tolerance * expected.max())


@pytest.mark.parametrize(
    ("columns", "size", "axis", "disc", "width"),
    [(2048, 0, 1023.5, False, 4), (2047, 0, 300.0, True, 8), (1024, 0, 511.5, False, 16)]
    + [(*odd, width) for odd in ((33, 31, 65.9, False), (31, 257, -30.0, False)) for width in (4, 8, 16)],
)
def test_kernels_stay_inside_their_memory(columns, size, axis, disc, width, monkeypatch):
    guard = 8192
    allocated = []

    def guarded(shape):
        count = math.prod(shape)
        memory = np.full(count + 2 * guard, np.nan, np.float32)
        inner = memory[guard : guard + count]
        inner[:] = 0
        allocated.append((memory, count))
        return inner.reshape(shape)

    monkeypatch.setattr(shear_module, "aligned_zeros", guarded)
    monkeypatch.setattr("bluesky_streamrecon.recon.slab.aligned_zeros", guarded)
    geometry = TomoGeometry(columns=columns, size=size, axis=axis, disc=disc)
    angles = np.array([0.0, math.pi / 2, math.pi / 4, -2.0] if columns > 1000 else [*EXACT, 0.3, -2.0])
    projector = ShearProjector(geometry, angles)
    forward = projector.forward(np.ones((geometry.size, geometry.size, width), np.float32))
    back = projector.back(np.ones((*projector.range_shape, width), np.float32))
    assert np.isfinite(forward).all()
    assert np.isfinite(back).all()
    assert len(allocated) >= 3
    for memory, count in allocated:
        assert np.isnan(memory[:guard]).all()
        assert np.isnan(memory[guard + count :]).all()


def test_slab_width_does_not_change_a_slice():
    geometry = TomoGeometry(columns=45, axis=20.2)
    projector = ShearProjector(geometry, np.arange(12) * 0.5)
    image = np.random.default_rng(0).random((45, 45, 16)).astype(np.float32)
    sinogram = projector.forward(image)
    back = projector.back(sinogram)
    for count in (1, 4, 7, 8):
        np.testing.assert_array_equal(projector.forward(image[:, :, :count]), sinogram[:, :, :count])
        np.testing.assert_array_equal(projector.back(sinogram[:, :, :count]), back[:, :, :count])


@pytest.mark.parametrize(
    ("rows", "lanes"), [(1, 4), (2, 4), (5, 8), (16, 16), (18, 20), (24, 24), (100, 100), (30, 32)]
)
def test_rows_waste_few_lanes(rows, lanes):
    slabs = slab_rows(rows, 16)
    assert sum(slab.width for slab in slabs) == lanes
    assert [slab.first for slab in slabs] == list(np.cumsum([0, *(slab.count for slab in slabs)])[:-1])
    assert sum(slab.count for slab in slabs) == rows


@pytest.mark.parametrize("kind", [ShearProjector, SiddonProjector])
def test_wrong_shapes_are_refused(kind):
    projector = kind(TomoGeometry(columns=8), np.zeros(2))
    with pytest.raises(GeometryError, match=r"image: got shape \(8, 7, 1\)"):
        projector.forward(np.zeros((8, 7, 1), np.float32))
    with pytest.raises(GeometryError, match=r"sinogram: got shape \(2, 9, 1\)"):
        projector.back(np.zeros((2, 9, 1), np.float32))
    with pytest.raises(GeometryError, match="finite angles"):
        kind(TomoGeometry(columns=8), np.array([np.nan]))


@pytest.mark.parametrize("size", [1, -5, 4097, 100_000])
def test_image_that_is_far_wider_than_any_view_is_refused_before_it_takes_memory(size):
    with pytest.raises(GeometryError, match=f"image size: got {size}, expected 2 to 4096 pixels for 256 detector col"):
        TomoGeometry(256, size=size)
    assert TomoGeometry(1024, size=8192).size == 8192


def test_projectors_are_found_by_name():
    assert {"shear", "line-integrals"} <= set(projectors.names())
    with pytest.raises(ConfigError, match=r"expected one of line-integrals.*, shear"):
        projectors.get("joseph")


class Flattening(SiddonProjector):
    """Return one slice of many."""

    def forward(self, image):
        return super().forward(image)[:, :, :1]


class Flat(SiddonProjector):
    """Knows nothing of slices."""

    def forward(self, image):
        return super().forward(image)[:, :, 0]


class Summing(SiddonProjector):
    def back(self, sinogram):
        return super().back(sinogram)[:, :, :1]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Flattening, r"forward gave shape \(4, 16, 1\), expected \(4, 16, 3\)"),
        (Flat, r"forward gave shape \(4, 16\), expected \(4, 16, 1\)"),
        (Summing, r"back gave shape \(16, 16, 1\), expected \(16, 16, 3\)"),
    ],
)
def test_projector_that_loses_slices_is_refused_and_not_spread_over_them(monkeypatch, kind, said):
    monkeypatch.setitem(projectors._added, "mine", kind)
    lines = np.ones((4, 3, 16), np.float32)
    with pytest.raises(GeometryError, match=f"projector: {said}, slices last"):
        reconstruct(lines, np.arange(4.0), algorithm="sirt", projector="mine")
