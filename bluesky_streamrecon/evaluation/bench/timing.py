"""Samples, their median and their spread. Times are seconds."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bluesky_streamrecon.errors import ConfigError

__all__ = [
    "LEAST_REPEATS",
    "Summary",
    "Tell",
    "check_repeats",
    "one_thread",
    "percentile",
    "seconds_per_call",
    "silent",
]

LEAST_REPEATS = 3
"""A median of fewer samples says nothing."""

Tell = Callable[[str], None]
"""Told, in words, how far a benchmark is."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What several samples of one quantity say.

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


def silent(_text: str) -> None:
    """Tell nobody."""


def check_repeats(repeats: int) -> int:
    """Give `repeats` back.

    Raises
    ------
    ConfigError
        If there are too few for a median.
    """
    if repeats < LEAST_REPEATS:
        raise ConfigError(f"repeats: got {repeats}, expected at least {LEAST_REPEATS}, for a median with its spread")
    return repeats


def percentile(samples: Sequence[float], percent: float) -> float:
    """Give the smallest sample that so many per cent of all do not exceed.

    Examples
    --------
    >>> percentile([4.0, 1.0, 3.0, 2.0], 50), percentile([1.0, 2.0], 99)
    (2.0, 2.0)
    """
    ordered = sorted(samples)
    return ordered[max(0, -int(-len(ordered) * percent // 100) - 1)]


def seconds_per_call(
    work: Callable[[], object], *, at_least: float, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Call `work` over and over for `at_least` seconds, and give the median time of a call.

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


@contextmanager
def one_thread() -> Iterator[None]:
    """Have libraries that are loaded meanwhile, and processes that are started, use one thread each."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
