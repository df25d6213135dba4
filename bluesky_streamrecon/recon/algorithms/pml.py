"""Penalised maximum likelihood: MLEM that prefers smooth images, by De Pierro's decoupling.

The penalty of a pixel is on its differences from ten neighbours: eight in its slice, and those above and below
it along the rotation axis, each weighted by 1 over distance. Its strength has no unit: differences count
in units of the slice's typical attenuation, and the pull is relative to how well the pixel is seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from bluesky_streamrecon.recon.algorithms.base import Algorithm, OrderedSubsets
from bluesky_streamrecon.recon.slab_update import SlabUpdate

__all__ = ["HybridPML", "OrderedHybridPML", "OrderedQuadraticPML", "QuadraticPML"]


@dataclass(frozen=True)
class QuadraticPML(Algorithm):
    """PML with a quadratic penalty [1]_.

    Parameters
    ----------
    strength : float, optional
        Unitless: a pixel that differs from its neighbours' mean by the typical attenuation is pulled as hard as
        by rays whose measured and predicted values differ by this fraction. 0 is MLEM.
    floor : float, optional
        Smallest predicted line integral that is divided by (unitless).

    References
    ----------
    .. [1] A. R. De Pierro, IEEE Trans. Med. Imaging 14(1), 132-137, 1995, :doi:`10.1109/42.370409`.
    """

    positive: ClassVar[bool] = True
    coupled: ClassVar[bool] = True
    strength: Annotated[float, Meta(ge=0, le=1e9)] = 0.02
    floor: Annotated[float, Meta(gt=0)] = 1e-6

    def step(self, problem: SlabUpdate) -> None:
        """Improve the image once."""
        problem.multiply_smoothly(problem.ratio(self.floor), self.strength, None)


@dataclass(frozen=True)
class HybridPML(QuadraticPML):
    """PML with a penalty that is quadratic for small and linear for large differences [1]_: it keeps edges.

    Parameters
    ----------
    strength : float, optional
        As for the quadratic penalty, for small differences.
    floor : float, optional
        Smallest predicted line integral that is divided by (unitless).
    edge : float, optional
        Difference, as a fraction of the typical attenuation, around which the pull stops growing.

    References
    ----------
    .. [1] K. Lange, IEEE Trans. Med. Imaging 9(4), 439-446, 1990, :doi:`10.1109/42.61759`.
    """

    strength: Annotated[float, Meta(ge=0, le=1e9)] = 0.1
    edge: Annotated[float, Meta(gt=0)] = 0.1

    def step(self, problem: SlabUpdate) -> None:
        """Improve the image once."""
        problem.multiply_smoothly(problem.ratio(self.floor), self.strength, self.edge)


@dataclass(frozen=True)
class OrderedQuadraticPML(OrderedSubsets, QuadraticPML):
    """Quadratic PML with a step for each of several subsets of the window in turn."""


@dataclass(frozen=True)
class OrderedHybridPML(OrderedSubsets, HybridPML):
    """Hybrid PML with a step for each of several subsets of the window in turn."""
