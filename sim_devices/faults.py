"""What can go wrong at a beamline, to be switched on in tests of steering.

Projections and moves are counted from 0 since the detector was last staged (projections) or the stage was made
(moves). Lengths are detector pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bluesky_streamrecon.errors import ConfigError

__all__ = ["Faults"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Faults of a simulated beamline; the default has none.

    Parameters
    ----------
    drift : (float, float), optional
        How far the sample creeps on its mount with each projection, (u, v) in pixels.
    jump_at : int, optional
        Projection from which on the sample sits elsewhere by `jump`.
    jump : (float, float), optional
        That step, (u, v) in pixels.
    dimming : float, optional
        Share of the beam lost with each projection, in [0, 1); the beam is back when the shutter was closed.
    flat_drift : float, optional
        How far the beam's pattern of stripes moves along the row with each projection, pixels; as `dimming`.
    dark_from : int, optional
        Projection from which on something blocks the detector: frames are dark frames.
    empty_from : int, optional
        Projection from which on the sample is gone: frames are flat frames.
    crack_at : int, optional
        Projection from which on a crack opens in the sample, see `bluesky_streamrecon.sim_devices.samples.crack`.
    crack_over : int, optional
        Projections in which it opens; then it stays as it is.
    slips_from : int, optional
        Move from which on the sample no longer turns, while the stage reports that it arrived.
    stalls_from : int, optional
        Move from which on the stage does not start and fails the move.

    Raises
    ------
    ConfigError
        If a number is negative, not finite, or out of range.
    """

    drift: tuple[float, float] = (0.0, 0.0)
    jump_at: int | None = None
    jump: tuple[float, float] = (0.0, 0.0)
    dimming: float = 0.0
    flat_drift: float = 0.0
    dark_from: int | None = None
    empty_from: int | None = None
    crack_at: int | None = None
    crack_over: int = 20
    slips_from: int | None = None
    stalls_from: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.dimming < 1:
            raise ConfigError(f"dimming: got {self.dimming}, expected a share of the beam in [0, 1)")
        if not all(math.isfinite(x) for x in (*self.drift, *self.jump, self.flat_drift)):
            raise ConfigError(
                f"drift, jump, flat_drift: got {self.drift}, {self.jump} and {self.flat_drift}, expected finite pixels"
            )
        for name in ("jump_at", "crack_at", "crack_over", "dark_from", "empty_from", "slips_from", "stalls_from"):
            count = getattr(self, name)
            if count is not None and count < 0:
                raise ConfigError(f"{name}: got {count}, expected None or a count from 0")

    @property
    def moves_sample(self) -> bool:
        """Whether the sample ever leaves its place on the mount, or cracks."""
        return (
            self.crack_at is not None
            or self.drift != (0.0, 0.0)
            or (self.jump_at is not None and self.jump != (0.0, 0.0))
        )

    def shift(self, projection: int) -> tuple[float, float]:
        """Return the sample's displacement (u, v) at a projection, pixels."""
        jumped = self.jump_at is not None and projection >= self.jump_at
        u, v = (projection * d + (j if jumped else 0.0) for d, j in zip(self.drift, self.jump, strict=True))
        return u, v

    def crack(self, projection: int) -> float:
        """Return how far the crack is open at a projection, 0 to 1."""
        if self.crack_at is None or projection < self.crack_at:
            return 0.0
        return min((projection - self.crack_at + 1) / max(self.crack_over, 1), 1.0)

    def beam(self, projection: int) -> float:
        """Return the share of the full beam that arrives at a projection."""
        return float((1.0 - self.dimming) ** projection)

    def pattern(self, projection: int) -> float:
        """Return how far the beam's pattern has moved at a projection, pixels."""
        return projection * self.flat_drift
