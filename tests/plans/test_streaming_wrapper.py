"""What `streaming_wrapper` does for plans of the user, and how "at once" ends a plan."""

from __future__ import annotations

import asyncio

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky.simulators import check_limits_async, summarize_plan
from bluesky.utils import Msg

from bluesky_streamrecon.beamline import QualityReached
from bluesky_streamrecon.errors import ConfigError, JobError
from bluesky_streamrecon.plans import stream_tomo_plan, streaming_wrapper
from bluesky_streamrecon.sim_devices import sim_beamline

BOUND = 20.0


@pytest.fixture
def beamline(run_engine, tmp_path):
    return sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True)


@pytest.fixture
def wrapped(pretend_job):
    def wrap(plan, beamline, **kwargs):
        given = {"job": pretend_job, "detector": beamline.detector, "angle": beamline.stage, "references": "own"}
        return streaming_wrapper(plan, **{**given, **kwargs})

    return wrap


def test_scan_of_the_user_is_streamed_with_the_job_in_its_events(run_engine, documents, wrapped, beamline, script, of):
    uid = run_engine(wrapped(bp.scan([beamline.detector], beamline.stage, 0, 90, 7), beamline)).plan_result
    (start,), (stop,) = of(documents, "start"), of(documents, "stop")
    assert start["uid"] == uid
    assert start["streamrecon"]["projections"] == 7
    assert stop["exit_status"] == "success"
    assert stop["reason"].startswith("all 7 projections taken")
    events = of(documents, "event", "primary")
    assert all("job-score" in doc["data"] for doc in events)
    assert [angle for _, _, angle, _ in script.frames] == pytest.approx(np.deg2rad(np.linspace(0, 90, 7)))


def test_range_of_a_plan_of_the_user_comes_to_the_job(run_engine, documents, wrapped, beamline, pretend_job):
    plan = bp.scan([beamline.detector], beamline.stage, 359, 0, 7)
    run_engine(wrapped(plan, beamline, md={"start": np.int64(0), "stop": 360.0}))
    metadata = pretend_job.last_run.spec.metadata
    assert (float(metadata["angle_start"]), float(metadata["angle_stop"])) == (0, 360)


@pytest.mark.parametrize("given", [{"start": 360, "stop": 0}, {"stop": 360}, {"start": "0", "stop": "360"}])
def test_range_that_would_be_taken_for_a_half_turn_is_refused_before_anything_moves(wrapped, beamline, given):
    with pytest.raises(ConfigError, match=r"md: got start=.*, expected finite degrees with start < stop"):
        wrapped(bp.scan([beamline.detector], beamline.stage, 0, 359, 7), beamline, md=given)


def test_scan_of_the_user_ends_as_success_when_quality_is_reached(run_engine, documents, wrapped, beamline, script, of):
    script.score = lambda n: 0.96 if n >= 3 else 0.1
    plan = bp.list_scan([beamline.detector], beamline.stage, [float(a) for a in range(0, 120, 4)])
    result = run_engine(wrapped(plan, beamline))
    (stop,) = of(documents, "stop")
    assert result.exit_status == "success"
    assert result.plan_result == of(documents, "start")[0]["uid"]
    assert stop["exit_status"] == "success"
    assert stop["reason"].startswith("quality: MS-SSIM 0.960 >= 0.95 at 3 of 30 projections")
    assert stop["num_events"]["primary"] < 30
    assert script.stopped == 1


def test_own_clean_up_of_the_plan_runs_when_quality_is_reached(run_engine, documents, wrapped, beamline, script):
    script.score = lambda n: 0.96
    done = []

    def clean_up():
        done.append("cleaned up")
        yield from bps.null()

    plan = bpp.finalize_wrapper(bp.scan([beamline.detector], beamline.stage, 0, 90, 30), clean_up)
    run_engine(wrapped(plan, beamline))
    assert done == ["cleaned up"]


def test_plan_may_take_quality_as_its_own_affair(run_engine, documents, wrapped, beamline, script, of):
    script.score = lambda n: 0.96
    told = []

    def own():
        yield from bps.open_run({"num_points": 30})
        yield from bps.stage(beamline.detector, wait=True)
        try:
            for angle in range(30):
                yield from bps.checkpoint()
                yield from bps.mv(beamline.stage, angle)
                yield from bps.trigger_and_read([beamline.detector, beamline.stage])
        except QualityReached as reached:
            told.append(reached)
        yield from bps.unstage(beamline.detector, wait=True)
        yield from bps.close_run()
        return "mine"

    assert run_engine(wrapped(own(), beamline)).plan_result == "mine"
    assert told[0].reason.startswith("quality: MS-SSIM")
    (stop,) = of(documents, "stop")
    assert stop["reason"].startswith("quality: MS-SSIM")


