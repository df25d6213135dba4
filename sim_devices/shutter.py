"""The two things that stand in the beam's way: shutter and sample table."""

from __future__ import annotations

from typing import TypeVar

from ophyd_async.core import SignalRW, SoftSignalBackend, StrictEnum

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


class _Switch(SignalRW[State]):
    """A signal that is set to one of the positions there are, and arrives at once."""

    def __init__(self, positions: type[State], initial: State, name: str) -> None:
        self._positions = positions
        super().__init__(SoftSignalBackend(positions, initial, setter=self._arrive), name=name)

    def _arrive(self, position: State | None) -> None:
        """Do what comes with a position."""

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

    def _arrive(self, position: ShutterState | None) -> None:
        self.closings += position == ShutterState.CLOSED


class SampleTable(_Switch[SamplePosition]):
    """Takes the sample ``"in"`` to the beam or ``"out"`` of it; flats are taken with it out.

    Parameters
    ----------
    name : str, optional
        Of the device and its reading.
    """

    def __init__(self, name: str = "") -> None:
        super().__init__(SamplePosition, SamplePosition.IN, name)
