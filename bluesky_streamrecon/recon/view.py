"""A projection on its way into the image: what preparation makes of a frame, and the axis search and window take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.recon.analysis import Frame

__all__ = ["View", "number_in"]


@dataclass(slots=True)
class View(Frame):
    """A projection that is prepared and not yet in the image.

    Parameters
    ----------
    pixels : ndarray of float32, shape (rows, columns), or None
        Line integrals; None where the projection was lost.
    angle : float
        Radians.
    counts : dict of str to int
        `Tomography.counts` with this projection and without those after it.
    """

    pixels: NDArray[np.float32] | None
    angle: float
    counts: dict[str, int]


def number_in(metadata: Mapping[str, str], key: str) -> float | None:
    """Return a number of a run's metadata; None if it is not there."""
    text = metadata.get(key)
    if text is None:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise DataError(f"got metadata {key}={text!r}, expected a number") from error
