"""Bad flats and darks are left out or reported, and never change the image unnoticed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bluesky_streamrecon.recon.preparation import Preparation
from bluesky_streamrecon.recon.references import saturation_level

ROWS, COLUMNS = 3, 256
OFFSET = 100
TRANSMISSION = 0.4


class Camera:
    """Counts over an offset, with a profile of the beam, its noise, and a largest number."""

    def __init__(self, bright=3000.0, *, dtype=np.uint16, most=65535, seed=0):
        self._rng = np.random.default_rng(seed)
        self._profile = bright * (1 - 0.3 * ((np.arange(COLUMNS) - 128) / 128) ** 2)
        self._dtype, self._most = dtype, most

    def frame(self, light=1.0):
        counts = OFFSET + self._rng.poisson(light * self._profile, (ROWS, COLUMNS))
        return np.minimum(counts + self._rng.integers(-2, 3, counts.shape), self._most).astype(self._dtype)


def prepared(camera, flats, darks, **settings):
    """The mean line integral of a sample, and what was said; `flats` and `darks` are levels of light."""
    preparation = Preparation(ROWS, COLUMNS, **settings)
    for light in darks:
        preparation.add_reference("dark", camera.frame(light))
    for light in flats:
        preparation.add_reference("flat", camera.frame(light))
    lines = [preparation.prepare(camera.frame(TRANSMISSION)) for _ in range(4)]
    preparation.conclude()
    return float(np.mean(lines)), preparation.warnings


RIGHT = pytest.approx(-np.log(TRANSMISSION), abs=0.01)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, ">u2"])
@pytest.mark.parametrize(
    ("flats", "which"),
    [
        ([0, 1, 1, 1], "flat 1 is"),
        ([1, 1, 0, 1, 1], "flat 3 is"),
        ([0, 1], "flat 1 is"),
        ([0, 0, 0, 1, 1], "flats 1, 2, 3 are"),
        ([1] * 9 + [0], "flat 10 is"),
    ],
)
def test_flats_without_light_are_left_out_and_named(flats, which, dtype):
    mean, said = prepared(Camera(dtype=dtype), flats, [0, 0, 0])
    assert mean == RIGHT
    assert said == [f"flats: of {len(flats)}, {which} left out: no brighter than the darks; was the shutter closed?"]


@pytest.mark.parametrize(
    ("darks", "which"), [([0, 1], "dark 2 is"), ([1, 0, 0], "dark 1 is"), ([0, 1, 1, 1, 0], "darks 2, 3, 4 are")]
)
@pytest.mark.parametrize("flats", [[1], [1, 1, 1, 1]])
def test_darks_with_light_are_left_out_and_named(flats, darks, which):
    mean, said = prepared(Camera(), flats, darks)
    assert mean == RIGHT
    assert said == [f"darks: of {len(darks)}, {which} left out: as bright as the flats; was the shutter open?"]


@pytest.mark.parametrize("odd", [0.5, 0.8, 1.3, 2.0])
def test_flat_that_is_unlike_the_others_is_left_out_and_named(odd):
    mean, said = prepared(Camera(), [1, odd, 1, 1], [0])
    assert mean == RIGHT
    assert said == ["flats: of 4, flat 2 is left out: far from the median of the others; was something in the beam?"]


@pytest.mark.parametrize("flats", [[1, 0.7], [1, 1, 0.8, 0.8], [0.7, 1.3]])
def test_flats_that_differ_and_no_more_are_right_than_wrong_are_used_and_reported(flats):
    mean, said = prepared(Camera(), flats, [0])
    assert mean == pytest.approx(-np.log(TRANSMISSION / np.mean(flats)), abs=0.01)
    assert said == ["flats: they differ much from each other, and all are used; does the beam drift?"]


@pytest.mark.parametrize("frames", [3, 4, 12])
@pytest.mark.parametrize("value", [0, 60000])
def test_single_wrong_value_among_flats_or_darks_makes_no_ring(frames, value):
    camera, preparation = Camera(), Preparation(ROWS, COLUMNS)
    for kind, light in (("flat", 1), ("dark", 0)):
        for index in range(frames):
            frame = camera.frame(light)
            if index == 1:
                frame[1, 40 if kind == "flat" else 90] = value
            preparation.add_reference(kind, frame)
    lines = np.mean([preparation.prepare(camera.frame(TRANSMISSION)) for _ in range(8)], axis=0)
    np.testing.assert_allclose(lines[1, [40, 90]], -np.log(TRANSMISSION), atol=0.1)


@pytest.mark.parametrize(("most", "bright"), [(1023, 1100), (4095, 5000), (16383, 17000), (3900, 4200), (65535, 70000)])
def test_saturated_flats_are_known_without_the_cameras_help_and_reported(most, bright):
    _, said = prepared(Camera(bright, most=most), [1] * 5, [0] * 3)
    (line,) = said
    assert line.endswith(f"pixels (at {most} counts), where attenuation comes out too low; was the exposure too long?")
    assert line.startswith(("flats: saturated in many", "flats: saturated in most"))


@pytest.mark.parametrize("shift", [2, 4, 6])
def test_saturated_flats_are_known_where_bits_are_shifted_up(shift):
    bits = 16 - shift
    flats = [(Camera(1.1 * 2**bits, most=2**bits - 1, seed=seed).frame() << shift) for seed in range(4)]
    assert saturation_level(np.stack(flats)[:, 0]) == (2**bits - 1) << shift


def test_few_saturated_pixels_of_the_flat_take_their_neighbours_value():
    camera = Camera(3000)
    preparation = Preparation(ROWS, COLUMNS, saturation=4095)
    for _ in range(4):
        frame = camera.frame()
        frame[1, 60:63] = 4095
        preparation.add_reference("flat", frame)
    preparation.add_reference("dark", camera.frame(0))
    lines = np.mean([preparation.prepare(camera.frame(TRANSMISSION)) for _ in range(8)], axis=0)
    np.testing.assert_allclose(lines[1, 60:63], -np.log(TRANSMISSION), atol=0.05)


def test_saturated_projections_are_reported_in_the_end():
    camera = Camera(3000)
    _, said = prepared(camera, [1, 1], [0], saturation=1200)
    assert any(line.startswith("projections: saturated in more than 1% of their values") for line in said)


@pytest.mark.parametrize("lights", [[1, 1, 1], [1] * 10, [1, 0.98, 0.96, 0.94, 0.92], [0.96] * 5 + [1.04] * 5])
@pytest.mark.parametrize("bright", [60, 800, 60000])
def test_good_references_are_used_as_they_are_and_nothing_is_said(lights, bright):
    mean, said = prepared(Camera(bright, seed=4), lights, [0] * 4)
    assert mean == pytest.approx(-np.log(TRANSMISSION / np.mean(lights)), abs=0.05 if bright < 100 else 0.01)
    assert said == []


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 4), st.integers(3, 12), st.integers(0, 2), st.integers(1, 6), st.randoms(use_true_random=False))
def test_bad_frames_in_any_order_do_not_change_the_image(empty, good, lit, dark, random):
    flats, darks = [0] * empty + [1] * good, [1] * lit + [0] * dark
    random.shuffle(flats)
    random.shuffle(darks)
    mean, said = prepared(Camera(seed=empty + 7 * good), flats, darks)
    assert mean == RIGHT
    assert len(said) == (empty > 0) + (lit > 0)


@pytest.mark.parametrize(("flats", "darks"), [([0, 0], [1, 1]), ([0, 0, 0], [0]), ([1, 1], [1])])
def test_without_a_flat_brighter_than_the_darks_nothing_is_measured(flats, darks):
    preparation, camera = Preparation(ROWS, COLUMNS), Camera()
    for kind, lights in (("flat", flats), ("dark", darks)):
        for light in lights:
            preparation.add_reference(kind, camera.frame(light))
    assert np.isnan(preparation.prepare(camera.frame(TRANSMISSION))).all()
    assert "flats: hardly anywhere brighter than the darks" in preparation.warnings[-1]
