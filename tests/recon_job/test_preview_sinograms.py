"""A rank tells line integrals of its shown rows once."""

from __future__ import annotations

import numpy as np

from bluesky_streamrecon.projection_sets import most_views
from bluesky_streamrecon.recon.preview_sinograms import PreviewSinograms


def projections(count):
    return [np.full((4, 6), number, np.float32) + np.arange(4)[:, None] for number in range(count)]


def test_each_projection_is_told_once_and_only_its_shown_rows():
    shown = PreviewSinograms([1, 3], 6)
    told = []
    for number, projection in enumerate(projections(5)):
        shown.append(projection, 0.1 * number)
        if number in (1, 4):
            told.append(shown.take())
    assert [part.values.shape for part in told] == [(2, 2, 6), (3, 2, 6)]
    np.testing.assert_array_equal(np.concatenate([part.values for part in told]), np.stack(projections(5))[:, [1, 3]])
    np.testing.assert_array_equal(np.concatenate([part.angles for part in told]), 0.1 * np.arange(5))
    assert all(part.single for part in told)
    assert shown.take() is None


def test_many_projections_at_once_as_after_a_restart_are_told_as_no_more_views_than_judge_a_scan():
    count = 3000
    shown = PreviewSinograms([1, 3], 6)
    for number in range(count):
        shown.append(np.full((4, 6), number, np.float32), 0.1 * number)
    told = shown.take()
    assert len(told.values) <= most_views(6)
    assert told.counts.sum() == count


def test_rank_without_shown_rows_tells_nothing():
    shown = PreviewSinograms([], 6)
    shown.append(projections(1)[0], 0.0)
    assert shown.take() is None
