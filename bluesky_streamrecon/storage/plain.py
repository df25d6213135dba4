"""Documents as plain JSON, whatever a user has put into them.

Where event-model's own sanitizer raises (it knows NumPy, and nothing else that JSON does not), a value is replaced by
the nearest thing that JSON has, and in the end by its `repr`.
"""

from __future__ import annotations

import base64
import datetime as dt
import enum
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

__all__ = ["plain"]

DEEPEST = 100
"""Levels of nesting that any JSON reader takes."""

TEXT = (str, bytes, bytearray, memoryview)
"""Sequences that are one value."""


def plain(value: Any) -> Any:
    """Return a copy of a value in which there is nothing but what JSON has: never raises.

    Parameters
    ----------
    value : object
        Of a document, or a whole one.

    Returns
    -------
    dict, list, str, int, float, bool or None
        NumPy's scalars and arrays as numbers and lists, sequences and sets as lists, enums as their values, bytes as a
        data URI in base64, times in ISO 8601, paths as strings. NaN and infinities stay, as Python's `json` has them.
        Everything else, what contains itself and what is nested more than 100 levels deep are given as their `repr`.

    Examples
    --------
    >>> plain({"sizes": {2, 1}, 3: np.float32(0.5), "what": object}) == {
    ...     "sizes": [1, 2], "3": 0.5, "what": "<class 'object'>"
    ... }
    True
    """
    return _plain(value, ())


def _plain(value: Any, inside: tuple[int, ...]) -> Any:
    try:
        if value is None or isinstance(value, bool | np.bool_):
            return None if value is None else bool(value)
        if isinstance(value, Mapping | Sequence | set | frozenset | np.ndarray) and not isinstance(value, TEXT):
            if id(value) in inside or len(inside) >= DEEPEST:
                return _described(value)
            return _container(value, (*inside, id(value)))
        return _scalar(value, inside)
    except Exception:  # noqa: BLE001 - a document is kept, whatever its parts do when they are looked at
        return _described(value)


def _container(value: Any, inside: tuple[int, ...]) -> Any:
    if isinstance(value, Mapping):
        named: dict[str, Any] = {}
        for key, part in value.items():
            name = _key(key)
            while name in named:  # 1 and "1"
                name += f" ({type(key).__name__})"
            named[name] = _plain(part, inside)
        return named
    if isinstance(value, set | frozenset):
        return [_plain(part, inside) for part in sorted(value, key=repr)]
    if isinstance(value, np.ndarray):
        listed = value.tolist()
        return listed if value.dtype.kind in "biuf" and value.itemsize <= 8 else _plain(listed, inside)
    return [_plain(part, inside) for part in value]


def _scalar(value: Any, inside: tuple[int, ...]) -> Any:
    if isinstance(value, enum.Enum):
        return _plain(value.value, inside)
    if isinstance(value, str):
        return str.__str__(value).encode("utf-8", "backslashreplace").decode()
    if isinstance(value, np.generic):
        number = value.item()
        return _described(value) if isinstance(number, np.generic) else _plain(number, inside)
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**64 else _described(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"data:application/octet-stream;base64,{base64.b64encode(value).decode()}"
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, PurePath):
        return _scalar(str(value), inside)
    if hasattr(value, "__array__") and hasattr(value, "dtype"):  # dask's and xarray's
        return _plain(np.asarray(value), inside)
    return _described(value)


def _key(key: Any) -> str:
    part = _plain(key, ())
    return part if isinstance(part, str) else _described(part)


def _described(value: Any) -> str:
    """Return the `repr` of an object, or why it has none."""
    try:
        return repr(value).encode("utf-8", "backslashreplace").decode()
    except Exception as error:  # noqa: BLE001
        return f"<{type(value).__name__}, whose repr raises {type(error).__name__}>"
