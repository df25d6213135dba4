"""The rotation axis is found from few projections, and said to be unknown when it is."""

from __future__ import annotations

import weakref
from pathlib import Path

import h5py
import numpy as np
import pytest

from bluesky_streamrecon.errors import DataError, GeometryError
from bluesky_streamrecon.ordering import fixed, golden_angle, interleaved, optimized_interleaved
from bluesky_streamrecon.partition import RowBlock
from bluesky_streamrecon.recon.axis import AxisFinder, axis_checkpoint, axis_rows, find_axis, locate_axis
from bluesky_streamrecon.recon.axis_estimate import WEDGE, AxisEstimate
from bluesky_streamrecon.recon.axis_search import AxisSearch
from bluesky_streamrecon.recon.communicator import Communicator
from bluesky_streamrecon.recon.double_wedge import locate_by_wedge, wedge_evidence
from bluesky_streamrecon.recon.opposite import locate_by_opposite, opposite_evidence, opposite_pairs
from bluesky_streamrecon.recon.view import View
from bluesky_streamrecon.settings import ReconSettings
from bluesky_streamrecon.sim_devices import Discs, Exposure, Foam, FrameKind, Noise, SimulatedCamera
from bluesky_streamrecon.wire import OpenRun

ROWS = slice(0, 2), slice(2, 5), slice(5, 5)
QUIET = {"readout": 0.0, "dark": 0.0, "stripes": 0.0, "gain": 0.0, "dead": 0.0, "hot": 0.0}
TOOTH = Path(__file__).parents[1] / "data" / "tooth.h5"

SHEPP_LOGAN = (
    (1.0, 0.69, 0.92, 0, 0, 0),
    (-0.8, 0.6624, 0.874, 0, -0.0184, 0),
    (-0.2, 0.11, 0.31, 0.22, 0, -18),
    (-0.2, 0.16, 0.41, -0.22, 0, 18),
    (0.1, 0.21, 0.25, 0, 0.35, 0),
    (0.1, 0.046, 0.023, -0.08, -0.605, 0),
)


def foam(seed=3):
    rng = np.random.default_rng(seed)
    parts = [(1.0, 0.9, 0.9, 0, 0, 0)]
    for radius in rng.uniform(0.02, 0.15, 60):
        distance, turn = rng.uniform(0, 0.88 - radius), rng.uniform(0, 2 * np.pi)
        parts.append((-1.0, radius, radius, distance * np.cos(turn), distance * np.sin(turn), 0))
    return parts


def project(ellipses, angles, columns, axis, radius):
    """Exact line integrals (A, columns) of ellipses (value, a, b, x, y, degrees) in units of `radius` pixels."""
    t = np.arange(columns) - axis
    image = np.zeros((len(angles), columns))
    for value, a, b, x, y, degrees in ellipses:
        centre = radius * (x * np.cos(angles) + y * np.sin(angles))
        turned = angles - np.deg2rad(degrees)
        width = radius**2 * ((a * np.cos(turned)) ** 2 + (b * np.sin(turned)) ** 2)
        inside = np.maximum(width[:, None] - (t - centre[:, None]) ** 2, 0)
        image += 2 * value * a * b * radius**2 * np.sqrt(inside) / width[:, None]
    return 2.5 * image / image.max()


def noisy(image, counts, seed=0):
    return -np.log(np.maximum(np.random.default_rng(seed).poisson(counts * np.exp(-image)), 1) / counts)


def seen_by_camera(solid, columns, axis, degrees, noise, tilt=0.0):
    """Line integrals (A, rows, columns) of a simulated camera's frames."""
    camera = SimulatedCamera(solid, columns, axis, noise=noise, truncated=True, tilt=tilt)
    quiet = SimulatedCamera(solid, columns, axis, noise=Noise(**QUIET, poisson=False), truncated=True)
    flat = quiet.frame(Exposure(FrameKind.FLAT, 0.0, 0)).astype(float)
    frames = (camera.frame(Exposure(FrameKind.PROJECTION, float(angle), i)) for i, angle in enumerate(degrees))
    return np.stack([-np.log(np.maximum(frame, 1) / flat) for frame in frames]).astype(np.float32)


def sample(name):
    return SHEPP_LOGAN if name == "shepp-logan" else foam()


