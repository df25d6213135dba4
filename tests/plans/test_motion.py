"""Moves of plans end in time, or the scan ends with the reason; plans can be looked at without being run."""

from __future__ import annotations

import pytest
from bluesky.simulators import check_limits, summarize_plan
from ophyd import Device, DeviceStatus, StatusBase
from ophyd.sim import SynAxis

from bluesky_streamrecon.errors import MotionError
from bluesky_streamrecon.plans import motion, stream_tomo_fly_plan, stream_tomo_plan
from bluesky_streamrecon.sim_devices import sim_beamline


class Stuck(SynAxis):
    """Arrives, except where it is sent to `at`."""

    def __init__(self, at, velocity):
        super().__init__(name="rot")
        self.at = at
        self.velocity.put(velocity)
        self.acceleration.put(0.0)

    def set(self, value):
        return DeviceStatus(self) if value == self.at else super().set(value)


@pytest.fixture
def beamline(run_engine, tmp_path):
    return sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True)


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch):
    monkeypatch.setattr(motion, "LATE_SECONDS", 0.2)
    monkeypatch.setattr(motion, "UNKNOWN_SECONDS", 0.3)
    monkeypatch.setattr(motion, "SWITCH_SECONDS", 0.2)


def tomo(beamline, job, **more):
    around = {"shutter": beamline.shutter, "sample_table": beamline.table}
    given = {"num": 6, "order": "fixed", "flats": 1, "darks": 1, "window": None, "job": job} | around | more
    return stream_tomo_plan(beamline.detector, given.pop("stage"), **given)


@pytest.mark.parametrize(
    ("velocity", "words"),
    [
        (1000.0, "not at 90.0 in time, expected within 0 s: 2 times 30 at 1000 per second with 0 s to speed up"),
        (0.0, "the usual where the velocity is not known"),
    ],
)
def test_stage_that_never_arrives_ends_the_scan_in_time_with_the_shutter_closed(
    run_engine, documents, beamline, pretend_job, script, velocity, words
):
    with pytest.raises(MotionError, match=words):
        run_engine(tomo(beamline, pretend_job, stage=Stuck(90.0, velocity)))
    (stop,) = [doc for name, doc in documents if name == "stop"]
    assert stop["exit_status"] == "fail"
    assert "rot: not at 90.0 in time" in stop["reason"]
    assert stop["num_events"]["primary"] == 3
    assert run_engine(closed(beamline.shutter)).plan_result == "closed"


def closed(shutter):
    import bluesky.plan_stubs as bps

    return (yield from bps.rd(shutter))


def test_shutter_that_does_not_open_is_named(run_engine, beamline, pretend_job):
    class Jammed(Device):
        def set(self, value):
            return StatusBase()

    with pytest.raises(MotionError, match="jammed: not at closed in time"):
        run_engine(tomo(beamline, pretend_job, stage=SynAxis(name="rot"), shutter=Jammed(name="jammed")))


def test_slow_stage_has_the_time_that_it_needs(run_engine, beamline):
    class Slow(SynAxis):
        velocity = 2.0
        acceleration = 5.0
        settle_time = 3.0

    async def seconds():
        return await motion.time_limit(Slow(name="rot"), 90.0)

    found, how = run_engine(asked(seconds)).plan_result
    assert found == pytest.approx(2 * (90 / 2 + 2 * 5) + 3 + 0.2)
    assert how == ": 2 times 90 at 2 per second with 5 s to speed up, and 3.2 s"


def asked(call):
    return (yield from motion.answer(call))


@pytest.mark.filterwarnings("ignore:.*has no check_value")
def test_flying_plan_can_be_looked_at(beamline, pretend_job, capsys):
    def plan():
        return stream_tomo_fly_plan(
            beamline.detector, beamline.stage, trigger=beamline.trigger, encoder=beamline.encoder, num=8,
            order="interlaced(2)", pixel_values="transmission", job=pretend_job,
        )  # fmt: skip

    summarize_plan(plan())
    assert "Open Run" in capsys.readouterr().out
    check_limits(plan())
