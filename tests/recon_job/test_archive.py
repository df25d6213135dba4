"""Every projection of a run is kept, and a disk that is full costs nothing but that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bluesky_streamrecon.partition import RowBlock
from bluesky_streamrecon.recon.archive import Archive
from bluesky_streamrecon.recon.checkpoint import Checkpoint
from bluesky_streamrecon.recon.communicator import Communicator
from bluesky_streamrecon.recon.tomography import Tomography, View
from bluesky_streamrecon.settings import ReconSettings
from bluesky_streamrecon.wire import OpenRun, Preview

SHAPE = (2, 5)


def filled(path, count, *, first=0, keep=0):
    archive = Archive(*SHAPE)
    archive.open(path, keep=keep)
    for number in range(first, first + count):
        archive.append(np.full(SHAPE, number, np.float32), 0.1 * number, number // 3 + 1)
    return archive


@pytest.mark.parametrize("name", [None, "scratch"])
def test_projections_come_back_step_by_step(tmp_path, name):
    archive = filled(None if name is None else tmp_path / name, 8)
    archive.append(None, 0.8, 4)
    steps = [[(pixels[0, 0], angle) for pixels, angle in step] for step in archive.steps()]
    assert [len(step) for step in steps] == [3, 3, 2, 1]
    assert steps[1] == [(number, pytest.approx(0.1 * number)) for number in (3, 4, 5)]
    assert np.isnan(steps[3][0][0])
    np.testing.assert_array_equal(archive.projection(4, 1, 2), np.full((1, 5), 4))
    np.testing.assert_allclose(archive.angles, 0.1 * np.arange(9))
    archive.remove()
    assert not list(tmp_path.iterdir())


def test_archive_goes_on_from_a_checkpoint_with_what_was_kept_until_then(tmp_path):
    filled(tmp_path / "scratch", 8).close()
    again = filled(tmp_path / "scratch", 3, first=6, keep=6)
    assert [pixels[0, 0] for step in again.steps() for pixels, _ in step] == list(range(9))
    assert not again.problem
    again.remove()


def test_archive_whose_beginning_is_lost_says_so(tmp_path):
    filled(tmp_path / "scratch", 4).close()
    assert "has 4 of 6 projections" in filled(tmp_path / "scratch", 0, keep=6).problem


FULL = Path("/dev/full")


VIEWS = [View(i, np.full((2, 24), 1 + i % 3, np.float32), 0.25 * i, {}) for i in range(12)]


def opened(scratch=None, axis=10.0, **settings):
    recon = ReconSettings(window=4, step=2, axis=axis, ranks=1, threads=1, backend="cpu", **settings)
    block = RowBlock(0, 2, 0, 0, 1)
    run = OpenRun(
        run_uid="run", recon_uid="recon", planned=12, detector_shape=(2, 24), dtype="<f4", recon=recon, block=block,
        preview_rows=(0,),
    )  # fmt: skip
    made = Tomography(run, Communicator(), 1)
    made.scratch = scratch
    return made


def fed(made, views=VIEWS):
    made.begin(views, closed=False)
    for first in range(0, len(views), 2):
        made.update(views[first : first + 2])
    return made


def tomography(scratch=None, axis=10.0):
    return fed(opened(scratch, axis))


@pytest.mark.parametrize("preparation", [(), ("rings",)])
def test_job_that_is_started_again_goes_on_from_its_scratch_file_and_last_image(tmp_path, preparation):
    usual = fed(opened(tmp_path / "usual", preparation=preparation))
    begun = fed(opened(tmp_path / "scratch", preparation=preparation), VIEWS[:8])
    saved = Checkpoint("run", 8, 4, 8, 0, begun.save())
    again = opened(tmp_path / "scratch", preparation=preparation)
    again.restore(saved)
    fed(again, VIEWS[8:])
    np.testing.assert_array_equal(again.images([0, 1]), usual.images([0, 1]))
    told = again.annotate(Preview(run_uid="run", rank=0, image_number=6, projections=12, rows=(0,), shape=again.shape))
    np.testing.assert_array_equal(told.views.angles, [view.angle for view in VIEWS])  # the controller forgot them
    again.release()
    usual.release()


def test_axis_that_is_corrected_gives_the_image_of_a_run_that_had_it_from_the_start():
    corrected, given = tomography(), tomography(axis=11.5)
    assert not np.array_equal(corrected.images([0]), given.images([0]))
    corrected.remake(11.5)
    np.testing.assert_array_equal(corrected.images([0, 1]), given.images([0, 1]))
    corrected.release()
    given.release()


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
def test_full_disk_is_one_warning_and_changes_no_image(tmp_path):
    (tmp_path / "full").symlink_to(FULL)
    usual, full = tomography(tmp_path / "scratch"), tomography(tmp_path / "full")
    warned = [line for line in full.warnings if line.startswith("scratch file")]
    assert len(warned) == 1
    assert "No space left" in warned[0]
    assert usual.resumable
    assert not full.resumable  # there is nothing to go on from
    for made in (usual, full):
        made.remake(11.0)  # without the archive from what the window keeps: all of a scan as short as this
    np.testing.assert_array_equal(usual.images([0, 1]), full.images([0, 1]))
    usual.release()
    full.release()
    assert not list(tmp_path.iterdir())
