"""Where edges run in few directions, a few views hold most of the image: nothing is said before they are known."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from bluesky_streamrecon.coverage import HALF_TURN
from bluesky_streamrecon.evaluation.scans import simulated_scan
from bluesky_streamrecon.ordering import make_order
from bluesky_streamrecon.quality.forecast import FARTHEST, why_none
from bluesky_streamrecon.quality.gain import Gain, band, predict_gain
from bluesky_streamrecon.quality.lines import ScanLines
from bluesky_streamrecon.quality.sharp_views import HALF_WIDTH, detail_at_most, find_sharp_views
from bluesky_streamrecon.quality.trials import TrialReconstruction
from bluesky_streamrecon.recon.quick import QuickReconstructor
from bluesky_streamrecon.sim_devices import Kind

COLUMNS, NUM = 128, 160
RECIPE = QuickReconstructor()


def scan_of(kind, seed=0, counts=3e4, order="optimized-interleaved"):
    return simulated_scan(kind, Kind(kind, seed), columns=COLUMNS, order=make_order(order, num=NUM), counts=counts)


def trial(scan, count):
    part = scan.first(count)
    return TrialReconstruction(ScanLines(part.integrals, part.angles, part.axis, (0,), planned=NUM), [0], RECIPE)


def test_nothing_is_predicted_of_few_directions_while_another_may_hide_between_views():
    counts = range(24, NUM, 8)
    apart = {
        kind: [at for at in counts if why_none(trial(scan_of(kind), at), FARTHEST)] for kind in ("layers", "grains")
    }
    assert apart == {"layers": [24], "grains": []}
    arc = math.pi / NUM * COLUMNS / 2  # at the end; 24 views leave up to ten of them
    why = why_none(trial(scan_of("layers"), 24), FARTHEST)
    assert why.startswith("edges run in few directions (the sharpest view has ")
    assert f"neighbouring views are up to {10 * arc:.1f} pixels apart" in why


def test_no_number_is_measured_where_edges_run_in_few_directions():
    assert all("edges run in few directions" in why_none(trial(scan_of("layers"), at)) for at in (32, 80, 152))
    assert not any(why_none(trial(scan_of("grains"), at)) for at in (32, 80, 152))


def test_layers_are_found_by_their_sharpest_view_in_any_light():
    for counts in (1e3, 1e6):
        assert find_sharp_views(trial(scan_of("layers", counts=counts), 80)).few
        assert not find_sharp_views(trial(scan_of("fibres", counts=counts), 80)).few


def test_detail_between_two_sharp_views_may_be_that_of_a_sharper_one():
    """As much as makes each of them what it is, one over one and the arc; elsewhere it is between its neighbours'."""
    size, step = 100, 0.04  # radians: arcs of 2 pixels
    angles = np.arange(40) * step
    detail = np.ones(40)
    detail[10:12] = 20.0
    wanted = np.array([angles[10], angles[10] + step / 2, angles[11] + step / 2, angles[20] + step / 3])
    flat, peak = 1.0, 20 * (1 + 1 / HALF_WIDTH)
    assert detail_at_most(wanted, angles, detail, HALF_TURN, size) == pytest.approx([20, peak, 10.5, flat])
    backwards = detail_at_most(wanted + math.pi, angles[::-1], detail[::-1], HALF_TURN, size)
    assert backwards == pytest.approx([20, peak, 10.5, flat])


def test_upper_end_allows_for_a_view_along_the_edges_until_it_is_taken():
    scan = scan_of("layers", order="fixed")
    sharpest = int(np.argmax(trial(scan, NUM).detail[0]))
    order = [*(at for at in range(0, NUM, 2) if abs(at - sharpest) > 1), sharpest - 1, sharpest + 1, sharpest]
    taken = scan.in_order([at % NUM for at in order])
    before, after = (find_sharp_views(trial(taken, len(order) - left)) for left in (1, 0))
    assert before.few
    assert after.few
    assert before.rise > 0 > after.rise
    made = [predict_gain(trial(taken, len(order) - left)) for left in (1, 0)]
    assert made[0].single > 1.5 * made[1].single


@pytest.mark.parametrize("kind", ["layers", "lattice"])
def test_what_single_views_add_or_take_is_inside_the_band(kind):
    scan = scan_of(kind)
    losses, ends = [], []
    best = scan.known.similarity(trial(scan, NUM).full)
    for count in range(48, NUM, 16):
        study = trial(scan, count)
        gain = predict_gain(study)
        losses.append(best - scan.known.similarity(study.full))
        ends.append((gain.lower, gain.upper))
    assert all(low <= loss <= high for loss, (low, high) in zip(losses, ends, strict=True))
    assert any(later > before for before, later in pairwise(losses))  # more views make it worse at times
    assert min(high for _, high in ends) < 0.02


def test_band_of_few_directions_is_wider_at_both_ends_and_in_what_is_said_of_later():
    low, high = band(0.01, 0.008)
    assert low < 0
    assert high == pytest.approx(band(0.01)[1] + 0.008)
    made = Gain(0.02, 0.01, 0.03, 60, 180, 1.0, 0.06, by_variance=0.02 / (1 / 60 - 1 / 180), by_aliasing=0.0, size=256)
    later = [replace(made, single=single).enough_at(0.02, HALF_TURN) for single in (0.0, 0.008, 0.02)]
    assert later[0] < later[1] < 180
    assert later[2] is None
