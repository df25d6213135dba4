"""What all benchmarks share: samples taken in turns, their median and spread, and processes beside this one.

Times are seconds.
"""

from __future__ import annotations

import contextlib
import logging
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bluesky_streamrecon.errors import ConfigError

__all__ = ["LEAST_REPEATS", "Summary", "check_repeats", "first_line", "seconds_per_call", "started", "take_turns"]

END_SECONDS = 30.0
LEAST_REPEATS = 3
"""Fewest samples for a median."""

Name = TypeVar("Name", bound=Hashable)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Summary:
    """Several samples of one quantity.

    Parameters
    ----------
    median : float
        Of the samples, in their unit.
    spread : float
        Largest minus smallest, as a fraction of the median.
    """

    median: float
    spread: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Summary:
        """Summarize samples.

        Examples
        --------
        >>> Summary.of([9.0, 10.0, 12.0])
        Summary(median=10.0, spread=0.3)
        """
        middle = statistics.median(samples)
        return cls(middle, (max(samples) - min(samples)) / middle if middle else 0.0)


def take_turns(repeats: int, turn: Callable[[], Mapping[Name, float]]) -> dict[Name, Summary]:
    """Measure all quantities of a benchmark once per turn, so that what disturbs one turn disturbs all of them.

    Parameters
    ----------
    repeats : int
        Turns.
    turn : callable
        Returns one sample of each quantity; a ratio is one of them, taken of the samples of its own turn.

    Raises
    ------
    ConfigError
        If there are too few turns for a median.

    Examples
    --------
    >>> samples = iter([2.0, 3.0, 4.0])
    >>> take_turns(3, lambda: {"rate": next(samples)})
    {'rate': Summary(median=3.0, spread=0.6666666666666666)}
    """
    check_repeats(repeats)
    samples = []
    for number in range(1, repeats + 1):
        logger.info("turn %d of %d", number, repeats)
        samples.append(turn())
    return {name: Summary.of([each[name] for each in samples]) for name in samples[0]}


def check_repeats(repeats: int) -> None:
    """Raise `ConfigError` if there are too few turns for a median, before anything is set up."""
    if repeats < LEAST_REPEATS:
        raise ConfigError(f"repeats: got {repeats}, expected at least {LEAST_REPEATS}, for a median with its spread")


def seconds_per_call(
    work: Callable[[], object], *, at_least: float, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Call `work` over and over for `at_least` seconds, and return the median time of a call.

    On a busy machine a few calls are interrupted by other programs; the median is that of the others.
    """
    taken = []
    first = before = clock()
    while True:
        work()
        now = clock()
        taken.append(now - before)
        before = now
        if now - first >= at_least:
            return statistics.median(taken)


@contextlib.contextmanager
def started(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a module in a process of its own, which ends when its standard input is closed, as when this one is gone."""
    command = [sys.executable, "-m", module, *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(ValueError):  # communicated with already
            process.communicate(timeout=END_SECONDS)


def first_line(process: subprocess.Popen[str]) -> str:
    """Return the next line that a process of `started` prints; empty if it has ended."""
    return "" if process.stdout is None else process.stdout.readline().strip()
