"""Pulses that begin exposures, and the line on which they travel. Angles are degrees, times seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bluesky_streamrecon.sim_devices.motion import Flight

__all__ = ["Gate", "TriggerLine"]


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
