"""The last word is a person's: what hold, release, extend and finish do to a scan whose image is good enough."""

from __future__ import annotations

import asyncio
import queue

import pytest
from bluesky.preprocessors import plan_mutator
from bluesky.utils import Msg

from bluesky_streamrecon.errors import SteeringError
from bluesky_streamrecon.plans import stream_tomo_plan
from bluesky_streamrecon.sim_devices import sim_beamline

BOUND = 20.0


@pytest.fixture
def steady(run_engine, tmp_path, pretend_job, script):
    """Run a scan that waits for each verdict, and do things after so many projections, in the RunEngine's loop."""
    beamline = sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True)
    judged: queue.Queue[int] = queue.Queue()
    script.on_frame = judged.put

    def run(actions, **kwargs):
        given = {"num": 12, "window": 4, "pixel_values": "transmission", "job": pretend_job}
        streams = []

        async def caught_up():
            verdict = await asyncio.get_running_loop().run_in_executor(None, judged.get, True, BOUND)
            actions.get(verdict, lambda: None)()

        def wait_after(msg):
            if msg.command == "create":
                streams.append(msg.kwargs["name"])
            if msg.command != "save" or streams.pop() != "primary":
                return None, None
            return None, after()

        def after():
            yield Msg("wait_for", None, [caught_up])

        plan = stream_tomo_plan([beamline.detector], beamline.stage, **{**given, **kwargs})
        return run_engine(plan_mutator(plan, wait_after))

    return run


def steering(documents, of):
    return [event["data"] for event in of(documents, "event", "steering")]


def verdicts(documents, of):
    return [row["job-steering-verdict"] for row in steering(documents, of)]


def test_held_run_says_once_that_it_would_stop_and_ends_after_release(steady, documents, of, script, pretend_job):
    job = pretend_job
    script.score = lambda n: 0.99 if n >= 2 else 0.5
    steady({1: lambda: job.hold("not yet", who="anna"), 5: lambda: job.release(who="ben")})
    (stop,) = of(documents, "stop")
    assert (stop["exit_status"], stop["num_events"]["primary"]) == ("success", 6)
    assert stop["reason"].startswith("quality:")
    assert verdicts(documents, of) == [
        *("continue", "hold", "enough", "would stop", "enough", "enough", "enough", "release", "enough")
    ]
    said = next(row for row in steering(documents, of) if row["job-steering-verdict"] == "would stop")
    assert said["job-steering-text"].startswith("would stop, held by anna: ")
    assert [order.who for order in job.last_run.orders] == ["anna", "ben"]


def test_hold_that_comes_after_the_verdict_still_keeps_the_run_going(steady, documents, of, script, pretend_job):
    script.score = lambda n: 0.99 if n == 4 else 0.5
    steady({4: lambda: pretend_job.hold(who="anna")})
    (stop,) = of(documents, "stop")
    assert stop["num_events"]["primary"] == 12
    assert "would stop" in verdicts(documents, of)
    assert stop["reason"].startswith("all 12 projections taken; quality reached, but held by anna: ")
    assert stop["reason"].count("held by") == 1
    assert "too late" not in stop["reason"]


def test_extended_run_does_not_end_before_it_has_what_was_asked_for(steady, documents, of, script, pretend_job):
    script.score = lambda n: 0.99 if n >= 3 else 0.5
    steady({1: lambda: pretend_job.extend(5, who="anna")})
    (stop,) = of(documents, "stop")
    assert stop["reason"].startswith("quality:")
    assert stop["num_events"]["primary"] == 6
    assert verdicts(documents, of).count("would stop") == 1


def test_run_is_extended_beyond_the_plan_as_often_as_asked(steady, documents, of, script, pretend_job):
    steady({12: lambda: pretend_job.extend(2, who="a"), 14: lambda: pretend_job.extend(1, who="b")}, num=13)
    (stop,) = of(documents, "stop")
    assert stop["num_events"]["primary"] == 15
    assert "13 planned, extended to 15 by a, b" in stop["reason"]
    angles = [event["data"]["stage"] for event in of(documents, "event", "primary")]
    assert len(set(angles)) == 15
    assert pretend_job.last_run.taken == 15


def test_stage_that_can_not_go_between_ends_the_run_with_what_it_has(
    steady, documents, of, pretend_job, run_engine, monkeypatch
):
    from bluesky_streamrecon.sim_devices import RotaryStage

    async def check_value(self, value):
        if value % 15:
            raise ValueError("only every 15 degrees")

    monkeypatch.setattr(RotaryStage, "check_value", check_value, raising=False)
    steady({6: lambda: pretend_job.extend(20, who="anna")}, num=12)
    (stop,) = of(documents, "stop")
    assert (stop["exit_status"], stop["num_events"]["primary"]) == ("success", 12)
    assert "can not be extended any further" in stop["reason"]


def test_orders_that_make_no_sense_are_refused_with_a_reason(steady, pretend_job):
    job, said = pretend_job, []

    def refused(match, call):
        with pytest.raises(SteeringError, match=match):
            call()
        said.append(match)

    def orders():
        refused("got 0 projections", lambda: job.extend(0))
        refused("got True projections", lambda: job.extend(True))
        refused("expected a few words", lambda: job.finish_now(""))
        refused("is meant", lambda: job.hold(run_uid="another"))
        assert job.release() == "the run is not held"
        job.hold(who="anna")
        assert job.hold(who="ben") == "held by anna already"
        job.finish_now("enough", who="anna")
        assert "asked for that already" in job.finish_now("enough", who="ben")
        refused("has asked to end the run", lambda: job.extend(3))

    refused("no run is open", job.hold)
    steady({3: orders})
    assert len(said) == 6
    assert [order.action for order in job.last_run.orders] == ["hold", "finish"]


def test_status_tells_in_words_how_the_run_is(steady, script, pretend_job):
    script.score = lambda n: 0.5
    seen = []
    steady({7: lambda: seen.append(pretend_job.status())})
    told = repr(seen[0])
    assert "7 of 12 streamed" in told
    assert "0.5000" in told
    assert (seen[0].taken, seen[0].used, seen[0].lag, seen[0].held) == (7, 7, 0, None)
    ended = repr(pretend_job.status())
    assert "none is open" in ended
    assert f"last run     {pretend_job.last_run.run_uid[:8]}, success: all 12 projections taken; " in ended
