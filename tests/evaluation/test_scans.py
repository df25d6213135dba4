"""Scans to evaluate on: simulated in closed form, measured as the job would prepare them, finished offline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.evaluation.images import finish, live_updates, with_best_image
from bluesky_streamrecon.evaluation.scans import (
    ScanStack,
    measured_scan,
    prepared,
    simulated_scan,
)
from bluesky_streamrecon.ordering import make_order, places_in_order
from bluesky_streamrecon.partition import RowBlock
from bluesky_streamrecon.recon.preparation import Preparation
from bluesky_streamrecon.recon.steps import Pipeline
from bluesky_streamrecon.recon.tilt import row_shifts, upright
from bluesky_streamrecon.settings import ReconSettings
from bluesky_streamrecon.sim_devices import Foam, SheppLogan
from bluesky_streamrecon.storage import TomoScan

TOOTH = Path(__file__).parent.parent / "data" / "tooth.h5"
ORDER = make_order("optimized-interleaved", num=40)


def foam(**changes):
    given = {"columns": 48, "order": ORDER, "counts": 1e5, "seed": 3}
    return simulated_scan("foam", Foam(pores=12), **(given | changes))


def test_simulated_scan_is_the_same_every_time_and_depends_on_its_seed():
    assert np.array_equal(foam().integrals, foam().integrals)
    assert not np.array_equal(foam().integrals, foam(seed=4).integrals)
    assert np.abs(foam(counts=1e9).integrals - foam(counts=None).integrals).max() < 1e-3


def test_interior_scan_has_a_margin_that_does_not_count_and_rings_that_stay():
    scan, clean = foam(fill=1.5, rings=0.02, counts=1e9), foam(fill=1.5, counts=None)
    assert scan.size == scan.truth.image.shape[1] == 60
    stripes = scan.integrals - clean.integrals
    assert np.ptp(stripes, axis=0).max() < 0.01 < np.std(stripes[0])
    other = scan.truth.image.copy()
    other[:, 0] = 9.0
    assert scan.truth.similarity(other) == pytest.approx(1)
    assert scan.truth.rmse(other) == 0


def test_prefix_and_order_of_a_scan_keep_angles_with_their_projections():
    scan = foam()
    turned = scan.first(10).in_order(range(9, -1, -1))
    assert np.array_equal(turned.angles, scan.angles[9::-1])
    assert np.array_equal(turned.integrals, scan.integrals[9::-1])


@pytest.mark.parametrize("tilt", [0.0, 1.5])
def test_some_rows_of_a_scan_are_prepared_as_they_are_among_all(tilt):
    phase = {"step": "paganin", "delta_beta": 100.0, "energy": 20.0, "distance": 25.0, "pixel_size": 2.7}
    preparation = ("zingers", phase, "rings")
    counts = np.random.default_rng(0).poisson(1e3, (9, 40, 32)).astype(np.uint16)
    scan = TomoScan(counts[:5], counts[5:7], counts[7:] // 10, np.linspace(0, 144, 5))
    rows = [0, 20, 39]
    recon = ReconSettings(axis=15.5, axis_tilt=tilt, preparation=preparation)
    found = prepared(scan, "some", recon, rows).integrals
    whole = Preparation(40, 32)
    for dark, flat in zip(scan.darks, scan.flats, strict=True):
        whole.add_reference("dark", dark)
        whole.add_reference("flat", flat)
    steps = Pipeline(preparation, 40, 32)
    shifts = row_shifts(RowBlock(0, 40, 0, 0, 1), 40, tilt)
    expected = [upright(steps.first_part(whole.prepare(frame), 0.0), shifts)[rows] for frame in scan.projections]
    assert abs(shifts[0]) == pytest.approx(19.5 * np.tan(np.radians(tilt)))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_measured_scan_is_interleaved_and_cropped_about_its_axis():
    scan = measured_scan(TOOTH)
    assert scan.integrals.shape[:2] == (181, 2)
    assert abs(scan.axis - (scan.integrals.shape[2] - 1) / 2) <= 0.5
    gaps = np.diff(np.sort(scan.angles[:16]))
    assert gaps.max() < 2.2 * np.pi / 16


def test_more_projections_make_a_better_finished_image():
    scan = simulated_scan(
        "head", SheppLogan(), columns=64, order=make_order("optimized-interleaved", num=64), counts=1e4
    )
    truth = scan.truth
    found = [truth.similarity(finish(scan.first(count))) for count in (8, 16, 32, 64)]
    assert found == sorted(found)
    assert found[-1] > 0.9
    errors = [truth.rmse(finish(scan.first(count))) for count in (8, 64)]
    assert errors[1] < errors[0]


def test_finished_image_does_not_depend_on_the_order_of_projections():
    scan = foam()
    image = finish(scan)
    np.testing.assert_allclose(finish(scan.in_order(range(39, -1, -1))), image, atol=1e-5 * image.max())


def test_best_image_stands_for_the_truth():
    scan = foam(counts=1e6)
    truth = with_best_image(scan).truth
    assert truth.similarity(truth.image) == 1.0
    assert truth.similarity(finish(scan)) > truth.similarity(finish(scan.first(10)))


@pytest.mark.parametrize("order", ["fixed", "optimized-interleaved", "golden"])
def test_recorded_projections_are_taken_once_each_in_any_order(order):
    angles = np.random.default_rng(1).permutation(np.arange(40.0))
    places = places_in_order(order, angles)
    assert sorted(places) == list(range(40))
    wanted = np.asarray(make_order(order, num=40, start=0, stop=40).angles)
    np.testing.assert_allclose(angles[places][:8], wanted[:8], atol=0.5)


def test_recorded_projections_that_a_stage_turning_on_and_on_would_take_are_those_of_the_golden_order():
    angles = np.random.default_rng(1).permutation(np.arange(40.0))
    assert places_in_order("golden-continuous", angles) == places_in_order("golden", angles)


def test_nothing_can_not_be_finished():
    with pytest.raises(DataError, match="no projection"):
        finish(foam().first(0))


@pytest.mark.parametrize("step", [1, 7])
def test_live_images_come_after_every_step_and_at_the_end(step):
    numbers = [number for number, _ in live_updates(foam(), ReconSettings(window=12, step=step))]
    assert numbers == sorted({*range(step, 41, step), 40})


def test_scans_that_are_stacked_are_compared_with_their_own_truths():
    scans = [foam(), simulated_scan("head", SheppLogan(), columns=48, order=ORDER, counts=1e5, rows=2)]
    together = ScanStack.of(scans)
    image = finish(together.whole)
    alone = [scan.compare(40, finish(scan)) for scan in scans]
    for row, expected in zip(together.compare(40, image), alone, strict=True):
        assert (row["sample"], row["noise"], row["projections"]) == (expected["sample"], 1e5, 40)
        assert (row["ms_ssim"], row["rmse"]) == pytest.approx((expected["ms_ssim"], expected["rmse"]), rel=1e-3)
