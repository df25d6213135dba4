"""The whole volume of a rank's rows, made from all projections when a run is over: some rows at a time, in pieces.

Rows are independent of each other, so memory is that of the volume, and of the projections of a few rows; an algorithm
that looks at neighbouring slices takes all rows together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.coverage import AngularRange
from bluesky_streamrecon.recon.archive import Archive
from bluesky_streamrecon.recon.engine import Engine
from bluesky_streamrecon.recon.options import understood
from bluesky_streamrecon.recon.recipe import Recipe, find_recipe, finish
from bluesky_streamrecon.wire import OpenRun

__all__ = ["FinishedVolume", "finished_volume"]

ROWS_AT_ONCE = 16
"""Rows that each thread has: as many as are stored side by side."""


class FinishedVolume:
    """A volume in the making.

    Parameters
    ----------
    archive : Archive
        All projections of the rank's rows.
    recipe : Recipe
        What is computed.
    over : AngularRange
        Angles that the scan was to visit.
    rows : int
        Of the rank.
    threads : int
        That compute.
    make_engine : callable
        Makes an engine, given rows, projections, algorithm and options.
    """

    def __init__(
        self,
        archive: Archive,
        recipe: Recipe,
        over: AngularRange,
        *,
        rows: int,
        threads: int,
        make_engine: Callable[..., Engine],
    ) -> None:
        self._archive, self._recipe, self._over = archive, recipe, over
        self._make_engine = make_engine
        self._rows = rows
        coupled = understood(recipe.algorithm, recipe.options)[0].coupled
        self._at_once = rows if coupled else ROWS_AT_ONCE * threads
        self._done = 0
        self._slices: NDArray[np.float32] | None = None

    @property
    def complete(self) -> bool:
        """Whether all slices are made."""
        return self._done == self._rows

    def slices(self, rows: list[int]) -> NDArray[np.float32]:
        """Return slices, shape (len(rows), N, N), 1/pixel."""
        assert self._slices is not None  # noqa: S101 - it is complete
        return self._slices[rows]

    def parts(self) -> Iterator[float]:
        """Make the rows that are still to be made; yield the share that is done after each iteration.

        Where it is closed early, the rows that were finished stay, and the next call goes on after them.
        """
        angles = self._archive.angles
        scales = self._recipe.scales(angles, self._over)
        while not self.complete:
            first, stop = self._done, min(self._done + self._at_once, self._rows)
            views = ((self._archive.projection(i, first, stop), float(angle)) for i, angle in enumerate(angles))
            recipe = self._recipe
            with self._make_engine(
                stop - first, len(angles), algorithm=recipe.algorithm, options=recipe.options
            ) as engine:
                for share in finish(engine, recipe, views, scales):
                    yield (first + share * (stop - first)) / self._rows
                images = engine.image()
            if self._slices is None:
                self._slices = np.empty((self._rows, *images.shape[1:]), np.float32)
            self._slices[first:stop] = images
            self._done = stop


def finished_volume(
    run: OpenRun, archive: Archive, threads: int, make_engine: Callable[..., Engine]
) -> FinishedVolume | None:
    """Return the volume that a run's settings ask for; None if they ask for none, or there is nothing to make it from.

    Parameters
    ----------
    run : OpenRun
        With the settings, and the rows of the rank.
    archive, threads, make_engine
        See `FinishedVolume`.
    """
    recon = run.recon
    if archive.problem or not len(archive):
        return None
    projector = {"projector": recon.options["projector"]} if "projector" in recon.options else {}
    recipe = find_recipe(recon.final, len(archive), recon.final_iterations, projector | recon.final_options)
    if recipe is None:
        return None
    over = AngularRange.from_metadata(run.metadata)
    return FinishedVolume(archive, recipe, over, rows=run.block.rows, threads=threads, make_engine=make_engine)
