"""A PandABox that triggers flights: the angles of a sweep become its position compare; needs the extra ``pva``.

Angles are degrees.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import cached_property

from ophyd_async.core import FlyableLogic, StandardFlyable
from ophyd_async.fastcs.panda import (
    PandaPcompDirection,
    PcompBlock,
    PcompInfo,
    PosOutScaleOffset,
    StaticPcompFlyableLogic,
)

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.ordering import Sweep

__all__ = ["PandaTrigger"]


@dataclass
class _SweepLogic(StaticPcompFlyableLogic):
    """Compares the position with the angles of a sweep."""

    position: PosOutScaleOffset

    async def on_prepare(self, value: Sweep) -> None:  # type: ignore[override]
        scale, offset = await asyncio.gather(self.position.scale.get_value(), self.position.offset.get_value())
        where = f"{self.position.name}: scale {scale:g} degrees per count, offset {offset:g}"
        if not scale:
            raise ConfigError(f"{where}: expected a scale other than 0; is it set in the PandABox?")
        counts = abs(value.step / scale)
        step = round(counts)
        if step < 2:
            raise ConfigError(f"{where}: a step of {value.step:g} degrees is {counts:.2g} counts, expected at least 2")
        away = abs(step - counts) * (value.num - 1)
        if away > counts / 2:
            raise ConfigError(
                f"{where}: a step of {value.step:g} degrees is {counts:.6g} counts, and pulses come at whole counts: "
                f"the last of {value.num} would be {away * abs(scale):.3g} degrees away from its angle; choose num so "
                "that a step is nearer to a whole number of counts"
            )
        await super().on_prepare(
            PcompInfo(
                start_position=round((value.first - offset) / scale),
                pulse_width=max(1, step // 2),
                rising_edge_step=step,
                number_of_pulses=value.num,
                direction=PandaPcompDirection.POSITIVE if scale > 0 else PandaPcompDirection.NEGATIVE,
            )
        )


class PandaTrigger(StandardFlyable[Sweep, None]):
    """The `trigger` of `stream_tomo_fly_plan`, by a block PCOMP of a PandABox.

    Parameters
    ----------
    pcomp : PcompBlock
        Its input is the encoder of the stage, which the PandABox is set up for; its output goes to the detectors and to
        the captures of the PandABox.
    position : PosOutScaleOffset
        Degrees per count, and degrees of count 0, of that encoder: ``PosOutScaleOffset.from_inenc(panda, 1)``.
    name : str, optional
        Of the device.
    """

    def __init__(self, pcomp: PcompBlock, position: PosOutScaleOffset, name: str = "") -> None:
        # As attributes they would be our children.
        self._logic = _SweepLogic(pcomp, position)
        super().__init__(name=name)

    @cached_property
    def flyable_logic(self) -> FlyableLogic[Sweep, None]:
        """How it fires."""
        return self._logic  # type: ignore[return-value]
