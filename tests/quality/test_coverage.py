"""Views of one direction, repeated or opposite, count once: for coverage as against it, in any order."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bluesky_streamrecon.coverage import AngularRange, largest_gap
from bluesky_streamrecon.ordering import make_order
from bluesky_streamrecon.quality.gain import Gain

TURN = AngularRange(0, 2 * math.pi)
RANGES = [AngularRange(), TURN, AngularRange(math.radians(-90), math.radians(270)), AngularRange(1.0, 1.0 + 1.2)]


@st.composite
def scans(draw):
    """A range, some of its directions, and the same ones with views repeated, turned round and shuffled."""
    over = draw(st.sampled_from(RANGES))
    grid = draw(st.integers(8, 180))
    places = draw(st.lists(st.integers(0, grid - 1), min_size=2, max_size=40, unique=True))
    angles = over.start + over.span * np.array(places) / grid
    again = [
        angles[place % len(angles)] + math.pi * turns
        for place, turns in draw(st.lists(st.tuples(st.integers(0, 39), st.integers(-2, 2)), max_size=40))
    ]
    everything = draw(st.permutations([*angles, *again]))
    return over, angles, np.array(everything)


@settings(max_examples=100, deadline=None)
@given(scans())
def test_repeated_and_opposite_views_change_no_gap_in_any_order(scan):
    over, angles, more = scan
    np.testing.assert_allclose(over.directions(more).gaps, over.directions(angles).gaps, atol=1e-9)
    assert over.unevenness(more) == pytest.approx(over.unevenness(angles))
    assert over.aliasing(more, 512) == pytest.approx(over.aliasing(angles, 512), abs=1e-12)
    assert largest_gap(more, over) == pytest.approx(largest_gap(angles, over))


@settings(max_examples=100, deadline=None)
@given(scans(), st.randoms(use_true_random=False))
def test_weights_belong_to_views_in_any_order_and_cells_fill_the_range(scan, random):
    over, _, angles = scan
    order = list(range(len(angles)))
    random.shuffle(order)
    np.testing.assert_allclose(over.view_weights(angles)[order], over.view_weights(angles[order]), rtol=1e-6)
    assert over.directions(angles).cells.sum() == pytest.approx(over.span)


@pytest.mark.parametrize("times", [2, 3, 5])
def test_noise_falls_with_every_view_however_few_directions_there_are(times):
    angles = np.radians(np.arange(0, 180, 4.0))
    again = np.concatenate([angles + math.pi * turn for turn in range(times)])
    assert TURN.variance(again) == pytest.approx(TURN.variance(angles) / times)


@pytest.mark.parametrize("num", [60, 90, 100, 101, 360])
@pytest.mark.parametrize("name", ["optimized-interleaved", "golden"])
def test_full_turn_is_as_even_as_a_half_turn_once_it_has_a_quarter_of_its_views(num, name):
    if name == "golden":
        angles = np.radians(np.asarray(make_order(name, num=num).angles))
        angles[1::2] += math.pi
    else:
        angles = np.radians(np.asarray(make_order(name, num=num, start=0, stop=360).angles))
    assert min(TURN.unevenness(angles[:count]) for count in range(num // 4, num // 2)) <= 1.21
    assert TURN.unevenness(angles) <= 1.21


@pytest.mark.parametrize("wobble", [1e-7, 1e-5, 2e-4])
def test_stage_that_is_a_little_off_the_opposite_angle_makes_no_uneven_scan(wobble):
    angles = np.radians(np.arange(0, 180, 2.0))
    rng = np.random.default_rng(1)
    opposite = angles + math.pi + wobble * rng.uniform(-1, 1, len(angles))
    assert TURN.unevenness(np.concatenate([angles, opposite])) == pytest.approx(1, abs=1e-3)


def test_end_of_a_full_turn_is_predicted_from_directions():
    made = Gain(0.02, 0.01, 0.03, 90, 360, 0.5, 0.06, by_variance=1.0, by_aliasing=0.5, size=256)
    end = made.enough_at(0.02, TURN)
    assert end is not None
    assert 90 < end < 360
    assert len(TURN.directions(TURN.even_part(90, 360)).gaps) == 45
    assert len(TURN.directions(TURN.even_part(90, 361)).gaps) == 90


@pytest.mark.parametrize(
    "order",
    [
        list(make_order("optimized-interleaved", num=96, start=0, stop=360)),
        list(make_order("optimized-interleaved", num=60, start=0, stop=180)) * 2,
        [angle + turn for angle in make_order("optimized-interleaved", num=50) for turn in (180, 0)],
    ],
    ids=["even-full-turn", "half-turn-twice", "opposite-first"],
)
def test_scan_with_opposite_or_repeated_views_ends_by_prediction(simulate, drive, stand_in, order):
    simulated = simulate(order=order, over=TURN)
    scores, finalize = drive(
        simulated, reconstructor=stand_in, policy="predicted-gain", metadata={"angle_start": "0", "angle_stop": "360"}
    )
    assert finalize is not None, scores[-1].text
    assert finalize.projections < len(order) - 3


def test_full_turn_begins_at_the_same_range_wherever_it_starts():
    for start in range(-360, 361):
        said = [{"angle_start": str(start), "angle_stop": str(start + turn)} for turn in (341.99, 342)]
        assert [AngularRange.from_metadata(metadata).full_turn for metadata in said] == [False, True], start


def test_half_acquisition_counts_opposite_views_as_two_directions():
    over = AngularRange(0.0, 2 * math.pi)
    angles = over.even(61)  # an odd number: the second half turn fills the gaps of the first
    near_edge, centred = over.around(10.0, 97), over.around(46.0, 97)
    assert (near_edge.turn, centred.turn) == (2 * math.pi, math.pi)
    assert AngularRange().around(10.0, 97).turn == math.pi
    halves = [angles[near_edge.directions(angles).of_view % 2 == odd] for odd in (0, 1)]
    for half in halves:  # each is an evenly coarser scan all around, not one half of the turn
        assert np.diff(half).max() < 2.01 * (angles[1] - angles[0])
    assert near_edge.variance(angles) == pytest.approx(1 / 61)
    assert largest_gap(angles, near_edge) == pytest.approx(360 / 61)
    assert near_edge.aliasing(angles, 200) > centred.aliasing(angles, 200)
