"""Flats and darks that come after the first projection: how the light and the dark of each pixel have changed by then.

Line integrals are unitless, and counted from the flats and darks before the first projection. A pixel whose light has
grown by a factor f since then seems to attenuate less, by ln f, whatever stands before it; one whose dark has grown by
a share d of the light seems to transmit d more. So what is known later can be taken off line integrals that are long
prepared. Between two groups of frames ln f, and d, are interpolated, by the number of the projection; after the last
they stay as they were. With a monitor, d is that of the beam in the first flats.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.recon.references import average, robust_means

__all__ = ["LEAST_TRANSMISSION", "Changes", "Kind", "Reference", "changes_since", "take_off"]

LEAST_TRANSMISSION = 1e-6
"""Transmissions are clipped to this from below, so line integrals stay below 13.8."""

LIKE = 2.0
"""Factor by which a row's light may have changed; beyond, that group says nothing about it."""

LIT = 0.25
"""Share of the light by which a row's dark may have grown; beyond, the shutter was open."""

Kind = Literal["flat", "dark"]
Groups = list[tuple[int, NDArray[np.float32]]]
"""Projections before a group of frames, and what has changed of each pixel, shape (rows, columns), in order."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What has changed since the first flats and darks.

    Parameters
    ----------
    light : Groups
        ln f.
    dark : Groups
        d.
    """

    light: Groups
    dark: Groups

    def __bool__(self) -> bool:
        return bool(self.light or self.dark)


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """A flat or dark as it came.

    Parameters
    ----------
    kind : {"flat", "dark"}
        Which.
    index : int
        Its number among those of its kind.
    after : int
        Projections that came before it.
    monitor : float
        What the beam's monitor has read with it.
    frame : ndarray, shape (rows, columns)
        Counts.
    """

    kind: Kind
    index: int
    after: int
    monitor: float
    frame: NDArray[np.generic]


def changes_since(
    dark: NDArray[np.float32],
    scale: NDArray[np.float32],
    monitor: float,
    later: Iterable[Reference],
    limit: float | None,
    warnings: list[str],
) -> Changes:
    """Return what is known from all groups of later frames; what one says nothing about is as in the group before.

    Parameters
    ----------
    dark, scale : ndarray, shape (rows, columns)
        Counts, and one over the first flats less the dark.
    monitor : float
        Mean reading with the first flats.
    later : iterable of Reference
        Frames that came after the first projection.
    limit : float or None
        Counts from which a pixel is saturated, if known.
    warnings : list of str
        Where what people should know is appended.
    """
    in_order = sorted(later, key=attrgetter("kind", "after", "index"))
    groups = [(*key, list(group)) for key, group in groupby(in_order, key=attrgetter("kind", "after"))]
    darks: Groups = []
    before = np.zeros_like(dark)
    for after, taken in (group for kind, *group in groups if kind == "dark"):
        grown = (robust_means([each.frame for each in taken]) - dark) * scale
        like = np.abs(np.median(grown, axis=1)) < LIT
        usable = like[:, np.newaxis] & (np.abs(grown) < LIT)
        if not like.all():
            warnings.append(
                f"darks: those after projection {after} differ from the first ones by "
                f"{np.median(grown):.2g} of the flats, and rows that differ more than {LIT:g} are not used; was "
                "the shutter open?"
            )
        before = np.where(usable, grown, before).astype(np.float32)
        darks.append((after, before))
    light: Groups = []
    before = np.zeros_like(dark)
    for after, taken in (group for kind, *group in groups if kind == "flat"):
        floor = dark
        if darks:
            (by_then,) = _interpolated(darks, [after], slice(None))
            floor = dark + by_then / scale
        beams = [each.monitor / monitor for each in taken]
        means = average([each.frame for each in taken], [floor], limit, beams)
        warnings += [f"{text} (those after projection {after})" for text in means.warnings]
        bright = (means.flat - floor) * scale
        usual = np.median(bright, axis=1)
        like = (usual > 1 / LIKE) & (usual < LIKE)
        least, most = usual[:, np.newaxis] / LIKE, usual[:, np.newaxis] * LIKE
        usable = like[:, np.newaxis] & (bright > least) & (bright < most)
        if not like.all():
            warnings.append(
                f"flats: those after projection {after} are {np.median(usual):.3g} times as bright as the first "
                f"ones, and rows that differ more than {LIKE:g} times are not used; was something in the beam, or "
                "the shutter closed?"
            )
        before = np.where(usable, np.log(np.where(usable, bright, 1)), before).astype(np.float32)
        light.append((after, before))
    return Changes(light, darks)


def take_off(projections: NDArray[np.float32], changes: Changes, rows: slice, first: int = 0) -> None:
    """Correct all projections of some rows, in place, by what light and dark of each pixel have changed.

    Parameters
    ----------
    projections : ndarray of float32, shape (projections, rows, columns)
        In the order in which they were taken.
    changes : Changes
        Of a whole block.
    rows : slice
        Which rows of the block `projections` have.
    first : int, optional
        Projections that were taken before these.
    """
    places: list[float] = (first + np.arange(len(projections)) + 0.5).tolist()
    if changes.dark:
        for projection, grown in zip(projections, _interpolated(changes.dark, places, rows), strict=True):
            seen = np.exp(-projection) - grown
            projection[:] = -np.log(np.maximum(seen, np.float32(LEAST_TRANSMISSION)))
    if changes.light:
        for number, brighter in enumerate(_interpolated(changes.light, places, rows)):
            projections[number] += brighter


def _interpolated(groups: Groups, places: Sequence[float], rows: slice) -> Iterator[NDArray[np.float32]]:
    """Yield what has changed at some places, in projections: nothing at 0, and as in the last group after it."""
    known = [(0, np.zeros_like(groups[0][1])), *groups]
    for place in np.interp(places, [after for after, _ in known], np.arange(len(known))):
        before = min(int(place), len(known) - 2)
        share = np.float32(place - before)
        yield (1 - share) * known[before][1][rows] + share * known[before + 1][1][rows]
