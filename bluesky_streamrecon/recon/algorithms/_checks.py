"""Checks that several algorithms' options share."""

from __future__ import annotations

import math

from bluesky_streamrecon.errors import ConfigError

__all__ = ["at_least_one", "number_above", "number_from"]


def number_above(name: str, value: object, least: float, most: float = math.inf) -> None:
    """Refuse a `value` that is not a number above `least` and at most `most`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not (least < value <= most):
        raise ConfigError(f"{name}: got {value!r}, expected a number above {least:g}{_upto(most)}")


def number_from(name: str, value: object, least: float, most: float = math.inf) -> None:
    """Refuse a `value` that is not a finite number from `least` to `most`."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not (least <= value <= most and math.isfinite(value))
    ):
        raise ConfigError(f"{name}: got {value!r}, expected a number of at least {least:g}{_upto(most)}")


def at_least_one(name: str, value: object) -> None:
    """Refuse a `value` that is not an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name}: got {value!r}, expected an integer of at least 1")


def _upto(most: float) -> str:
    return "" if math.isinf(most) else f" and at most {most:g}"
