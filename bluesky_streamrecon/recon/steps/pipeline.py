"""The preparation steps of one run, in order, on one rank's rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.preparation_steps import Step, halo_rows, make_step
from bluesky_streamrecon.recon.analysis import explained
from bluesky_streamrecon.recon.archive import Archived
from bluesky_streamrecon.recon.tilt import upright

__all__ = ["Pipeline"]


class Pipeline:
    """All steps, in two parts, between which projections are archived.

    The first part ends before the first step that remembers: what it does to a projection depends on that projection
    alone. At its end the projection is set upright if the axis is tilted: by as much in every one, so stripes stay
    stripes. The second can be done again from the archive: from the first projection on, or for all at once.

    Parameters
    ----------
    preparation : sequence of str or mapping
        As in the settings.
    rows, columns : int
        Of the rank's part of a projection.
    beyond : (int, int), optional
        Rows that come with it, above and below: as many as `halo_rows` says, fewer near an edge of the detector, whose
        row then stands for those that there are not.
    side : int, optional
        The setting ``bin``.
    shifts : ndarray of float64, shape (rows,), optional
        See `upright`.

    Raises
    ------
    ConfigError
        If a step, or one of its options, is not known or can not work, or too few rows come.
    """

    def __init__(
        self,
        preparation: Sequence[str | Mapping[str, Any]],
        rows: int,
        columns: int,
        *,
        beyond: tuple[int, int] = (0, 0),
        side: int = 1,
        shifts: NDArray[np.float64] | None = None,
    ) -> None:
        self._side = side
        self._shifts = shifts
        self._preparation = tuple(preparation)
        self._shape = (rows, columns)
        halo = halo_rows(self._preparation, side)
        self._missing = (halo - beyond[0], halo - beyond[1])
        steps = self._made(self._preparation, rows, beyond)
        self._first = list(takewhile(lambda step: not step.remembers, steps))
        self._second = steps[len(self._first) :]
        with explained(f"preparation={list(preparation)} failed on a blank projection"):
            for trial in self._made(self._preparation, 1):  # compiles what it needs, too
                _try(trial, columns)

    def _made(
        self, preparation: Sequence[str | Mapping[str, Any]], rows: int, beyond: tuple[int, int] = (0, 0)
    ) -> list[Step]:
        steps = [make_step(each, self._side) for each in preparation]
        (above, below), left = beyond, sum(step.halo_rows for step in steps)
        for step in steps:
            if step.halo_rows:
                above = below = left
            step.own = slice(above, above + rows)
            step.check(above + rows + below, self._shape[1])
            step.begin(above + rows + below, self._shape[1])
            if step.halo_rows:
                above = below = left = left - step.halo_rows
        return steps

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of what the steps of the first part have corrected, by name."""
        return {name: number for step in self._first for name, number in step.counts.items()}

    def restore(self, counts: Mapping[str, int]) -> None:
        """Count on from what `counts` was in a checkpoint."""
        for step in self._first:
            step.counts.update({name: counts[name] for name in step.counts if name in counts})

    def first_part(self, projection: NDArray[np.float32], angle: float) -> NDArray[np.float32]:
        """Return a projection, shape (rows, columns), as it is archived.

        Parameters
        ----------
        projection : ndarray of float32
            With the rows beyond; may be overwritten.
        angle : float
            Radians.
        """
        missing = self._missing
        for step in self._first:
            if step.halo_rows and any(missing):
                projection, missing = np.pad(projection, (missing, (0, 0)), mode="edge"), (0, 0)
            projection = step.apply(projection, angle)
        return projection if self._shifts is None else upright(projection, self._shifts)

    def second_part(self, projection: NDArray[np.float32] | None, angle: float) -> NDArray[np.float32]:
        """Return an archived projection as it is reconstructed, NaN where it was lost; the argument is left alone."""
        if projection is None:
            projection = np.full(self._shape, np.nan, np.float32)
        if self._second:
            projection = projection.copy()
        for step in self._second:
            projection = step.apply(projection, angle)
        return projection

    def second_part_again(self, images: Iterable[Sequence[Archived]]) -> Iterator[list[Archived]]:
        """Yield what `second_part` returned for the projections of each image, from the first on."""
        self._second = self._made(self._preparation[len(self._first) :], self._shape[0])
        for projections in images:
            yield [(self.second_part(pixels, angle), angle) for pixels, angle in projections]

    def second_part_of_all(self, projections: NDArray[np.float32], angles: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return all archived projections of some rows, shape (projections, rows, columns), for the finished volume."""
        for step in self._made(self._preparation[len(self._first) :], projections.shape[1]):
            projections = step.apply_to_all(projections, angles)
        return projections


def _try(step: Step, columns: int) -> None:
    """Refuse a step that changes the shape, or makes of air what is not finite."""
    given = np.zeros((step.own.start + step.own.stop, columns), np.float32)  # as many rows on both sides of its own
    expected = (len(given) - 2 * step.halo_rows, columns)
    got: object = step.apply(given.copy(), 0.0)
    if not (isinstance(got, np.ndarray) and got.shape == expected and got.dtype == np.float32):
        what = f"{got.dtype} of shape {got.shape}" if isinstance(got, np.ndarray) else repr(got)
        raise ConfigError(
            f"preparation step {step!r}: got {what} for a projection of float32 of shape {given.shape}, expected "
            f"shape {expected}"
        )
    if not np.isfinite(got).all():
        raise ConfigError(f"preparation step {step!r}: got values that are not finite for a projection of zeros")
