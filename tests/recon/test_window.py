"""Window: which projections it keeps, which an update uses, and in which order."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.partition import RowBlock
from bluesky_streamrecon.recon import Engine
from bluesky_streamrecon.recon.view import window_of
from bluesky_streamrecon.recon.window import (
    SlabRows,
    Spread,
    Window,
    kept_views,
    pass_order,
    redundant_view,
    spread_views,
)
from bluesky_streamrecon.settings import ReconSettings
from bluesky_streamrecon.wire import OpenRun

COLUMNS = 40
GEOMETRY = TomoGeometry(columns=COLUMNS, axis=18.7)


def scan(rows, count=20, seed=0):
    random = np.random.default_rng(seed)
    return random.random((count, rows, COLUMNS)).astype(np.float32) + 0.5, random.uniform(-4, 4, count)


def test_window_without_length_keeps_all():
    window = Window(None, COLUMNS, [SlabRows(0, 3, 4)])
    projections, angles = scan(3, count=70)
    for projection, angle in zip(projections, angles, strict=True):
        window.append(projection, angle)
    np.testing.assert_array_equal(window.angles, angles)
    np.testing.assert_array_equal(window.store.data[0][window.slots][:, :, :3], projections.transpose(0, 2, 1))


views = st.lists(st.floats(-7, 7), min_size=1, max_size=60)


@settings(deadline=None)
@given(views, st.integers(1, 30), st.integers(0, 1000), st.integers(0, 40), st.floats(0, 0.99))
def test_spread_window_has_its_length_and_all_that_is_fresh(angles, length, number, fresh, older):
    chosen = spread_views(np.array(angles), length, number, fresh, older)
    total = len(angles)
    assert len(chosen) == min(total, length)
    assert list(chosen) == sorted(set(chosen.tolist()))
    newest = min(total, length, max(fresh, length - int(older * length)))
    assert list(chosen[-newest:]) == list(range(total - newest, total))


@settings(deadline=None)
@given(views, st.integers(2, 24), st.integers(0, 1000), st.randoms(use_true_random=False))
def test_spread_window_does_not_depend_on_the_order_of_older_projections(angles, length, number, random):
    newest = length - length // 2
    angles = list(dict.fromkeys(np.round(np.mod(angles, np.pi), 6)))
    older, new = angles[:-newest], angles[-newest:]
    shuffled = random.sample(older, len(older))
    one, other = (np.array(part + new) for part in (older, shuffled))
    first, second = (sorted(part[spread_views(part, length, number)]) for part in (one, other))
    assert first == second


@pytest.mark.parametrize(("fresh", "older"), [(1, 12), (2, 6)])
def test_spread_window_has_fewer_older_ones_where_an_update_takes_in_several(fresh, older):
    window = Window(24, 8, [SlabRows(0, 1, 4)], policy="spread")
    for angle in np.random.default_rng(0).uniform(0, np.pi, 100):
        window.append(np.zeros((1, 8), np.float32), angle)
    window.choose(3, fresh)
    newest = set(window.kept_slots[-(24 - older) :].tolist())
    assert len(set(window.slots.tolist()) - newest) == older


@pytest.mark.parametrize("kept", [24, 31, 60])
def test_window_keeps_what_it_is_told_to(kept):
    window = Window(24, 8, [SlabRows(0, 1, 4)], policy=Spread(kept=kept))
    for angle in np.random.default_rng(0).uniform(0, np.pi, 100):
        window.append(np.zeros((1, 8), np.float32), angle)
    assert len(window.kept_slots) == kept
    window.choose(3, 1)
    assert len(window) == 24


@pytest.mark.parametrize("wrong", [{"older": 1.0}, {"older_of_steps": -0.1}, {"older": float("nan")}, {"kept": 0}])
def test_window_that_can_not_be_spread_so_is_refused(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))}: got"):
        Spread(**wrong)


def test_spread_window_gives_every_older_projection_its_turn():
    angles = np.random.default_rng(0).uniform(0, np.pi, 100)
    used = {int(place) for number in range(60) for place in spread_views(angles, 24, number)}
    assert used == set(range(100))


def test_spread_window_leaves_no_wide_gap_where_the_newest_do():
    angles = np.radians(np.arange(180.0))
    gaps = np.diff(np.sort(angles[spread_views(angles, 24, 5)]))
    assert gaps.max() < 2.5 * np.pi / 12
    with Engine(GEOMETRY, 3, window=6, window_policy="spread") as engine:
        for projection, angle in zip(*scan(3), strict=True):
            engine.append(projection, angle)
        engine.update()
        assert len(engine._window.angles) == 6


def spread_window(angles, length=3, columns=8, rows=1, planned=0):
    """Fill a spread window with projections that say what number they have."""
    window = Window(length, columns, [SlabRows(0, rows, 4)], policy="spread", planned=planned)
    for number, angle in enumerate(angles):
        window.append(np.full((rows, columns), number, np.float32), angle)
    return window


def kept_numbers(window):
    return [int(projection[0, 0]) for projection in window.kept()[1]]


def forget_by_hand(angles, limit, protected):
    """Keep `limit` of the angles' places, one after the other, with nothing but loops."""
    kept = []
    for number in range(len(angles)):
        if len(kept) == limit:
            turned = {place: angles[place] % (2 * math.pi) for place in kept}
            by_angle = sorted(kept, key=lambda place: (turned[place], place))
            left = {}
            for i, place in enumerate(by_angle):
                after, before = by_angle[(i + 1) % limit], by_angle[i - 1]
                left[place] = round((turned[after] - turned[before]) % (2 * math.pi) * 1e9)
            kept.remove(min(kept[: limit - protected], key=lambda place: (left[place], place)))
        kept.append(number)
    return kept


