"""What a run on one rank needs of the world around it, and what it gives back in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bluesky_streamrecon.wire import Preview, Problem, Status

__all__ = ["RankLink", "Result"]


class RankLink(Protocol):
    """What a run needs of the way back to the beamline and to the controller."""

    def applied(self, seq: int) -> None:
        """All items up to `seq` are taken care of."""

    def pending(self) -> int:
        """Items that have arrived and not been taken."""

    def send(self, message: Status | Preview | Problem) -> None:
        """Send how far this rank is, slices of an image with line integrals that none before it had, or a problem."""

    @property
    def previews_dropped(self) -> int:
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
