"""The job of one rank in this process, fed over real sockets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import h5py
import numpy as np
import pytest

from bluesky_streamrecon.beamline.serving import PeerJoined, RunFinished
from bluesky_streamrecon.recon.algorithms import Algorithm, algorithms
from bluesky_streamrecon.recon.analysis import Analysis, Frame, analyses
from bluesky_streamrecon.recon.communicator import Communicator
from bluesky_streamrecon.recon.job import run_job
from bluesky_streamrecon.settings import ReconSettings
from bluesky_streamrecon.wire import ControllerEndpoint, Preview, Problem, RankEndpoint, Status


def settings(scan, **changes):
    values = {"window": 8, "axis": scan.axis, "ranks": 1, "coalesce": False}
    return ReconSettings(**(values | changes))


def image_of(finished):
    with h5py.File(finished.results[0].result) as file:
        return file["/exchange/data"][:]


def test_full_scan_ends_with_an_image_in_a_file(beamline, job, scan, tmp_path):
    finished = beamline.feed(scan, settings(scan, step=2), tmp_path)
    (result,) = finished.results
    assert result.counts["projections"] == len(scan.angles)
    assert result.image_number == len(scan.angles) // 2
    with h5py.File(result.result) as file:
        assert file["/exchange/data"].shape == (*scan.shape, scan.shape[1])
        assert file.attrs["axis"] == scan.axis
        assert file.attrs["raw_run_uid"] == "run-1"
        assert file.attrs["recon_uid"] == "recon-of-run-1"
        np.testing.assert_allclose(file["/exchange/theta"][:], np.rad2deg(scan.angles))
    assert [path.name for path in tmp_path.iterdir()] == ["recon_recon-of-run-1.h5"]
    assert beamline.endpoint.ledger()[0].balanced


@pytest.mark.parametrize("policy", ["newest", "spread"])
def test_image_equals_an_independent_loop(beamline, job, scan, tmp_path, reference_mlem, policy):
    chosen = settings(scan, step=3, options={"initial": 0.02}, window_policy=policy)
    finished = beamline.feed(scan, chosen, tmp_path)
    expected = reference_mlem(scan, window=8, step=3, initial=0.02, policy=policy)
    assert np.abs(image_of(finished) - expected).max() <= 1e-4 * np.abs(expected).max()


def test_last_partial_step_is_made_when_the_run_is_closed(beamline, job, scan, tmp_path):
    finished = beamline.feed(scan, settings(scan, step=5), tmp_path)
    assert len(scan.angles) == 24
    assert finished.results[0].image_number == 5
    assert finished.results[0].counts["projections"] == 24


@pytest.mark.parametrize(("on_disk", "state"), [(True, "loading kernels"), (False, "compiling kernels")])
def test_rank_says_whether_kernels_have_to_be_compiled(beamline, job, scan, tmp_path, monkeypatch, on_disk, state):
    asked = []
    monkeypatch.setattr("bluesky_streamrecon.recon.rank_run.usable_gpus", lambda: 1)
    monkeypatch.setattr("bluesky_streamrecon.recon.rank_run.kernels_on_disk", lambda gpu: asked.append(gpu) or on_disk)
    beamline.feed(scan, settings(scan, step=2, final="none"), tmp_path)
    assert next(event.state for event in beamline.seen if isinstance(event, Status)) == state
    assert asked == [True]


def test_job_serves_one_run_after_another(beamline, job, scan, tmp_path):
    first = beamline.feed(scan, settings(scan), tmp_path, uid="first")
    second = beamline.feed(scan, settings(scan), tmp_path, uid="second")
    np.testing.assert_array_equal(image_of(first), image_of(second))


def test_run_without_projections_ends_without_an_image(beamline, job, scan, tmp_path):
    beamline.open(scan, settings(scan), tmp_path)
    beamline.references(scan)
    (result,) = beamline.finish().results
    assert result.result is None
    assert "no projection" in result.text


def test_unknown_algorithm_is_refused_and_the_job_lives_on(beamline, job, scan, tmp_path):
    beamline.open(scan, settings(scan, algorithm="magic"), tmp_path, uid="refused")
    beamline.references(scan)
    beamline.projections(scan)
    beamline.endpoint.close_run()
    problem = beamline.wait_for(Problem)
    assert problem.run_uid == "refused", "it must not become a problem of another run"
    assert "magic" in problem.text
    assert "mlem" in problem.text
    (result,) = beamline.wait_for(RunFinished).results
    assert result.result is None
    assert result.text.startswith("failed")
    assert beamline.feed(scan, settings(scan), tmp_path, uid="next").results[0].result is not None


def test_unknown_option_is_refused_and_the_job_lives_on(beamline, job, scan, tmp_path):
    beamline.open(scan, settings(scan, options={"charm": 3}), tmp_path, uid="refused")
    beamline.references(scan)
    beamline.projections(scan)
    beamline.endpoint.close_run()
    assert "charm" in beamline.wait_for(Problem).text
    beamline.wait_for(RunFinished)
    assert beamline.feed(scan, settings(scan), tmp_path, uid="next").results[0].result is not None


of_any_kind = pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, KeyboardInterrupt])


@dataclass(frozen=True)
class Broken(Algorithm):
    """Somebody's own, not finished yet: fails on images of more than so many pixels a side."""

    above: int = 0
    error: ClassVar[type[BaseException]]

    def step(self, problem):
        if len(problem.image) > self.above:
            raise self.error("not today")


