"""Algebraic reconstruction: all projections at once (SIRT) or one after the other (ART)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from bluesky_streamrecon.recon.algorithms.base import Algorithm
from bluesky_streamrecon.recon.slab_update import SlabUpdate

__all__ = ["ART", "SIRT"]


@dataclass(frozen=True)
class SIRT(Algorithm):
    """SIRT [1]_: residuals divided by their ray's length, spread back, divided by how well each pixel is seen.

    Parameters
    ----------
    relaxation : float, optional
        Gain of each step, 0 to 2 (it can diverge at 2).
    nonnegative : bool, optional
        Set what becomes negative to zero.

    References
    ----------
    .. [1] P. Gilbert, J. Theor. Biol. 36(1), 105-117, 1972, :doi:`10.1016/0022-5193(72)90180-4`.
    """

    relaxation: Annotated[float, Meta(gt=0, le=2)] = 1.0
    nonnegative: bool = True

    def step(self, problem: SlabUpdate) -> None:
        """Improve the image once."""
        problem.add(problem.residual(per_length=True), gain=self.relaxation, nonnegative=self.nonnegative)


@dataclass(frozen=True)
class ART(SIRT):
    """ART [1]_: a step for each projection, all its rays at once (they hardly overlap; [2]_).

    Parameters
    ----------
    relaxation : float, optional
        Gain of each step, 0 to 2; less than 1 averages noise over projections.
    nonnegative : bool, optional
        Set what becomes negative to zero.

    References
    ----------
    .. [1] R. Gordon, R. Bender and G. T. Herman, J. Theor. Biol. 29(3), 471-481, 1970,
       :doi:`10.1016/0022-5193(70)90109-8`.
    .. [2] A. H. Andersen and A. C. Kak, Ultrasonic Imaging 6(1), 81-94, 1984, :doi:`10.1177/016173468400600107`.
    """

    relaxation: Annotated[float, Meta(gt=0, le=2)] = 0.5

    def passes(self, projections: int) -> int:
        """Return one pass per projection."""
        return projections
