"""What a preparation step is, and the names of those there are. Line integrals are unitless, angles radians.

The beamline looks here, too: steps say how many rows beyond its own a rank needs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.registry import Registry, made_with

__all__ = ["Step", "check_steps", "halo_rows", "make_step", "preparation_steps"]


@dataclass
class Step(ABC):
    """Something that is done to the line integrals of each projection before it is reconstructed.

    Fields are options, whose types bound them; one object serves one rank and one run, and may remember what it has
    seen. What is done to a row must depend on that row alone, and on `halo_rows` rows on each side of it: a rank has no
    others, and the image is to be the same with any number of ranks.

    Attributes
    ----------
    remembers : bool
        What is done to a projection depends on those before it. A run that goes on after a restart, or whose images are
        made anew, then passes all of its projections through a new object.
    of_scan : tuple of str
        Options that say how the scan was taken, of `bluesky_streamrecon.acquisition.QUANTITIES`; where one is None, it
        is found in the run's metadata or its devices' configuration.
    counts : dict of str to int
        What the run's record says about this step, by names of its own.
    own : slice
        Rows of a projection in which is counted, set before `begin`: the others are a neighbour's, which counts there.
    """

    remembers: ClassVar[bool] = False
    of_scan: ClassVar[tuple[str, ...]] = ()
    counts: dict[str, int] = field(init=False, default_factory=dict, repr=False, compare=False)
    own: slice = field(init=False, default_factory=lambda: slice(None), repr=False, compare=False)

    @property
    def halo_rows(self) -> int:
        """Rows on each side of a row that it depends on; a step that remembers, or comes after one, can have none."""
        return 0

    @property
    def lacking(self) -> tuple[str, ...]:
        """Options that are still to be found."""
        return tuple(name for name in self.of_scan if getattr(self, name) is None)

    def binned(self, side: int) -> Self:  # noqa: ARG002 - most have no lengths
        """Return this step for pixels that are blocks of `side` x `side` pixels of the detector."""
        return self

    def check(self, rows: int, columns: int) -> None:  # noqa: B027
        """Refuse projections of a shape that can not work; on the beamline, too, before anything moves."""

    def begin(self, rows: int, columns: int) -> None:  # noqa: B027
        """Make ready what projections of that shape need."""

    @abstractmethod
    def apply(self, projection: NDArray[np.float32], angle: float) -> NDArray[np.float32]:
        """Return a projection after this step.

        Parameters
        ----------
        projection : ndarray of float32, shape (rows, columns)
            Line integrals, which may be overwritten. Finite, but for rows that were not measured: NaN throughout.
        angle : float
            Radians.

        Returns
        -------
        ndarray of float32
            Without the first and the last `halo_rows` rows.
        """

    def apply_to_all(self, projections: NDArray[np.float32], angles: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return all projections of some rows after this step, once none will follow: for the finished volume.

        Parameters
        ----------
        projections : ndarray of float32, shape (projections, rows, columns)
            As for `apply`; one that was lost is NaN.
        angles : ndarray, shape (projections,)
            Radians.
        """
        return np.stack([self.apply(each, float(angle)) for each, angle in zip(projections, angles, strict=True)])


_HERE = "bluesky_streamrecon.recon.steps"

preparation_steps: Registry[type[Step]] = Registry(
    "preparation step",
    "bluesky_streamrecon.preparation_steps",
    {
        "beam": f"{_HERE}.beam:Beam",
        "paganin": f"{_HERE}.paganin:Paganin",
        "rings": f"{_HERE}.rings:Rings",
        "wavelet-rings": f"{_HERE}.wavelet:WaveletRings",
        "zingers": f"{_HERE}.zingers:Zingers",
    },
)


def make_step(setting: str | Mapping[str, Any], side: int = 1) -> Step:
    """Return the step that one entry of the setting ``preparation`` asks for: a name, or also options.

    Parameters
    ----------
    setting : str or mapping
        The entry.
    side : int, optional
        The setting ``bin``.

    Raises
    ------
    ConfigError
        If the name or an option is unknown, an option has a value that can not work, or what has the name is no step.
    """
    options = {"step": setting} if isinstance(setting, str) else dict(setting)
    name = str(options.pop("step"))
    kind = preparation_steps.get(name)
    return made_with("preparation step", name, kind, Step, options).binned(side)  # type: ignore[type-abstract]


def halo_rows(preparation: Sequence[str | Mapping[str, Any]], side: int = 1) -> int:
    """Return how many rows on each side of a row all steps together depend on; errors as `check_steps`.

    Raises
    ------
    ConfigError
        Also if a step lacks an option.
    """
    check_steps(preparation)
    return sum(make_step(setting, side).halo_rows for setting in preparation)


def check_steps(preparation: Sequence[str | Mapping[str, Any]]) -> None:
    """Refuse steps, options of theirs, or an order of them that can not work; they may lack what a run will say.

    Raises
    ------
    ConfigError
        If there are any; also if a step that needs rows around its own comes after one that remembers.
    """
    remembers = ""
    for setting in preparation:
        name, step = setting if isinstance(setting, str) else str(setting["step"]), make_step(setting)
        if step.remembers:
            remembers = name
        if remembers and (step.lacking or step.halo_rows):
            raise ConfigError(
                f"preparation: got step {name!r} after {remembers!r}; expected it before: it needs neighbouring rows, "
                f"and {remembers!r} remembers only the rows of its own rank"
            )