class BrokenAnalysis(Analysis[Frame]):
    """Somebody's own, not finished yet."""

    error: ClassVar[type[BaseException]]

    def __init__(self, run, ranks, threads):
        raise self.error("not today")

    def update(self, frames): ...

    def images(self, rows): ...


@of_any_kind
@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({"algorithm": "broken"}, "algorithm 'broken' failed on a small image: {} (step, line"),
        ({"analysis": "broken"}, "analysis 'broken' failed when it was opened: {} (__init__, line"),
    ],
)
def test_plugin_that_fails_at_once_is_reported_with_its_line_and_the_job_lives_on(
    beamline, job, scan, tmp_path, monkeypatch, error, chosen, told
):
    monkeypatch.setitem(algorithms._added, "broken", Broken)
    monkeypatch.setitem(analyses._added, "broken", BrokenAnalysis)
    monkeypatch.setattr(Broken, "error", error, raising=False)
    monkeypatch.setattr(BrokenAnalysis, "error", error, raising=False)
    beamline.open(scan, settings(scan, **chosen), tmp_path, uid="refused")
    beamline.references(scan)
    beamline.projections(scan)
    beamline.endpoint.close_run()
    assert told.format(f"{error.__name__}: not today") in beamline.wait_for(Problem).text
    beamline.wait_for(RunFinished)
    assert beamline.feed(scan, settings(scan), tmp_path, uid="next").results[0].result is not None


@of_any_kind
def test_plugin_that_fails_later_ends_the_job_with_a_report_of_its_line(
    beamline, scan, tmp_path, monkeypatch, error, request
):
    monkeypatch.setitem(algorithms._added, "broken", Broken)
    monkeypatch.setattr(Broken, "error", error, raising=False)
    job = request.getfixturevalue("job")
    beamline.open(scan, settings(scan, algorithm="broken", options={"above": 8}), tmp_path)
    beamline.references(scan)
    beamline.projections(scan)
    problem = beamline.wait_for(Problem)
    assert problem.where == "reconstruction job"
    assert f"{error.__name__}: not today (step, line" in problem.text
    assert job.end() == 1


def test_flats_taken_after_the_scan_give_the_same_image(beamline, job, scan, tmp_path):
    first = beamline.feed(scan, settings(scan), tmp_path, uid="flats-first")
    beamline.open(scan, settings(scan), tmp_path, uid="flats-last")
    beamline.projections(scan)
    beamline.references(scan)
    np.testing.assert_array_equal(image_of(first), image_of(beamline.finish()))


def test_run_without_flats_is_reported_by_what_is_missing(beamline, job, scan, tmp_path):
    beamline.open(scan, settings(scan), tmp_path)
    beamline.projections(scan)
    beamline.endpoint.close_run()
    assert "no flat field" in beamline.wait_for(Problem).text
    assert beamline.wait_for(RunFinished).results[0].result is None


def test_axis_is_found_and_the_image_is_that_of_the_axis_given(beamline, job, scan, tmp_path):
    found = beamline.feed(scan, settings(scan, axis=None), tmp_path, uid="found")
    axis = found.results[0].axis
    assert axis == pytest.approx(scan.axis, abs=0.25)
    assert found.results[0].image_number == len(scan.angles)
    given = beamline.feed(scan, settings(scan, axis=axis), tmp_path, uid="given")
    np.testing.assert_array_equal(image_of(found), image_of(given))


def test_setting_that_can_not_work_for_this_detector_is_reported_while_the_scan_runs(beamline, job, scan, tmp_path):
    beamline.open(scan, settings(scan, axis=9999.0), tmp_path)
    beamline.references(scan)
    beamline.projections(scan, 0, 6)
    problem = beamline.wait_for(Problem)
    assert problem.where == "reconstruction"
    assert "got column 9999.0" in problem.text
    beamline.endpoint.close_run()
    assert beamline.wait_for(RunFinished).results[0].text.startswith("failed: ")


