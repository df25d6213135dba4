"""A rank tells line integrals of its shown rows once."""

from __future__ import annotations

import numpy as np
import pytest

from bluesky_streamrecon.partition import RowBlock
from bluesky_streamrecon.recon.communicator import Communicator
from bluesky_streamrecon.recon.tomography import Tomography, View
from bluesky_streamrecon.settings import ReconSettings
from bluesky_streamrecon.wire import OpenRun, Preview

COUNT, SHAPE = 6, (4, 16)
PROJECTIONS = [np.full(SHAPE, number, np.float32) + np.arange(4, dtype=np.float32)[:, None] for number in range(COUNT)]


@pytest.fixture
def told():
    """Feed a rank that shows some rows; return the line integrals that come with previews after 2 and 6 projections."""
    opened = []

    def feed(shown):
        recon = ReconSettings(window=4, step=2, axis=8.0, ranks=1, threads=1, backend="cpu")
        member = 0 if shown else 1  # of ranks that share rows, the first shows them
        run = OpenRun(
            run_uid="run", recon_uid="recon", planned=COUNT, detector_shape=SHAPE, dtype="<f4", recon=recon,
            block=RowBlock(0, 4, 0, member, 2), preview_rows=shown or (1, 3),
        )  # fmt: skip
        made = Tomography(run, Communicator(), 1)
        opened.append(made)
        views = [View(i, lines, 0.1 * i, {}) for i, lines in enumerate(PROJECTIONS)]
        made.begin(views, closed=False)
        preview = Preview(run_uid="run", rank=0, image_number=1, projections=2, rows=shown or (1,), shape=made.shape)
        found = []
        for taken in (views[:2], views[2:]):
            made.update(taken)
            found.append(made.annotate(preview).views)
        return found

    yield feed
    for made in opened:
        made.release()


def test_each_projection_is_told_once_and_only_its_shown_rows(told):
    parts = told((1, 3))
    assert [part.values.shape for part in parts] == [(2, 2, 16), (4, 2, 16)]
    np.testing.assert_array_equal(np.concatenate([part.values for part in parts]), np.stack(PROJECTIONS)[:, [1, 3]])
    np.testing.assert_allclose(np.concatenate([part.angles for part in parts]), 0.1 * np.arange(COUNT))
    assert all(part.single for part in parts)


def test_rank_without_shown_rows_tells_nothing(told):
    assert told(()) == [None, None]