def test_each_run_of_a_plan_is_streamed_with_a_uid_of_its_own(run_engine, documents, wrapped, beamline, script, of):
    def twice():
        yield from bp.scan([beamline.detector], beamline.stage, 0, 90, 3)
        yield from bp.scan([beamline.detector], beamline.stage, 0, 90, 4)

    run_engine(wrapped(twice(), beamline))
    starts, stops = of(documents, "start"), of(documents, "stop")
    assert len({start["streamrecon"]["recon_uid"] for start in starts}) == 2
    assert [stop["reason"].split(";")[0] for stop in stops] == [
        "all 3 projections taken",
        "all 4 projections taken",
    ]
    assert [spec.run_uid for spec in script.specs] == [start["uid"] for start in starts]
    assert script.launched == [2]


def test_plan_that_reads_and_stages_the_job_itself_is_left_to_do_so(
    run_engine, documents, wrapped, beamline, pretend_job, of
):
    run_engine(wrapped(bp.scan([beamline.detector, pretend_job], beamline.stage, 0, 90, 3), beamline))
    assert len(of(documents, "event", "primary")) == 3


def test_detector_and_angle_may_be_named(run_engine, documents, beamline, pretend_job, script):
    plan = bp.scan([beamline.detector], beamline.stage, 0, 90, 3)
    run_engine(streaming_wrapper(plan, job=pretend_job, detector="detector", angle="stage", references="own"))
    assert len(script.frames) == 3


def test_plan_that_never_reads_the_stage_is_told_what_is_missing(
    run_engine, documents, wrapped, beamline, pretend_job, of, caplog
):
    run_engine(wrapped(bp.count([beamline.detector], 3), beamline))
    (stop,) = of(documents, "stop")
    assert stop["exit_status"] == "success"
    assert "angle 'stage' not found among the data keys" in stop["reason"]
    assert "does the plan read the stage?" in stop["reason"]


def test_failure_of_the_plan_stays_a_failure(run_engine, documents, wrapped, beamline, script, of):
    def failing():
        yield from bps.open_run()
        yield from bps.null()
        raise ZeroDivisionError("of the plan")

    with pytest.raises(ZeroDivisionError):
        run_engine(wrapped(failing(), beamline))
    (stop,) = of(documents, "stop")
    assert stop["exit_status"] == "fail"
    assert script.stopped == 1
    assert run_engine.suspenders == ()


@pytest.mark.parametrize("role", ["detector", "angle"])
def test_what_is_neither_a_device_nor_a_name_is_refused_at_once(beamline, pretend_job, role):
    with pytest.raises(ConfigError, match=f"{role}: got 5, expected a device, or its name"):
        streaming_wrapper(bp.count([beamline.detector]), references="own", job=pretend_job, **{role: 5})


def test_job_that_says_no_hello_is_named_in_the_error(run_engine, documents, wrapped, beamline, script, pretend_job):
    script.silent = True
    pretend_job.options.start_timeout = 0.05
    with pytest.raises(JobError, match=r"not all of its processes have connected after 0\.05 s") as refused:
        run_engine(wrapped(bp.scan([beamline.detector], beamline.stage, 0, 90, 3), beamline))
    assert "rank 0 of 2, rank 1 of 2, the controller" in str(refused.value)
    assert "/nowhere/job.log" in str(refused.value)
    assert documents == []


def test_job_that_is_kept_alive_serves_the_next_run_and_ends_when_closed(
    run_engine, wrapped, beamline, script, pretend_job
):
    pretend_job.options.keep_alive = True
    for _ in range(2):
        run_engine(wrapped(bp.scan([beamline.detector], beamline.stage, 0, 90, 3), beamline))
    assert (script.launched, script.stopped) == ([2], 0)
    pretend_job.close()
    assert script.stopped == 1


