"""A rotary stage that takes its time.

Angles are degrees, velocities degrees per second, times seconds. Positions beyond 360 are positions like any other.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property

from ophyd_async.core import (
    AsyncStatus,
    FlyableLogic,
    FlyMotorInfo,
    MovableLogic,
    StandardFlyable,
    StandardMovable,
    StandardReadable,
    TimeoutCalculator,
    soft_signal_r_and_setter,
    soft_signal_rw,
)
from ophyd_async.core import StandardReadableFormat as Format

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.sim_devices.faults import Faults
from bluesky_streamrecon.sim_devices.motion import Flight, Motion

__all__ = ["RotaryStage", "Sleep"]

Sleep = Callable[[float], Awaitable[None]]

UPDATE_SECONDS = 0.05
"""Between two readbacks during a move."""


@dataclass
class _FlyContext:
    """Between prepare and complete."""

    target: float
    flown: AsyncStatus[None] | None = None


@dataclass
class _RotaryLogic(MovableLogic[float], FlyableLogic[FlyMotorInfo, _FlyContext]):
    """Moves the readback along a `Motion`; flies as an EPICS motor of ophyd-async does."""

    stage: RotaryStage

    async def on_prepare(self, value: FlyMotorInfo) -> _FlyContext:
        stage = self.stage
        fastest, ramp = await asyncio.gather(stage.max_velocity.get_value(), stage.acceleration_time.get_value())
        if value.speed > fastest * (1 + 1e-9):
            raise ConfigError(
                f"{stage.name}: got {value.speed:g} degrees per second, expected at most {fastest:g}; look at "
                f"{stage.name}.max_velocity"
            )
        first, last = value.ramp_up_start_pos(ramp), value.ramp_down_end_pos(ramp)
        await asyncio.gather(self.check_move(first), self.check_move(last))
        stage.flight = None
        await stage.velocity.set(fastest)
        await stage.travel(first)
        await stage.velocity.set(value.speed)
        return _FlyContext(last)

    async def on_kickoff(self, ctx: _FlyContext) -> _FlyContext:
        return _FlyContext(ctx.target, AsyncStatus(self.stage.travel(ctx.target, flown=True)))

    async def on_complete(self, ctx: _FlyContext) -> None:
        if ctx.flown is not None:
            await ctx.flown

    async def check_move(self, new_position: float) -> None:
        low, high = await asyncio.gather(
            self.stage.low_limit_travel.get_value(), self.stage.high_limit_travel.get_value()
        )
        if not low <= new_position <= high:
            raise ConfigError(
                f"{self.stage.name}: got {new_position} degrees, expected {low} to {high}, the limits of its travel; "
                f"look at {self.stage.name}.low_limit_travel and .high_limit_travel"
            )

    async def calculate_timeout(self, old_position: float, new_position: float) -> float | None:
        return 10.0 + 2 * (await self.stage.motion(old_position, new_position)).duration

    async def stop(self) -> None:
        self.stage.halt()
        await self.setpoint.set(self.stage.angle)

    async def move(self, new_position: float, timeout: TimeoutCalculator) -> None:
        await asyncio.wait_for(self.stage.travel(new_position), timeout())


class RotaryStage(StandardReadable, StandardMovable[float], StandardFlyable[FlyMotorInfo, _FlyContext]):
    """A simulated rotary stage.

    It has the attributes of an EPICS motor: ``user_readback``, ``user_setpoint``, ``velocity``, ``max_velocity``,
    ``acceleration_time``, ``low_limit_travel`` and ``high_limit_travel``; and flies as one: prepared with a
    `FlyMotorInfo`, it turns at even speed from kickoff on, and is complete where it comes to rest, or is stopped.

    Parameters
    ----------
    name : str, optional
        Of the device; its readback is called the same.
    velocity : float, optional
        Degrees per second, also the highest.
    acceleration_time : float, optional
        From rest to full speed, seconds.
    limits : (float, float), optional
        Travel, degrees.
    instant : bool, optional
        Arrive at once, whatever the velocity.
    faults : Faults, optional
        Of which the stage heeds ``slips_from`` and ``stalls_from``.
    clock, sleep : callable, optional
        Time in seconds and how to wait for it.
    """

    def __init__(
        self,
        name: str = "",
        *,
        velocity: float = 90.0,
        acceleration_time: float = 0.1,
        limits: tuple[float, float] = (-36000.0, 36000.0),
        instant: bool = False,
        faults: Faults | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        _check_speed("stage", velocity, acceleration_time)
        if not limits[0] < limits[1]:
            raise ConfigError(f"stage limits: got {limits}, expected the lower first")
        with self.add_children_as_readables(Format.HINTED_SIGNAL):
            self.user_readback, self._set_readback = soft_signal_r_and_setter(float, 0.0, units="deg", precision=4)
        with self.add_children_as_readables(Format.CONFIG_SIGNAL):
            self.velocity = soft_signal_rw(float, velocity, units="deg/s")
            self.acceleration_time = soft_signal_rw(float, acceleration_time, units="s")
            self.low_limit_travel = soft_signal_rw(float, limits[0], units="deg")
            self.high_limit_travel = soft_signal_rw(float, limits[1], units="deg")
        self.user_setpoint = soft_signal_rw(float, 0.0, units="deg", precision=4)
        self.max_velocity = soft_signal_rw(float, velocity, units="deg/s")
        self.instant = instant
        self._faults = faults or Faults()
        self.clock = clock
        self._sleep = sleep
        self._moves = 0
        self._leg = Flight(Motion(0.0, 0.0, velocity, acceleration_time), clock())
        self._sample_at: float | None = None
        self.flight: Flight | None = None
        super().__init__(name=name)

    @cached_property
    def _logic(self) -> _RotaryLogic:
        return _RotaryLogic(setpoint=self.user_setpoint, readback=self.user_readback, stage=self)

    @cached_property
    def movable_logic(self) -> MovableLogic[float]:
        """How the stage moves."""
        return self._logic

    @cached_property
    def flyable_logic(self) -> FlyableLogic[FlyMotorInfo, _FlyContext]:
        """How the stage flies."""
        return self._logic

    @property
    def angle(self) -> float:
        """Where the stage is at this moment, degrees; between two readbacks too."""
        return self._leg.position(self.clock())

    def sample_at(self, angle: float) -> float:
        """Return where the sample is while the stage is at `angle`, degrees: elsewhere, once it slips."""
        return angle if self._sample_at is None else self._sample_at

    async def passing(self, position: float) -> tuple[float, Flight] | None:
        """Wait until the stage passes a position in a flight, and give when; None if it comes to rest before."""
        while (flight := self.flight) is None:
            await self._sleep(UPDATE_SECONDS)
        while (when := flight.when(position)) is not None:
            left = when - self.clock()
            if left <= 0:
                return when, flight
            await self._sleep(min(left, UPDATE_SECONDS))
        return None

    async def motion(self, start: float, stop: float) -> Motion:
        """Return the move from `start` to `stop` at the present velocity."""
        velocity, acceleration_time = await asyncio.gather(
            self.velocity.get_value(), self.acceleration_time.get_value()
        )
        _check_speed(self.name, velocity, acceleration_time)
        return Motion(start, stop, velocity, acceleration_time)

    def halt(self) -> None:
        """Come to rest where the stage is; a flight is then over."""
        self._leg.stopped = min(self._leg.stopped, self.clock())
        self._set_readback(self.angle)

    async def travel(self, target: float, *, flown: bool = False) -> None:
        """Go to `target`, and keep account of it as `flight` if it is flown.

        A later call takes over from an earlier one, which then fails.
        """
        move, self._moves = self._moves, self._moves + 1
        await self.user_setpoint.set(target)
        faults = self._faults
        if faults.stalls_from is not None and move >= faults.stalls_from:
            raise RuntimeError(f"{self.name}: stalled at {self.angle:.4f} degrees on the way to {target:.4f}")
        if faults.slips_from is not None and move >= faults.slips_from and self._sample_at is None:
            self._sample_at = self.angle
        leg = self._leg = Flight(await self.motion(self.angle, target), self.clock(), self.instant)
        if flown:
            self.flight = leg
        try:
            while (left := leg.left(self.clock())) > 0:
                await self._sleep(min(left, UPDATE_SECONDS))
                if leg.stopped < math.inf:
                    return
                if self._leg is not leg:
                    raise RuntimeError(f"{self.name}: the move to {target:.4f} degrees was overtaken by another")
                self._set_readback(self.angle)
        except asyncio.CancelledError:
            leg.stopped = min(leg.stopped, self.clock())
            raise
        finally:
            self._set_readback(self.angle)


def _check_speed(name: str, velocity: float, acceleration_time: float) -> None:
    if velocity <= 0 or acceleration_time < 0:
        raise ConfigError(
            f"{name}: got velocity {velocity} and acceleration time {acceleration_time}, expected a positive velocity "
            "and no negative time"
        )
