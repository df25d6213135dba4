"""Cuts through the volume that is being made: who is served when, and at what cost."""

from __future__ import annotations

import queue
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from bluesky_streamrecon.cuts import Cut
from bluesky_streamrecon.errors import ConfigError, JobError
from bluesky_streamrecon.partition import RowBlock
from bluesky_streamrecon.recon.analysis import Analysis
from bluesky_streamrecon.recon.archive import Archive
from bluesky_streamrecon.recon.communicator import Communicator
from bluesky_streamrecon.recon.cuts import CutView, interpolated
from bluesky_streamrecon.recon.job import _Job, _State
from bluesky_streamrecon.recon.measured import MeasuredViews
from bluesky_streamrecon.settings import ReconSettings
from bluesky_streamrecon.wire import OpenRun, ShowCuts

BOUND = 50.0


def settings(scan):
    return ReconSettings(window=8, step=2, axis=scan.axis, ranks=1, coalesce=False, final="none")


def test_cuts_arrive_while_a_run_waits_and_change_with_its_images(beamline, job, viewer, oblique_cut, scan, tmp_path):
    watching = viewer(beamline)
    beamline.open(scan, settings(scan), tmp_path)
    early = watching.show_cuts([oblique_cut(scan)], viewer="early")  # there is no image yet
    beamline.references(scan)
    beamline.projections(scan, 0, 10)
    beamline.wait_for_images(1, 5)
    first = watching.show_cuts([oblique_cut(scan)]).result(BOUND)
    assert early.result(BOUND).image_number <= 5
    beamline.projections(scan, 10, 20)
    beamline.wait_for_images(1, 10)
    second = watching.show_cuts([oblique_cut(scan)]).result(BOUND)
    assert (first.image_number, second.image_number) == (5, 10)
    assert not np.array_equal(first.values()[0], second.values()[0], equal_nan=True)
    with pytest.raises(ConfigError, match="pixels"):
        watching.show_cuts([oblique_cut(scan, 1024)])
    beamline.finish()


def test_newest_wish_of_a_viewer_counts_and_others_are_served_too(beamline, job, viewer, oblique_cut, scan, tmp_path):
    watching = viewer(beamline)
    older = watching.show_cuts([oblique_cut(scan, 8)], viewer="anna")
    newer = watching.show_cuts([oblique_cut(scan, 9)], viewer="anna")
    other = watching.show_cuts([oblique_cut(scan, 10)], viewer="ben")
    with pytest.raises(JobError, match="something else"):
        older.result(BOUND)
    beamline.open(scan, settings(scan), tmp_path)
    beamline.references(scan)
    beamline.projections(scan)
    assert newer.result(BOUND).cuts[0].shape == (9, 9)
    assert other.result(BOUND).cuts[0].shape == (10, 10)
    beamline.finish()


class Slices(Analysis):
    """Somebody's own analysis, which only knows how to give images."""

    shape = (5, 7)

    def update(self, frames):
        raise NotImplementedError

    def images(self, rows):
        return np.stack([np.arange(35, dtype=np.float32).reshape(5, 7) + 100 * row for row in rows])


class Clock:
    now = 0.0

    def __call__(self):
        self.now += 1.0  # each look takes a second
        return self.now


def test_cuts_take_a_small_share_of_the_time_while_projections_wait_and_work_with_any_analysis(scan):
    behind, clock, sent = [True], Clock(), queue.SimpleQueue()
    run = SimpleNamespace(run_uid="run", detector_shape=(3, 7), block=SimpleNamespace(first=0, rows=3, member=0))
    view = CutView(run, Communicator(), SimpleNamespace(send=sent.put), lambda: behind[0], clock)
    cut = Cut(corner=(0.5, 1.0, 1.0), down=(0.0, 2.0, 0.0), across=(0.0, 0.0, 2.0), shape=(1, 1))
    view.want(ShowCuts(number=1, cuts=(cut,)))
    assert view.due() == 0  # there is no image
    view.image = Slices(), 4, 8, 12.5
    assert view.due() == 1
    view.advance(1)
    assert sent.get_nowait().values()[0] == pytest.approx(50 + 2 * 7 + 2)
    box = Cut(corner=(0, 0, 0), through=(2, 0, 0), down=(0, 4, 0), across=(0, 0, 6), layers=2, shape=(2, 3))
    view.want(ShowCuts(number=2, cuts=(box,)))
    assert view.due() == 1
    behind[0] = False
    assert view.due() == 2
    behind[0] = True
    clock.now += 30.0
    assert view.due() == 2
    view.advance(1)
    assert sent.empty()
    view.advance(2)
    expected = np.array([50, 150])[:, None, None] + 7 * np.array([1, 3])[:, None] + np.array([1, 3, 5])
    np.testing.assert_allclose(sent.get_nowait().values()[0], expected)