def test_reconstruction_is_given_to_subscribers_after_the_raw_run(
    run_engine, documents, wrapped, beamline, pretend_job, script, monkeypatch
):
    given = []

    def compose(record):
        yield "start", {"uid": record.recon_uid, "raw": record.run_uid}
        yield "stop", {"run_start": record.recon_uid}

    pretend_job.subscribe(lambda name, doc: given.append((name, doc)))
    script.result = "/data/recon.h5"
    run_engine(wrapped(bp.scan([beamline.detector], beamline.stage, 0, 90, 3), beamline, compose=compose))
    start = documents[0][1]
    assert given[0] == ("start", {"uid": start["streamrecon"]["recon_uid"], "raw": start["uid"]})
    assert given[1][0] == "stop"


def test_reconstruction_that_can_not_be_stored_is_told_and_the_run_stays_a_success(
    run_engine, documents, wrapped, beamline, pretend_job, script, of, caplog
):
    def broken(record):
        raise OSError("no space left on device")
        yield

    pretend_job.subscribe(lambda name, doc: None)
    script.result = "/data/recon.h5"
    run_engine(wrapped(bp.scan([beamline.detector], beamline.stage, 0, 90, 3), beamline, compose=broken))
    assert of(documents, "stop")[0]["exit_status"] == "success"
    assert "no space left on device" in pretend_job.status().problem
    assert "no space left on device" in pretend_job.last_run.problems[-1]


# ---------------------------------------------------------------------------------------------- at once


def test_at_once_ends_the_run_in_the_middle_of_a_move(
    run_engine, documents, pretend_job, script, hold, held_beamline, of
):
    moving = hold(4)
    beamline = held_beamline(moving=moving)
    script.score = lambda n: 0.96 if n >= 3 else 0.1

    def when_moving(projections):
        if projections == 3:
            assert moving.reached.wait(BOUND)

    script.before_verdict = when_moving
    result = run_engine(
        stream_tomo_plan(
            beamline.detector,
            beamline.stage,
            num=12,
            order="fixed",
            pixel_values="transmission",
            job=pretend_job,
            suspend="at-once",
        )
    )
    (stop,) = of(documents, "stop")
    assert (result.exit_status, stop["exit_status"]) == ("success", "success")
    assert stop["reason"].startswith("quality: MS-SSIM 0.960 >= 0.95 at 3 of 12 projections")
    assert stop["num_events"]["primary"] == 4  # angle 0 needs no move, the fourth move was under way
    assert run_engine.rewindable
    assert run_engine.suspenders == ()


@pytest.mark.parametrize("device", ["detector", "stage"])
def test_at_once_between_create_and_save_drops_the_event_and_nothing_else(
    run_engine, documents, pretend_job, script, hold, beamline, of, monkeypatch, device
):
    reading = hold(4)
    kind = type(getattr(beamline, device))
    read = kind.read

    async def slow(self):
        if self is getattr(beamline, device):
            await reading()
        return await read(self)

    monkeypatch.setattr(kind, "read", slow)
    script.score = lambda n: 0.96 if n >= 3 else 0.1

    def when_reading(projections):
        if projections == 3:
            assert reading.reached.wait(BOUND)

    script.before_verdict = when_reading
    run_engine(
        streaming_wrapper(
            bp.scan([beamline.detector], beamline.stage, 0, 90, 12),
            job=pretend_job,
            references="own",
            suspend="at-once",
        )
    )
    (stop,) = of(documents, "stop")
    assert stop["exit_status"] == "success"
    assert stop["num_events"] == {"primary": 3, "steering": 3}
    assert run_engine.rewindable


def test_after_projection_waits_for_the_event_in_flight(
    run_engine, documents, pretend_job, script, hold, held_beamline, of
):
    exposing = hold(7)
    beamline = held_beamline(exposing=exposing)
    script.score = lambda n: 0.96 if n >= 3 else 0.1

    def when_exposing(projections):
        if projections == 3:
            assert exposing.reached.wait(BOUND)

    script.before_verdict = when_exposing
    script.on_frame = lambda projections: exposing.release() if projections == 3 else None
    run_engine(
        stream_tomo_plan(beamline.detector, beamline.stage, num=12, pixel_values="transmission", job=pretend_job)
    )
    (stop,) = of(documents, "stop")
    assert stop["num_events"]["primary"] == 4
    assert stop["reason"] == "quality: MS-SSIM 0.960 >= 0.95 at 3 of 12 projections; 4 taken"


