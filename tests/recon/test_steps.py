"""Preparation steps do what their papers say, harm nothing else, and are refused in words that help."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import pywt
from scipy.ndimage import median_filter

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.preparation_steps import check_steps
from bluesky_streamrecon.recon.kernels.steps import median_of_seven
from bluesky_streamrecon.recon.steps import Pipeline
from bluesky_streamrecon.recon.steps.rings import LEAST, MOST, _running_median, remove_stripes

GOLDEN = 0.6180339887


def sinogram(angles, columns=320, seed=0):
    """Line integrals (A, columns) of discs and a block, with noise; the sample fills most of the columns."""
    rng = np.random.default_rng(seed)
    t = np.arange(columns) - (columns - 1) / 2
    lines = 0.02 * 2 * np.sqrt(np.maximum((0.35 * columns) ** 2 - t**2, 0)) * np.ones((len(angles), 1))
    for _ in range(60):
        radius, away, turned = rng.uniform(2, 12), 0.3 * columns * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        off = t - away * np.cos(angles - turned)[:, None]
        lines += 0.02 * np.sqrt(np.maximum(radius**2 - off**2, 0))
    return (lines + rng.normal(0, 0.005, lines.shape)).astype(np.float32)


def with_stripes(clean, seed=1):
    rng = np.random.default_rng(seed)
    faulty = clean.copy()
    faulty[:, 110] += 0.15
    faulty[:, 80] *= 0.9
    faulty[:, 150:156] *= 1.15
    faulty[:, 200] = 1.0
    faulty[:, 240] += rng.normal(0, 0.5, len(clean)).astype(np.float32)
    return faulty


def error(given, clean):
    return float(np.sqrt(np.mean((given - clean)[:, 60:-60] ** 2)))


def in_golden_order(number):
    return np.mod(np.arange(number) * GOLDEN, 1) * np.pi


def test_running_medians_of_each_line_are_those_of_its_own():
    lines = np.random.default_rng(0).integers(0, 40, (4, 101)).astype(np.float32)
    for width in (7, 21, 51):
        np.testing.assert_array_equal(_running_median(lines, width), median_filter(lines, (1, width)))
    for line, expected in zip(lines, median_filter(lines, (1, 7)), strict=True):
        medians = np.empty_like(line)
        median_of_seven(line, np.empty(107, np.float32), medians)
        np.testing.assert_array_equal(medians, expected)


def test_zingers_become_the_median_of_their_row_and_nothing_else_changes():
    clean = sinogram(in_golden_order(6))
    faulty = clean.copy()
    hit = [(0, 0), (1, 50), (2, 100), (2, 101), (2, 102), (5, 319)]
    for place in hit:
        faulty[place] -= 0.7
    pipeline = Pipeline(["zingers"], *clean.shape)
    result = pipeline.first_part(faulty.copy(), 0.0)
    expected = np.where(faulty != clean, median_filter(faulty, (1, 7)), clean)
    np.testing.assert_array_equal(result, expected)
    assert pipeline.counts == {"zingers": len(hit)}
    assert np.abs(result - clean).max() < 0.3


def test_zingers_leave_dark_pixels_edges_and_rows_that_were_not_measured():
    projection = np.zeros((4, 64), np.float32)
    projection[0, 30] = 2.0
    projection[1, 20:] = 3.0
    projection[2] = np.nan
    projection[3] = np.random.default_rng(0).normal(1, 0.3, 64)  # noise is not taken for zingers
    result = Pipeline(["zingers"], 4, 64).first_part(projection.copy(), 0.0)
    np.testing.assert_array_equal(result, projection)


def test_beam_that_fades_unevenly_is_normalised_as_tomopy_does():
    clean = sinogram(in_golden_order(3))
    clean[:, :10] = clean[:, -12:] = 0
    transmission = np.exp(-clean.astype(np.float64)) * np.linspace(0.9, 0.7, clean.shape[1])
    step = {"step": "beam", "left": 8, "right": 10}
    result = Pipeline([step], *clean.shape).first_part(-np.log(transmission).astype(np.float32), 0.0)
    left, right = transmission[:, :8].mean(axis=1), transmission[:, -10:].mean(axis=1)
    columns = clean.shape[1]
    air = left[:, None] + (right - left)[:, None] / (columns - 1) * np.arange(columns)  # normalize_bg
    np.testing.assert_allclose(result, -np.log(transmission / air), atol=1e-5)
    assert np.abs(result - clean).max() < 0.01


def test_stripes_of_each_kind_are_removed_from_a_whole_sinogram():
    angles = np.linspace(0, np.pi, 180, endpoint=False)
    clean = sinogram(angles)
    faulty = with_stripes(clean)
    assert error(remove_stripes(faulty, 15, 5), clean) < 0.15 * error(faulty, clean)
    assert error(remove_stripes(clean, 15, 5), clean) < 0.03


@pytest.mark.skipif(importlib.util.find_spec("algotom") is None, reason="needs the extra bench")
def test_whole_sinograms_are_corrected_as_by_the_published_program():
    from algotom.prep.removal import remove_all_stripe

    faulty = with_stripes(sinogram(np.linspace(0, np.pi, 180, endpoint=False)) + 0.3)  # air has no mean to divide by
    expected = remove_all_stripe(faulty.copy())
    np.testing.assert_allclose(remove_stripes(faulty), expected, atol=1e-3 * expected.max())


def test_stripes_fade_while_projections_come_in_any_order_and_the_sample_stays():
    angles = in_golden_order(120)
    clean = sinogram(angles)
    faulty = with_stripes(clean)
    live, harmless = (Pipeline(["rings"], 1, clean.shape[1]) for _ in range(2))
    result = np.stack([live.second_part(p[None], a)[0] for p, a in zip(faulty, angles, strict=True)])
    untouched = np.stack([harmless.second_part(p[None], a)[0] for p, a in zip(clean, angles, strict=True)])
    np.testing.assert_array_equal(result[: LEAST - 1], faulty[: LEAST - 1])
    assert error(result[LEAST:48], clean[LEAST:48]) < 0.7 * error(faulty[LEAST:48], clean[LEAST:48])
    assert error(result[96:], clean[96:]) < 0.35 * error(faulty[96:], clean[96:])
    assert error(untouched[96:], clean[96:]) < 0.1


def test_stripes_are_left_alone_while_angles_crowd_one_side():
    angles = np.deg2rad(np.arange(30.0))
    given = with_stripes(sinogram(angles))
    pipeline = Pipeline(["rings"], 1, given.shape[1])
    for projection, angle in zip(given, angles, strict=True):
        np.testing.assert_array_equal(pipeline.second_part(projection[None], angle)[0], projection)


def test_row_without_light_says_nothing_about_stripes():
    angles = in_golden_order(30)
    given = np.repeat(with_stripes(sinogram(angles))[:, None], 2, axis=1)
    given[20, 0] = np.nan
    pipeline = Pipeline(["rings"], *given.shape[1:])
    for projection, angle in zip(given, angles, strict=True):
        result = pipeline.second_part(projection, angle)
        np.testing.assert_array_equal(np.isnan(result), np.isnan(projection))
    whole = pipeline.second_part_of_all(given.copy(), angles)
    np.testing.assert_array_equal(np.isnan(whole), np.isnan(given))


def test_long_scans_are_remembered_in_part_and_from_end_to_end():
    columns = 64
    angles = in_golden_order(2 * MOST + 10)
    pipeline = Pipeline(["rings"], 1, columns)
    stripe = np.where(np.arange(columns) == 30, 0.5, 0).astype(np.float32)
    noise = np.random.default_rng(0).normal(1, 0.01, (len(angles), 1, columns)).astype(np.float32)
    for number, angle in enumerate(angles):
        late = stripe if number > MOST // 2 else 0  # the pixel fails in mid-scan
        result = pipeline.second_part(noise[number] + late, angle)
    assert abs(result[0, 30] - 1) < 0.1


def test_steps_that_remember_give_the_same_when_projections_come_again():
    angles = in_golden_order(40)
    given = with_stripes(sinogram(angles))[:, None]
    pipeline = Pipeline(["rings"], 1, given.shape[2])
    once = [pipeline.second_part(p, a) for p, a in zip(given, angles, strict=True)]
    (again,) = pipeline.second_part_again([list(zip(given, angles, strict=True))])
    np.testing.assert_array_equal(once, [projection for projection, _ in again])


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("ring", "preparation step: got 'ring', expected one of beam, paganin, rings, wavelet-rings, zingers"),
        ({"step": "rings", "width": 3}, "got option 'width', expected one of: large=None, small=None, snr=3.0"),
        ({"step": "rings", "small": 20}, "got small=20, expected an odd number"),
        ({"step": "wavelet-rings", "levels": 0}, "levels: got 0; expected `int` >= 1"),
        ({"step": "zingers", "excess": 0}, "excess: got 0; expected `float` > 0"),
        ("beam", "expected how many columns at the left and the right"),
    ],
)
def test_steps_that_can_not_work_are_refused(step, words):
    with pytest.raises(ConfigError) as refused:
        check_steps([step])
    assert words in str(refused.value)


def munch(sinogram, levels, sigma):
    """TomoPy's formula of the wavelet-Fourier filter (``remove_stripe_fw``), in float64; the edges repeated."""
    smooth, details, modes = (
        np.pad(sinogram.astype(float), ((0, 0), (64, 64)), "edge"),
        [],
        ("periodization", "symmetric"),
    )
    for _ in range(levels):
        smooth, (across, along, both) = pywt.dwt2(smooth, "db5", modes)
        frequency = np.fft.fftfreq(len(along)) * len(along)
        damped = np.fft.fft(along, axis=0) * -np.expm1(-(frequency**2) / (2 * sigma**2))[:, None]
        details.append((across, np.fft.ifft(damped, axis=0).real, both))
    for each in reversed(details):
        smooth = pywt.idwt2((smooth, each), "db5", modes)
    return smooth[:, 64:-64]


