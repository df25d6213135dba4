"""A rank tells line integrals of its shown rows once, and all of them again after it went on from a checkpoint."""

from __future__ import annotations

import numpy as np

from bluesky_streamrecon.recon.shown import ShownLines


def projections(count):
    return [np.full((4, 6), number, np.float32) + np.arange(4)[:, None] for number in range(count)]


def test_each_projection_is_told_once_and_only_its_shown_rows():
    shown = ShownLines([1, 3])
    told = []
    for number, projection in enumerate(projections(5)):
        shown.append(projection)
        if number in (1, 4):
            told.append(shown.take())
    assert [part.shape for part in told] == [(2, 2, 6), (3, 2, 6)]
    np.testing.assert_array_equal(np.concatenate(told), np.stack(projections(5))[:, [1, 3]])
    assert shown.take() is None


def test_job_that_goes_on_from_a_checkpoint_tells_all_again():
    before = ShownLines([1, 3])
    for projection in projections(3):
        before.append(projection)
    before.take()
    after = ShownLines([1, 3])
    after.restore(before.arrays(), 3)
    after.append(projections(4)[3])
    np.testing.assert_array_equal(after.take(), np.stack(projections(4))[:, [1, 3]])


def test_rank_without_shown_rows_keeps_nothing():
    shown = ShownLines([])
    shown.append(projections(1)[0])
    assert (shown.take(), shown.arrays()) == (None, {})


def test_checkpoint_of_other_rows_is_not_used():
    other = ShownLines([1])
    other.append(projections(1)[0])
    shown = ShownLines([1, 3])
    shown.restore(other.arrays(), 1)
    assert shown.take() is None
