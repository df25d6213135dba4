"""Options of a reconstruction: those of its algorithm, and those that every algorithm has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.preparation_steps import make_step
from bluesky_streamrecon.recon.algorithms.base import Algorithm, make_algorithm
from bluesky_streamrecon.recon.backends import FAST, projector_of
from bluesky_streamrecon.recon.projector import projectors
from bluesky_streamrecon.settings import ReconSettings

__all__ = ["check_algorithm", "check_shape", "understood"]


def check_algorithm(algorithm: str, options: Mapping[str, Any] | None) -> None:
    """Refuse an algorithm, a projector or options that an `Engine` would refuse, without making one.

    Raises
    ------
    ConfigError
        If one is unknown or can not work.
    """
    understood(algorithm, options)
    if (projector := projector_of(options)) != FAST:  # which would be compiled
        projectors.get(projector)


def check_shape(recon: ReconSettings, rows: int, columns: int) -> None:
    """Refuse settings that can not work with frames of this shape: axis, size, and what preparation steps need.

    Raises
    ------
    ConfigError, GeometryError
        If there are any.
    """
    TomoGeometry(columns, math.nan if recon.axis is None else recon.axis, recon.size or 0)
    for step in recon.preparation:
        make_step(step, recon.bin).check(rows, columns)


def understood(algorithm: str, options: Mapping[str, Any] | None) -> tuple[Algorithm, float | None]:
    """Return the algorithm, and the attenuation to start with."""
    of_algorithm = dict(options or {})
    of_algorithm.pop("projector", None)
    initial = _initial(of_algorithm.pop("initial", None))
    return make_algorithm(algorithm, of_algorithm), initial


def _initial(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ConfigError(f"initial: got {value!r}, expected an attenuation of at least 0, 1/pixel")
    return float(value)