def test_axis_that_can_not_be_known_is_said_so(beamline, job, scan, tmp_path):
    beamline.open(scan, settings(scan, axis=None), tmp_path)
    beamline.references(scan)
    beamline.projections(scan, 0, 6)
    beamline.endpoint.close_run()
    problem = beamline.wait_for(Problem)
    assert problem.where == "rotation axis"
    doubt = "not certain (the views leave a gap of 45 degrees); give axis= in detector columns"
    assert problem.text.endswith(f"from 6 projections, {doubt}")
    (result,) = beamline.wait_for(RunFinished).results
    assert result.result is not None
    assert problem.text in result.text


@pytest.mark.parametrize(("axis", "scale"), [(33.0, 60.0), (24.5, 50.0), (45.0, 40.0)])
def test_wide_sample_is_reported_while_it_can_be_mended_and_its_images_are_provisional(
    beamline, job, seen_through, tmp_path, axis, scale
):
    wide = seen_through(64, axis, scale, 180)
    beamline.open(wide, settings(wide, axis=None), tmp_path)
    beamline.references(wide)
    beamline.projections(wide, 0, 40)
    early = beamline.wait_for(Problem)
    assert early.where == "rotation axis"
    assert "reaches out of view" in early.text
    assert early.text.endswith("so it takes longer to be certain, and the first images are provisional; give axis=")
    if not any(isinstance(event, Status) and event.image_number for event in beamline.seen):
        beamline.wait_for(Status, lambda status: status.image_number > 0)  # before the run is closed
    beamline.projections(wide, 40)
    beamline.endpoint.close_run()
    last = beamline.wait_for(Problem)
    if last.where == "rotation axis":
        assert "not certain (the sample reaches out of view" in last.text
    else:
        assert last.where == "field of view"
    finished = beamline.wait_for(RunFinished)
    (result,) = finished.results
    assert result.counts["projections"] == 48
    assert (last.where == "field of view") == (axis == 33.0)
    if axis == 33.0:
        assert result.axis == pytest.approx(axis, abs=0.5)
    beamline.open(wide, settings(wide, axis=result.axis), tmp_path, uid="given")
    beamline.references(wide)
    beamline.projections(wide)
    assert "reaches out of view" in beamline.wait_for(Problem).text
    image = image_of(finished)
    assert image.shape[1:] == (80, 80)  # a quarter wider than the detector, for what is beyond has to lie somewhere
    np.testing.assert_array_equal(image, image_of(beamline.finish()))


def test_run_that_is_ended_early_has_the_axis_that_all_its_projections_show(beamline, job, seen_through, tmp_path):
    wide = seen_through(64, 33.0, 60.0, 180)

    def run(axis):
        beamline.open(wide, settings(wide, axis=axis), tmp_path, uid=f"axis {axis}")
        beamline.references(wide)
        beamline.projections(wide, 0, 37)
        assert "reaches out of view" in beamline.wait_for(Problem).text
        beamline.wait_for(Status, lambda status: status.image_number > 0)
        beamline.endpoint.close_run()
        if axis is None:
            assert "from 37 projections, not certain" in beamline.wait_for(Problem).text
        return beamline.wait_for(RunFinished)

    found = run(None)
    given = run(found.results[0].axis)
    np.testing.assert_array_equal(image_of(found), image_of(given))


@pytest.mark.parametrize(("axis", "scale"), [(14.0, 55.0), (47.3, 52.0), (20.0, 50.0)])
def test_full_turn_about_an_axis_near_the_edge_gives_an_image_as_wide_as_twice_the_far_side(
    beamline, job, seen_through, tmp_path, axis, scale
):
    near = seen_through(64, axis, scale, 360)
    turn = {"angle_start": "0", "angle_stop": "360"}
    beamline.open(near, settings(near, axis=None), tmp_path, **turn)
    beamline.references(near)
    beamline.projections(near)
    problem = beamline.wait_for(Problem)
    assert problem.where == "field of view"
    assert problem.text.startswith("half acquisition: ")
    finished = beamline.finish()
    (result,) = finished.results
    assert result.axis == pytest.approx(axis, abs=0.3)
    width = 2 * int(np.ceil(max(result.axis, 63 - result.axis))) + 1
    image = image_of(finished)
    assert image.shape[1:] == (width, width)
    beamline.open(near, settings(near, axis=result.axis), tmp_path, uid="given", **turn)
    beamline.references(near)
    beamline.projections(near)
    assert beamline.wait_for(Problem).text.startswith("half acquisition: ")
    np.testing.assert_array_equal(image, image_of(beamline.finish()))


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_bad_flat_is_left_out_by_the_job_and_becomes_a_problem_of_the_run(beamline, job, scan, tmp_path, bad):
    flats = scan.flats.copy()
    flats[bad] = scan.darks[0]
    beamline.open(scan, settings(scan), tmp_path)
    beamline.references(replace(scan, flats=flats))
    beamline.projections(scan)
    problem = beamline.wait_for(Problem)
    assert problem.where == "flats"
    assert problem.text.startswith(f"of 3, flat {bad + 1} is left out: no brighter than the darks")
    assert beamline.finish().results[0].result is not None