def test_wishes_are_heard_between_images_however_many_images_wait():
    made, cut_after = [], []
    run = SimpleNamespace(
        advance=lambda *_: len(made) < 5 and not made.append("image"),
        cuts=SimpleNamespace(advance=lambda _: cut_after.append(len(made)), due=lambda: 0, done=0),
        broken=False, superseded=False, prepared=5, axes=[], closed=None, failure=None,
    )  # fmt: skip
    job = _Job(Communicator(), None, SimpleNamespace(check=lambda: None), "job", 1, None, None, None)
    job._run, agreed = run, _State(prepared=5, images=2)
    agreed = job._work(run, agreed)
    while job._has_news(agreed):
        agreed = job._work(run, _State(prepared=5, images=2))
    assert cut_after == [2, 4, 5]


def test_parts_of_any_blocks_add_up_to_the_interpolation():
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(7, 6, 5)).astype(np.float32)
    points = rng.uniform(0, np.array(volume.shape) - 1, (4000, 3))
    points[:7] = [[row, 5, 4] for row in range(7)]
    total = np.zeros(len(points))
    for first, stop in ((0, 1), (1, 4), (4, 7)):
        total += interpolated(points - [first, 0, 0], stop - first, volume[first:stop].__getitem__)
    np.testing.assert_allclose(total, map_coordinates(volume.astype(float), points.T, order=1), atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 33), (1, 33)], ids=["all angles", "one angle"])
def test_sinogram_shows_views_from_behind_as_the_mirror_images_that_they_are(shape):
    """Of a full turn, and of a stage that turns on and on: else it would jump where the sample has not moved."""
    axis, number, columns = 14.0, 16, 33
    angles = np.arange(3 * number) * np.pi / number + 0.01
    lines = np.exp(-((np.arange(columns) - axis - 9 * np.cos(angles)[:, None]) ** 2) / 8).astype(np.float32)
    run = OpenRun(
        run_uid="r", recon_uid="rr", planned=len(angles), detector_shape=(1, columns), dtype="<u2",
        block=RowBlock(0, 1, 0, 0, 1), recon=ReconSettings(), metadata={"angle_start": "0", "angle_stop": "360"},
    )  # fmt: skip
    whole = Cut(corner=(0, 0, -0.5), down=(0, np.pi, 0), across=(0, 0, columns), shape=shape, space="sinogram")
    third = msgspec.structs.replace(whole, corner=(0, angles[3], -0.5), down=(0, 0, 0))
    cut, expected = (whole, lines[:number]) if shape[0] > 1 else (third, lines[3:4])
    points = cut.points().reshape(-1, 3)
    points[:, ::2] = np.rint(points[:, ::2])
    archive = Archive(1, columns)
    archive.open()
    try:
        for count, (angle, line) in enumerate(zip(angles, lines, strict=True), 1):
            archive.append(line[None], float(angle), count)
            if count < number:
                continue
            shown = MeasuredViews(run, archive).values(cut, points, axis, angles[:count]).reshape(shape)
            seen = np.isfinite(shown)
            np.testing.assert_allclose(shown[seen], expected[seen], atol=1e-5)
            assert seen[:, : int(2 * axis) + 1].all()  # what is beyond has no mirror image on the detector
    finally:
        archive.remove()
