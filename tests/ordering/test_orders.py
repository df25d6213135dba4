"""Orders: every angle once, for any number and range, and the figures that the design promises."""

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.ordering import (
    AngleOrder,
    fixed,
    golden_angle,
    interlaced,
    interleaved,
    listed,
    make_order,
    move_time,
    optimized_interleaved,
)

NUMS = st.integers(1, 700)
RANGES = st.tuples(st.floats(-360, 360), st.floats(0.5, 720)).map(lambda ab: (ab[0], ab[0] + ab[1]))


@given(NUMS, RANGES, st.integers(1, 60), st.floats(0, 40))
def test_grid_orders_visit_every_angle_exactly_once(num, span, stride, threshold):
    start, stop = span
    expected = fixed(num, start, stop).angles
    assert len(expected) == num
    assert list(expected) == sorted(expected)
    for order in (
        interleaved(num, stride, start, stop),
        optimized_interleaved(num, start, stop, threshold=threshold),
    ):
        assert sorted(order) == list(expected)


@given(NUMS, RANGES)
def test_golden_angles_stay_in_range_and_never_repeat(num, span):
    start, stop = span
    order = golden_angle(num, start, stop)
    assert all(start <= a <= stop for a in order)
    assert len({round(a - start, 9) for a in order}) == num
    turning = golden_angle(num, start, stop, continuous=True)
    assert list(turning) == sorted(turning)


@given(NUMS)
def test_optimized_interleaved_ascends_inside_rounds_that_halve_the_stride(num):
    order = optimized_interleaved(num, 0, num)
    rounds = sum(b < a for a, b in pairwise(order))
    assert rounds <= math.ceil(math.log2(num)) + 1 if num > 1 else rounds == 0


def test_optimized_interleaved_matches_the_paper_for_180_views():
    assert optimized_interleaved(180)[:8].angles == (0, 90, 45, 135, 22, 67, 112, 157)


def test_interleaved_matches_the_paper_for_180_views():
    order = interleaved(180, 5)
    assert order.angles[:3] == (0, 5, 10)
    assert order.angles[35:38] == (175, 1, 6)
    assert order.angles[-1] == 179


def test_optimized_interleaved_keeps_coverage_and_travel_of_the_design():
    order = optimized_interleaved(180)
    assert round(order.worst_gap_ratio(8), 1) == 2.1
    assert order.travel() == 2159
    assert round(fixed(180).worst_gap_ratio(8)) == 46


def test_threshold_turns_optimized_interleaving_into_plain_rounds():
    plain = optimized_interleaved(180, threshold=20)
    assert plain.travel() > optimized_interleaved(180).travel()
    assert sorted(plain) == sorted(fixed(180))
    assert plain[:8] == AngleOrder(plain.name, optimized_interleaved(180)[:8].angles)


@pytest.mark.parametrize(
    "name",
    [
        "fixed",
        "interleaved(7)",
        "interlaced(6)",
        "optimized-interleaved",
        "optimized-interleaved(4)",
        "golden",
        "golden-continuous",
    ],
)
def test_an_order_is_made_again_from_its_name(name):
    order = make_order(name, num=33, start=-60, stop=60)
    assert order.name == name
    assert make_order(order.name, num=33, start=-60, stop=60) == order
    assert make_order(order) is order


def test_interlaced_turns_halve_the_gap_and_visit_every_angle_once():
    order = interlaced(180, 4)
    assert [sweep.first for sweep in order.sweeps()] == [0, 2, 1, 3]
    assert sorted(order) == sorted(fixed(180))
    gaps = order.largest_gaps()
    assert [gaps[k - 1] for k in (45, 90, 180)] == [4, 2, 1]


@pytest.mark.parametrize("name", ["fixed", "interleaved(5)", "interlaced(8)", "golden-continuous"])
def test_the_sweeps_of_an_order_are_its_angles(name):
    order = make_order(name, num=64, start=-60, stop=60)
    assert [angle for sweep in order.sweeps() for angle in sweep] == pytest.approx(list(order))
    assert all(sweep.step > 0 for sweep in order.sweeps())


