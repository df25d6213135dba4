"""Moves that end: each has a limit of time, from its distance and the device's velocity and acceleration.

A device whose IOC is gone says nothing, and would be waited for without end. Angles of plans are degrees; stages get
them in their own unit. Times are seconds.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.run_engine import WaitForTimeoutError
from bluesky.utils import FailedStatus, MsgGenerator, short_uid

from bluesky_streamrecon.angle_units import degrees_per_unit
from bluesky_streamrecon.errors import ConfigError, DataError, MotionError
from bluesky_streamrecon.plans.parts import answer, attempt, read_signal

__all__ = ["Rotation", "move", "rotation_of", "time_limit", "value_of"]

logger = logging.getLogger(__name__)

MARGIN = 2.0  # times what a move takes
LATE_SECONDS = 10.0  # on top, for the controller, the network and backlash
UNKNOWN_SECONDS = 300.0  # for a move by a device that does not say how fast it is
RECONNECT_SECONDS = 60.0  # for an IOC that is started again
RETRY_SECONDS = 0.5
SWITCH_SECONDS = 60.0  # for a device that is set to a word


@dataclass(frozen=True, slots=True)
class Rotation:
    """A rotation stage, and how many degrees one of its units is."""

    stage: Any
    degrees: float = 1.0

    def to(self, angle: float) -> MsgGenerator[None]:
        """Plan stub: turn to an angle, degrees; errors as `move`."""
        yield from move(self.stage, angle / self.degrees)

    def within_limits(self, angles: Collection[float]) -> MsgGenerator[None]:
        """Plan stub: have the stage refuse now what it would refuse in the middle of the scan.

        Raises
        ------
        ConfigError
            If it can not go to all of these angles (degrees).
        """
        check = getattr(self.stage, "check_value", None)
        for angle in (min(angles), max(angles)):
            failed: Exception | None = None
            if check is not None:
                _, failed = yield from attempt(partial(check, angle / self.degrees), unanswered=None)
            if failed or not math.isfinite(angle):
                why = failed or "it is not a finite angle"
                raise ConfigError(f"angle {angle:g} degrees: {self.stage.name} can not go there: {why}")


def rotation_of(stage: Any) -> MsgGenerator[Rotation]:
    """Plan stub: return a stage with the unit that its readback has; degrees if it has none.

    Raises
    ------
    ConfigError
        If the unit is not one of angle.
    """
    if not callable(getattr(stage, "describe", None)):
        return Rotation(stage)
    keys = yield from answer(stage.describe, unanswered={})
    hinted = (getattr(stage, "hints", None) or {}).get("fields", ())
    for key in [name for name in keys if name in hinted] or list(keys):
        try:
            degrees = degrees_per_unit(keys[key].get("units"), f"stage {stage.name}, {key}")
        except DataError as error:
            raise ConfigError(str(error)) from None
        return Rotation(stage, degrees or 1.0)
    return Rotation(stage)


def move(device: Any, value: Any) -> MsgGenerator[None]:
    """Plan stub: set a device, and wait until it is there, but not longer than it can take.

    Raises
    ------
    MotionError
        If it is not there in time.
    """
    yield from answer(partial(_answering, device), unanswered=None)
    seconds, how = yield from answer(partial(time_limit, device, value), unanswered=(None, ""))
    failed: BaseException | None = None
    try:
        group = short_uid("move")
        yield from bps.abs_set(device, value, group=group)
        yield from bps.wait(group, timeout=seconds)
    except TimeoutError as error:
        failed = error
    except FailedStatus as error:
        failed = error.args[0].exception() if error.args and hasattr(error.args[0], "exception") else error.__cause__
        if not isinstance(failed, TimeoutError):
            raise
    if failed is not None:
        own = "" if isinstance(failed, WaitForTimeoutError) or not str(failed) else f" ({failed})"
        raise MotionError(
            f"{device.name}: not at {value} in time, expected within {seconds:.0f} s{how}{own}; does its IOC answer, "
            "and can it move?"
        ) from failed


async def _answering(device: Any) -> None:
    """Wait for a device whose IOC was started again, which can not be moved before it is connected.

    Raises
    ------
    MotionError
        If it does not answer.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + RECONNECT_SECONDS
    reported = False
    while True:
        try:
            if getattr(device, "connected", True) is False:  # of classic ophyd
                await asyncio.to_thread(device.wait_for_connection, timeout=RETRY_SECONDS)
            if callable(getattr(device, "locate", None)):
                located = device.locate()
                if inspect.isawaitable(located):
                    await located
        except Exception as error:
            if loop.time() >= deadline:
                why = f"{device.name}: does not answer for {RECONNECT_SECONDS:g} s; does its IOC run? ({error})"
                raise MotionError(why) from error
            if not reported:
                logger.warning("%s does not answer: %s; tried again for %g s", device.name, error, RECONNECT_SECONDS)
            reported = True
            await asyncio.sleep(RETRY_SECONDS)
        else:
            return


async def time_limit(device: Any, value: Any) -> tuple[float, str]:
    """Return how long a move may take, seconds, and what that was computed from."""
    if isinstance(value, str) or not isinstance(value, int | float):
        return SWITCH_SECONDS, ""
    settling = float(getattr(device, "settle_time", 0.0) or 0.0) + LATE_SECONDS
    try:
        velocity = await value_of(getattr(device, "velocity", None))
        ramp = await value_of(getattr(device, "acceleration_time", getattr(device, "acceleration", None))) or 0.0
        if callable(getattr(device, "locate", None)):
            located = device.locate()
            at = (await located if inspect.isawaitable(located) else located)["readback"]
        else:
            at = getattr(device, "position", None)
        distance = abs(float(value) - float(at))
    except Exception:  # noqa: BLE001 - a device of anybody's; the move itself will say what is wrong with it
        return UNKNOWN_SECONDS + settling, ", the usual where position or velocity are not known"
    if not velocity or not math.isfinite(distance):
        return UNKNOWN_SECONDS + settling, ", the usual where the velocity is not known"
    return (
        MARGIN * (distance / abs(velocity) + 2 * ramp) + settling,
        f": {MARGIN:g} times {distance:g} at {velocity:g} per second with {ramp:g} s to speed up, and {settling:g} s",
    )


async def value_of(signal: Any) -> float | None:
    """Return what a signal of either library has, or a plain number."""
    value = await read_signal(signal) if hasattr(signal, "get_value") or hasattr(signal, "get") else signal
    return None if value is None else float(value)