@pytest.mark.parametrize("name", ["shepp-logan", "foam"])
@pytest.mark.parametrize("axis", [131.3, 120.7, 90.2])
@pytest.mark.parametrize("order", [optimized_interleaved(180), golden_angle(180)])
def test_axis_is_found_within_half_a_pixel_from_24_noisy_projections(name, axis, order):
    angles = np.deg2rad(np.array(order))[:24]
    image = noisy(project(sample(name), angles, 256, axis, axis - 10), 1e4)
    estimate = find_axis(image[:, None], angles)
    assert estimate.confident
    assert estimate.axis == pytest.approx(axis, abs=0.5)


@pytest.mark.parametrize("order", [fixed(180), interleaved(180, 5), optimized_interleaved(180), fixed(120, 0, 360)])
def test_whole_scan_gives_the_axis_in_any_order(order):
    angles = np.deg2rad(np.array(order))
    image = noisy(project(SHEPP_LOGAN, angles, 128, 66.2, 55), 1e4)
    estimate = find_axis(image[:, None], angles)
    assert estimate.confident
    assert estimate.axis == pytest.approx(66.2, abs=0.3)


@pytest.mark.parametrize("order", [fixed(180), interleaved(180, 5)])
def test_few_projections_from_one_side_are_not_trusted(order):
    angles = np.deg2rad(np.array(order))[:16]
    image = noisy(project(SHEPP_LOGAN, angles, 128, 66.2, 55), 1e4)
    assert not find_axis(image[:, None], angles).confident


@pytest.mark.parametrize("axis", [66.2, 52.0])
def test_axis_is_certain_only_once_views_leave_no_wide_gap(axis):
    """In a scan from end to end the error can be many times what the fit calls its uncertainty until then."""
    angles = np.deg2rad(np.array(fixed(90)))
    image = noisy(project(SHEPP_LOGAN, angles, 128, axis, 50), 1e4)[:, None]
    for number in range(56, 74, 2):
        early = find_axis(image[:number], angles[:number])
        assert not early.confident
        assert early.doubt.endswith(
            f"(the views leave a gap of {182 - 2 * number} degrees); give axis= in detector columns"
        )
    late = find_axis(image[:80], angles[:80])
    assert late.confident
    assert late.axis == pytest.approx(axis, abs=0.5)


def test_sample_that_is_wider_than_the_detector_gives_the_axis_or_an_honest_doubt():
    angles = np.deg2rad(np.array(optimized_interleaved(180)))
    image = noisy(project(foam(), angles, 256, 131.3, 180), 1e4)
    for views in (16, 32, 64):
        estimate = find_axis(image[:views, None], angles[:views])
        assert not estimate.confident or estimate.axis == pytest.approx(131.3, abs=0.5)


@pytest.mark.parametrize("name", ["shepp-logan", "foam"])
@pytest.mark.parametrize(
    ("columns", "axis", "order"),
    [
        (160, 9.4, optimized_interleaved(180, 0, 360)),
        (160, 31.0, fixed(121, 0, 360)),
        (200, 140.7, golden_angle(150, 0, 360)),
        (96, 82.5, optimized_interleaved(90, -180, 180)),
        (256, 100.0, interleaved(180, 5, 0, 360)),
    ],
)
def test_full_turn_around_an_axis_near_the_edge_gives_the_axis_by_opposite_views(name, columns, axis, order):
    angles = np.deg2rad(np.array(order))
    image = noisy(project(sample(name), angles, columns, axis, max(axis, columns - axis) - 6), 1e4)
    estimate = find_axis(image[:, None], angles)
    assert estimate.confident
    assert estimate.method == "opposite views"
    assert estimate.other[1] == pytest.approx(axis, abs=0.3)
    assert not estimate.disagreement
    assert estimate.axis == pytest.approx(axis, abs=0.3)
    assert estimate.doubt == ""


@pytest.mark.parametrize(("axis", "views"), [(31.5, 128), (30.0, 192)])
def test_half_acquisition_is_not_said_to_have_a_second_axis(axis, views):
    columns, seed = 256, 0 if axis == 30 else 1
    degrees = np.array(optimized_interleaved(360, 0, 360))[:views]
    solid = Foam(seed=seed).body(16, 0.92 * (columns - 0.5 - axis))
    estimate = find_axis(seen_by_camera(solid, columns, axis, degrees, Noise(**QUIET, counts=1e4)), np.radians(degrees))
    assert estimate.axis == pytest.approx(axis, abs=0.1)
    assert estimate.disagreement == ""