long_scans = st.one_of(
    st.lists(st.floats(-7, 7), min_size=1, max_size=80),
    st.integers(1, 80).map(lambda count: [math.radians(2 * i) for i in range(count)]),
    st.integers(1, 80).map(lambda count: [math.pi * (i * 0.618034 % 1) for i in range(count)]),
)


@settings(deadline=None)
@given(long_scans, st.integers(1, 6), st.integers(0, 90))
def test_full_window_forgets_what_the_others_best_make_up_for(angles, length, planned):
    window = spread_window(angles, length, planned=planned)
    limit = kept_views(8, length)
    assert kept_numbers(window) == forget_by_hand(angles, limit, length)
    np.testing.assert_array_equal(window.kept()[0], np.array(angles)[kept_numbers(window)])
    assert window.total == len(angles)
    assert len(window.store.data[0]) <= max(limit, 16)


@settings(deadline=None)
@given(long_scans, st.integers(1, 6), st.data())
def test_window_that_is_given_what_was_kept_goes_on_in_the_same_way(angles, length, data):
    at = data.draw(st.integers(0, len(angles)))
    undisturbed = spread_window(angles[:at], length)
    restored = Window(length, 8, [SlabRows(0, 1, 4)], policy="spread")
    for angle, projection in zip(*undisturbed.kept(), strict=True):
        restored.append(projection, angle)
    for number in range(at, len(angles)):
        for window in (undisturbed, restored):
            window.append(np.full((1, 8), number, np.float32), angles[number])
            window.choose(number, 1)
        assert kept_numbers(undisturbed) == kept_numbers(restored)
        np.testing.assert_array_equal(undisturbed.angles, restored.angles)


@settings(deadline=None)
@given(long_scans, st.integers(1, 6), st.integers(1, 8))
def test_newest_projections_are_never_forgotten(angles, length, fresh):
    window = spread_window(angles, length)
    newest = min(length, len(angles))
    assert kept_numbers(window)[-newest:] == list(range(len(angles) - newest, len(angles)))
    window.choose(0, fresh)
    used = [int(window.store.data[0][slot, 0, 0]) for slot in window.slots]
    assert len(used) == newest
    assert used[-min(fresh, newest) :] == list(range(len(angles) - min(fresh, newest), len(angles)))


def test_ordinary_scan_is_kept_whole():
    angles = np.radians(np.arange(180.0))
    assert kept_numbers(spread_window(angles, 24, columns=128)) == list(range(180))


