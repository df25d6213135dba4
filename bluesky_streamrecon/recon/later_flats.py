"""Flats that are taken in between and after the projections: how each pixel's light has changed since the first ones.

Line integrals are unitless, and counted from the flats before the first projection. A pixel whose light has grown by a
factor f since then seems to attenuate less, by ln f, whatever stands before it; so what is known later is added to line
integrals that are long prepared. Between two groups of flats ln f is interpolated, by the number of the projection;
after the last it stays as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.recon.references import average

__all__ = ["Changes", "LaterFlats", "add_interpolated"]

Changes = list[tuple[int, NDArray[np.float32]]]
"""Projections before a group of flats, and ln f of each pixel, shape (rows, columns), for each group in order."""

LIKE = 2.0
"""Factor by which a row's light may have changed; beyond, that group says nothing about it."""


class LaterFlats:
    """Flats after the first projection, of some detector rows.

    Parameters
    ----------
    rows, columns : int
        Of a frame.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self._shape = (rows, columns)
        self._frames: dict[int, tuple[int, float, NDArray[np.generic]]] = {}

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, index: int, after: int, frame: NDArray[np.generic], beam: float = 1.0) -> None:
        """Take flat number `index`, which came after so many projections; one that comes again is the same.

        `beam` is what a monitor says of it, over the first flats.
        """
        self._frames[index] = (after, beam, frame.copy())

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the flats, for `restore`."""
        if not self._frames:
            return {}
        places = [(index, after, beam) for index, (after, beam, _) in self._frames.items()]
        return {
            "later_flats": np.stack([frame for *_, frame in self._frames.values()]),
            "later_flats_at": np.asarray(places),
        }

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on from what `arrays` returned."""
        if "later_flats" in arrays:
            places = arrays["later_flats_at"].tolist()
            for (index, after, beam), frame in zip(places, arrays["later_flats"], strict=True):
                self.add(int(index), int(after), frame, beam)

    def changes(
        self, dark: NDArray[np.float32], scale: NDArray[np.float32], limit: float | None, warnings: list[str]
    ) -> Changes:
        """Return what is known of all groups; what one says nothing about is as in the group before.

        Parameters
        ----------
        dark, scale : ndarray, shape (rows, columns)
            Counts, and one over the first flats less the dark.
        limit : float or None
            Counts from which a pixel is saturated, if known.
        warnings : list of str
            Where what people should know is appended.
        """
        found: Changes = []
        before = np.zeros(self._shape, np.float32)
        in_order = sorted((after, index) for index, (after, *_) in self._frames.items())
        for after, group in groupby(in_order, key=lambda each: each[0]):
            taken = [self._frames[index] for _, index in group]
            means = average([frame for *_, frame in taken], [dark], limit, [beam for _, beam, _ in taken])
            warnings += [f"{text} (those after projection {after})" for text in means.warnings]
            light = (means.flat - dark) * scale
            usual = np.median(light, axis=1)
            like = (usual > 1 / LIKE) & (usual < LIKE)
            usable = like[:, np.newaxis] & (light > usual[:, np.newaxis] / LIKE) & (light < usual[:, np.newaxis] * LIKE)
            if not like.all():
                warnings.append(
                    f"flats: those after projection {after} are {np.median(usual):.3g} times as bright as the first "
                    f"ones, and rows that differ more than {LIKE:g} times are not used; was something in the beam, or "
                    "the shutter closed?"
                )
            before = np.where(usable, np.log(np.where(usable, light, 1)), before).astype(np.float32)
            found.append((after, before))
        return found


def add_interpolated(projections: NDArray[np.float32], changes: Changes, rows: slice, first: int = 0) -> None:
    """Add what the light of each pixel has changed by to all projections of some rows, in place.

    Parameters
    ----------
    projections : ndarray of float32, shape (projections, rows, columns)
        In the order in which they were taken.
    changes : Changes
        At least one group, of a whole block.
    rows : slice
        Which rows of the block `projections` have.
    first : int, optional
        Projections that were taken before these.
    """
    groups = [(0, np.zeros_like(changes[0][1])), *changes]
    places = np.interp(
        first + np.arange(len(projections)) + 0.5, [after for after, _ in groups], np.arange(len(groups))
    )
    for number, place in enumerate(places):
        before = min(int(place), len(groups) - 2)
        share = np.float32(place - before)
        projections[number] += (1 - share) * groups[before][1][rows] + share * groups[before + 1][1][rows]
