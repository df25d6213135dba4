"""Pause, resume, abort, stop, halt: nothing is lost or taken twice, and nothing stays behind."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from types import SimpleNamespace

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import h5py
import numpy as np
import pytest
from bluesky.run_engine import RunEngineInterrupted
from bluesky.utils import FailedStatus, SigintHandler
from ophyd_async.core import AsyncStatus

from bluesky_streamrecon.plans import check_devices_plan, stream_tomo_fly_plan, stream_tomo_plan, streaming_wrapper
from bluesky_streamrecon.plans.parts import answer, wait_for_all
from bluesky_streamrecon.plans.session import StreamSession
from bluesky_streamrecon.sim_devices import sim_beamline

BOUND = 50.0  # below that of a test


@pytest.fixture
def tomo(pretend_job):
    def plan(beamline, **kwargs):
        given = {"num": 6, "window": 4, "pixel_values": "transmission", "job": pretend_job}
        return stream_tomo_plan([beamline.detector], beamline.stage, **{**given, **kwargs})

    return plan


@pytest.fixture
def flight(run_engine, pretend_job, tmp_path):
    beamline = sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True)
    return stream_tomo_fly_plan(
        [beamline.detector], beamline.stage, trigger=beamline.trigger, encoder=beamline.encoder, num=6, window=4,
        pixel_values="transmission", order="fixed", job=pretend_job,
    )  # fmt: skip


@pytest.fixture
def pause_at(run_engine, in_thread):
    """Run a plan until a hold is reached, and pause it there."""

    def run(plan, held):
        def pause():
            assert held.reached.wait(BOUND)
            run_engine.request_pause(defer=False)

        in_thread(pause)
        with pytest.raises(RunEngineInterrupted):
            run_engine(plan)
        assert run_engine.state == "paused"

    return run


def frames_in_file(documents):
    resource = [doc for name, doc in documents if name == "stream_resource"][-1]
    with h5py.File(resource["uri"].removeprefix("file://localhost")) as file:
        return file[resource["parameters"]["dataset"]][:]


def assert_complete(documents, of, script, num):
    """Every angle once: in the events, in the file, in the stream, in the same order."""
    events = of(documents, "event", "primary")
    assert [doc["seq_num"] for doc in events] == list(range(1, num + 1))
    assert len({doc["data"]["stage"] for doc in events}) == num
    data = of(documents, "stream_datum", "primary")
    assert [(doc["indices"]["start"], doc["seq_nums"]["start"]) for doc in data] == [(i, i + 1) for i in range(num)]
    sent = [(angle, pixels) for kind, _, angle, pixels in script.frames if kind == "projection"]
    assert [angle for angle, _ in sent] == pytest.approx([np.deg2rad(doc["data"]["stage"]) for doc in events])
    np.testing.assert_array_equal(np.stack([pixels for _, pixels in sent]), frames_in_file(documents))


def test_pause_in_the_middle_of_an_exposure_keeps_its_frame_and_takes_none_twice(
    run_engine, documents, tomo, script, pause_at, hold, held_beamline, of
):
    exposing = hold(5)  # two passes per exposure: the third projection
    pause_at(tomo(held_beamline(exposing=exposing)), exposing)
    exposing.release()
    assert run_engine.resume().exit_status == "success"
    assert_complete(documents, of, script, 6)
    assert of(documents, "stop")[0]["exit_status"] == "success"
    assert run_engine.rewindable


def test_pause_in_the_middle_of_the_first_exposure_loses_no_stream_resource(
    run_engine, documents, tomo, script, pause_at, hold, held_beamline, of
):
    exposing = hold(1)
    pause_at(tomo(held_beamline(exposing=exposing)), exposing)
    exposing.release()
    run_engine.resume()
    assert_complete(documents, of, script, 6)


def test_pause_in_the_middle_of_a_move_moves_again(
    run_engine, documents, tomo, script, pause_at, hold, held_beamline, of
):
    moving = hold(2)
    beamline = held_beamline(moving=moving)
    pause_at(tomo(beamline), moving)

    async def stopped():
        while beamline.stage._move_status is not None:
            await asyncio.sleep(0)

    asyncio.run_coroutine_threadsafe(stopped(), run_engine.loop).result(BOUND)
    moving.release()
    run_engine.resume()
    assert_complete(documents, of, script, 6)


@pytest.mark.parametrize(
    ("device", "method", "at"),
    [
        ("detector", "read", 1),
        ("detector", "read", 3),
        ("detector", "get_index", 1),
        ("detector", "get_index", 3),
        ("detector", "describe", 1),
        ("stage", "read", 1),
        ("stage", "read", 3),
        ("stage", "describe", 1),
    ],
)
def test_pause_in_the_middle_of_a_reading_reads_again(
    run_engine, documents, tomo, script, pause_at, hold, held_beamline, of, monkeypatch, method, device, at
):
    beamline = held_beamline()
    read = getattr(type(getattr(beamline, device)), method)
    reading = hold(at)

    async def slow(self, *args, **kwargs):
        if self is getattr(beamline, device):
            await reading()
        return await read(self, *args, **kwargs)

    monkeypatch.setattr(type(getattr(beamline, device)), method, slow)
    pause_at(tomo(beamline), reading)
    reading.release()
    run_engine.resume()
    assert_complete(documents, of, script, 6)


def test_pause_after_the_run_is_over_goes_on_and_not_back_into_the_run(
    run_engine, documents, tomo, script, pause_at, hold, held_beamline, of, pretend_job, monkeypatch
):
    publish, publishing = pretend_job.publish_reconstruction, hold(1)

    async def slowly(*arguments):
        await publishing()
        await publish(*arguments)

    monkeypatch.setattr(pretend_job, "publish_reconstruction", slowly)
    pause_at(tomo(held_beamline()), publishing)
    assert of(documents, "stop")[0]["exit_status"] == "success"
    publishing.release()
    assert run_engine.resume().exit_status == "success"
    assert_complete(documents, of, script, 6)
    assert run_engine.rewindable


def test_run_that_is_stopped_in_the_middle_of_a_verdicts_event_is_a_success(
    run_engine, documents, tomo, script, pause_at, hold, held_beamline, of, pretend_job, monkeypatch
):
    script.score = lambda number: 0.1 * number
    read, reading = type(pretend_job.steering).read, hold(1)

    async def slowly(steering):
        await reading()
        return await read(steering)

    monkeypatch.setattr(type(pretend_job.steering), "read", slowly)
    pause_at(tomo(held_beamline()), reading)
    pretend_job.hold("to look")  # one more event, when the run is closed
    reading.release()
    assert run_engine.stop().exit_status == "success"
    (stop,) = of(documents, "stop")
    assert (stop["exit_status"], "of 6 projections streamed" in stop["reason"]) == ("success", True)
    # Events that were read before and after the plan heard of its end may have been written, too.
    verdicts = [doc["data"]["job-steering-verdict"] for doc in of(documents, "event", "steering")]
    assert "hold" in verdicts
    assert set(verdicts) <= {"hold", "continue"}


@pytest.mark.parametrize(("end", "status"), [("abort", "abort"), ("stop", "success")])
def test_scan_that_is_ended_while_a_device_is_asked_ends_as_it_was_told_to(
    run_engine, documents, tomo, pause_at, hold, held_beamline, monkeypatch, end, status
):
    beamline, asking = held_beamline(), hold(1)

    async def slow(stage, value):
        await asking()

    monkeypatch.setattr(type(beamline.stage), "check_value", slow)
    pause_at(tomo(beamline), asking)
    asking.release()
    ended = getattr(run_engine, end)()
    assert ended.exit_status == status
    assert not documents


def test_exposure_is_waited_for_where_a_plan_is_stopped_before_it_knows_of_it(run_engine, tomo, hold, held_beamline):
    exposing, triggers, seen = hold(5), [], []

    def pause(msg):
        if msg.command == "trigger":
            triggers.append(msg.kwargs["group"])
            if len(triggers) == 3:
                asyncio.ensure_future(run_engine._request_pause_coro())  # noqa: RUF006 - before the trigger is answered

    def note(msg):
        seen.append((msg.command, msg.kwargs.get("group")))
        if seen[-1] == ("wait", triggers[-1]):
            exposing.release()

    run_engine.msg_hook = pause
    with pytest.raises(RunEngineInterrupted):
        run_engine(tomo(held_beamline(exposing=exposing)))
    run_engine.msg_hook = note
    assert run_engine.stop().exit_status == "success"
    commands = [command for command, _ in seen]
    assert seen.index(("wait", triggers[-1])) < commands.index("unstage")


@pytest.mark.parametrize(("role", "at"), [("shutter", 5), ("table", 4)])
@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("end", ["abort", "stop"])
def test_beam_is_off_and_the_sample_back_where_a_scan_is_ended_while_it_sees_to_that(
    run_engine, tomo, pause_at, hold, held_beamline, monkeypatch, role, at, asked, end
):
    """Before the device is set, while it is asked whether it answers; and before it is there."""
    beamline, moving = held_beamline(), hold(at)
    device = getattr(beamline, role)
    kind = type(device)
    locate, arrive = kind.locate, kind.set

    async def slow_answer(self):
        await moving()
        return await locate(self)

    def slow_move(self, value):
        async def moved():
            await moving()
            if moving.passes != at:  # that one is interrupted
                await arrive(self, value)

        return AsyncStatus(moved())

    monkeypatch.setattr(kind, *(("locate", slow_answer) if asked else ("set", slow_move)))
    frames = {"flats": 1, "darks": 1, "flats_after": 1, "shutter": beamline.shutter, "sample_table": beamline.table}
    pause_at(tomo(beamline, pixel_values="counts", **frames), moving)
    moving.release()
    getattr(run_engine, end)()

    async def where():
        return [await each.get_value() for each in (beamline.shutter, beamline.table)]

    assert asyncio.run_coroutine_threadsafe(where(), run_engine.loop).result(BOUND) == ["closed", "in"]


def test_check_of_devices_that_is_aborted_goes_on_to_no_other_device(run_engine, pause_at, hold, held_beamline, capsys):
    beamline, asking = held_beamline(), hold(1)

    async def slow(*args, **kwargs):
        await asking()

    beamline.stage.connect = slow
    pause_at(check_devices_plan([beamline.detector], beamline.stage), asking)
    asking.release()
    assert run_engine.abort().exit_status == "abort"
    assert "detector" not in capsys.readouterr().out


def test_second_pause_while_a_device_is_asked_and_nothing_rewound(run_engine, pause_at, hold, in_thread):
    answering, waiting, asked = hold(1), threading.Event(), []

    async def slow():
        asked.append(True)
        await answering()
        return "here"

    pause_at(bpp.rewindable_wrapper(answer(slow), False), answering)
    run_engine.msg_hook = lambda msg: waiting.set()

    def pause():
        assert waiting.wait(BOUND)
        run_engine.request_pause(defer=False)

    in_thread(pause)
    with pytest.raises(RunEngineInterrupted):
        run_engine.resume()
    answering.release()
    assert run_engine.resume().plan_result == "here"
    assert asked == [True]


def test_device_is_asked_again_where_a_resumed_plan_is_taken_back_to_before_the_question(run_engine, pause_at, hold):
    """Its IOC may have been started again during the pause."""
    waiting, asked = hold(1), []

    def plan():
        yield from bps.checkpoint()
        yield from answer(lambda: asked.append(True))
        yield from bps.wait_for([waiting])

    pause_at(plan(), waiting)
    waiting.release()
    run_engine.resume()
    assert asked == [True, True]


@pytest.fixture
def waited_for(run_engine, pause_at, hold):
    """Pause a plan while it waits for a status, and give the status, which is not done."""
    status, waiting = SimpleNamespace(done=False), hold(1)
    run_engine.msg_hook = lambda msg: msg.command == "wait_for" and waiting.reached.set()
    pause_at(wait_for_all([status, None]), waiting)
    return status


def test_plan_that_is_paused_while_it_waits_goes_on_when_all_are_done(run_engine, waited_for):
    waited_for.done = True
    assert run_engine.resume().plan_result is True


@pytest.mark.parametrize("end", ["abort", "stop", "halt"])
def test_plan_that_waits_for_what_never_ends_can_be_ended_and_leaves_nothing_behind(run_engine, waited_for, end):
    getattr(run_engine, end)()
    assert (run_engine.state, waited_for.done) == ("idle", False)


def test_plan_waits_no_longer_than_it_is_to(run_engine):
    assert run_engine(wait_for_all([SimpleNamespace(done=False)], 0.05)).plan_result is False


def test_pause_while_a_flight_declares_its_stream(run_engine, documents, flight, pause_at, hold, of):
    declaring, declare = hold(1), run_engine._command_registry["declare_stream"]

    async def slowly(msg):
        await declaring()
        return await declare(msg)

    run_engine.register_command("declare_stream", slowly)
    pause_at(flight, declaring)
    declaring.release()
    run_engine.resume()
    assert of(documents, "stop")[0]["reason"].startswith("all 6 projections taken")


def test_runengine_can_rewind_again_after_a_flight_that_was_halted(run_engine, flight, pause_at, hold):
    collecting, collect = hold(1), run_engine._command_registry["collect"]

    async def slowly(msg):
        await collecting()
        return await collect(msg)

    run_engine.register_command("collect", slowly)
    pause_at(flight, collecting)
    assert not run_engine.rewindable
    collecting.release()
    run_engine.halt()
    assert run_engine.rewindable


def test_scan_after_one_that_was_halted_waits_until_the_job_of_that_one_has_ended(
    run_engine, documents, tomo, pause_at, hold, held_beamline, of, pretend_job, monkeypatch, in_thread
):
    moving, ending, begun = hold(2), hold(1), threading.Event()
    stop = pretend_job.job.stop

    async def slowly():
        await ending()
        await stop()

    monkeypatch.setattr(pretend_job.job, "stop", slowly)
    pause_at(tomo(held_beamline(moving=moving)), moving)
    moving.release()
    run_engine.halt()
    documents.clear()
    run_engine.subscribe(lambda *_: begun.set(), "event")

    def let_it_end():
        assert ending.reached.wait(BOUND)
        begun.wait(0.5)
        ending.release()

    in_thread(let_it_end)
    run_engine(tomo(held_beamline()))
    assert of(documents, "stop")[0]["reason"].startswith("all 6 projections taken")


def test_runengine_can_rewind_again_after_a_scan_that_was_aborted_while_it_was_suspended(
    run_engine, tomo, pause_at, hold, held_beamline, in_thread
):
    moving, suspended = hold(2), hold(1)

    def suspend():
        assert moving.reached.wait(BOUND)
        run_engine.request_suspend(suspended)

    in_thread(suspend)
    pause_at(tomo(held_beamline(moving=moving)), suspended)
    moving.release()
    suspended.release()
    run_engine.abort()
    assert run_engine.rewindable


def test_runengine_can_rewind_again_after_a_scan_that_was_aborted_while_it_was_suspended_before_its_run(
    run_engine, tomo, pause_at, hold, held_beamline, in_thread, pretend_job, monkeypatch
):
    starting, suspended, start = hold(1), hold(1), pretend_job.job.start

    async def slowly(*args, **kwargs):
        await starting()
        await start(*args, **kwargs)

    def suspend():
        assert starting.reached.wait(BOUND)
        run_engine.request_suspend(suspended)

    monkeypatch.setattr(pretend_job.job, "start", slowly)
    in_thread(suspend)
    pause_at(tomo(held_beamline()), suspended)
    starting.release()
    suspended.release()
    run_engine.abort()
    assert run_engine.rewindable


@pytest.mark.parametrize(("end", "status"), [("abort", "abort"), ("stop", "success"), ("halt", "abort")])
def test_last_image_is_not_waited_for_any_more_where_people_end_the_scan_that_waits_for_it(
    run_engine, documents, tomo, script, pause_at, hold, held_beamline, of, pretend_job, monkeypatch, end, status
):
    script.never_done = True
    finished, waiting = pretend_job.runs.finished, hold(2)

    async def waited_for():
        waiting.reached.set()
        assert not waiting.passes, "waited for again"
        waiting.passes += 1
        return await finished()

    monkeypatch.setattr(pretend_job.runs, "finished", waited_for)
    pause_at(tomo(held_beamline()), waiting)
    getattr(run_engine, end)()
    assert of(documents, "stop")[0]["exit_status"] == status
    assert pretend_job.last_run.exit_status == status


def test_run_that_could_not_be_closed_leaves_the_next_one_its_stream(
    run_engine, documents, tomo, script, held_beamline, of, pretend_job, monkeypatch
):
    def broken(*_):
        raise RuntimeError("no reason")

    beamline = held_beamline()
    with monkeypatch.context() as patched:
        patched.setattr(StreamSession, "_reason", broken)
        with pytest.raises(RuntimeError, match="no reason"):
            run_engine(tomo(beamline))
    documents.clear()
    run_engine(tomo(beamline))
    (stop,) = of(documents, "stop")
    assert stop["reason"].startswith("all 6 projections taken")
    assert pretend_job.last_run.run_uid == stop["run_start"]


def test_second_pause_while_the_first_exposure_is_still_waited_for(
    run_engine, documents, tomo, script, pause_at, hold, held_beamline, of, in_thread
):
    exposing = hold(5)
    pause_at(tomo(held_beamline(exposing=exposing)), exposing)
    waiting = hold(1)
    original = run_engine._command_registry["wait_for"]

    async def wait_for(msg):
        run_engine._command_registry["wait_for"] = original
        waiting.reached.set()
        return await original(msg)

    run_engine.register_command("wait_for", wait_for)

    def pause():
        assert waiting.reached.wait(BOUND)
        run_engine.request_pause(defer=False)

    in_thread(pause)
    with pytest.raises(RunEngineInterrupted):
        run_engine.resume()
    exposing.release()
    run_engine.resume()
    assert_complete(documents, of, script, 6)


def test_ctrl_c_twice_pauses_and_resume_completes_the_scan(
    run_engine, documents, tomo, script, hold, held_beamline, of, in_thread
):
    run_engine.context_managers = [SigintHandler]
    exposing = hold(5)

    pause = threading.Event()

    def interrupt():
        assert exposing.reached.wait(BOUND)
        os.kill(os.getpid(), signal.SIGINT)
        while not run_engine.deferred_pause_requested:
            pause.wait(0.01)
        pause.wait(0.15)  # bluesky counts two only if a tenth of a second lies between them
        os.kill(os.getpid(), signal.SIGINT)

    in_thread(interrupt)
    with pytest.raises(RunEngineInterrupted):
        run_engine(tomo(held_beamline(exposing=exposing)))
    assert run_engine.state == "paused"
    exposing.release()
    run_engine.resume()
    assert_complete(documents, of, script, 6)


@pytest.mark.parametrize(("end", "status"), [("abort", "abort"), ("stop", "success"), ("halt", "abort")])
def test_everything_is_cleaned_up_when_a_paused_scan_is_ended(
    run_engine, documents, tomo, script, pretend_job, pause_at, hold, held_beamline, of, end, status
):
    exposing = hold(5)
    beamline = held_beamline(exposing=exposing)
    pause_at(tomo(beamline), exposing)
    exposing.release()
    getattr(run_engine, end)()
    (stop,) = of(documents, "stop")
    assert stop["exit_status"] == status
    assert run_engine.state == "idle"
    assert run_engine.rewindable
    assert run_engine.suspenders == ()
    pretend_job.close()  # after a halt the RunEngine does not wait for the device
    assert script.stopped == 1
    documents.clear()
    script.frames.clear()
    assert run_engine(tomo(beamline)).exit_status == "success"
    assert_complete(documents, of, script, 6)


@pytest.mark.parametrize("end", ["abort", "halt"])
def test_job_does_not_keep_an_aborted_scan_waiting_for_its_image(
    run_engine, documents, tomo, script, pause_at, hold, held_beamline, of, end
):
    script.never_done = True
    exposing = hold(5)
    pause_at(tomo(held_beamline(exposing=exposing)), exposing)
    exposing.release()
    getattr(run_engine, end)()
    assert of(documents, "stop")[0]["exit_status"] == "abort"
    assert script.closed[0][0] == "abort"


def test_aborted_scan_says_why_and_that_its_ledger_does_not_add_up(
    run_engine, documents, tomo, script, pause_at, hold, held_beamline, of
):
    script.dropped = {3}
    exposing = hold(9)
    pause_at(tomo(held_beamline(exposing=exposing)), exposing)
    exposing.release()
    run_engine.abort("the sample fell off")
    (stop,) = of(documents, "stop")
    assert stop["exit_status"] == "abort"
    assert stop["reason"].startswith("the sample fell off; ledger of rank 0 not balanced: 4 items, 3 sent")


def test_scan_that_fails_says_that_its_ledger_does_not_add_up(run_engine, documents, tomo, script, held_beamline, of):
    script.dropped = {3}
    passes = iter(range(1, 100))

    async def breaking(seconds):
        if next(passes) == 9:
            raise RuntimeError("the shutter is jammed")

    with pytest.raises(FailedStatus):
        run_engine(tomo(held_beamline(exposing=breaking)))
    (stop,) = of(documents, "stop")
    assert stop["exit_status"] == "fail"
    assert "ledger of rank 0 not balanced" in stop["reason"]


def test_scan_that_is_stopped_by_hand_says_how_far_it_got(
    run_engine, documents, tomo, pause_at, hold, held_beamline, of
):
    exposing = hold(5)
    pause_at(tomo(held_beamline(exposing=exposing)), exposing)
    exposing.release()
    run_engine.stop()
    assert of(documents, "stop")[0]["reason"].startswith("2 of 6 projections streamed")


def test_pause_while_the_last_image_is_waited_for(
    run_engine, documents, tomo, script, pause_at, held_beamline, of, hold
):
    script.gate.clear()
    waiting = hold(1)
    script_closed = script.closed.append

    class Closed(list):
        def append(self, item):
            super().append(item)
            waiting.reached.set()

    script.closed = Closed()
    assert script_closed is not None
    pause_at(tomo(held_beamline()), waiting)
    script.gate.set()
    assert run_engine.resume().exit_status == "success"
    assert_complete(documents, of, script, 6)


def test_pause_in_a_plan_of_the_user_keeps_the_frame_too(
    run_engine, documents, script, pretend_job, pause_at, hold, held_beamline, of
):
    exposing = hold(5)
    beamline = held_beamline(exposing=exposing)
    plan = bp.scan([beamline.detector], beamline.stage, 0, 100, 6)
    pause_at(
        streaming_wrapper(plan, job=pretend_job, detector=beamline.detector, angle=beamline.stage, references="own"),
        exposing,
    )
    exposing.release()
    run_engine.resume()
    assert_complete(documents, of, script, 6)


def test_stock_plan_without_the_wrapper_is_refused_by_bluesky_after_such_a_pause(
    run_engine, documents, pause_at, hold, held_beamline
):
    """Why exposures are shielded: if this passes some day, the shield can go."""
    exposing = hold(5)
    beamline = held_beamline(exposing=exposing)

    def orphaned():
        yield from bps.null()
        return (yield from bp.scan([beamline.detector], beamline.stage, 0, 100, 6))

    pause_at(orphaned(), exposing)
    exposing.release()
    with pytest.raises(RuntimeError, match="multiple indices"):
        run_engine.resume()
