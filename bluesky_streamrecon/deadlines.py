"""Until when: what people write as a time of day, or as date and time, and when that is.

Local time; seconds are those since the epoch.
"""

from __future__ import annotations

import math
import re
from datetime import datetime, time, timedelta

from bluesky_streamrecon.errors import ConfigError

__all__ = ["parsed", "seconds_of"]


def seconds_of(until: str | float, now: float) -> float:
    """Return when `until` is, seconds since the epoch.

    Parameters
    ----------
    until : str or float
        As in `SteeringSettings`. A time of day that is over today is tomorrow's, if that is within twelve hours.
    now : float
        Seconds since the epoch.

    Raises
    ------
    ConfigError
        If it is none that can be understood in one way, or is in the past.

    Examples
    --------
    >>> seconds_of(90, 1000.0)
    1090.0
    >>> evening = datetime(2026, 11, 28, 23, 0).timestamp()
    >>> (seconds_of("06:30", evening) - evening) / 3600
    7.5
    """
    asked = parsed(until)
    if isinstance(asked, float):
        return now + asked
    today = datetime.fromtimestamp(now)
    when = datetime.combine(today, asked) if isinstance(asked, time) else asked
    if isinstance(asked, time) and today - when >= timedelta(hours=12):
        when += timedelta(days=1)
    if when.tzinfo is None and len({when.replace(fold=fold).timestamp() for fold in (0, 1)}) > 1:
        raise ConfigError(
            f"until: got {until!r}, when clocks are changed; expected the offset, too, as in {when.isoformat()}+01:00"
        )
    if when.timestamp() <= now:
        raise ConfigError(
            f"until: got {until!r}, {(now - when.timestamp()) / 60:.0f} min ago; expected a time to come, with its "
            f"date if that is not today's, as in {(today + timedelta(days=1)).date()}T06:30"
        )
    return when.timestamp()


def parsed(until: str | float) -> time | datetime | float:
    """Return what `until` says: a time of day, a date and time, or seconds from now; raise `ConfigError` for others."""
    try:
        if not isinstance(until, str):
            if 0 < until < math.inf:
                return float(until)
        elif re.fullmatch(r"\d\d:\d\d(:\d\d)?", until):
            return time.fromisoformat(until)
        elif re.match(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d", until):
            return datetime.fromisoformat(until)
    except ValueError:
        pass
    raise ConfigError(
        f"until: got {until!r}, expected a time of day of 24 hours, as '18:30' or '06:30'; a date and time, as "
        "'2026-11-29T06:30'; or seconds from now, a number above 0"
    )
