"""A rotation axis and how much to trust it: from which method, and what another one says. Lengths are pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bluesky_streamrecon.recon.field_of_view import in_words

__all__ = ["EDGES", "GIVEN", "HARMONICS", "OPPOSITE", "WEDGE", "AxisEstimate"]

HARMONICS = "the angular harmonics of all views"
OPPOSITE = "opposite views"
EDGES = "edges in opposite views"
WEDGE = "the double wedge of the sinogram"
GIVEN = "what was given"
"""Methods, as they are named in messages."""

AGREE = 1.0
"""Difference between two methods, pixels, above which they do not find the same axis."""

_ENOUGH_UNCERTAINTY = 0.25
_ENOUGH_SEPARATION = 10.0
_WIDEST_GAP = 30.0


@dataclass(frozen=True, slots=True)
class AxisEstimate:
    """A rotation axis and how much to trust it.

    Parameters
    ----------
    axis : float
        Detector column, sub-pixel.
    uncertainty : float
        Standard error from the noise that the fit leaves, pixels; infinite when nothing could be fitted.
    separation : float
        How much worse the best other axis (more than 3 pixels away) explains the data, in standard deviations of
        the noise that the fit leaves.
    projections : int
        Projections that were used.
    sides : tuple of str, optional
        ``"left"`` and ``"right"``: edges of the detector at which the sample reaches out of view.
    method : str, optional
        How it was found.
    sees_enough : bool, optional
        It was found in a way that need not see all of the sample.
    other : (str, float) or None, optional
        Another method and the axis that it finds.
    gap : float, optional
        Largest gap between views, degrees of the half turn; in a wide one the fit can follow what is wrong with the
        axis, which its uncertainty does not show.
    """

    axis: float
    uncertainty: float
    separation: float
    projections: int
    sides: tuple[str, ...] = ()
    method: str = HARMONICS
    sees_enough: bool = False
    other: tuple[str, float] | None = None
    gap: float = 0.0

    @property
    def confident(self) -> bool:
        """Whether the axis is known to a quarter of a pixel, nothing else explains the data, and they could tell."""
        sees_all = self.sees_enough or not (self.sides or self.gap > _WIDEST_GAP)
        return sees_all and self.uncertainty <= _ENOUGH_UNCERTAINTY and self.separation >= _ENOUGH_SEPARATION

    @property
    def disagreement(self) -> str:
        """What two methods find if it is not the same, and what to do; empty if they agree, or there is one only."""
        if self.other is None or abs(self.other[1] - self.axis) <= AGREE:
            return ""
        name, axis = self.other
        return (
            f"rotation axis: column {self.axis:.2f} by {self.method}, but {axis:.2f} by {name}, which is more than a "
            "pixel away; look which one makes the sharper image, and give axis="
        )

    @property
    def doubt(self) -> str:
        """Why the axis is not to be trusted, and what to do; empty if it is."""
        if self.confident:
            return ""
        wide = f"the views leave a gap of {self.gap:.0f} degrees" if self.gap > _WIDEST_GAP else ""
        reasons = ", ".join(filter(None, (in_words(self.sides), wide)))
        why = f" ({reasons})" if reasons else ""
        other = "" if self.other is None else f", by {self.other[0]} column {self.other[1]:.2f}"
        return f"rotation axis: {self}{other}{why}; give axis= in detector columns"

    def __str__(self) -> str:
        trust = "" if self.confident else ", not certain"
        band = f" ± {self.uncertainty:.2g}" if math.isfinite(self.uncertainty) else ""
        return f"column {self.axis:.2f}{band} from {self.projections} projections{trust}"
