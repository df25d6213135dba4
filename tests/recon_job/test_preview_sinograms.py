"""A rank tells line integrals of its shown rows once, and of other rows all at once when these are to be shown."""

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


class Rank:
    """A rank that shows some rows of its block, or none, without a job around it."""

    def __init__(self, shown, preparation=()):
        recon = ReconSettings(
            window=4, step=2, axis=8.0, ranks=1, threads=1, backend="cpu", preparation=preparation
        )  # fmt: skip
        member = 0 if shown else 1  # of ranks that share rows, the first shows them
        run = OpenRun(
            run_uid="run", recon_uid="recon", planned=COUNT, detector_shape=SHAPE, dtype="<f4", recon=recon,
            block=RowBlock(0, 4, 0, member, 2), preview_rows=shown or (1, 3),
        )  # fmt: skip
        self.made = Tomography(run, Communicator(), 1)
        self.views = [View(i, lines, 0.1 * i, {}) for i, lines in enumerate(PROJECTIONS)]
        self.made.begin(self.views, closed=False)

    def told(self, first, stop):
        """Return what comes with the preview after these projections."""
        self.made.update(self.views[first:stop])
        return self.made.annotate(
            Preview(run_uid="run", rank=0, image_number=1, projections=stop, rows=(1,), shape=self.made.shape)
        )


@pytest.fixture
def rank():
    opened = []

    def begin(*about, **more):
        opened.append(Rank(*about, **more))
        return opened[-1]

    yield begin
    for each in opened:
        each.made.release()


def test_each_projection_is_told_once_and_only_its_shown_rows(rank):
    begun = rank((1, 3))
    parts = [begun.told(0, 2).views, begun.told(2, 6).views]
    assert [part.values.shape for part in parts] == [(2, 2, 16), (4, 2, 16)]
    np.testing.assert_array_equal(np.concatenate([part.values for part in parts]), np.stack(PROJECTIONS)[:, [1, 3]])
    np.testing.assert_allclose(np.concatenate([part.angles for part in parts]), 0.1 * np.arange(COUNT))
    assert all(part.single for part in parts)


def test_rank_without_shown_rows_tells_nothing(rank):
    begun = rank(())
    assert [begun.told(0, 2).views, begun.told(2, 6).views] == [None, None]


@pytest.mark.parametrize("preparation", [(), ("rings",)])
def test_rows_that_are_shown_from_now_on_are_told_from_the_first_projection_on(rank, preparation):
    begun, always = rank((1, 3), preparation), rank((0, 2), preparation)
    begun.told(0, 2)
    begun.made.show([0, 2])
    expected = [always.told(0, 2), always.told(2, 4), always.told(4, 6)]
    preview = begun.told(2, 4)
    assert (preview.lines_first, preview.projections, begun.made.warnings) == (0, 4, always.made.warnings)
    np.testing.assert_array_equal(preview.lines, np.concatenate([each.lines for each in expected[:2]]))
    np.testing.assert_array_equal(begun.told(4, 6).lines, expected[2].lines)
    np.testing.assert_array_equal(begun.made.images([1]), always.made.images([1]))
    begun.made.show([])
    assert begun.made.annotate(preview).lines is preview.lines  # nothing was added to it


def test_other_rows_are_told_from_now_on_where_projections_are_not_kept_and_that_is_said(rank):
    begun = rank((1, 3))
    begun.told(0, 2)
    begun.made._archive._give_up("no space left on device")
    begun.made.show([0])
    preview = begun.told(2, 4)
    assert (preview.lines_first, preview.lines.shape) == (2, (2, 1, 16))
    assert begun.made.warnings[0].startswith("preview rows: nothing is predicted of others than before: scratch file: ")
