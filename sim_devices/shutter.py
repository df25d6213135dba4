"""The two things that stand in the beam's way: shutter and sample table."""

from __future__ import annotations

from typing import Generic, TypeVar

from bluesky.protocols import Location
from ophyd_async.core import AsyncStatus, StandardReadable, StrictEnum, soft_signal_rw
from ophyd_async.core import StandardReadableFormat as Format

from bluesky_streamrecon.errors import ConfigError

__all__ = ["SamplePosition", "SampleTable", "Shutter", "ShutterState"]


class ShutterState(StrictEnum):
    """Positions of the shutter."""

    OPEN = "open"
    CLOSED = "closed"


class SamplePosition(StrictEnum):
    """Positions of the sample table."""

    IN = "in"
    OUT = "out"


State = TypeVar("State", bound=StrictEnum)


class _Switch(StandardReadable, Generic[State]):
    """Arrives at once, at one of the positions there are.

    Its status is a plain one: a progress bar can not subtract ``"open"`` from ``"closed"``.
    """

    def __init__(self, positions: type[State], initial: State, name: str) -> None:
        self._positions = positions
        with self.add_children_as_readables(Format.HINTED_SIGNAL):
            self.position = soft_signal_rw(positions, initial)
        super().__init__(name=name)

    def set_name(self, name: str, *, child_name_separator: str | None = None) -> None:
        """Name the device; its one reading has the same name."""
        super().set_name(name, child_name_separator=child_name_separator)
        self.position.set_name(name)

    async def check_value(self, value: State) -> None:
        """Refuse what is not a position.

        Raises
        ------
        ConfigError
            Naming the positions there are.
        """
        if value not in list(self._positions):
            expected = " or ".join(repr(position.value) for position in self._positions)
            raise ConfigError(f"{self.name}: got {value!r}, expected {expected}")

    @AsyncStatus.wrap
    async def set(self, value: State) -> None:
        """Go to a position."""
        await self.check_value(value)
        await self.position.set(value)

    async def locate(self) -> Location[State]:
        """Return where it is, which is where it was sent."""
        position = await self.position.get_value()
        return Location(setpoint=position, readback=position)


class Shutter(_Switch[ShutterState]):
    """The beam's shutter: set it to ``"open"`` or ``"closed"``; darks are taken with it closed.

    Parameters
    ----------
    name : str, optional
        Of the device and its reading.

    Attributes
    ----------
    closings : int
        How often it was closed.
    """

    def __init__(self, name: str = "") -> None:
        self.closings = 0
        super().__init__(ShutterState, ShutterState.OPEN, name)

    @AsyncStatus.wrap
    async def set(self, value: ShutterState) -> None:
        """Open or close."""
        await super().set(value)
        self.closings += value == ShutterState.CLOSED


class SampleTable(_Switch[SamplePosition]):
    """Takes the sample ``"in"`` to the beam or ``"out"`` of it; flats are taken with it out.

    Parameters
    ----------
    name : str, optional
        Of the device and its reading.
    """

    def __init__(self, name: str = "") -> None:
        super().__init__(SamplePosition, SamplePosition.IN, name)
