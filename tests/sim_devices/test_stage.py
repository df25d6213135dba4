"""The stage's motion, by a clock that the test turns; shutter and table."""

from __future__ import annotations

import asyncio
import itertools

import bluesky.plan_stubs as bps
import pytest
from bluesky.simulators import check_limits
from bluesky.utils import FailedStatus, Msg
from ophyd_async.core import init_devices

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.sim_devices import Faults, RotaryStage, SampleTable, Shutter
from bluesky_streamrecon.sim_devices.motion import Motion

BOUND = 20.0


class Clock:
    """Time that passes only where something sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sleeps: list[float] = []
        self.seen: list[float] = []
        self.stage: RotaryStage | None = None

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)
        self.seen.append(self.stage.angle)


def timed_stage(**options) -> tuple[RotaryStage, Clock]:
    clock = Clock()
    clock.stage = RotaryStage("stage", clock=clock, sleep=clock.sleep, **options)
    return clock.stage, clock


def test_motion_takes_the_time_that_velocity_and_acceleration_say():
    assert Motion(0, 90, 45, 0).duration == pytest.approx(2.0)
    assert Motion(0, 90, 45, 0.5).duration == pytest.approx(2.5)
    assert Motion(10, -80, 45, 0.5).duration == pytest.approx(2.5)
    short = Motion(0, 1, 10, 1)  # never reaches full speed: acceleration 10 deg/s^2 over half a degree, and back
    assert short.duration == pytest.approx(2 * (2 * 0.5 / 10) ** 0.5)
    assert Motion(5, 5, 10, 1).duration == 0


@pytest.mark.parametrize("motion", [Motion(0, 90, 45, 0.5), Motion(3, -1, 10, 1), Motion(0, 9, 3, 0)])
def test_motion_is_smooth_and_ends_at_its_target(motion):
    steps = 2000
    path = [motion.position(motion.duration * k / steps) for k in range(steps + 1)]
    assert path[0] == pytest.approx(motion.start)
    assert path[-1] == motion.stop
    fastest = max(abs(b - a) for a, b in itertools.pairwise(path)) * steps / motion.duration
    assert fastest <= motion.velocity * 1.01
    assert path[steps // 2] == pytest.approx((motion.start + motion.stop) / 2)


def test_stage_takes_its_time_and_reports_on_the_way(run_engine):
    stage, clock = timed_stage(velocity=45.0, acceleration_time=0.5)
    reported = []

    def plan():
        status = yield from bps.abs_set(stage, 90)
        status.watch(lambda **update: reported.append(update["current"]))
        yield from bps.wait()
        yield Msg("wait_for", None, [lambda: status.task])

    run_engine(plan())
    assert clock.now - 100.0 == pytest.approx(2.5, abs=1e-6)
    assert stage.angle == 90.0
    assert len(clock.seen) > 40
    assert sorted(clock.seen) == clock.seen
    assert len(reported) > 40
    assert sorted(reported) == reported


def test_instant_stage_takes_no_time(run_engine):
    stage, clock = timed_stage(instant=True)
    run_engine(bps.mv(stage, 400.0))
    run_engine(bps.mv(stage, -20.0))
    assert stage.angle == -20.0
    assert clock.sleeps == []


def test_limits_are_refused_before_and_at_the_move(run_engine):
    stage = RotaryStage("stage", limits=(-10, 200), instant=True)
    with pytest.raises(ConfigError, match=r"got 270.* expected -10\.0 to 200\.0"):
        check_limits(bps.mv(stage, 270))
    with pytest.raises(FailedStatus):
        run_engine(bps.mv(stage, 270))
    assert stage.angle == 0
    check_limits(bps.mv(stage, 200))


def test_stop_leaves_the_stage_where_it_is(run_engine):
    reached, clock = asyncio.Event(), Clock()

    async def sleep(seconds: float) -> None:
        clock.now += seconds
        if clock.now > 101.0:
            reached.set()
            await asyncio.Event().wait()

    stage = RotaryStage("stage", velocity=10.0, acceleration_time=0.0, clock=clock, sleep=sleep)

    async def stop_on_the_way() -> None:
        moving = stage.set(90.0)
        await asyncio.wait_for(reached.wait(), BOUND)
        await stage.stop(success=True)
        await asyncio.wait_for(moving, BOUND)

    def plan():
        (task,) = yield from bps.wait_for([stop_on_the_way])
        task.result()

    run_engine(plan())
    assert 10.0 <= stage.angle < 12.0
    where = run_engine(bps.rd(stage)).plan_result
    assert where == stage.angle


def test_a_later_move_takes_over(run_engine):
    stage, _ = timed_stage(velocity=10.0)

    def plan():
        yield from bps.abs_set(stage, 90.0, group="first")
        yield from bps.sleep(0)
        second = yield from bps.abs_set(stage, 5.0, group="second")
        with pytest.raises(FailedStatus, match="overtaken"):
            yield from bps.wait("first")
        yield Msg("wait_for", None, [lambda: second.task])

    run_engine(plan())
    assert stage.angle == 5.0


def test_slipping_stage_arrives_without_the_sample(run_engine):
    stage = RotaryStage("stage", instant=True, faults=Faults(slips_from=1))
    run_engine(bps.mv(stage, 10))
    run_engine(bps.mv(stage, 50))
    assert (stage.angle, stage.sample_at(stage.angle)) == (50.0, 10.0)


def test_stalled_stage_fails_its_move(run_engine):
    stage = RotaryStage("stage", instant=True, faults=Faults(stalls_from=1))
    run_engine(bps.mv(stage, 10))
    with pytest.raises(FailedStatus):
        run_engine(bps.mv(stage, 50))
    assert stage.angle == 10


def test_velocity_can_be_changed_and_nonsense_is_refused(run_engine):
    stage, clock = timed_stage(velocity=45.0, acceleration_time=0.0)
    run_engine(bps.mv(stage.velocity, 9.0))
    run_engine(bps.mv(stage, 9.0))
    assert clock.now == pytest.approx(101.0)
    with pytest.raises(ConfigError, match="velocity"):
        RotaryStage("stage", velocity=0)
    with pytest.raises(ConfigError, match="lower first"):
        RotaryStage("stage", limits=(3, 2))


def test_shutter_and_table_take_their_positions_and_no_other(run_engine):
    with init_devices():
        shutter, table = Shutter(), SampleTable()
    run_engine(bps.mv(shutter, "closed", table, "out"))
    assert run_engine(bps.rd(shutter)).plan_result == "closed"
    assert run_engine(bps.rd(table)).plan_result == "out"
    with pytest.raises(ConfigError, match="'open' or 'closed'"):
        check_limits(bps.mv(shutter, "ajar"))