@pytest.mark.parametrize("levels", [2, 3])
def test_wavelet_filter_is_the_published_one_that_damps_what_is_constant_along_the_angle(levels):
    angles = np.linspace(0, np.pi, 176, endpoint=False)
    faulty = with_stripes(sinogram(angles))
    step = {"step": "wavelet-rings", "levels": levels}
    result = Pipeline([step], 1, faulty.shape[1]).second_part_of_all(faulty[:, None].copy(), angles)[:, 0]
    np.testing.assert_allclose(result, munch(faulty, levels, 0.1), atol=1e-3 * np.ptp(faulty))


def test_weak_rings_fade_while_projections_come_and_a_row_without_light_says_nothing():
    angles = in_golden_order(120)
    clean = sinogram(angles)
    uneven = clean + np.random.default_rng(2).normal(0, 0.02, clean.shape[1]).astype(np.float32)
    given = np.repeat(uneven[:, None], 2, axis=1)
    given[50, 1] = np.nan
    pipeline = Pipeline(["wavelet-rings"], *given.shape[1:])
    result = np.stack([pipeline.second_part(p, a) for p, a in zip(given, angles, strict=True)])
    np.testing.assert_array_equal(result[: LEAST - 1], given[: LEAST - 1])
    np.testing.assert_array_equal(np.isnan(result), np.isnan(given))
    whole = pipeline.second_part_of_all(given.copy(), angles)
    np.testing.assert_array_equal(np.isnan(whole), np.isnan(given))
    for each in (result[96:, 0], result[96:, 1], whole[96:, 0]):
        assert error(each, clean[96:]) < 0.65 * error(uneven[96:], clean[96:])
    (again,) = pipeline.second_part_again([list(zip(given, angles, strict=True))])
    np.testing.assert_array_equal(result, [projection for projection, _ in again])


def test_detector_that_is_too_narrow_for_its_levels_is_refused():
    with pytest.raises(ConfigError, match="got 100 detector columns, expected at least 128 for levels=4"):
        Pipeline([{"step": "wavelet-rings", "levels": 4}], 2, 100)


def test_sides_that_overlap_are_refused():
    with pytest.raises(ConfigError, match="left=20, right=20 for 32 detector columns"):
        Pipeline([{"step": "beam", "left": 20, "right": 20}], 2, 32)