@pytest.mark.parametrize("name", ["shepp-logan", "foam"])
@pytest.mark.parametrize(
    ("axis", "radius"), [(150, 150), (100, 150), (66, 100), (190, 250), (120, 500), (100, 118), (137, 170)]
)
def test_half_turn_of_a_sample_that_reaches_out_of_view_gives_the_axis_when_two_methods_agree(name, axis, radius):
    angles = np.deg2rad(np.array(optimized_interleaved(180)))
    image = noisy(project(sample(name), angles, 256, axis, radius), 1e4)
    for views in (24, 64, 180):
        estimate = find_axis(image[:views, None], angles[:views])
        if estimate.confident:
            assert estimate.axis == pytest.approx(axis, abs=0.5)
            assert estimate.other == ("the double wedge of the sinogram", pytest.approx(estimate.axis, abs=1))
        else:
            assert "the sample reaches out of view at the " in estimate.doubt
            assert "give axis= in detector columns" in estimate.doubt
    assert estimate.axis == pytest.approx(axis, abs=0.5)
    assert estimate.confident or name == "shepp-logan" or radius >= 250


@pytest.mark.parametrize("name", ["shepp-logan", "foam"])
@pytest.mark.parametrize("axis", [66.3, 90.0])
def test_two_methods_find_the_axis_of_a_sample_that_fits(name, axis):
    angles = np.deg2rad(np.array(optimized_interleaved(180)))[:72]
    image = noisy(project(sample(name), angles, 160, axis, min(axis, 160 - axis) - 4), 1e4)
    estimate = find_axis(np.stack([image] * 3, axis=1), angles)
    assert estimate.confident
    assert estimate.axis == pytest.approx(axis, abs=0.25)
    assert estimate.other == ("the double wedge of the sinogram", pytest.approx(axis, abs=0.6))
    assert estimate.disagreement == ""


@pytest.mark.parametrize("sample", [Foam(seed=2), Discs(seed=2)], ids=["foam", "discs"])
@pytest.mark.parametrize(
    ("columns", "axis", "half_acquisition", "tilt"),
    [(128, 66.3, False, 0.0), (128, 66.3, False, 0.5), (128, 16.4, True, 0.0), (128, 109.0, True, 0.5)],
    ids=["fits", "tilted", "half acquisition", "half acquisition, tilted"],
)
def test_axis_is_within_a_quarter_of_a_pixel_by_60_of_180_projections(sample, columns, axis, half_acquisition, tilt):
    turn = 360 if half_acquisition else 180
    degrees = np.array(optimized_interleaved(180, 0, turn))[:60]
    edges = axis + 0.5, columns - 0.5 - axis
    radius = 0.92 * (max(edges) if half_acquisition else min(edges))
    lines = seen_by_camera(sample.body(24, radius), columns, axis, degrees, Noise(**QUIET, counts=1e4), tilt)
    estimate = find_axis(lines, np.radians(degrees))
    assert estimate.confident
    assert estimate.axis == pytest.approx(axis, abs=0.25)


@pytest.mark.parametrize(
    ("sample", "columns", "axis"),
    [(Foam(seed=2), 128, 66.3), (Discs(seed=2, balls=60), 144, 69.0)],
    ids=["foam", "grains"],
)
def test_axis_of_an_interior_scan_with_rings_is_known_by_half_of_360_projections(sample, columns, axis):
    degrees = np.array(optimized_interleaved(360))[:176]
    radius = 1.5 * min(axis + 0.5, columns - 0.5 - axis)
    noise = Noise(**QUIET, counts=5e3, rings=0.02)
    lines = seen_by_camera(sample.body(12, radius), columns, axis, degrees, noise)
    estimate = find_axis(lines, np.radians(degrees))
    assert estimate.sides == ("left", "right")
    assert estimate.confident
    assert estimate.axis == pytest.approx(axis, abs=0.5)


