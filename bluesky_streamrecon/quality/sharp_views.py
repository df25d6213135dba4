"""Views along flat edges: where edges run in few directions, a few views hold most of what there is to see.

So do those of layers, or of a lattice. A view sees a flat edge of D pixels sharply only if it looks along it, within
about one pixel over D. How much detail the views show tells where that is, and how much more of it may come. Angles are
radians, arcs pixels at the image's edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.coverage import AngularRange
from bluesky_streamrecon.quality.trials import TrialReconstruction

__all__ = ["SharpViews", "detail_at_most", "find_sharp_views"]

SHARPEST = 4.0
"""Detail of the sharpest view over the mean of all, above which edges run in few directions. Straight fibres have up
to 3, and layers and lattices 4 to 50."""

HALF_WIDTH = 0.85
"""Arc from the view along an edge to one that shows half as much detail: it falls like 1 / (1 + arc / half width)."""


@dataclass(frozen=True, slots=True)
class SharpViews:
    """How much a few views of a scan hold.

    Parameters
    ----------
    sharpest : float
        Detail of the sharpest view beyond noise, over the mean of all.
    widest : float
        Widest arc between neighbouring views.
    rise : float
        By how much the mean detail of views may still rise, as a share of that at the end; negative where it falls.
    """

    sharpest: float
    widest: float
    rise: float

    @property
    def few(self) -> bool:
        """Whether edges run in few directions."""
        return self.sharpest > SHARPEST


def find_sharp_views(study: TrialReconstruction) -> SharpViews:
    """Return how much a few of the views so far hold, and what the scan's other views may bring."""
    detail, noise = study.detail
    mean, over = float(detail.mean()), study.lines.over
    if not mean > 0:
        return SharpViews(0.0, 0.0, 0.0)
    at_end = float(np.mean(detail_at_most(study.lines.planned_angles, study.angles, detail, over, study.size)))
    widest = float(over.directions(study.angles).gaps.max()) * study.size / 2
    return SharpViews(float(np.max(detail - noise)) / mean, widest, 1 - mean / at_end)


def detail_at_most(
    wanted: NDArray[np.float64],
    angles: NDArray[np.float64],
    detail: NDArray[np.float64],
    over: AngularRange,
    size: int,
) -> NDArray[np.float64]:
    """Return how much detail views may show, by that of the views beside them.

    Parameters
    ----------
    wanted, angles : ndarray of float64, shape (k,) and (m,)
        Of these views, and of those whose detail is known.
    detail : ndarray of float64, shape (m,)
        Of those.
    over : AngularRange
        Angles of the scan.
    size : int
        Side of the image, pixels.

    Returns
    -------
    ndarray of float64, shape (k,)
        Interpolated; but between two sharp views the sharpest that lets both show no more than they do.
    """
    folded = over.folded(angles)
    order = np.argsort(folded, kind="stable")
    places = np.concatenate([folded[order[-1:]] - over.turn, folded[order], folded[order[:1]] + over.turn])
    shown = detail[np.concatenate([order[-1:], order, order[:1]])]
    at = over.folded(wanted)
    found = np.interp(at, places, shown)
    after = np.clip(np.searchsorted(places, at, "right"), 1, len(places) - 1)
    both = np.minimum(shown[after - 1], shown[after])
    arc = np.minimum(at - places[after - 1], places[after] - at) * size / 2
    hidden = both * (1 + arc / HALF_WIDTH)
    return np.asarray(np.where(both > SHARPEST * detail.mean(), np.maximum(found, hidden), found))
