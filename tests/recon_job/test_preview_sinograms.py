"""A rank tells line integrals of its shown rows once, and all of them again after it went on from a checkpoint."""

from __future__ import annotations

import numpy as np

from bluesky_streamrecon.projection_sets import most_views
from bluesky_streamrecon.recon.preview_sinograms import PreviewSinograms


def projections(count):
    return [np.full((4, 6), number, np.float32) + np.arange(4)[:, None] for number in range(count)]


def shown_lines(count, *, keep=False):
    shown = PreviewSinograms([1, 3], 6, keep=keep)
    for number, projection in enumerate(projections(count)):
        shown.append(projection, 0.1 * number)
    return shown


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


def test_job_that_goes_on_from_a_checkpoint_tells_all_again():
    before = shown_lines(3, keep=True)
    before.take()
    after = PreviewSinograms([1, 3], 6, keep=True)
    after.restore(before.arrays(), 3)
    after.append(projections(4)[3], 0.3)
    told = after.take()
    np.testing.assert_array_equal(told.values, np.stack(projections(4))[:, [1, 3]])
    assert told.single
    np.testing.assert_array_equal(after.arrays()["shown_lines"], told.values)


def test_checkpoint_of_a_long_scan_is_no_larger_and_tells_of_all_projections():
    count = 3000
    before = shown_lines(count, keep=True)
    assert len(before.arrays()["shown_lines"]) <= most_views(6)
    after = PreviewSinograms([1, 3], 6, keep=True)
    after.restore(before.arrays(), count)
    assert after.take().counts.sum() == count


def test_rank_without_shown_rows_keeps_nothing():
    shown = PreviewSinograms([], 6, keep=True)
    shown.append(projections(1)[0], 0.0)
    assert (shown.take(), shown.arrays()) == (None, {})


def test_checkpoint_of_other_rows_is_not_used():
    other = PreviewSinograms([1], 6, keep=True)
    other.append(projections(1)[0], 0.0)
    shown = PreviewSinograms([1, 3], 6)
    shown.restore(other.arrays(), 1)
    assert shown.take() is None