def test_abandoned_run_gives_way_to_the_next(beamline, job, scan, tmp_path):
    beamline.open(scan, settings(scan), tmp_path, uid="abandoned")
    beamline.references(scan)
    beamline.projections(scan, 0, 10)
    beamline.wait_for(Status, lambda event: event.image_number >= 3)
    beamline.endpoint.abandon_run("changed my mind")
    finished = beamline.feed(scan, settings(scan), tmp_path, uid="next")
    assert finished.run_uid == "next"
    assert finished.results[0].counts["projections"] == len(scan.angles)


def test_controller_sees_every_image_and_which_one_is_the_last(beamline, job, scan, tmp_path):
    controller = ControllerEndpoint(beamline.endpoint.address, job_id=beamline.endpoint.job_id)
    try:
        beamline.wait_for(PeerJoined, lambda event: event.peer.role == "controller")
        beamline.feed(scan, settings(scan, step=4), tmp_path)
        shown = []
        while not shown or not shown[-1].final:
            event = controller.next(10.0)
            assert event is not None
            if isinstance(event, Preview):
                shown.append(event)
    finally:
        controller.close()
    numbers = [(event.image_number, event.projections) for event in shown]
    assert list(dict.fromkeys(numbers)) == [(i, 4 * i) for i in range(1, 7)]
    assert shown[0].rows == (1, 2, 3)
    assert shown[-1].pixels.shape == (3, scan.shape[1], scan.shape[1])


def test_bad_pixels_are_counted_and_the_image_is_finite(beamline, job, scan, tmp_path):
    counts = scan.projections.copy()
    counts[:, :, 20] = 0
    counts[3, 1, 5] = 65535
    counts[4] = scan.darks[0]
    flats = scan.flats.copy()
    flats[:, :, 20] = 100
    finished = beamline.feed(replace(scan, projections=counts, flats=flats), settings(scan), tmp_path)
    (result,) = finished.results
    assert result.counts["dead_pixels"] == scan.shape[0]
    assert result.counts["saturated_values"] == 1
    assert result.counts["dark_projections"] == 1
    assert np.isfinite(image_of(finished)).all()


def test_unwritable_output_is_reported_and_the_job_lives_on(beamline, job, scan, tmp_path):
    blocked = tmp_path / "a-file"
    blocked.write_text("no directory")
    beamline.open(scan, settings(scan), blocked, uid="blocked")
    beamline.references(scan)
    beamline.projections(scan)
    beamline.endpoint.close_run()
    assert str(blocked) in beamline.wait_for(Problem).text
    assert beamline.wait_for(RunFinished).results[0].result is None
    assert beamline.feed(scan, settings(scan), tmp_path, uid="next").results[0].result is not None


def test_job_that_falls_behind_takes_several_steps_at_once_and_loses_nothing(beamline, job, scan, tmp_path):
    # All projections are there before the flats that they wait for, so the job starts 24 behind a window of 8.
    beamline.open(scan, settings(scan, coalesce=True), tmp_path)
    beamline.projections(scan)
    beamline.references(scan)
    (result,) = beamline.finish().results
    assert result.counts["projections"] == len(scan.angles)
    assert result.counts["coalesced_steps"] == 2
    assert result.image_number == 2 + 8


def test_job_that_takes_the_place_of_one_that_died_makes_the_same_images_before_it_takes_steps_together(
    beamline, scan, tmp_path, request
):
    before = RankEndpoint(beamline.endpoint.address, job_id=beamline.endpoint.job_id, rank=0, size=1)
    beamline.wait_for_ranks(1)
    beamline.open(scan, settings(scan, coalesce=True), tmp_path)
    beamline.projections(scan)
    beamline.references(scan)
    before.close(0)
    request.getfixturevalue("job")
    (result,) = beamline.finish().results
    assert result.counts.get("coalesced_steps", 0) == 0
    assert result.image_number == len(scan.angles)


def test_job_ends_as_asked(beamline, job):
    assert job.end() == 0


def test_job_ends_when_the_beamline_is_not_heard_of_any_more(beamline):
    address, job_id = beamline.endpoint.address, beamline.endpoint.job_id
    beamline.endpoint.close()
    assert run_job(address, job_id, communicator=Communicator(), link_limit=1.0) == 1
