"""A scan ends when its time or dose is used up, whatever else is said, and what can not fit is refused at once."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

import pytest
from bluesky.simulators import summarize_plan

from bluesky_streamrecon.deadlines import seconds_of
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.ordering import Sweep
from bluesky_streamrecon.plans import budget, stream_tomo_fly_plan, stream_tomo_plan, streaming_wrapper
from bluesky_streamrecon.plans.budget import Budget
from bluesky_streamrecon.settings import SteeringSettings
from bluesky_streamrecon.sim_devices import sim_beamline

NOON = datetime(2026, 11, 28, 12, 0)


@pytest.mark.parametrize(
    ("until", "when"),
    [
        ("18:30", NOON + timedelta(hours=6.5)),
        ("23:59:30", NOON + timedelta(hours=11, minutes=59, seconds=30)),
        ("2026-11-29T06:30", NOON + timedelta(hours=18.5)),
        ("2026-11-29 06:30:00", NOON + timedelta(hours=18.5)),
        (90, NOON + timedelta(seconds=90)),
        (NOON.astimezone().replace(hour=13).isoformat(), NOON + timedelta(hours=1)),
    ],
)
def test_deadline_is_what_people_mean(until, when):
    assert seconds_of(until, NOON.timestamp()) == when.timestamp()


def test_time_of_day_is_that_of_tomorrow_only_where_it_is_near():
    evening = NOON.replace(hour=22).timestamp()
    assert seconds_of("06:30", evening) == evening + 8.5 * 3600
    with pytest.raises(ConfigError, match=r"until: got '18:30', 210 min ago; expected a time to come, with its date"):
        seconds_of("18:30", evening)


@pytest.fixture
def central_europe(monkeypatch):
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("central_europe")
@pytest.mark.parametrize("until", ["2026-10-25T02:30", "2026-03-29T02:30"])
def test_time_that_is_twice_or_never_when_clocks_are_changed_needs_its_offset(until):
    before = datetime(2026, 1, 1).timestamp()
    with pytest.raises(ConfigError, match="when clocks are changed; expected the offset, too"):
        seconds_of(until, before)
    assert seconds_of(f"{until}+01:00", before) > before


@pytest.fixture
def beamline(run_engine, tmp_path):
    return sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True, exposure=0.5)


@pytest.fixture
def plans(beamline, pretend_job):
    given = {"window": 4, "pixel_values": "transmission", "job": pretend_job}

    def step(**kwargs):
        return stream_tomo_plan([beamline.detector], beamline.stage, **{**given, "num": 60, **kwargs})

    def fly(**kwargs):
        flyers = {"trigger": beamline.trigger, "encoder": beamline.encoder}
        return stream_tomo_fly_plan([beamline.detector], beamline.stage, **flyers, **{**given, "num": 60, **kwargs})

    def wrapped(**kwargs):
        streamed = {"pixel_values": "transmission", "job": pretend_job, "planned": 60, "detector": beamline.detector}
        return streaming_wrapper(step(), steering=SteeringSettings(**kwargs), **streamed)

    return {"step": step, "fly": fly, "wrapped": wrapped}


@pytest.mark.parametrize("kind", ["step", "fly", "wrapped"])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"until": "2001-01-01T06:30"}, "min ago; expected a time to come"),
        ({"until": "6:30"}, "until: got '6:30', expected a time of day of 24 hours"),
        ({"until": "18:30 pm"}, "expected a time of day of 24 hours"),
        ({"until": "25:00"}, "expected a time of day of 24 hours"),
        ({"until": "2026-11-29"}, "expected a time of day of 24 hours"),
        ({"until": "3000"}, "or seconds from now, a number above 0"),
        ({"until": -5.0}, "or seconds from now, a number above 0"),
        ({"until": 5.0}, "until .*: allows (at most )?.* projections .*expected at least 24"),
        ({"dose": 0.0}, "dose: got 0, expected seconds of exposure above 0"),
        ({"dose": "30"}, "dose: got '30'"),
        ({"dose": 11.9}, r"dose of 11.9 s: allows 23 projections \(0.5 s of exposure each\), expected at least 24"),
        ({"dose": 20.0, "minimum_projections": 41}, "allows 40 projections .* expected at least 41"),
    ],
)
def test_budget_that_can_not_be_kept_is_refused_before_anything_is_started(
    run_engine, documents, plans, script, kind, wrong, words
):
    with pytest.raises(ConfigError, match=words):
        run_engine(plans[kind](**wrong))
    assert (documents, script.launched) == ([], [])


def test_dose_without_an_exposure_time_is_refused(run_engine, documents, plans, beamline, monkeypatch):
    monkeypatch.delattr(beamline.detector, "exposure_time")
    with pytest.raises(ConfigError, match="dose: detector has no exposure_time"):
        run_engine(plans["step"](dose=20.0))
    assert documents == []


@pytest.mark.parametrize("against", ["nothing", "hold", "extend", "advisory", "lost job"])
def test_dose_is_kept_whatever_people_say_and_without_a_job(
    run_engine, documents, of, plans, script, pretend_job, against
):
    script.lost_at = 10 if against == "lost job" else None
    answers = []

    def order(name, doc):
        if doc["seq_num"] == 3 and not answers and against in ("hold", "extend"):
            answers.append(pretend_job.hold(who="anna") if against == "hold" else pretend_job.extend(50, who="anna"))

    run_engine.subscribe(order, "event")
    run_engine(plans["step"](dose=15.0, advisory=against == "advisory"))
    (start,), (stop,) = of(documents, "start"), of(documents, "stop")
    assert start["streamrecon"]["budget"] == "dose of 15 s: 30 of 60 projections (0.5 s of exposure each)"
    assert (stop["exit_status"], stop["num_events"]["primary"]) == ("success", 30)
    assert stop["reason"].startswith("dose of 15 s: ended after 30 of 60 projections of 0.5 s each; ")
    if against == "extend":
        assert answers[0].endswith("; the budget ends the run after about 30 all the same")


@pytest.fixture
def ten_seconds_each(run_engine, monkeypatch):
    """Have the clock, by which budgets are kept, go on by 10 s with each projection; return when it begins."""
    streams, begun = {}, datetime(2026, 11, 28, 18, 0).timestamp()
    taken = [0]

    def count(name, doc):
        if name == "descriptor":
            streams[doc["uid"]] = doc["name"]
        elif name == "event":
            taken[0] += streams[doc["descriptor"]] == "primary"

    run_engine.subscribe(count)
    monkeypatch.setattr(budget, "wall_clock", lambda: begun + 10.0 * taken[0])
    return begun


def test_time_is_kept_at_the_pace_of_the_scan_and_people_hear_of_it_before(
    run_engine, documents, of, plans, ten_seconds_each
):
    run_engine(plans["step"](until="18:05:09"))
    (start,), (stop,) = of(documents, "start"), of(documents, "stop")
    assert start["streamrecon"]["budget"] == (
        "until 18:05: how many projections that allows is known after the first 5"
    )
    assert start["streamrecon"]["steering"]["until"].startswith("2026-11-28T18:05:09")
    assert (stop["exit_status"], stop["num_events"]["primary"]) == ("success", 30)
    assert stop["reason"].startswith("until 18:05: ended after 30 of 60 projections; ")
    (said,) = [e["data"] for e in of(documents, "event", "steering") if e["data"]["job-steering-policy"] == "budget"]
    assert said["job-steering-text"] == (
        "until 18:05: about 30 of 60 projections (0.5 s of exposure each, one every 10 s)"
    )
    assert said["job-steering-projections"] == 6


def test_budget_that_is_enough_ends_nothing(run_engine, documents, of, plans):
    run_engine(plans["step"](num=30, dose=15.0, until=3600))
    (stop,) = of(documents, "stop")
    assert stop["num_events"]["primary"] == 30
    assert stop["reason"].startswith("all 30 projections taken; ")


@pytest.mark.parametrize("kind", ["step", "fly"])
def test_plan_with_a_budget_can_be_looked_at_without_a_run(plans, kind, capsys):
    summarize_plan(plans[kind](dose=15.0, until=3600))
    assert capsys.readouterr().out


def test_sweeps_are_cut_to_the_dose():
    sweeps = [Sweep(0.0, 3.0, 20), Sweep(1.0, 3.0, 20), Sweep(2.0, 3.0, 20)]
    assert list(Budget(60, dose=15.0, most=30).cut(sweeps)) == [sweeps[0], Sweep(1.0, 3.0, 10)]
    assert list(Budget(60).cut(sweeps)) == sweeps


def test_time_for_flats_after_the_projections_is_kept():
    limits = Budget(100, until=1000.0, pace=2.0, before=20, after=10)
    limits.note("checkpoint", 0, 0.0)
    limits.note("checkpoint", 0, 58.0)
    limits.note("checkpoint", 1, 60.0)  # flats and darks took a minute: half of them will take half a minute
    assert limits.allowed(1, 60.0) == 1 + (1000 - 30 - 60) // 2
    assert limits.used_up("checkpoint", 90, 960.0, 100) == ""
    assert limits.used_up("checkpoint", 90, 971.0, 100).startswith("until ")
