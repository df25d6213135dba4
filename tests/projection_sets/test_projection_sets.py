"""A scan of any length is held in a bounded number of views, and short ones to the last bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesky_streamrecon.projection_sets import ProjectionStore, aligned, most_views

ROWS, COLUMNS = 2, 3


def values_of(angle: float, number: int) -> np.ndarray:
    return np.full((ROWS, COLUMNS), math.cos(angle), np.float32) + np.array([[0.0], [number]], np.float32)


def filled(angles, most, *, missing=()):
    store = ProjectionStore(most)
    for number, angle in enumerate(angles):
        values = values_of(angle, number)
        if number in missing:
            values[0] = np.nan
        store.append(values, angle)
    return store


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=60), st.integers(2, 40))
def test_views_never_exceed_the_limit_and_count_every_projection(angles, most):
    store = filled(angles, most)
    views = store.views()
    assert len(store) == len(views.angles) <= most
    assert store.taken == views.counts.sum() == len(angles)
    assert store.exact == views.single == (len(angles) <= most)


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=40))
def test_scan_within_the_limit_is_held_as_it_came(angles):
    views = filled(angles, 40).views()
    np.testing.assert_array_equal(views.angles, angles)
    np.testing.assert_array_equal(views.values, [values_of(angle, number) for number, angle in enumerate(angles)])


@given(st.lists(st.floats(0, 7), min_size=30, max_size=80))
def test_weighted_means_over_all_views_are_those_over_all_projections(angles):
    views = filled(angles, 16).views()
    mean = np.average(views.values[:, 1, 0], weights=views.counts)
    expected = np.mean([values_of(angle, number)[1, 0] for number, angle in enumerate(angles)])
    assert mean == pytest.approx(expected, rel=1e-4)


def test_views_of_a_long_scan_are_evenly_spread_neighbours():
    angles = np.linspace(0, math.pi, 5000, endpoint=False)
    store = filled(np.random.default_rng(1).permutation(angles), 128)
    views = store.views()
    assert 64 <= len(store) <= 128
    gaps = np.diff(np.sort(views.angles))
    assert gaps.max() < 1.5 * math.pi / len(store)
    np.testing.assert_allclose(views.values[:, 0, 0], np.cos(views.angles), atol=1e-3)


def test_views_from_opposite_sides_are_not_averaged():
    store = filled([0.1, 0.1 + math.pi] * 30, 4)
    assert sorted(store.views().values[:, 0, 0].round(3)) == [-0.995, 0.995]


def test_angles_of_more_than_a_turn_are_averaged_with_those_of_the_first():
    store = filled([0.1 + math.tau * turn for turn in range(30)], 4)
    assert store.views().angles == pytest.approx([0.1])


def test_rows_that_were_not_measured_do_not_spoil_the_mean():
    angles = [0.5] * 8
    views = filled(angles, 2, missing=range(4)).views()
    assert views.counts.sum() == 8
    np.testing.assert_allclose(views.values[views.counts > 1][0, 0], math.cos(0.5), rtol=1e-6)


def test_views_put_into_another_store_stand_for_as_many_projections():
    views = filled(np.linspace(0, 3, 500), 32).views()
    store = ProjectionStore(16)
    store.extend(views)
    assert store.taken == 500
    assert not store.exact


def test_stores_that_differ_by_the_newest_projections_have_their_cells_in_common():
    angles = np.random.default_rng(2).uniform(0, math.pi, 3000)
    one, other = aligned([filled(angles, 64), filled(angles[:2990], 64)])
    assert len(one.angles) == len(other.angles) > 30
    np.testing.assert_allclose(one.angles, other.angles, atol=math.pi / 64)


def test_limit_goes_with_the_columns():
    assert [most_views(columns) for columns in (16, 682, 1024, 4096)] == [1024, 1024, 1536, 6144]
