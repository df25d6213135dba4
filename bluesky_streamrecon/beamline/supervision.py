"""How often, and how soon, a process of a job that died is started again. No processes and no clock in here.

Times are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bluesky_streamrecon.beamline.processes import ProcessExit
from bluesky_streamrecon.errors import ConfigError

__all__ = ["RestartFailed", "RestartProcess", "Supervision"]


@dataclass(frozen=True, slots=True)
class RestartProcess:
    """Start a process that has died once more, `delay` seconds from now."""

    exited: ProcessExit
    delay: float


@dataclass(frozen=True, slots=True)
class RestartFailed:
    """A process that had died could not be started again.

    Parameters
    ----------
    exited : ProcessExit
        How it had ended.
    why : str
        Why it could not be.
    """

    exited: ProcessExit
    why: str

    def __str__(self) -> str:
        return f"{self.exited.role} could not be started again: {self.why}; before that: {self.exited}"


@dataclass
class Supervision:
    """How often each process of a job may be started again in one run, and how soon.

    Parameters
    ----------
    restarts : int
        Most restarts of each process in one run; 0: none.
    backoff : float
        Wait before the first, seconds; doubled each time.

    Raises
    ------
    ConfigError
        If a number can not work.

    Examples
    --------
    >>> from pathlib import Path
    >>> died = ProcessExit("controller", 1, Path("control.log"), "")
    >>> supervision = Supervision(restarts=2, backoff=1.0)
    >>> supervision.delay(died), supervision.delay(died), supervision.delay(died)
    (1.0, 2.0, None)
    """

    restarts: int = 3
    backoff: float = 1.0
    _count: dict[str, int] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.restarts < 0 or self.backoff < 0:
            raise ConfigError(
                f"supervision: got restarts={self.restarts} and backoff={self.backoff} s, expected 0 or more of both"
            )

    def delay(self, exited: ProcessExit) -> float | None:
        """Count a death, and return the seconds to wait before the restart; None: it has died too often.

        A job that a scheduler ended at its time limit has not died of itself: that is not counted.
        """
        count = self._count.get(exited.role, 0)
        if exited.expected:
            return min(self.backoff, 1.0) if self.restarts else None
        if count >= self.restarts:
            return None
        self._count[exited.role] = count + 1
        return float(self.backoff * 2**count)

    def ordinal(self, exited: ProcessExit) -> str:
        """Return which restart this is, in words."""
        return "time limit reached" if exited.expected else f"restart {self._count[exited.role]} of {self.restarts}"

    def describe(self, exited: ProcessExit) -> str:
        """Return how it ended for good, in words."""
        count = self._count.get(exited.role, 0)
        return f"{exited} (after {count} restarts, the limit)" if count else str(exited)
