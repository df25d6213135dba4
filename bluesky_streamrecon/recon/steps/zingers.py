"""Zingers: single pixels that are far too bright in one frame, where an X-ray hit the camera itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.preparation_steps import Step

__all__ = ["Zingers"]

AROUND = 15
"""Columns to each side from which the noise is estimated."""


@dataclass
class Zingers(Step):
    """Replace what is brighter than the median of its seven neighbours in the row by that median.

    Seven columns hold zingers of up to three. Only the row is looked at, so that ranks need not exchange rows.

    Parameters
    ----------
    excess : float
        Brighter by more than this share of the median's transmission.
    deviations : float
        And by more than so many standard deviations of the noise around.
    """

    excess: Annotated[float, Meta(gt=0)] = 0.2
    deviations: Annotated[float, Meta(ge=0)] = 6.0

    def __post_init__(self) -> None:
        self.counts["zingers"] = 0

    def check(self, rows: int, columns: int) -> None:  # noqa: ARG002
        """Refuse a detector that is too narrow."""
        if columns < 7:
            raise ConfigError(f"preparation step 'zingers': got {columns} detector columns, expected at least 7")

    def apply(self, projection: NDArray[np.float32], angle: float) -> NDArray[np.float32]:  # noqa: ARG002
        """Return the projection without zingers."""
        from bluesky_streamrecon.recon.kernels.steps import replace_zingers

        # A transmission that is (1 + excess) times the median's is a line integral that is this much lower.
        least = math.log1p(self.excess)
        first, stop, _ = self.own.indices(len(projection))
        above, own, below = np.split(projection, (first, stop))
        for part in (above, below):
            replace_zingers(part, least, self.deviations, AROUND)
        self.counts["zingers"] += int(replace_zingers(own, least, self.deviations, AROUND))
        return projection
