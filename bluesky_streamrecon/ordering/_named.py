"""The angle orders that there are, each by its function and its name. Angles are degrees."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.ordering._value import AngleOrder, check_range, halving, is_number

__all__ = [
    "fixed",
    "golden_angle",
    "interlaced",
    "interleaved",
    "listed",
    "make_order",
    "optimized_interleaved",
    "order_names",
    "places_in_order",
]

GOLDEN = (math.sqrt(5) - 1) / 2  # fraction of the span between two golden-angle views
MOST_ANGLES = 1_000_000  # of one scan: a slip of the keyboard should not fill the memory


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
    order = halving(num, threshold=threshold, spacing=(stop - start) / num)
    name = "optimized-interleaved" + (f"({threshold:g})" if threshold else "")
    return _on_grid(name, order, num, start, stop)


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
    indices = [i for first in halving(turns) for i in range(first, num, turns)]
    return _on_grid(f"interlaced({turns})", indices, num, start, stop)


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
        Range that coverage refers to; by default from the smallest angle to one mean spacing above the largest.

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
    """Return the names that `make_order` understands; those with *inter* in them take a number."""
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


def places_in_order(order: str, angles: NDArray[np.float64]) -> list[int]:
    """Return the projections of a recorded scan, each once, in the order in which they might have been taken.

    Parameters
    ----------
    order : str
        Registered name; of an order that is not on a grid, the nearest projection that is left is taken.
    angles : ndarray of float64, shape (n,)
        Of the projections, in any order and unit.
    """
    left = list(range(len(angles)))
    wanted = np.mod(make_order(order, num=len(left), start=0, stop=len(left)).angles, len(left))
    by_angle = np.argsort(angles, kind="stable")
    return [int(by_angle[left.pop(int(np.argmin(np.abs(np.asarray(left) - place))))]) for place in wanted]


def _checked(num: int, start: float, stop: float) -> int:
    if not is_number(Integral, num):
        raise ConfigError(f"num: got {num!r}, expected a whole number of angles")
    if not 1 <= num <= MOST_ANGLES:
        raise ConfigError(f"num: got {num}, expected 1 to {MOST_ANGLES} angles")
    check_range(start, stop)
    return num


def _on_grid(name: str, indices: Iterable[int], num: int, start: float, stop: float) -> AngleOrder:
    return AngleOrder(name, tuple(start + (stop - start) * i / num for i in indices), start, stop)
