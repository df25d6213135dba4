"""Angle orders as values that print, compare and slice, made before anything moves.

Angles are degrees, times seconds. An order knows nothing of stages or plans; it computes what a scan in this order
would cover at every prefix, how far the stage would travel, and how long that would take.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Real
from typing import overload

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError

__all__ = ["AngleOrder", "Sweep", "check_range", "halving", "is_number", "move_time"]

SWEEP_TOLERANCE = 0.02  # of the step, by which an angle of a sweep may be off


@dataclass(frozen=True, slots=True)
class Sweep:
    """Angles at equal steps, as a stage passes them that turns without stopping.

    Parameters
    ----------
    first, step : float
        First angle and distance to the next, degrees; `step` is positive.
    num : int
        Angles.

    Examples
    --------
    >>> list(Sweep(1.0, 4.0, 3))
    [1.0, 5.0, 9.0]
    """

    first: float
    step: float
    num: int

    def __len__(self) -> int:
        return self.num

    def __iter__(self) -> Iterator[float]:
        return (self.first + k * self.step for k in range(self.num))

    @property
    def last(self) -> float:
        """Last angle, degrees."""
        return self.first + (self.num - 1) * self.step


@dataclass(frozen=True, slots=True)
class AngleOrder(Sequence[float]):
    """Angles of a scan in the order in which they are visited.

    Parameters
    ----------
    name : str
        How the order was made, for instance ``"interleaved(5)"``; `make_order` understands it again.
    angles : tuple of float
        Degrees, in visiting order.
    start, stop : float
        Half-open range ``[start, stop)`` of angles, degrees; coverage refers to it.

    Raises
    ------
    ConfigError
        If an angle is not finite, or the range is empty.

    Examples
    --------
    >>> from bluesky_streamrecon.ordering import optimized_interleaved
    >>> order = optimized_interleaved(180)
    >>> order[:8].angles
    (0.0, 90.0, 45.0, 135.0, 22.0, 67.0, 112.0, 157.0)
    >>> print(order)
    optimized-interleaved: 180 angles of [0, 180) deg, 2159 deg of travel: 0, 90, 45, 135, 22, 67, ... 179
    """

    name: str
    angles: tuple[float, ...]
    start: float = field(default=0.0)
    stop: float = field(default=180.0)

    def __post_init__(self) -> None:
        check_range(self.start, self.stop)
        for place, angle in enumerate(self.angles):
            if not math.isfinite(angle):
                raise ConfigError(f"order {self.name!r}: angle {place} is {angle}, expected finite degrees")

    def __len__(self) -> int:
        return len(self.angles)

    def __iter__(self) -> Iterator[float]:
        return iter(self.angles)

    @overload
    def __getitem__(self, index: int) -> float: ...
    @overload
    def __getitem__(self, index: slice) -> AngleOrder: ...
    def __getitem__(self, index: int | slice) -> float | AngleOrder:
        if isinstance(index, slice):
            return AngleOrder(self.name, self.angles[index], self.start, self.stop)
        return self.angles[index]

    def __str__(self) -> str:
        shown = [f"{a:g}" for a in self.angles]
        if len(shown) > 8:
            shown = [*shown[:6], f"... {shown[-1]}"]
        listing = ", ".join(shown)
        return (
            f"{self.name}: {len(self)} angles of [{self.start:g}, {self.stop:g}) deg, "
            f"{self.travel():.0f} deg of travel: {listing}"
        )

    def largest_gaps(self) -> NDArray[np.float64]:
        """Return the largest angular gap after each projection.

        Returns
        -------
        ndarray of float64, shape (num,)
            Degrees. Over a span of a multiple of 180 degrees the range closes on itself (a view from the back
            sees what the view from the front saw); over any other span the wedges at its two ends count.
        """
        span = self.stop - self.start
        closes = math.isclose(span % 180, 0, abs_tol=1e-9) or math.isclose(span % 180, 180, abs_tol=1e-9)
        seen: list[float] = []
        gaps = np.empty(len(self))
        for i, angle in enumerate(self.angles):
            seen.append((angle - self.start) % span if closes else angle - self.start)
            at = np.sort(seen)
            ends = [at[0] + span - at[-1]] if closes else [at[0], span - at[-1]]
            gaps[i] = max(np.max(np.diff(at), initial=0.0), *ends)
        return gaps

    def gap_ratios(self) -> NDArray[np.float64]:
        """Return the largest gap over the ideal one (span / projections) after each projection, shape (num,)."""
        return self.largest_gaps() * np.arange(1, len(self) + 1) / (self.stop - self.start)

    def worst_gap_ratio(self, first: int = 8) -> float:
        """Return the worst of `gap_ratios` from prefix `first` on (or at the end, if that is earlier)."""
        ratios = self.gap_ratios()
        return float(ratios[min(first, len(self)) - 1 :].max())

    def between(self) -> Iterator[float]:
        """Return further angles without end: the middles of the gaps, then of the gaps that are left, and so on.

        In each round the widest gaps come first, and gaps of one width in optimized-interleaved order. All lie inside
        the angles of this order; an order of one angle has none.

        Examples
        --------
        >>> from itertools import islice
        >>> from bluesky_streamrecon.ordering import fixed
        >>> list(islice(fixed(5, stop=5).between(), 6))
        [0.5, 2.5, 1.5, 3.5, 0.25, 2.25]
        """
        at = sorted(set(self.angles))
        while len(at) > 1:
            widths = [round(b - a, 9) for a, b in pairwise(at)]
            middles = [(at[i] + at[i + 1]) / 2 for i in sorted(halving(len(widths)), key=lambda i: -widths[i])]
            yield from middles
            at = sorted({*at, *middles})

    def again(self, times: int) -> AngleOrder:
        """Return the order that visits all these angles so many times, each time in this order.

        Examples
        --------
        >>> from bluesky_streamrecon.ordering import fixed
        >>> fixed(2).again(2).angles
        (0.0, 90.0, 0.0, 90.0)
        """
        return AngleOrder(self.name, self.angles * times, self.start, self.stop)

    def sweeps(self) -> tuple[Sweep, ...]:
        """Return the turns in which a stage that does not stop can visit these angles.

        Raises
        ------
        ConfigError
            If the angles of a turn are not equally far apart, or there are more than half as many turns as angles.

        Examples
        --------
        >>> from bluesky_streamrecon.ordering import interleaved
        >>> interleaved(8, stride=3, stop=8).sweeps()
        (Sweep(first=0.0, step=3.0, num=3), Sweep(first=1.0, step=3.0, num=3), Sweep(first=2.0, step=3.0, num=2))
        """
        turns: list[list[float]] = []
        for angle in self.angles:
            if turns and angle > turns[-1][-1]:
                turns[-1].append(angle)
            else:
                turns.append([angle])
        advice = "expected 'fixed', 'interleaved(k)', 'interlaced(k)', or 'golden-continuous'"
        if len(turns) > max(1, len(self) // 2):
            raise ConfigError(f"order: {self.name!r} turns {len(turns)} times for {len(self)} angles; {advice}")
        span = self.stop - self.start
        made = []
        for turn in turns:
            step = (turn[-1] - turn[0]) / (len(turn) - 1) if len(turn) > 1 else span
            sweep = Sweep(turn[0], step, len(turn))
            off = max(abs(a - b) for a, b in zip(turn, sweep, strict=True))
            if off > SWEEP_TOLERANCE * step:
                raise ConfigError(
                    f"order: {self.name!r} is not at equal steps between {turn[0]:g} and {turn[-1]:g} degrees (by "
                    f"{off:g}), so it can not be flown; {advice} (optimized-interleaved: a power of two of angles)"
                )
            made.append(sweep)
        return tuple(made)

    def travel(self, *, backlash: float = 0.0) -> float:
        """Return the stage travel from the first to the last angle, degrees.

        Parameters
        ----------
        backlash : float, optional
            A stage that must arrive from below overshoots every downward move by so many degrees, and comes back.
        """
        _not_negative("backlash", backlash, "degrees")
        return sum(abs(b - a) + (2 * backlash if b < a else 0.0) for a, b in pairwise(self.angles))

    def seconds(
        self, *, velocity: float, acceleration_time: float = 0.0, exposure: float = 0.0, backlash: float = 0.0
    ) -> float:
        """Estimate how long the scan takes: all moves, and one exposure per angle.

        Parameters
        ----------
        velocity : float
            Degrees per second.
        acceleration_time : float, optional
            Seconds from rest to `velocity`.
        exposure : float, optional
            Seconds per projection, readout included.
        backlash : float, optional
            See `travel`.
        """
        _not_negative("exposure", exposure, "seconds")
        _not_negative("backlash", backlash, "degrees")
        total = exposure * len(self)
        for a, b in pairwise(self.angles):
            if b < a and backlash:
                total += move_time(a - b + backlash, velocity, acceleration_time)
                total += move_time(backlash, velocity, acceleration_time)
            else:
                total += move_time(abs(b - a), velocity, acceleration_time)
        return total


def move_time(distance: float, velocity: float, acceleration_time: float = 0.0) -> float:
    """Return the seconds of one move with a trapezoidal velocity profile.

    Parameters
    ----------
    distance : float
        Degrees, 0 or more.
    velocity : float
        Degrees per second, above 0.
    acceleration_time : float, optional
        Seconds from rest to `velocity`; the same for slowing down.

    Raises
    ------
    ConfigError
        If `velocity` is not positive, `acceleration_time` is negative, or one is not finite.
    """
    if not (0 < velocity < math.inf and 0 <= acceleration_time < math.inf):
        raise ConfigError(
            f"stage motion: got velocity={velocity} deg/s and acceleration_time={acceleration_time} s, "
            "expected a positive velocity and no negative time"
        )
    ramps = velocity * acceleration_time
    if distance >= ramps:
        return distance / velocity + (acceleration_time if distance else 0.0)
    return 2 * math.sqrt(distance * acceleration_time / velocity)


def check_range(start: float, stop: float) -> None:
    if not (is_number(Real, start) and is_number(Real, stop)):
        raise ConfigError(f"angles: got the range [{start!r}, {stop!r}), expected degrees")
    if not (math.isfinite(start) and math.isfinite(stop) and start < stop):
        raise ConfigError(f"angles: got the range [{start}, {stop}), expected finite degrees with start < stop")


def _not_negative(name: str, value: float, unit: str) -> None:
    if not 0 <= value < math.inf:
        raise ConfigError(f"{name}: got {value}, expected 0 or more {unit}")


def is_number(kind: type, value: object) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def halving(num: int, *, threshold: float = 0.0, spacing: float = 1.0) -> list[int]:
    """Return the numbers below `num` in rounds whose stride halves, ascending inside a round.

    Numbers are `spacing` apart. Below a stride of `threshold` those that are left follow in plain rounds of the last
    stride.
    """
    visited = dict.fromkeys([0])  # a dict keeps the order and finds doubles
    parts = 2
    while len(visited) < num and num / parts * spacing >= threshold:
        visited.update(dict.fromkeys(num * odd // parts for odd in range(1, parts, 2)))
        parts *= 2
    stride = max(1, 2 * num // parts)
    for first in range(stride):
        visited.update(dict.fromkeys(range(first, num, stride)))
    return list(visited)
