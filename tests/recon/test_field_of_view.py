"""The image of samples that the detector does not see whole: as good as a wider detector's, or without a bright rim."""

from __future__ import annotations

import numpy as np
import pytest

from bluesky_streamrecon.geometry import image_size
from bluesky_streamrecon.ordering import optimized_interleaved
from bluesky_streamrecon.recon import reconstruct
from bluesky_streamrecon.recon.fbp import filter_sinogram
from bluesky_streamrecon.sim_devices import Discs, Foam

COLUMNS, AXIS = 97, 10.0
WIDE = image_size(COLUMNS, AXIS, full_turn=True, edges=1)


def seen(sample, angles, columns, axis, counts, seed=0):
    """Line integrals (A, rows, C) with the noise of so many photons per ray."""
    clean = np.stack([sample.projection(float(angle), columns, axis) for angle in angles]).astype(np.float64)
    photons = np.random.default_rng(seed).poisson(counts * np.exp(-clean))
    return (-np.log(np.maximum(photons, 0.5) / counts)).astype(np.float32)


def within(radius, size):
    r = np.arange(size) - (size - 1) / 2
    return np.hypot(r[:, None], r[None, :]) <= radius


def middle(stack, size):
    margin = (stack.shape[1] - size) // 2
    return stack[:, margin : margin + size, margin : margin + size]


def nrmse(image, truth, radius):
    """Root mean square error within a radius of the axis, over the truth's range."""
    size = min(image.shape[1], truth.shape[1])
    difference = (middle(image, size) - middle(truth, size))[:, within(radius, size)]
    return float(np.sqrt(np.mean(difference.astype(np.float64) ** 2)) / np.ptp(truth))


@pytest.fixture(scope="module")
def halves():
    """A foam in a full turn of a detector that ends near the axis, and in a half turn of one as wide as the foam."""
    radius = 0.94 * (COLUMNS - 0.5 - AXIS)
    foam = Foam(seed=1).body(2, radius)
    around = np.radians(np.array(optimized_interleaved(240, 0, 360)))
    half_way = np.radians(np.array(optimized_interleaved(120, 0, 180)))
    narrow = seen(foam, around, COLUMNS, AXIS, 1e4)
    wide = seen(foam, half_way, WIDE, (WIDE - 1) / 2, 1e4)
    return around, narrow, half_way, wide, foam.image(WIDE), radius


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("fbp", {}),
        ("mlem", {"iterations": 20}),
        ("osem", {"iterations": 5}),
        ("sirt", {"iterations": 40}),
        ("mlem", {"window": 24}),
    ],
    ids=["fbp", "mlem", "osem", "sirt", "live"],
)
def test_half_acquisition_is_as_good_as_a_detector_of_twice_the_width(halves, algorithm, options):
    around, narrow, half_way, wide, truth, radius = halves
    window = {"window": 2 * options["window"], "step": 2} if "window" in options else {}
    extended = reconstruct(narrow, around, axis=AXIS, size=WIDE, algorithm=algorithm, **options | window)
    whole = reconstruct(wide, half_way, size=WIDE, algorithm=algorithm, **options)
    assert nrmse(extended, truth, radius) < 1.05 * nrmse(whole, truth, radius)


@pytest.mark.parametrize("sample", [Foam(seed=1), Discs(seed=1)], ids=["foam", "discs"])
@pytest.mark.parametrize(("algorithm", "times"), [("fbp", 1), ("mlem", 25), ("sirt", 25)])
def test_sample_that_reaches_out_of_view_gets_no_bright_rim(sample, algorithm, times):
    columns, axis = 96, 49.3
    solid = sample.body(2, 1.5 * (columns - 0.5 - axis))
    angles = np.radians(np.arange(0, 180, 2.0))
    lines = seen(solid, angles, columns, axis, 5e3)
    size = image_size(columns, axis, edges=2)
    image = reconstruct(lines, angles, axis=axis, size=size, algorithm=algorithm, iterations=times)
    truth = solid.image(2 * size)
    rim = within(46, size) & ~within(40, size)
    excess = float((image - middle(truth, size))[:, rim].mean() / np.ptp(truth))
    assert abs(excess) < 0.12
    narrow = reconstruct(lines, angles, axis=axis, size=columns, algorithm=algorithm, iterations=times)
    if algorithm != "fbp":
        assert nrmse(image, truth, 46) < 0.85 * nrmse(narrow, truth, 46)


def test_lines_that_end_in_the_sample_are_filtered_as_if_they_went_on():
    inside = filter_sinogram(np.ones((1, 128, 1), np.float32))[0, :, 0]
    alone = filter_sinogram(np.pad(np.ones((1, 128, 1), np.float32), ((0, 0), (64, 64), (0, 0))))[0, 64:-64, 0]
    assert np.abs(inside).max() < 0.2 * np.abs(alone).max()


@pytest.mark.parametrize(
    ("columns", "axis", "options", "expected"),
    [
        (256, 127.5, {}, 256),
        (256, 30.0, {}, 256),
        (256, 30.0, {"full_turn": True}, 451),
        (256, 225.0, {"full_turn": True, "edges": 1}, 451),
        (256, 30.0, {"full_turn": True, "edges": 0}, 256),
        (256, 127.5, {"full_turn": True, "edges": 1}, 256),
        (256, 120.0, {"edges": 1}, 320),
        (256, 120.0, {"edges": 2}, 320),
        (256, 30.0, {"full_turn": True, "edges": 2}, 564),
    ],
)
def test_image_is_as_wide_as_what_is_seen(columns, axis, options, expected):
    assert image_size(columns, axis, **options) == expected