@pytest.mark.parametrize("turn", [math.pi, 2 * math.pi])
def test_endless_scan_stays_spread_over_its_angles_in_flat_memory(turn):
    window = spread_window((np.arange(4000) * turn * 0.618034) % turn, 6, columns=40, planned=4000)
    limit = kept_views(40, 6)
    assert [len(data) for data in window.store.data] == [limit]
    gaps = np.diff(np.sort(window.kept()[0]))
    assert len(gaps) == limit - 1
    assert gaps.max() < 3 * turn / limit


def test_equal_gaps_are_equal_in_spite_of_rounding():
    angles = np.linspace(0, math.pi, 181)[:-1] + 1e-13 * np.random.default_rng(1).standard_normal(180)
    assert redundant_view(angles, 180) == 1


def test_planned_projections_that_are_too_many_take_no_more_memory():
    window = Window(None, 8, [SlabRows(0, 1, 4)], planned=10**9)
    assert len(window.store.data[0]) == kept_views(8, 1)
    for number in range(40):
        window.append(np.full((1, 8), number, np.float32), 0.0)
    assert kept_numbers(window) == list(range(40))


@pytest.mark.parametrize(("passes", "members"), [(1, 1), (4, 1), (24, 1), (1, 3), (5, 2)])
def test_subsets_use_every_projection_once(passes, members):
    window = Window(24, COLUMNS, [SlabRows(0, 1, 4)])
    for projection, angle in zip(*scan(1, count=30), strict=True):
        window.append(projection, angle)
    used = [
        slot
        for number in range(passes)
        for member in range(members)
        for slot in window.subset(number, passes, member, members).slots
    ]
    assert sorted(used) == list(range(24))


@pytest.mark.parametrize("passes", range(1, 40))
def test_pass_order_visits_each_subset_once(passes):
    assert sorted(pass_order(passes)) == list(range(passes))


@pytest.mark.parametrize("order", ["golden section", "random", "round and round"])
def test_window_that_moves_on_keeps_and_takes_what_the_definitions_say_of_all_of_it(order):
    random = np.random.default_rng(1)
    angles = {
        "golden section": np.arange(300) * 2.4 - 3,
        "random": random.uniform(-9, 9, 300),
        "round and round": (np.arange(300) % 37) * math.pi / 18,
    }[order]
    window, kept = Window(4, 16, [SlabRows(0, 1, 4)], policy="spread"), np.empty(0)
    for number, angle in enumerate(angles):
        if len(kept) == kept_views(16, 4):
            kept = np.delete(kept, redundant_view(kept, len(kept) - 4))
        kept = np.append(kept, angle)
        window.append(np.zeros((1, 16), np.float32), float(angle))
        window.choose(number, 1)
        assert window.kept()[0].tolist() == kept.tolist()
        if len(kept) > 4:
            assert window.angles.tolist() == kept[spread_views(kept, 4, number)].tolist()


@pytest.mark.parametrize(
    ("chosen", "length", "kept"),
    [
        ({}, 24, 180),
        ({"window": 300}, 180, None),
        ({"window": None}, 180, None),
        ({"window": 300, "window_policy": "newest"}, 180, None),
    ],
)
def test_window_of_a_time_series_is_no_longer_than_a_half_turn(chosen, length, kept):
    run = OpenRun(
        run_uid="run", recon_uid="recon", planned=720, detector_shape=(1, COLUMNS), dtype="<u2",
        recon=ReconSettings(turns=4, **chosen), block=RowBlock(0, 1, 0, 0, 1),
    )  # fmt: skip
    found = window_of(run)
    assert found["window"] == length
    assert getattr(found["window_policy"], "kept", None) == kept


def test_window_of_a_time_series_keeps_the_newest_half_turn_and_nothing_older():
    window = Window(4, COLUMNS, [SlabRows(0, 1, 1)], policy=Spread(kept=12, newest_kept=True))
    projections, _ = scan(1, count=40)
    angles = np.radians(np.resize(15.0 * np.random.default_rng(0).permutation(12), 40))
    for number, (projection, angle) in enumerate(zip(projections, angles, strict=True)):
        window.append(projection, angle)
        window.choose(number, 1)
        assert set(window.slots) <= set(window.kept_slots)
    np.testing.assert_array_equal(window.kept()[0], angles[-12:])
