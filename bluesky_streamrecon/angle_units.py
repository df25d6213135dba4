"""Units of angle: what files, events and devices call them, in one table, and what to think of angles without units.

Nothing is guessed: a name that is not in the table is refused, and so are numbers without units that can hardly be
degrees.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError, DataError

__all__ = [
    "UNITS",
    "angles_in_degrees",
    "degrees_per_unit",
    "require_plausible_degrees",
    "require_same_direction",
    "require_same_wedge",
]

_DEGREES: dict[str, tuple[float, tuple[str, ...]]] = {
    "degrees": (1.0, ("deg", "degs", "deg.", "degree", "°", "angular_degree", "angular degree")),
    "radians": (180 / math.pi, ("rad", "rads", "radian")),
    "milliradians": (0.18 / math.pi, ("mrad", "milliradian")),
    "microradians": (0.00018 / math.pi, ("urad", "µrad", "μrad", "microradian")),
    "turns": (360.0, ("turn", "rev", "revs", "revolution", "revolutions", "cycle", "cycles")),
    "gons": (0.9, ("gon", "grad", "grads", "gradian", "gradians", "grade")),
    "arcminutes": (1 / 60, ("arcmin", "arcminute", "arc_minute", "arcmins", "'", "′")),
    "arcseconds": (1 / 3600, ("arcsec", "arcsecond", "arc_second", "arcsecs", '"', "″")),
    "millidegrees": (1e-3, ("mdeg", "millidegree")),
    "microdegrees": (1e-6, ("udeg", "µdeg", "μdeg", "microdegree")),
}

UNITS: tuple[str, ...] = tuple(_DEGREES)
"""Names of the units, as options take them; files and devices may use their usual abbreviations."""

_FACTORS = {alias: factor for name, (factor, aliases) in _DEGREES.items() for alias in (name, *aliases)}

NARROW = 7.0
"""Range below which many views without units are not taken for degrees: a turn in radians is 6.28."""

MANY_VIEWS = 20

ALIKE = 0.95
"""Mean resultant length of differences of angles that are nearly all the same."""

WHOLE = 0.95 * 180
"""Degrees from which on a scan covers all directions, so that its zero does not matter."""

BESIDE = 0.05
"""Share of a narrower range by which its angles may lie beside it."""


def degrees_per_unit(units: object, where: str) -> float | None:
    """Return how many degrees a unit is, or None where there is no unit.

    Parameters
    ----------
    units : object
        As an attribute of a file, or a data key, has it: text, bytes, an array of one of them, None or empty.
    where : str
        What has it, for the error.

    Raises
    ------
    DataError
        If the unit is not one of angle, or not known.

    Examples
    --------
    >>> degrees_per_unit(" Degrees ", "stage"), degrees_per_unit(b"turn", "theta"), degrees_per_unit("", "theta")
    (1.0, 360.0, None)
    """
    if isinstance(units, np.ndarray):
        units = units.reshape(-1)[0] if units.size else None
    text = units.decode(errors="replace") if isinstance(units, bytes) else "" if units is None else str(units)
    name = " ".join(text.split()).casefold()
    if not name:
        return None
    if name not in _FACTORS:
        raise DataError(
            f"{where}: got units {text!r}, expected one of {', '.join(UNITS)} (or their usual abbreviations); set the "
            "units where the angles come from, or say which they are (angle_units, --angle-units)"
        )
    return _FACTORS[name]


def require_plausible_degrees(span: float, views: int, where: str, what_to_do: str) -> None:
    """Raise `DataError` for a range without units that can hardly be degrees.

    Parameters
    ----------
    span : float
        Range of the numbers.
    views : int
        Projections that they are the angles of.
    where, what_to_do : str
        What has them, and how to say which units they have; for the error.
    """
    if views > MANY_VIEWS and 0 < span < NARROW:
        raise DataError(
            f"{where}: {views} views without units range over {span:.4g}: {span:.4g} degrees if they are degrees, "
            f"{math.degrees(span):.4g} degrees if they are radians; {what_to_do}"
        )


def require_same_direction(planned: Sequence[float], recorded: Mapping[int, float]) -> None:
    """Raise `DataError` if angles run the other way than those that were planned, wherever their zero is.

    Over a few degrees both ways are alike, and nothing is raised.

    Parameters
    ----------
    planned : sequence of float
        In order, degrees; nothing is known of further ones.
    recorded : mapping of int to float
        By number, from 1; radians.

    Examples
    --------
    >>> require_same_direction([0.0, 90.0, 45.0], {1: 0.1, 2: 1.67, 3: 0.89})
    """
    numbers = sorted(number for number in recorded if number <= len(planned))
    wanted = np.radians([planned[number - 1] for number in numbers])
    found = np.array([recorded[number] for number in numbers])
    if not numbers:
        return
    other, same = (abs(np.mean(np.exp(1j * (found + sign * wanted)))) for sign in (1, -1))
    if other > ALIKE > same:
        at = int(np.argmax(np.abs(wanted - wanted[0])))
        raise DataError(
            f"angles: projections 1 and {numbers[at]} were planned at {math.degrees(wanted[0]):g} and "
            f"{math.degrees(wanted[at]):g} degrees, and recorded at {math.degrees(found[0]):.4g} and "
            f"{math.degrees(found[at]):.4g}: they run the other way, and the image is made of what was recorded; if "
            "that is wrong it is the mirror image of the sample: has the encoder's scale the right sign?"
        )


def require_same_wedge(planned: Sequence[float], recorded: Mapping[int, float], span: float | None) -> None:
    """Raise `DataError` if the angles of a scan of less than a half turn lie beside the range that was planned.

    What is beside it counts as a view from its end: weights of views, and gaps between them, are then wrong.

    Parameters
    ----------
    planned, recorded
        See `require_same_direction`.
    span : float or None
        Range that was planned, degrees; None: not known.

    Examples
    --------
    >>> require_same_wedge([0.0, 60.0, 30.0], {1: 3.15, 2: 4.19, 3: 3.67}, 90.0)
    >>> require_same_wedge([0.0, 60.0, 30.0], {1: 0.5, 2: 1.55, 3: 1.02}, 90.0)
    Traceback (most recent call last):
    bluesky_streamrecon.errors.DataError: angles: projections were recorded 28.6 degrees beside ...
    """
    numbers = [number for number in recorded if number <= len(planned)]
    if span is None or span >= WHOLE or not numbers:
        return
    turned = [recorded[number] - math.radians(planned[number - 1]) for number in numbers]
    beside = math.degrees(float(np.angle(np.mean(np.exp(2j * np.array(turned)))))) / 2  # seen from behind is the same
    if abs(beside) > BESIDE * span:
        raise DataError(
            f"angles: projections were recorded {abs(beside):.3g} degrees beside where they were planned, and a scan "
            f"of {span:g} degrees takes what is beside its range for views from its end: the image is poorer than it "
            "could be; set the encoder's offset, or give start and stop as the encoder counts"
        )


def angles_in_degrees(
    values: NDArray[Any], units: object, where: str, *, angle_units: str | None = None
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return angles in degrees, and what is doubtful about them.

    Parameters
    ----------
    values : ndarray, shape (A,)
        Angles as they were recorded.
    units : object
        That their file or data key states, see `degrees_per_unit`.
    where : str
        What has them, for messages.
    angle_units : str, optional
        Units to take in place of those stated.

    Returns
    -------
    angles : ndarray of float64, shape (A,)
    problems : tuple of str

    Raises
    ------
    ConfigError
        If `angle_units` is not known.
    DataError
        If the units are not known, or there are none and the numbers can hardly be degrees.

    Examples
    --------
    >>> angles_in_degrees(np.array([0.0, 0.25]), "turns", "theta")
    (array([ 0., 90.]), ())
    """
    angles = np.asarray(values, dtype=np.float64).reshape(-1)
    finite = angles[np.isfinite(angles)]
    span = float(np.ptp(finite)) if finite.size else 0.0
    if angle_units is not None:
        if (stated := _FACTORS.get(angle_units.strip().casefold())) is None:
            raise ConfigError(f"angle_units: got {angle_units!r}, expected one of {', '.join(UNITS)}")
        return angles * stated, ()
    factor = degrees_per_unit(units, where)
    if factor is None:
        require_plausible_degrees(span, finite.size, where, "say which (angle_units, --angle-units)")
        return angles, ()
    problems = []
    if factor == 1.0 and finite.size > MANY_VIEWS and abs(span - math.pi) < 0.1:
        problems.append(
            f"{where}: {finite.size} views range over {span:.4g} degrees as their units say, and over "
            f"{math.degrees(span):.4g} if they were radians; are the units right (angle_units, --angle-units)?"
        )
    if factor == _FACTORS["radians"] and finite.size > MANY_VIEWS and span > 100:
        problems.append(
            f"{where}: {finite.size} views range over {span * factor:.4g} degrees as their units (radians) say, and "
            f"over {span:.4g} if they were degrees; are the units right (angle_units, --angle-units)?"
        )
    return angles * factor, tuple(problems)