def test_optimized_interleaving_can_be_flown_for_powers_of_two():
    order = optimized_interleaved(64)
    assert [len(sweep) for sweep in order.sweeps()] == [2, 2, 4, 8, 16, 32]


@pytest.mark.parametrize("order", ["golden", "optimized-interleaved", [3, 2, 1]])
def test_an_order_that_is_not_made_of_equal_steps_can_not_be_flown(order):
    with pytest.raises(ConfigError, match="expected 'fixed', 'interleaved"):
        make_order(order, num=45).sweeps()


def test_a_list_of_angles_keeps_its_order():
    assert make_order([30, 10, 20]).angles == (30, 10, 20)
    assert listed([30, 10, 20]).stop == 40


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: make_order("spiral"), "optimized-interleaved"),
        (lambda: make_order("interleaved(x)"), "interleaved"),
        (lambda: make_order([]), "empty"),
        (lambda: make_order([1, 2, 1]), "twice"),
        (lambda: make_order([1, math.nan]), "angle 1"),
        (lambda: fixed(0), "num"),
        (lambda: fixed(3, 10, 10), "start < stop"),
        (lambda: interleaved(10, 0), "stride"),
        (lambda: interlaced(10, 11), "turns"),
        (lambda: make_order("interlaced(x)"), "interlaced"),
        (lambda: optimized_interleaved(10, threshold=-1), "threshold"),
        (lambda: move_time(1, 0), "velocity"),
        (lambda: AngleOrder("mine", (0.0, math.nan, 5.0)), "order 'mine': angle 1 is nan, expected finite"),
        (lambda: AngleOrder("mine", (0.0,), 0.0, 0.0), "start < stop"),
        (lambda: make_order(AngleOrder("mine", ())), "no angles, expected at least one"),
    ],
)
def test_a_bad_order_is_refused_with_what_was_expected(make, word):
    with pytest.raises(ConfigError, match=word):
        make()


def test_limited_range_counts_the_wedges_at_its_ends():
    order = make_order([0], num=1)
    limited = AngleOrder("listed", (0.0,), -60, 60)
    assert limited.largest_gaps()[0] == 60
    assert order.largest_gaps()[0] == 180


def test_time_estimate_adds_moves_and_exposures():
    order = listed([0, 90, 45])
    assert order.seconds(velocity=45, exposure=2) == pytest.approx(2 + 1 + 6)
    assert order.seconds(velocity=45, acceleration_time=0.5, exposure=0) == pytest.approx(2.5 + 1.5)
    assert order.seconds(velocity=45, backlash=9) == pytest.approx(2 + 1.2 + 0.2)
    assert order.travel(backlash=9) == 90 + 45 + 18


def test_a_short_move_never_reaches_full_velocity():
    assert move_time(1, 10, 1) == pytest.approx(2 * math.sqrt(0.1))
    assert move_time(10, 10, 1) == pytest.approx(2)
    assert move_time(0, 10, 1) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num": "many"}, "num: got 'many', expected a whole number"),
        ({"num": 10.5}, "num: got 10.5, expected a whole number"),
        ({"num": True}, "num: got True, expected a whole number"),
        ({"num": 10**9}, "num: got 1000000000, expected 1 to"),
        ({"start": "0"}, "angles: got the range ['0', 180.0), expected degrees"),
        ({"order": 5}, "order: got 5, expected a name or a list of angles"),
        ({"order": [0, "ninety"]}, "order: got [0, 'ninety'], expected a name or a list of angles"),
    ],
)
def test_what_is_no_number_of_angles_or_no_angle_is_said_in_words(arguments, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        make_order(**({"order": "fixed"} | arguments))


@pytest.mark.parametrize("name", ["velocity", "acceleration_time", "exposure", "backlash"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_no_time_is_told_for_a_motion_that_can_not_be(name, value):
    with pytest.raises(ConfigError, match=name):
        optimized_interleaved(8).seconds(**({"velocity": 10.0} | {name: value}))
