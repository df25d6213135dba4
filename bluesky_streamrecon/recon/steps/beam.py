"""A beam that fades or flickers: each row is normalised by what passes the sample on its sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.preparation_steps import Step

__all__ = ["Beam"]


@dataclass
class Beam(Step):
    """Divide transmissions by the open beam, interpolated between the two sides of each row.

    Parameters
    ----------
    left, right : int
        Columns at the sides that the sample never covers; 0: that side is not used, and the beam taken as even.
    """

    left: Annotated[int, Meta(ge=0)] = 0
    right: Annotated[int, Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        if not self.left + self.right:
            raise ConfigError(
                f"preparation step 'beam': got left={self.left}, right={self.right}; expected how many columns at the "
                "left and the right the sample never covers, at least one altogether"
            )

    def check(self, rows: int, columns: int) -> None:  # noqa: ARG002
        """Refuse sides that overlap."""
        if self.left + self.right > columns:
            raise ConfigError(
                f"preparation step 'beam': got left={self.left}, right={self.right} for {columns} detector columns, "
                "which overlap"
            )

    def apply(self, projection: NDArray[np.float32], angle: float) -> NDArray[np.float32]:  # noqa: ARG002
        """Return the projection as if the beam had been that of the flats."""
        columns = projection.shape[1]
        sides = [side for side in (projection[:, : self.left], projection[:, columns - self.right :]) if side.shape[1]]
        # The mean of transmissions, not of their logarithms: noise must not shift it.
        beams = [np.exp(-side.astype(np.float64)).mean(axis=1, keepdims=True) for side in sides]
        between = np.linspace(0, 1, columns) if len(beams) == 2 else np.zeros(columns)
        projection += np.log(beams[0] + between * (beams[-1] - beams[0])).astype(np.float32)
        return projection
