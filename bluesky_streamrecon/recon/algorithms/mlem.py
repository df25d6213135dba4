"""Maximum likelihood by expectation maximization, with and without ordered subsets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from bluesky_streamrecon.recon.algorithms.base import Algorithm, OrderedSubsets
from bluesky_streamrecon.recon.slab_update import SlabUpdate

__all__ = ["MLEM", "OSEM"]


@dataclass(frozen=True)
class MLEM(Algorithm):
    """MLEM [1]_: each pixel times the mean over its rays of measured / predicted.

    Parameters
    ----------
    floor : float, optional
        Smallest predicted line integral that is divided by (unitless).
    relaxation : float, optional
        Share of the change that is made, above 0 and at most 1.

    References
    ----------
    .. [1] L. A. Shepp and Y. Vardi, IEEE Trans. Med. Imaging 1(2), 113-122, 1982, :doi:`10.1109/TMI.1982.4307558`.
    """

    positive: ClassVar[bool] = True
    floor: Annotated[float, Meta(gt=0)] = 1e-6
    relaxation: Annotated[float, Meta(gt=0, le=1)] = 1.0

    def step(self, problem: SlabUpdate) -> None:
        """Improve the image once."""
        problem.multiply(problem.ratio(self.floor, self.relaxation))


@dataclass(frozen=True)
class OSEM(OrderedSubsets, MLEM):
    """OSEM [1]_: an MLEM step for each of several subsets of the window in turn.

    Parameters
    ----------
    floor : float, optional
        Smallest predicted line integral that is divided by (unitless).
    relaxation : float, optional
        Share of the change that is made, above 0 and at most 1.
    subsets : int, optional
        Subsets of the window, each spread evenly over the half turn; never more than projections.

    References
    ----------
    .. [1] H. M. Hudson and R. S. Larkin, IEEE Trans. Med. Imaging 13(4), 601-609, 1994, :doi:`10.1109/42.363108`.
    """