def test_methods_that_find_different_axes_are_both_shown():
    estimate = AxisEstimate(66.3, 0.01, 50.0, 60, (), other=("the double wedge of the sinogram", 68.1))
    text = estimate.disagreement
    assert "column 66.30 by the angular harmonics of all views, but 68.10 by the double wedge" in text
    assert "give axis=" in text


def test_evidence_of_the_double_wedge_adds_up_over_rows():
    angles = np.deg2rad(np.array(optimized_interleaved(90)))
    stack = np.stack([noisy(project(foam(), angles, 96, 44, 60), 1e4, seed) for seed in range(5)], axis=1)
    parts = [wedge_evidence(list(stack[:, rows]), angles, stack[:, rows].shape[1], 96) for rows in ROWS]
    np.testing.assert_allclose(sum(parts), wedge_evidence(list(stack), angles, 5, 96), rtol=1e-9)
    assert locate_by_wedge(sum(parts), 96) == pytest.approx(44, abs=0.6)
    stack[3, 2] = np.nan  # a row that misses a view is left aside
    assert locate_by_wedge(wedge_evidence(list(stack), angles, 5, 96), 96) == pytest.approx(44, abs=0.6)


def test_double_wedge_of_noise_gives_no_axis():
    angles = np.deg2rad(np.arange(0, 180, 2.0))
    views = list(np.random.default_rng(0).normal(0, 1, (90, 2, 64)))
    assert locate_by_wedge(wedge_evidence(views, angles, 2, 64), 64) is None
    assert locate_by_wedge(np.zeros((3, 32)), 64) is None


def test_quarter_of_a_full_turn_in_fixed_order_has_too_few_opposite_views():
    angles = np.deg2rad(np.arange(0, 360, 2.0))
    image = noisy(project(foam(), angles, 160, 30, 120), 1e4)[:, None]
    assert not find_axis(image[:46], angles[:46]).confident
    assert find_axis(image, angles).axis == pytest.approx(30, abs=0.2)


@pytest.mark.parametrize("noise", [30, 1e3, 1e5])
@pytest.mark.parametrize("fills", [0.2, 0.7, 0.98])
@pytest.mark.parametrize("drift", [0.0, 0.05])
def test_sample_that_fits_is_not_said_to_reach_out(noise, fills, drift):
    angles = np.deg2rad(np.array(optimized_interleaved(90)))
    clean = 0.3 * project(SHEPP_LOGAN, angles, 200, 88.3, fills * 87)
    clean = clean + drift * np.linspace(0, 1, len(angles))[:, None]
    stack = np.stack([noisy(clean, noise, seed) for seed in range(3)], axis=1)
    assert find_axis(stack, angles).sides == ()


def test_evidence_of_opposite_views_adds_up_over_rows():
    angles = np.deg2rad(np.array(optimized_interleaved(60, 0, 360)))
    stack = np.stack([noisy(project(foam(), angles, 96, 20, 70), 1e3, seed) for seed in range(5)], axis=1)
    pairs = opposite_pairs(angles)
    parts = [opposite_evidence(list(stack[:, rows]), pairs, stack[:, rows].shape[1], 96) for rows in ROWS]
    np.testing.assert_allclose(sum(parts), opposite_evidence(list(stack), pairs, 5, 96))
    lost = [None if place in (3, 7) else view for place, view in enumerate(stack)]
    assert locate_by_opposite(opposite_evidence(lost, pairs, 5, 96), 96)[0] == pytest.approx(20, abs=0.1)


def test_opposite_views_that_show_nothing_give_no_axis():
    angles = np.deg2rad(np.arange(0, 360, 10.0))
    views = list(np.random.default_rng(0).normal(0, 1, (36, 2, 64)))
    assert locate_by_opposite(opposite_evidence(views, opposite_pairs(angles), 2, 64), 64) is None


def test_background_that_does_not_vanish_does_not_move_the_axis():
    angles = np.deg2rad(np.array(optimized_interleaved(180)))[:32]
    image = noisy(project(SHEPP_LOGAN, angles, 256, 120.7, 105), 1e4) + 0.05
    assert find_axis(image[:, None], angles).axis == pytest.approx(120.7, abs=0.3)


