"""What makes a detector expose at angles while the stage turns: a position-compare unit.

It fires a pulse where the stage passes an angle; whoever listens on the line takes part in it. Angles are degrees,
times seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property

from ophyd_async.core import FlyableLogic, StandardFlyable

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.ordering import Sweep
from bluesky_streamrecon.sim_devices.motion import Flight
from bluesky_streamrecon.sim_devices.stage import RotaryStage

__all__ = ["Gate", "PositionTrigger", "TriggerLine"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gate:
    """One pulse: an exposure begins.

    Parameters
    ----------
    opens : float
        When, by the stage's clock.
    position : float
        Where the stage was then.
    flight : Flight
        How it goes on.
    clock : callable
        The stage's.
    """

    opens: float
    position: float
    flight: Flight
    clock: Callable[[], float]

    def angle(self, width: float) -> float:
        """Return the mean angle of the stage over `width` seconds from now on, degrees."""
        if self.flight.instant:
            return self.position + self.flight.motion.velocity * width / 2
        return self.flight.position(self.opens + width / 2)

    def left(self, width: float) -> float:
        """Return how long an exposure of `width` seconds still takes."""
        return 0.0 if self.flight.instant else max(0.0, self.opens + width - self.clock())


class TriggerLine:
    """The cable from the position-compare unit to whoever takes part in its pulses."""

    def __init__(self) -> None:
        self._listeners: list[asyncio.Queue[Gate]] = []

    def fire(self, gate: Gate) -> None:
        """Send a pulse; who does not listen now has missed it."""
        for queue in self._listeners:
            queue.put_nowait(gate)

    async def idle(self) -> None:
        """Wait until all pulses so far have been dealt with."""
        await asyncio.gather(*(queue.join() for queue in self._listeners))

    async def serve(self, count: int, handle: Callable[[Gate], Awaitable[None]]) -> None:
        """Deal with the next `count` pulses one by one."""
        queue: asyncio.Queue[Gate] = asyncio.Queue()
        self._listeners.append(queue)
        try:
            for _ in range(count):
                gate = await queue.get()
                try:
                    await handle(gate)
                finally:
                    queue.task_done()
        finally:
            self._listeners.remove(queue)
            while not queue.empty():
                queue.get_nowait()
                queue.task_done()


@dataclass
class _TriggerLogic(FlyableLogic[Sweep, Sweep]):
    """Fires where the stage passes the angles of a sweep."""

    stage: RotaryStage
    line: TriggerLine
    task: asyncio.Task[None] | None = None

    async def on_prepare(self, value: Sweep) -> Sweep:
        if value.num < 1 or value.step <= 0:
            raise ConfigError(f"position trigger: got {value}, expected at least one angle and a positive step")
        await self.stop()
        return value

    async def on_kickoff(self, ctx: Sweep) -> Sweep:
        self.task = asyncio.create_task(self._fire(ctx))
        return ctx

    async def on_complete(self, ctx: Sweep) -> None:  # noqa: ARG002 - as all flyers
        task = self.task
        if task is not None:
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()

    async def stop(self) -> None:
        task, self.task = self.task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled() and (error := task.exception()) is not None:
                logger.warning("%s", error)  # whoever waited for it has the error as well

    async def _fire(self, sweep: Sweep) -> None:
        for number, position in enumerate(sweep, 1):
            passed = await self.stage.passing(position)
            if passed is None:
                raise RuntimeError(
                    f"position trigger: {number - 1} of {sweep.num} pulses, the stage came to rest before "
                    f"{position:.4f} degrees"
                )
            when, flight = passed
            self.line.fire(Gate(when, position, flight, self.stage.clock))
            if flight.instant:
                await self.line.idle()


class PositionTrigger(StandardFlyable[Sweep, Sweep]):
    """A simulated position-compare unit: prepared with a `Sweep`, it fires at each of its angles from kickoff on.

    It is complete when it has fired at all of them, or was stopped (unstaged); and fails if the stage comes to rest
    before.

    Parameters
    ----------
    stage : RotaryStage
        Whose encoder it looks at.
    line : TriggerLine
        Where its pulses go.
    name : str, optional
        Of the device.
    """

    def __init__(self, stage: RotaryStage, line: TriggerLine, name: str = "") -> None:
        self._logic = _TriggerLogic(stage, line)  # which holds the stage: as an attribute it would be our child
        super().__init__(name=name)

    @cached_property
    def flyable_logic(self) -> FlyableLogic[Sweep, Sweep]:
        """How it fires."""
        return self._logic
