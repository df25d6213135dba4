"""In which order a scan visits its angles: values that print, compare and slice, made before anything moves.

Angles are degrees, times seconds. An order knows nothing of stages or plans; it can tell what a scan in this
order would cover at every prefix, how far the stage would travel, and how long that would take.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Integral, Real
from typing import overload

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError

__all__ = [
    "AngleOrder",
    "Sweep",
    "fixed",
    "golden_angle",
    "interlaced",
    "interleaved",
    "listed",
    "make_order",
    "move_time",
    "optimized_interleaved",
    "order_names",
]

GOLDEN = (math.sqrt(5) - 1) / 2  # fraction of the span between two golden-angle views
MOST_ANGLES = 1_000_000  # of one scan: a slip of the keyboard should not fill the memory
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
        Half-open range ``[start, stop)`` of angles, degrees; coverage is told with respect to it.

    Raises
    ------
    ConfigError
        If an angle is not finite, or the range is empty.

    Examples
    --------
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
        _check_range(self.start, self.stop)
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
        >>> list(islice(fixed(5, stop=5).between(), 6))
        [0.5, 2.5, 1.5, 3.5, 0.25, 2.25]
        """
        at = sorted(set(self.angles))
        while len(at) > 1:
            widths = [round(b - a, 9) for a, b in pairwise(at)]
            places = [int(place) for place in optimized_interleaved(len(widths), 0.0, float(len(widths)))]
            middles = [(at[i] + at[i + 1]) / 2 for i in sorted(places, key=lambda i: -widths[i])]
            yield from middles
            at = sorted({*at, *middles})

    def sweeps(self) -> tuple[Sweep, ...]:
        """Return the turns in which a stage that does not stop can visit these angles.

        Raises
        ------
        ConfigError
            If the angles of a turn are not equally far apart, or there are more than half as many turns as angles.

        Examples
        --------
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


def fixed(num: int = 180, start: float = 0.0, stop: float = 180.0) -> AngleOrder:
    """One pass in ascending order.

    Examples
    --------
    >>> fixed(4).angles
    (0.0, 45.0, 90.0, 135.0)
    """
    return _on_grid("fixed", range(_checked(num, start, stop)), num, start, stop)


def interleaved(num: int = 180, stride: int = 5, start: float = 0.0, stop: float = 180.0) -> AngleOrder:
    """Take every `stride`-th angle, in rounds that each start one angle later.

    Examples
    --------
    >>> interleaved(10, stride=5, stop=10).angles
    (0.0, 5.0, 1.0, 6.0, 2.0, 7.0, 3.0, 8.0, 4.0, 9.0)
    """
    _checked(num, start, stop)
    if stride < 1:
        raise ConfigError(f"interleaved: got stride={stride}, expected at least 1 angle")
    indices = [i for first in range(min(stride, num)) for i in range(first, num, stride)]
    return _on_grid(f"interleaved({stride})", indices, num, start, stop)


def optimized_interleaved(
    num: int = 180, start: float = 0.0, stop: float = 180.0, *, threshold: float = 0.0
) -> AngleOrder:
    """Halve the stride from round to round, from its widest on, ascending inside a round.

    Positions that fall between two angles are floored to the grid. [1]_

    Parameters
    ----------
    num : int, optional
        Number of angles, any (not only a power of two).
    start, stop : float, optional
        Range ``[start, stop)``, degrees.
    threshold : float, optional
        Below this stride (degrees) the remaining angles follow in plain interleaved rounds of the last stride,
        so that the scan does not turn many times for a few close angles each.

    References
    ----------
    .. [1] Bicer et al., IEEE eScience 2017, section III-A.

    Examples
    --------
    >>> optimized_interleaved(16, stop=16, threshold=4).angles[4:]
    (1.0, 5.0, 9.0, 13.0, 2.0, 6.0, 10.0, 14.0, 3.0, 7.0, 11.0, 15.0)
    """
    _checked(num, start, stop)
    if threshold < 0:
        raise ConfigError(f"optimized-interleaved: got threshold={threshold}, expected degrees, 0 or more")
    grid = (stop - start) / num
    visited = dict.fromkeys([0])  # a dict keeps the order and finds doubles
    parts = 2
    while len(visited) < num and num / parts * grid >= threshold:
        visited.update(dict.fromkeys(num * odd // parts for odd in range(1, parts, 2)))
        parts *= 2
    stride = max(1, 2 * num // parts)
    for first in range(stride):
        visited.update(dict.fromkeys(range(first, num, stride)))
    name = "optimized-interleaved" + (f"({threshold:g})" if threshold else "")
    return _on_grid(name, visited, num, start, stop)


def interlaced(num: int = 180, turns: int = 4, start: float = 0.0, stop: float = 180.0) -> AngleOrder:
    """Take every `turns`-th angle in each of so many turns, whose first angles halve the gap that is left.

    As `interleaved`, but with the turns in optimized-interleaved order: coverage is even after each of them. It is for
    stages that do not stop at angles; [1]_ calls it interlaced view sampling.

    References
    ----------
    .. [1] Mohan et al., IEEE Trans. Comput. Imaging 1(2), 2015, :doi:`10.1109/TCI.2015.2431913`.

    Examples
    --------
    >>> interlaced(8, turns=4, stop=8).angles
    (0.0, 4.0, 2.0, 6.0, 1.0, 5.0, 3.0, 7.0)
    """
    _checked(num, start, stop)
    if not 1 <= turns <= num:
        raise ConfigError(f"interlaced: got {turns} turns, expected 1 to {num}, the number of angles")
    firsts = [int(first) for first in optimized_interleaved(turns, 0.0, float(turns))]
    return _on_grid(f"interlaced({turns})", [i for first in firsts for i in range(first, num, turns)], num, start, stop)


def golden_angle(num: int = 180, start: float = 0.0, stop: float = 180.0, *, continuous: bool = False) -> AngleOrder:
    """Place every view a golden fraction of the span after the last: even coverage at every prefix.

    Parameters
    ----------
    num, start, stop
        As for the other orders; the angles are not on a grid.
    continuous : bool, optional
        Do not fold the angles into the range: the stage turns on and on in one direction. [1]_

    References
    ----------
    .. [1] Köhler, IEEE Symposium Conference Record Nuclear Science, 2004,
       :doi:`10.1109/NSSMIC.2004.1466745`.

    Examples
    --------
    >>> [round(a, 2) for a in golden_angle(4)]
    [0.0, 111.25, 42.49, 153.74]
    """
    _checked(num, start, stop)
    span = stop - start
    steps = (i * GOLDEN for i in range(num))
    angles = tuple(start + span * (s if continuous else s % 1.0) for s in steps)
    return AngleOrder("golden-continuous" if continuous else "golden", angles, start, stop)


def listed(angles: Iterable[float], start: float | None = None, stop: float | None = None) -> AngleOrder:
    """Any angles, in the order in which they are given.

    Parameters
    ----------
    angles : iterable of float
        Degrees.
    start, stop : float, optional
        Range that coverage is told for; by default from the smallest angle to one mean spacing above the largest.

    Raises
    ------
    ConfigError
        If there is none, or one is not finite or comes twice.
    """
    try:
        values = tuple(float(a) for a in angles)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"order: got {angles!r}, expected a name or a list of angles in degrees ({error})") from error
    if not values:
        raise ConfigError("order: got an empty list of angles, expected at least one")
    for i, value in enumerate(values):
        if not math.isfinite(value):
            raise ConfigError(f"order: angle {i} is {value}, expected finite degrees")
    if len(set(values)) < len(values):
        double = next(v for i, v in enumerate(values) if v in values[:i])
        raise ConfigError(f"order: {double:g} degrees comes twice, expected every angle once")
    low, high = min(values), max(values)
    spacing = (high - low) / (len(values) - 1) if len(values) > 1 else 180.0
    return AngleOrder("listed", values, low if start is None else start, high + spacing if stop is None else stop)


def order_names() -> tuple[str, ...]:
    """Names that `make_order` understands; those with *inter* in them take a number."""
    return ("fixed", "interleaved", "interlaced", "optimized-interleaved", "golden", "golden-continuous")


def make_order(
    order: str | AngleOrder | Iterable[float], *, num: int = 180, start: float = 0.0, stop: float = 180.0
) -> AngleOrder:
    """Make an order from its name, or take a value or a list of angles as it is.

    Parameters
    ----------
    order : str, AngleOrder or iterable of float
        One of `order_names`, with an argument as in ``"interleaved(5)"`` (stride in angles),
        ``"interlaced(4)"`` (turns) or ``"optimized-interleaved(4)"`` (threshold in degrees); or an order; or degrees.
    num, start, stop
        Angles and range for a name; not used otherwise.

    Raises
    ------
    ConfigError
        If the name or a number can not be used.

    Examples
    --------
    >>> make_order("interleaved(2)", num=4, stop=4).angles
    (0.0, 2.0, 1.0, 3.0)
    """
    if isinstance(order, AngleOrder):
        if not len(order):
            raise ConfigError(f"order: got {order.name!r} with no angles, expected at least one")
        return order
    if not isinstance(order, str):
        return listed(order)
    match = re.fullmatch(r"([a-z-]+)(?:[(:]([0-9.]+)\)?)?", order.strip().lower().replace("_", "-"))
    name, argument = match.groups() if match else (order, None)
    if name == "interleaved" and (argument is None or argument.isdigit()):
        return interleaved(num, int(argument or 5), start, stop)
    if name == "interlaced" and (argument is None or argument.isdigit()):
        return interlaced(num, int(argument) if argument else min(4, num), start, stop)
    if name == "optimized-interleaved":
        return optimized_interleaved(num, start, stop, threshold=float(argument or 0))
    if name == "fixed" and argument is None:
        return fixed(num, start, stop)
    if name in ("golden", "golden-continuous") and argument is None:
        return golden_angle(num, start, stop, continuous=name.endswith("continuous"))
    raise ConfigError(f"order: got {order!r}, expected one of {', '.join(order_names())}, or a list of angles")


def _checked(num: int, start: float, stop: float) -> int:
    if not _is(Integral, num):
        raise ConfigError(f"num: got {num!r}, expected a whole number of angles")
    if not 1 <= num <= MOST_ANGLES:
        raise ConfigError(f"num: got {num}, expected 1 to {MOST_ANGLES} angles")
    _check_range(start, stop)
    return num


def _check_range(start: float, stop: float) -> None:
    if not (_is(Real, start) and _is(Real, stop)):
        raise ConfigError(f"angles: got the range [{start!r}, {stop!r}), expected degrees")
    if not (math.isfinite(start) and math.isfinite(stop) and start < stop):
        raise ConfigError(f"angles: got the range [{start}, {stop}), expected finite degrees with start < stop")


def _not_negative(name: str, value: float, unit: str) -> None:
    if not 0 <= value < math.inf:
        raise ConfigError(f"{name}: got {value}, expected 0 or more {unit}")


def _is(kind: type, value: object) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _on_grid(name: str, indices: Iterable[int], num: int, start: float, stop: float) -> AngleOrder:
    return AngleOrder(name, tuple(start + (stop - start) * i / num for i in indices), start, stop)