def test_messages_of_other_runs_pass_unchanged(run_engine, documents, wrapped, beamline, of):
    def nested():
        yield from bps.open_run({"num_points": 2})
        yield from bps.stage(beamline.detector, wait=True)
        yield Msg("open_run", None, run="other")
        for angle in (0.0, 1.0):
            yield from bps.checkpoint()
            yield from bps.mv(beamline.stage, angle)
            yield from bps.trigger_and_read([beamline.detector, beamline.stage])
        yield Msg("close_run", None, run="other", exit_status="success", reason="as it was")
        yield from bps.unstage(beamline.detector, wait=True)
        yield from bps.close_run()

    run_engine(wrapped(nested(), beamline))
    other, ours = of(documents, "stop")
    assert other["reason"] == "as it was"
    assert ours["reason"].startswith("all 2 projections taken")
    starts = of(documents, "start")
    assert ["streamrecon" in start for start in starts] == [True, False]


# ------------------------------------------------------------------------------- several runs of one plan


def unstreamed():
    """A run of a plan whose stream is never opened: it takes nothing."""
    yield from bps.open_run({"num_points": 0})
    yield from bps.close_run()


def test_run_without_a_stream_gets_nothing_of_the_one_before_it(
    run_engine, documents, wrapped, beamline, pretend_job, script, of
):
    published = []
    pretend_job.subscribe(lambda name, doc: published.append(name))
    script.result = "/data/recon.h5"

    def compose(record):
        yield "start", {"uid": record.recon_uid}

    def both():
        yield from bp.scan([beamline.detector], beamline.stage, 0, 90, 3)
        pretend_job.runs.report("of nobody's run")
        yield from unstreamed()

    run_engine(wrapped(both(), beamline, compose=compose))
    first, second = of(documents, "stop")
    assert published == ["start"]
    assert first["reason"].startswith("all 3 projections taken")
    assert second["reason"] == "not reconstructed: no projections were streamed"


def test_problem_that_is_reported_late_stays_with_its_run(
    run_engine, documents, wrapped, beamline, script, of, pretend_job
):
    from bluesky_streamrecon.wire.messages import Problem

    def both():
        yield from bp.scan([beamline.detector], beamline.stage, 0, 90, 3)
        first = of(documents, "start")[0]["uid"]
        script.before_verdict = lambda _: pretend_job.job.link.endpoint._on_event(
            Problem(fault="local", where="rank 0", text="too late", run_uid=first)
        )
        yield from bp.scan([beamline.detector], beamline.stage, 0, 90, 3)

    run_engine(wrapped(both(), beamline))
    assert all("too late" not in stop["reason"] for stop in of(documents, "stop"))
    assert pretend_job.last_run.problems == ()


def test_process_that_dies_before_the_run_is_opened_is_started_again_in_it(
    run_engine, documents, wrapped, beamline, script, pretend_job, of
):
    from pathlib import Path

    from bluesky_streamrecon.beamline.processes import ProcessExit

    pretend_job.options.restarts, pretend_job.options.backoff = 1, 0.0

    def plan():
        pretend_job.job.launcher.endpoint.on_exit(ProcessExit("job of 2 ranks", -9, Path("/nowhere/job.log"), ""))
        yield from bp.scan([beamline.detector], beamline.stage, 0, 90, 3)

    run_engine(wrapped(plan(), beamline))
    assert script.restarted == ["job of 2 ranks"]
    assert "is started again (restart 1 of 1)" in of(documents, "stop")[0]["reason"]


# ------------------------------------------------------------------------------ a plan that is only looked at


@pytest.mark.parametrize("own", [True, False], ids=["stream_tomo_plan", "streaming_wrapper"])
def test_plan_is_summarized_and_its_limits_are_checked_without_a_run(
    run_engine, wrapped, beamline, pretend_job, script, capsys, own
):
    def plan():
        if own:
            return stream_tomo_plan(
                [beamline.detector], beamline.stage, num=4, job=pretend_job, pixel_values="transmission"
            )
        return wrapped(bp.scan([beamline.detector], beamline.stage, 0, 135, 4), beamline)

    summarize_plan(plan())
    assert capsys.readouterr().out.count("Read ['detector', 'stage']") == 4
    asyncio.run_coroutine_threadsafe(check_limits_async(plan()), run_engine.loop).result(BOUND)
    assert script.launched == []
