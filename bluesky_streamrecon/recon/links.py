"""What a run on one rank needs of the world around it, and what it gives back in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.views import Views

__all__ = ["PreviewSink", "RankLink", "Result"]


class RankLink(Protocol):
    """What a run needs of the way back to the beamline."""

    def applied(self, seq: int) -> None:
        """All items up to `seq` are taken care of."""

    def pending(self) -> int:
        """Items that have arrived and not been taken."""

    def status(
        self,
        state: str,
        *,
        projections: int = 0,
        image_number: int = 0,
        lag: int = 0,
        step_seconds: float = 0.0,
        text: str = "",
    ) -> None:
        """Tell how far this rank is."""


class PreviewSink(Protocol):
    """Takes slices for the controller without making the rank wait."""

    def send(
        self,
        *,
        image_number: int,
        projections: int,
        rows: tuple[int, ...],
        pixels: NDArray[np.float32],
        final: bool = False,
        lines: Views | None = None,
        axis: float | None = None,
    ) -> object:
        """Queue the slices of one image, and the line integrals that no image before it was sent with."""

    @property
    def dropped(self) -> int:
        """Previews that the controller never got."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended on this rank.

    Parameters
    ----------
    image_number : int
        Images made.
    axis : float or None
        Detector column of the rotation axis.
    counts : dict of str to int
        Of this rank's rows, see `Preparation`; and of projections, lost ones, coalesced steps and previews dropped.
    path : str or None
        The result's file.
    text : str
        What the user should know.
    problem : str
        What went wrong on this rank; empty if nothing did.
    """

    image_number: int
    axis: float | None
    counts: dict[str, int]
    path: str | None
    text: str
    problem: str = ""
