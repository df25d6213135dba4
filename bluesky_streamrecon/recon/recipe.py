"""How a volume is finished from all projections of a run: algorithm, iterations, and how much each view counts.

The recipe ``"auto"`` is the one that the default policy predicts for: ordered subsets, always as many updates whatever
the number of views, and views weighted by the angle that they stand for. A volume is given more updates where there is
little noise for them to bring out; the policy predicts for the fewest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.coverage import AngularRange
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.settings import FINAL_AUTO, FINAL_NONE

if TYPE_CHECKING:
    from bluesky_streamrecon.recon.engine import Engine

__all__ = ["ITERATIONS", "Recipe", "find_recipe", "finish", "log_photons", "some_views", "subset_scales"]

UPDATES, MOST_UPDATES = 60, 90
FEW_PHOTONS, MANY_PHOTONS = 1e4, 2.5e4
"""Photons per pixel, as estimated, up to which there are `UPDATES`, and from which there are `MOST_UPDATES`."""

SUBSETS = 6
LEAST_VIEWS = 4
NOISE_VIEWS = 32
SHADOW = 0.15
"""Share of the largest line integrals from which on a pixel is in the shadow of the sample."""

CHI_SQUARED = 0.4549
"""Median of the square of a normal variable of variance 1."""

ITERATIONS = 20
"""Times that an algorithm goes over all projections, unless the settings say otherwise."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is computed.

    Parameters
    ----------
    algorithm : str
        Registered name.
    iterations : int
        Times that it goes over all projections.
    options : mapping
        Of the algorithm.
    weighted : bool
        Views count by the angle that they stand for.
    """

    algorithm: str
    iterations: int
    options: Mapping[str, Any] = field(default_factory=dict)
    weighted: bool = False

    def scales(self, angles: NDArray[np.float64], over: AngularRange) -> NDArray[np.float32]:
        """Return how much each view counts in its subset, shape (n,); 1 where views are not weighted.

        Parameters
        ----------
        angles : ndarray of float64, shape (n,)
            Radians.
        over : AngularRange
            Angles that the whole scan was to visit.
        """
        if not self.weighted:
            return np.ones(len(angles), np.float32)
        return subset_scales(over.view_weights(angles), angles, self.options["subsets"])


def find_recipe(
    final: str,
    projections: int,
    iterations: int | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    photons: float = 0.0,
) -> Recipe | None:
    """Return the recipe of a name.

    Parameters
    ----------
    final : str
        ``"auto"``, ``"none"``, or a registered algorithm.
    projections : int
        That there are.
    iterations : int, optional
        Times to go over all of them; by default 60 to 90 updates for ``"auto"``, 1 for FBP, and 20 for others.
    options : mapping, optional
        Of the algorithm; ``"auto"`` takes none but a projector.
    photons : float, optional
        Per pixel of the open beam, see `log_photons`: with many, ``"auto"`` makes more updates.

    Returns
    -------
    Recipe or None
        None for ``"none"``.

    Raises
    ------
    ConfigError
        If ``"auto"`` is given options of an algorithm.
    """
    given = dict(options or {})
    if final == FINAL_NONE:
        return None
    if final == FINAL_AUTO:
        if given.keys() - {"projector"}:
            raise ConfigError(
                f"final='auto' with options {sorted(given)}: the recipe has none; expected an algorithm, as in "
                "final='osem', or no final_options"
            )
        subsets = max(1, min(SUBSETS, projections // LEAST_VIEWS))
        share = math.log(max(photons, FEW_PHOTONS) / FEW_PHOTONS) / math.log(MANY_PHOTONS / FEW_PHOTONS)
        updates = UPDATES + (MOST_UPDATES - UPDATES) * min(share, 1.0)
        return Recipe("osem", iterations or int(updates) // subsets, {**given, "subsets": subsets}, weighted=True)
    return Recipe(final, iterations or (1 if final == "fbp" else ITERATIONS), given)


def log_photons(lines: NDArray[np.float32]) -> NDArray[np.float64]:
    """Estimate the logarithm of the photons per pixel of the open beam, row by row, from the noise.

    Their variance is exp(p) over photons. What differs between neighbouring columns in the shadow of the sample is
    taken for noise; structure as fine as that counts as noise, too, so the photons are rather too few.

    Parameters
    ----------
    lines : ndarray of float32, shape (m, rows, C)
        Line integrals of some projections.

    Returns
    -------
    ndarray of float64, shape (rows,)
        NaN for a row that shows nothing.
    """
    found = np.full(lines.shape[1], np.nan)
    for row in range(lines.shape[1]):
        line = lines[:, row].astype(np.float64)
        smooth = (line[:, :-2] + line[:, 1:-1] + line[:, 2:]) / 3
        known = np.isfinite(smooth)
        if not known.any():
            continue
        inside = known & (smooth > SHADOW * np.percentile(smooth[known], 99.5))
        second = (line[:, :-2] - 2 * line[:, 1:-1] + line[:, 2:])[inside]
        level = np.median(second**2 / (6 * np.exp(np.minimum(smooth[inside], 20)))) / CHI_SQUARED if inside.any() else 0
        if level > 0:
            found[row] = -math.log(level)
    return found


def some_views(angles: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the places of at most 32 views, spread over the angles, in whatever order they were taken."""
    return np.argsort(angles, kind="stable")[:: -(-len(angles) // NOISE_VIEWS)]


def subset_scales(weights: NDArray[np.float64], angles: NDArray[np.float64], subsets: int) -> NDArray[np.float32]:
    """Return weights of views as shares of the mean of their subset, shape (n,), as the engine deals the subsets."""
    by_angle = np.argsort(np.mod(angles, math.pi), kind="stable")
    scale = np.empty(len(angles), np.float32)
    for first in range(subsets):
        views = by_angle[first::subsets]
        scale[views] = weights[views] / weights[views].mean()
    return scale


def finish(
    engine: Engine,
    recipe: Recipe,
    projections: Iterable[tuple[NDArray[np.float32], float]],
    scales: NDArray[np.float32],
) -> Iterator[float]:
    """Make an image from all projections, one iteration at a time; yield the share that is done.

    Parameters
    ----------
    engine : Engine
        With the recipe's algorithm, and an endless window; it has the image in the end.
    recipe : Recipe
        What is computed.
    projections : iterable of (ndarray of float32, shape (rows, C), float)
        Line integrals, and angle.
    scales : ndarray of float32
        See `Recipe.scales`.
    """
    for (pixels, angle), scale in zip(projections, scales, strict=True):
        engine.append(pixels, angle, float(scale))
    for number in range(recipe.iterations):
        engine.update()
        yield (number + 1) / recipe.iterations