@pytest.mark.skipif(not TOOTH.exists(), reason="the recorded scan is not in tests/data")
@pytest.mark.parametrize("views", [16, 24, 32, 48, 90, 181])
def test_axis_of_the_recorded_tooth_is_found_from_16_projections_on(views):
    with h5py.File(TOOTH) as file:
        exchange = file["exchange"]
        dark = exchange["data_dark"][:].mean(axis=0)
        transmission = (exchange["data"][:] - dark) / (exchange["data_white"][:].mean(axis=0) - dark)
        theta = np.deg2rad(exchange["theta"][:])
    order = np.rint(np.array(optimized_interleaved(181, 0, 181))).astype(int)[:views]
    estimate = find_axis(-np.log(np.clip(transmission[order], 1e-6, None)), theta[order])
    assert estimate.confident
    assert estimate.axis == pytest.approx(295.65, abs=0.3)
    if views >= 90:
        assert estimate.other == ("the double wedge of the sinogram", pytest.approx(295.65, abs=0.8))


def test_evidence_of_parts_adds_up_to_the_same_axis():
    angles = np.deg2rad(np.array(optimized_interleaved(180)))[:24]
    clean = project(foam(), angles, 128, 60.4, 50)
    stack = np.stack([noisy(clean, 1e3, seed) for seed in range(5)], axis=1).astype(np.float32)
    total = np.zeros((5, 32))
    for rows in (slice(0, 2), slice(2, 5), slice(5, 5)):
        finder = AxisFinder(stack[0, rows].shape[0], 128)
        for projection, angle in zip(stack, angles, strict=True):
            finder.add(projection[rows], float(angle))
        total += finder.evidence()
    together, whole = locate_axis(total, 128, 24), find_axis(stack, angles)
    assert together.axis == whole.axis
    assert together.uncertainty == pytest.approx(whole.uncertainty, rel=1e-6)


def test_rows_without_light_are_left_out():
    angles = np.deg2rad(np.array(optimized_interleaved(180)))[:32]
    stack = np.stack([project(foam(), angles, 128, 60.4, 50)] * 4, axis=1)
    stack[5] = np.nan
    stack[:, 2] = np.nan
    stack[7, 1] = np.nan
    assert find_axis(stack, angles).axis == pytest.approx(60.4, abs=0.1)


def test_nothing_seen_gives_the_middle_and_no_confidence():
    angles = np.deg2rad(np.array(optimized_interleaved(180)))[:16]
    estimate = find_axis(np.zeros((16, 2, 64)), angles)
    assert estimate.axis == 31.5
    assert not estimate.confident
    assert "not certain" in str(estimate)


def test_axis_is_looked_for_at_fixed_numbers_and_at_the_last():
    assert [n for n in range(100) if axis_checkpoint(n, 90)] == [16, 24, 32, 40, 48, 56, 64, 80, 90, 96]


def test_tall_detectors_are_sampled_by_rows_that_do_not_depend_on_ranks():
    assert len(axis_rows(2160)) <= 128
    assert list(axis_rows(3)) == [0, 1, 2]


@pytest.mark.parametrize("other", [None, (WEDGE, 31.0)])
def test_projections_are_let_go_when_nothing_is_looked_for_any_more(other):
    block, settings = RowBlock(0, 2, 0, 0, 1), ReconSettings()
    run = OpenRun(
        run_uid="run", recon_uid="recon", planned=90, detector_shape=(2, 64), dtype="<f4", recon=settings, block=block
    )
    search = AxisSearch(run, Communicator(), [])
    views = [View(seq, np.zeros((2, 64), np.float32), 0.1 * seq, {}) for seq in range(1, 9)]
    known = [weakref.ref(view.pixels) for view in views]
    assert not search.begin(views, closed=False)
    del views
    assert all(each() is not None for each in known)
    certain = AxisEstimate(31.5, 0.01, 20.0, 8, other=other)
    search.take(certain, final=True)
    if other is None:
        search.take(certain, final=True)  # a person has set it: nothing confirms that
    else:
        search.look([], 8)
    assert not any(each() is not None for each in known)
    assert search.column == 31.5


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match=r"expected \(A, rows, columns\)"):
        find_axis(np.zeros((3, 4)), [0, 1, 2])
    with pytest.raises(GeometryError, match="at least 8"):
        AxisFinder(1, 4)
    with pytest.raises(GeometryError, match=r"expected \(2, 64\)"):
        AxisFinder(2, 64).add(np.zeros((2, 32), np.float32), 0.0)
