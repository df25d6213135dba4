"""MS-SSIM keeps its definition, its limits and its speed."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.metrics import structural_similarity

from bluesky_streamrecon.errors import ConfigError, DataError
from bluesky_streamrecon.quality import deepest_pyramid, ms_ssim, ms_ssim_terms, smallest_side

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def defined(x, y, data_range, scales=5, levels=5):
    """MS-SSIM straight from its definition: float64, five moments, a Gaussian window laid on every valid pixel."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    at = np.arange(11) - 5
    window = np.exp(-(at[:, None] ** 2 + at[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def mean(image):
        return ndimage.correlate(image, window)[5:-5, 5:-5]

    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    weights = WEIGHTS[levels - scales : levels]
    total = 1.0 if (scales, levels) == (5, 5) else sum(weights)
    score = 1.0
    for level in range(levels):
        if level >= levels - scales:
            mx, my = mean(x), mean(y)
            term = (2 * (mean(x * y) - mx * my) + c2) / (mean(x * x) - mx**2 + mean(y * y) - my**2 + c2)
            if level == levels - 1:
                term = term * (2 * mx * my + c1) / (mx**2 + my**2 + c1)
            score *= max(term.mean(), 0.0) ** (weights[level - (levels - scales)] / total)
        rows, columns = (n // 2 * 2 for n in x.shape)
        x, y = (
            (i[:rows:2, :columns:2] + i[1:rows:2, :columns:2] + i[:rows:2, 1:columns:2] + i[1:rows:2, 1:columns:2]) / 4
            for i in (x, y)
        )
    return score


def picture(shape, seed=0, noise=0.05):
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(np.random.default_rng(99).random(shape), 3)
    return ((smooth > smooth.mean()) * 0.8 + noise * rng.standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("shape", [(176, 176), (256, 256), (201, 333), (177, 191)])
@pytest.mark.parametrize("noise", [0.001, 0.1, 1.0])
def test_equals_the_definition_in_float64(shape, noise):
    x, y = picture(shape, 1, noise), 0.9 * picture(shape, 2, noise)
    joint = float(max(x.max(), y.max()) - min(x.min(), y.min()))
    assert ms_ssim(x, y) == pytest.approx(defined(x, y, joint), abs=1e-5)
    assert ms_ssim(x, y, data_range=3.0) == pytest.approx(defined(x, y, 3.0), abs=1e-5)


@pytest.mark.parametrize(("scales", "levels"), [(1, 5), (3, 5), (4, 5), (3, 3), (2, 3), (1, 1)])
def test_fewer_scales_compare_the_coarsest_levels_only(scales, levels):
    x, y = picture((180, 200), 1, 0.3), picture((180, 200), 2, 0.3)
    expected = defined(x, y, 2.0, scales, levels)
    assert ms_ssim(x, y, scales=scales, levels=levels, data_range=2.0) == pytest.approx(expected, abs=1e-5)


def test_coarser_comparison_is_blind_to_small_features():
    x = picture((256, 256), 1, 0.0)
    y = x + 0.2 * np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    scores = [ms_ssim(x, y, scales=scales, data_range=1.0) for scales in (5, 4, 3, 2)]
    assert scores == sorted(scores)
    assert scores[0] < 0.95 < 0.99 < scores[-1]


@pytest.mark.parametrize("case", ["offset", "small range", "constant shift", "step"])
def test_stays_exact_where_float32_would_cancel(case):
    x, y = picture((176, 180), 1), picture((176, 180), 2)
    data_range = 1.0
    if case == "offset":
        x, y = x.astype(np.float64) + 1e4, y.astype(np.float64) + 1e4
    elif case == "small range":
        data_range = 1e-3
    elif case == "constant shift":
        x, y = np.full_like(x, 0.25), np.full_like(x, 0.9)
    else:
        x, y = np.zeros_like(x), np.zeros_like(x)
        y[:, 90:] = 1.0
    assert ms_ssim(x, y, data_range=data_range) == pytest.approx(defined(x, y, data_range), abs=1e-5)


def test_single_level_equals_ssim_of_scikit_image():
    x, y = picture((97, 120), 1, 0.2), picture((97, 120), 2, 0.2)
    expected = structural_similarity(
        x, y, data_range=1.5, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ms_ssim(x, y, scales=1, levels=1, data_range=1.5) == pytest.approx(expected, abs=1e-5)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(11, 60),
    width=st.integers(11, 60),
    contrast=st.floats(-2, 2),
    exponent=st.integers(-20, 20),
    constant=st.booleans(),
)
def test_symmetric_at_most_one_and_blind_to_a_common_unit(seed, height, width, contrast, exponent, constant):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((height, width))
    y = np.full_like(x, contrast) if constant else contrast * x + 0.1 * rng.standard_normal(x.shape)
    levels = deepest_pyramid(x.shape)
    score = ms_ssim(x, y, scales=levels, levels=levels)
    assert 0.0 <= score <= 1.0
    assert ms_ssim(y, x, scales=levels, levels=levels) == pytest.approx(score, abs=1e-6)
    assert ms_ssim(x, x, scales=levels, levels=levels) == 1.0
    unit = 10.0**exponent
    assert ms_ssim(x * unit, y * unit, scales=levels, levels=levels) == pytest.approx(score, abs=1e-6)
    scaled = ms_ssim(x * unit, y * unit, scales=levels, levels=levels, data_range=4 * unit)
    assert scaled == pytest.approx(ms_ssim(x, y, scales=levels, levels=levels, data_range=4.0), abs=1e-6)


def test_inverted_image_scores_zero_and_never_nan():
    x = picture((200, 200))
    assert ms_ssim(x, x.max() - x) == 0.0
    terms = ms_ssim_terms(x, x.max() - x)
    assert (terms.contrast_structure < 0).any()
    assert np.isfinite(terms.values).all()


def test_default_range_is_the_joint_one_of_both_stacks():
    x = np.stack([picture((176, 176), 1), 5 * picture((176, 176), 2)])
    y = np.stack([picture((176, 176), 3) - 2, 5 * picture((176, 176), 4)])
    joint = float(max(x.max(), y.max()) - min(x.min(), y.min()))
    assert ms_ssim(x, y) == ms_ssim(x, y, data_range=joint)


def test_stack_scores_the_mean_of_its_slices_each_of_which_is_given():
    x = np.stack([picture((176, 190), seed, 0.2) for seed in range(3)])
    y = np.stack([picture((176, 190), seed, 0.2) for seed in range(3, 6)])
    terms = ms_ssim_terms(x, y, data_range=2.0)
    alone = [ms_ssim(a, b, data_range=2.0) for a, b in zip(x, y, strict=True)]
    assert terms.values.tolist() == alone
    assert ms_ssim(x, y, data_range=2.0) == pytest.approx(np.mean(alone))
    factors = np.c_[terms.contrast_structure[:, :-1], terms.coarsest]
    np.testing.assert_allclose(np.prod(factors**WEIGHTS, axis=1), terms.values)


def test_constant_images_do_not_divide_by_zero():
    zeros = np.zeros((176, 176), np.float32)
    assert ms_ssim(zeros, zeros) == 1.0
    assert ms_ssim(zeros, zeros, data_range=1.0) == 1.0
    assert ms_ssim(zeros + 7, zeros + 7) == 1.0
    assert 0.0 <= ms_ssim(zeros, zeros + 7) < 0.5


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.float64, np.bool_])
def test_any_real_type_and_any_layout_gives_the_same_score(kind):
    x = (picture((180, 180), 1, 0.3) > 0.3).astype(kind)
    y = (picture((180, 180), 2, 0.3) > 0.3).astype(kind)
    expected = ms_ssim(x.astype(np.float32), y.astype(np.float32))
    assert ms_ssim(x, y) == pytest.approx(expected, abs=1e-6)
    assert ms_ssim(np.asfortranarray(x), y[::-1][::-1]) == pytest.approx(expected, abs=1e-6)
    x.flags.writeable = False
    assert ms_ssim(x, y) == pytest.approx(expected, abs=1e-6)


def test_images_are_left_as_they_were():
    x, y = picture((176, 176), 1), picture((176, 176), 2)
    before = x.copy(), y.copy()
    ms_ssim(x, y)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])


def test_too_small_image_is_refused_with_the_size_it_needs():
    small = np.zeros((175, 400))
    with pytest.raises(DataError, match=r"175 x 400 pixels, expected at least 176 x 176 for 5 levels; levels=4 fits"):
        ms_ssim(small, small)
    tiny = np.zeros((10, 10))
    with pytest.raises(DataError, match="no comparison is possible below 11 x 11"):
        ms_ssim(tiny, tiny, scales=1, levels=1)
    assert [smallest_side(levels) for levels in range(1, 6)] == [11, 22, 44, 88, 176]
    assert [deepest_pyramid((side, 999)) for side in (10, 11, 43, 44, 175, 176, 5000)] == [0, 1, 2, 3, 4, 5, 5]


def test_not_finite_values_are_refused_with_their_place():
    x = np.zeros((2, 176, 176), np.float32)
    y = x.copy()
    y[1, 3, 4] = np.nan
    with pytest.raises(DataError, match=r"second image .* 1 of 61952 values .* nan at slice 1, row 3, column 4"):
        ms_ssim(x, y)
    x[0, 0, 1] = -np.inf
    with pytest.raises(DataError, match=r"first image .* -inf at slice 0, row 0, column 1"):
        ms_ssim(x, y)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((176, 176)), np.zeros((176, 177)), "expected the same"),
        (np.zeros(176), np.zeros(176), "expected \\(height, width\\)"),
        (np.zeros((0, 176, 176)), np.zeros((0, 176, 176)), "expected \\(height, width\\)"),
        (np.zeros((176, 176), complex), np.zeros((176, 176), complex), "expected real numbers"),
        (np.full((176, 176), 1e308), np.full((176, 176), -1e308), "can not be scaled"),
    ],
)
def test_images_that_can_not_be_compared_are_refused(a, b, message):
    with pytest.raises(DataError, match=message):
        ms_ssim(a, b)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scales": 0},
        {"scales": 6},
        {"scales": 2.0},
        {"scales": True},
        {"levels": 6},
        {"scales": 4, "levels": 3},
        {"data_range": 0.0},
        {"data_range": -1.0},
        {"data_range": float("nan")},
    ],
)
def test_settings_that_can_not_work_are_refused(wrong):
    image = np.zeros((176, 176))
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ms_ssim(image, image, **wrong)


def test_import_does_not_load_numba():
    code = "import sys, bluesky_streamrecon.quality; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
