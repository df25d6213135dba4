"""What an algorithm is, and the names of those there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from bluesky_streamrecon.recon.slab_update import SlabUpdate
from bluesky_streamrecon.registry import Registry, made_with

__all__ = ["Algorithm", "OrderedSubsets", "algorithms", "make_algorithm"]


@dataclass(frozen=True)
class Algorithm(ABC):
    """A way to improve an image, given projections. Its fields are its options, whose types bound them; no other state.

    Attributes
    ----------
    positive : bool
        Start from a uniform image with the measured mass (multiplicative algorithms need it), not from zero.
    coupled : bool
        A pass looks at neighbouring slices, so all slabs take a pass together.
    """

    positive: ClassVar[bool] = False
    coupled: ClassVar[bool] = False

    def passes(self, projections: int) -> int:  # noqa: ARG002
        """Return the number of subsets into which a window of so many projections is cut."""
        return 1

    @abstractmethod
    def step(self, problem: SlabUpdate) -> None:
        """Improve ``problem.image`` once, in place, from the projections of one pass."""


@dataclass(frozen=True)
class OrderedSubsets(Algorithm):
    """Base class before another algorithm: a step of that one for each of several subsets of the window in turn.

    Parameters
    ----------
    subsets : int, optional
        Each spread evenly over the half turn; never more than projections.
    """

    subsets: Annotated[int, Meta(ge=1)] = 4

    def passes(self, projections: int) -> int:
        """Return the number of subsets."""
        return min(self.subsets, projections)


_HERE = "bluesky_streamrecon.recon.algorithms"

algorithms: Registry[type[Algorithm]] = Registry(
    "algorithm",
    "bluesky_streamrecon.algorithms",
    {
        "mlem": f"{_HERE}.mlem:MLEM",
        "osem": f"{_HERE}.mlem:OSEM",
        "pml-quadratic": f"{_HERE}.pml:QuadraticPML",
        "pml-hybrid": f"{_HERE}.pml:HybridPML",
        "ospml-quadratic": f"{_HERE}.pml:OrderedQuadraticPML",
        "ospml-hybrid": f"{_HERE}.pml:OrderedHybridPML",
        "sirt": f"{_HERE}.sirt:SIRT",
        "art": f"{_HERE}.sirt:ART",
        "fbp": "bluesky_streamrecon.recon.fbp:FBP",
    },
)


def make_algorithm(name: str, options: Mapping[str, Any]) -> Algorithm:
    """Return the algorithm `name` with `options` set.

    Raises
    ------
    ConfigError
        If the name or an option is unknown, an option has a value that can not work, or what has the name is no
        algorithm.
    """
    return made_with("algorithm", name, algorithms.get(name), Algorithm, options)  # type: ignore[type-abstract]
