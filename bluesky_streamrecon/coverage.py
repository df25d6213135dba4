"""How evenly a set of views covers the angles of a scan, and what that means for noise and aliasing of the image.

Parallel beam: a view from the back sees what the view from the front saw, so angles count modulo a half turn. Views
of the same direction, repeated or opposite, cover it once: they lower the noise and close no gap. Angles are radians,
sizes pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bluesky_streamrecon.directions import Directions, find_directions
from bluesky_streamrecon.geometry import FULL_TURN, is_off_the_middle

__all__ = ["HALF_TURN", "AngularRange", "largest_gap"]

ARC = 5.0
"""Arc between neighbouring views at the image's edge, pixels, at which aliasing goes from a^4 over to a."""

NEARLY_ALL = 0.95
"""Share of a half turn from which on a scan is taken for a whole one: its two ends are neighbours."""


@dataclass(frozen=True, slots=True)
class AngularRange:
    """Angles that a scan is going to visit; of a half turn or more, its ends are neighbours.

    Parameters
    ----------
    start, stop : float
        Half-open range, radians.
    turn : float, optional
        Angle after which a view shows the same again, radians: a half turn, or a full turn where opposite views see
        different parts of the sample.

    Examples
    --------
    >>> AngularRange().span == math.pi
    True
    >>> wedge = AngularRange(math.radians(-60), math.radians(60))
    >>> round(math.degrees(wedge.span))
    120
    """

    start: float = 0.0
    stop: float = math.pi
    turn: float = math.pi

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> AngularRange:
        """Return the range in a run's metadata (``angle_start``, ``angle_stop``, degrees), or else a half turn."""
        try:
            start, stop = (math.radians(float(metadata[name])) for name in ("angle_start", "angle_stop"))
        except (KeyError, ValueError):
            return cls()
        return cls(start, stop) if math.isfinite(start) and 0 < stop - start < math.inf else cls()

    def around(self, axis: float, columns: int) -> AngularRange:
        """Return the range as it counts for an axis at this column of a detector: in half acquisition by full turns."""
        half_acquisition = self.full_turn and is_off_the_middle(columns, axis)
        return replace(self, turn=2 * math.pi) if half_acquisition else self

    @property
    def full_turn(self) -> bool:
        """Whether the range is a full turn: what one view does not see, the opposite one does."""
        return round(math.degrees(self.stop - self.start), 6) >= FULL_TURN  # which radians do not hit exactly

    @property
    def whole(self) -> bool:
        """Whether the two ends are neighbours."""
        return self.stop - self.start >= NEARLY_ALL * self.turn

    @property
    def span(self) -> float:
        """Angle that there is to cover, radians, at most a turn."""
        return self.turn if self.whole else self.stop - self.start

    def folded(self, angles: ArrayLike) -> NDArray[np.float64]:
        """Return angles as seen from the start, in ``[0, span]``."""
        turned = np.mod(np.asarray(angles, np.float64) - self.start, self.turn)
        if self.whole:
            return np.asarray(turned)
        outside = turned > self.span  # an angle outside belongs to the end that is nearer
        return np.where(outside, np.where(turned > (self.span + self.turn) / 2, 0.0, self.span), turned)

    def directions(self, angles: ArrayLike) -> Directions:
        """Return the directions of views, counted from the start."""
        return find_directions(self.folded(angles), self.span, cyclic=self.whole)

    def view_weights(self, angles: ArrayLike) -> NDArray[np.float64]:
        """Return each view's weight in a reconstruction, mean 1: the square root of the angle that it stands for.

        The square root lies between ignoring gaps (uneven sharpness) and filling them (noise of single views).
        """
        weights = np.sqrt(self.directions(angles).cells)
        return np.asarray(weights / weights.mean())

    def unevenness(self, angles: ArrayLike) -> float:
        """Return the mean squared gap over the squared mean gap: 1 for even directions, more where they crowd."""
        gaps = self.directions(angles).gaps
        return float(len(gaps) * (gaps**2).sum() / gaps.sum() ** 2)

    def variance(self, angles: ArrayLike) -> float:
        """Return what the variance of the image's noise is proportional to: 1 over the number of views, if even."""
        weights = self.view_weights(angles)
        return float((weights**2).sum() / weights.sum() ** 2)

    def aliasing(self, angles: ArrayLike, size: int) -> float:
        """Return what the loss by missing angles is proportional to, for an image of `size` pixels.

        It is the mean over angle of b(a), a the arc between neighbouring views at the image's edge. While the arc is
        shorter than a few pixels there is hardly any loss: b(a) = a^4 / (a + 5)^3.
        """
        gaps = self.directions(angles).gaps
        arcs = gaps * size / 2
        return float((gaps * arcs**4 / (arcs + ARC) ** 3).sum() / self.span)

    def even(self, number: int) -> NDArray[np.float64]:
        """Return so many angles, evenly spread over the range."""
        return np.asarray(self.start + (self.stop - self.start) * np.arange(number) / number)

    def even_part(self, number: int, planned: int) -> NDArray[np.float64]:
        """Return so many angles that are evenly spread, as many views of each direction as in all `planned`."""
        each = planned / len(self.directions(self.even(planned)).gaps)
        count = max(1, round(number / each))
        return np.asarray(self.start + self.span * (np.arange(number) % count) / count)


HALF_TURN = AngularRange()


def largest_gap(angles: Iterable[float], over: AngularRange = HALF_TURN) -> float | None:
    """Return the largest gap between angles (radians) of parallel-beam views, in degrees; None without angles.

    In a scan of less than a half turn, what is left at an end counts as a gap, too.

    >>> largest_gap([0.0, math.pi / 2, math.pi])
    90.0
    """
    at = np.unique(over.folded([*angles]))
    if not at.size:
        return None
    ends = [float(at[0] + over.span - at[-1])] if over.whole else [float(at[0]), float(over.span - at[-1])]
    return math.degrees(max(float(np.max(np.diff(at), initial=0.0)), *ends))
