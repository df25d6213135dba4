"""The whole volume of a rank's rows, made from all projections when a run is over: some rows at a time, in pieces.

Rows are independent of each other, so memory is that of the volume, and of the projections of a few rows; an algorithm
that looks at neighbouring slices takes all rows together.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.coverage import AngularRange
from bluesky_streamrecon.errors import DataError, DeviceFailedError, StreamReconError
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon.archive import Archive
from bluesky_streamrecon.recon.backends import Demand, projector_of, rows_at_once
from bluesky_streamrecon.recon.communicator import Communicator
from bluesky_streamrecon.recon.engine import Engine
from bluesky_streamrecon.recon.later_references import Changes, take_off
from bluesky_streamrecon.recon.options import understood
from bluesky_streamrecon.recon.preparation import Preparation
from bluesky_streamrecon.recon.recipe import Recipe, find_recipe, finish, log_photons, some_views
from bluesky_streamrecon.recon.steps import Pipeline
from bluesky_streamrecon.recon.view import BEFORE, number_in, prepared_for
from bluesky_streamrecon.settings import FINAL_NONE
from bluesky_streamrecon.wire import OpenRun

__all__ = ["FinishedVolume"]

log = logging.getLogger(__name__)


class FinishedVolume:
    """A volume in the making, as a run's settings ask for it.

    Parameters
    ----------
    run : OpenRun
        With the settings, and the rows of the rank.
    archive : Archive
        All projections of the rank's rows.
    threads : int
        That compute.
    make_engine : callable
        Makes an engine, given rows, projections, algorithm and options.
    ranks : Communicator
        To the other ranks.
    geometry : TomoGeometry
        Of the images.
    backend : str
        What computes, see `choose_backend`.
    preparation, steps : Preparation, Pipeline
        By which the projections were prepared; nothing will follow.
    """

    def __init__(
        self,
        run: OpenRun,
        archive: Archive,
        threads: int,
        make_engine: Callable[..., Engine],
        ranks: Communicator,
        *,
        geometry: TomoGeometry,
        backend: str,
        preparation: Preparation,
        steps: Pipeline,
    ) -> None:
        self._run, self._archive, self._threads = run, archive, threads
        self._make_engine, self._preparation, self._steps = make_engine, preparation, steps
        self._ranks = ranks
        self._geometry, self._backend = geometry, backend
        self._over = AngularRange.from_metadata(run.metadata).around(geometry.axis, geometry.columns)
        self._rows = run.block.rows
        self._recipe: Recipe | None = None
        self._done = 0
        self._slices: NDArray[np.float32] | None = None

    @property
    def wanted(self) -> bool:
        """Whether the settings ask for a volume, and there is something to make it from."""
        return self._run.recon.final != FINAL_NONE and not self._archive.problem and len(self._archive) > 0

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

        Raises
        ------
        DataError, MemoryError, OSError
            If this rank's rows can not be finished.
        RuntimeError
            If they can not, and other ranks wait for this one.
        """
        try:
            yield from self._parts()
        except DeviceFailedError:
            raise
        except (StreamReconError, MemoryError, OSError) as error:
            together = self._recipe is None or self._coupled(self._recipe) or self._run.block.members > 1
            if together and self._ranks.size > 1:
                raise RuntimeError(
                    f"the volume can not be finished, and other ranks wait for this one: {error}"
                ) from error
            raise

    def _parts(self) -> Iterator[float]:
        if self._archive.problem:
            raise DataError(self._archive.problem)
        views = self._run.newest_volume(len(self._archive))
        angles = self._archive.angles[views.start : views.stop]
        recipe = self._recipe = self._recipe or self._chosen(angles, views)
        scales = recipe.scales(angles, self._over)
        at_once = self._rows_at_once(recipe, len(angles))
        while not self.complete:
            first, stop = self._done, min(self._done + at_once, self._rows)
            pixels = np.stack([self._archive.projection(i, first, stop) for i in views])
            lines = self._prepared(pixels, angles, slice(first, stop), views.start)
            prepared = zip(lines, angles.tolist(), strict=True)
            del pixels
            with self._make_engine(
                stop - first, len(angles), algorithm=recipe.algorithm, options=recipe.options
            ) as engine:
                for share in finish(engine, recipe, prepared, scales):
                    yield (first + share * (stop - first)) / self._rows
                images = engine.image()
            if self._slices is None:
                self._slices = np.empty((self._rows, *images.shape[1:]), np.float32)
            self._slices[first:stop] = images
            self._done = stop

    @cached_property
    def _changes(self) -> Changes:
        """How light and dark of each pixel have changed, as seen through the steps before the archive.

        It is a weak pattern: that steps see it alone, and not on top of each projection, makes a difference of second
        order.
        """
        steps, found = prepared_for(self._run)[1], self._preparation.changes([])
        return Changes(
            [(after, steps.first_part(each, 0.0)) for after, each in found.light],
            [(after, -np.expm1(-steps.first_part(-np.log1p(-each), 0.0))) for after, each in found.dark],
        )

    def _prepared(
        self, projections: NDArray[np.float32], angles: NDArray[np.float64], rows: slice, first: int
    ) -> NDArray[np.float32]:
        """Return archived projections of some rows, shape (projections, rows, C), as the volume is made from them.

        `first` counts the projections from the first that came to the first of these.
        """
        if self._changes:
            before = int(number_in(self._run.metadata, BEFORE) or 0)
            take_off(projections, self._changes, rows, before + first)
        return self._steps.second_part_of_all(projections, angles)

    def _rows_at_once(self, recipe: Recipe, projections: int) -> int:
        demand = Demand(
            self._geometry,
            self._rows,
            understood(recipe.algorithm, recipe.options)[0],
            projector_of(recipe.options),
            window=None,
            planned=projections,
            shared=self._run.block.members > 1,
            host=self._ranks.host,
        )
        return rows_at_once(self._backend, demand, self._threads)

    @staticmethod
    def _coupled(recipe: Recipe) -> bool:
        return understood(recipe.algorithm, recipe.options)[0].coupled

    def _chosen(self, angles: NDArray[np.float64], views: range) -> Recipe:
        """Return the recipe; how many photons there are is estimated from the rows of all ranks."""
        recon, block = self._run.recon, self._run.block
        known = np.zeros(2)
        if block.member == 0:
            found = log_photons(
                np.stack([self._archive.projection(views[view], 0, block.rows) for view in some_views(angles)])
            )
            known[:] = np.nansum(found), np.isfinite(found).sum()
        self._ranks.sum(known)
        photons = math.exp(known[0] / known[1]) if known[1] else 0.0
        projector = {"projector": recon.options["projector"]} if "projector" in recon.options else {}
        options = projector | recon.final_options
        recipe = find_recipe(recon.final, len(angles), recon.final_iterations, options, photons=photons)
        assert recipe is not None  # noqa: S101 - it is wanted
        log.info("run %s: %s, %d iterations", self._run.run_uid, recipe.algorithm, recipe.iterations)
        return recipe
