"""Where a stage is during a move, in closed form: values without a clock.

Angles are degrees, velocities degrees per second, times seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bluesky_streamrecon.ordering import move_time

__all__ = ["Flight", "Motion"]

SHORTEST = 1e-9
"""Seconds from a stage's arrival that are rounding."""


@dataclass(frozen=True, slots=True)
class Motion:
    """One move: speed rises evenly, holds, and falls evenly.

    Parameters
    ----------
    start, stop : float
        Positions, degrees.
    velocity : float
        Highest speed, degrees per second, positive.
    acceleration_time : float
        Time from rest to `velocity`, seconds; 0 for none.
    """

    start: float
    stop: float
    velocity: float
    acceleration_time: float

    @property
    def _ramp(self) -> float:
        """Time spent speeding up, seconds; shorter than the stage's where it never gets to full speed."""
        distance = abs(self.stop - self.start)
        return min(self.acceleration_time, math.sqrt(distance * self.acceleration_time / self.velocity))

    @property
    def duration(self) -> float:
        """From rest to rest, seconds."""
        return move_time(abs(self.stop - self.start), self.velocity, self.acceleration_time)

    def position(self, elapsed: float) -> float:
        """Return where the stage is `elapsed` seconds after it started, degrees."""
        duration, ramp = self.duration, self._ramp
        if elapsed >= duration:
            return self.stop
        peak = self.velocity * ramp / self.acceleration_time if ramp else self.velocity
        if elapsed < ramp:
            done = peak * elapsed**2 / (2 * ramp)
        elif elapsed > duration - ramp:
            done = abs(self.stop - self.start) - peak * (duration - elapsed) ** 2 / (2 * ramp)
        else:
            done = peak * (elapsed - ramp / 2)
        return self.start + math.copysign(done, self.stop - self.start)

    def when(self, position: float) -> float | None:
        """Return the seconds from its start after which the stage passes a position; None if it never does."""
        distance = abs(self.stop - self.start)
        way = (position - self.start) * math.copysign(1, self.stop - self.start)
        if not 0 <= way <= distance:
            return None
        ramp = self._ramp
        peak = self.velocity * ramp / self.acceleration_time if ramp else self.velocity
        if way < peak * ramp / 2:
            return math.sqrt(2 * way * ramp / peak)
        if distance - way < peak * ramp / 2:
            return self.duration - math.sqrt(2 * (distance - way) * ramp / peak)
        return way / peak + ramp / 2


@dataclass
class Flight:
    """A move, as far as it has got; times are those of the stage's clock.

    Parameters
    ----------
    motion : Motion
        As it was begun.
    started : float
        When, seconds.
    instant : bool
        It takes no time at all.
    stopped : float, optional
        When it was stopped before its end.
    """

    motion: Motion
    started: float
    instant: bool = False
    stopped: float = math.inf

    def when(self, position: float) -> float | None:
        """Return when the stage passes a position, seconds; None if it never does."""
        after = self.motion.when(position)
        if after is None:
            return None
        when = self.started + (0.0 if self.instant else after)
        return when if when <= self.stopped else None

    def position(self, at: float) -> float:
        """Return where the stage is at a time, degrees."""
        elapsed = min(at, self.stopped) - self.started
        return self.motion.position(elapsed) if self.left(self.started + elapsed) > 0 else self.motion.stop

    def left(self, at: float) -> float:
        """Return how long it still takes to its end at a time, seconds."""
        left = 0.0 if self.instant else self.motion.duration - (at - self.started)
        return left if left > SHORTEST else 0.0
