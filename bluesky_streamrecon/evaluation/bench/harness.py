"""What all benchmarks share: samples taken in turns, their median and spread, and processes beside this one.

Times are seconds.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

from bluesky_streamrecon.errors import JobError, StreamReconError
from bluesky_streamrecon.exit_hooks import when_closed

__all__ = [
    "Summary", "beside", "printed", "seconds_per_call", "started", "take_turns",
]  # fmt: skip

END_SECONDS = 30.0

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

    Examples
    --------
    >>> samples = iter([2.0, 3.0, 4.0])
    >>> take_turns(3, lambda: {"rate": next(samples)})
    {'rate': Summary(median=3.0, spread=0.6666666666666666)}
    """
    samples = []
    for number in range(1, repeats + 1):
        logger.info("turn %d of %d", number, repeats)
        samples.append(turn())
    return {name: Summary.of([each[name] for each in samples]) for name in samples[0]}


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
def started(*words: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``python -m`` these words, and end it in the end, whatever it is doing."""
    command = [sys.executable, "-m", *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.send_signal(signal.SIGCONT)  # one that was stopped ends only then
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
            process.kill()


@contextlib.contextmanager
def beside(function: Callable[..., object], *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Call a function of a module in a process of its own: ``function(ending, *arguments)``; all are JSON's values.

    The event `ending` is set when the standard input is closed there, as when this process is gone. What the function
    returns is the last thing that it prints, see `printed`.
    """
    with started(__name__, f"{function.__module__}:{function.__name__}", *map(json.dumps, arguments)) as process:
        yield process


def printed(process: subprocess.Popen[str], what: str) -> Any:
    """Return the next value that a process prints, JSON on a line.

    Raises
    ------
    JobError
        If it has ended before.
    """
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        raise JobError(f"benchmark: {what}: the process has ended with exit status {process.wait()}; see above why")
    return json.loads(line)


def _call(name: str, *arguments: str) -> None:
    """Be the process that `beside` starts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches it, too: it ends with the one that has started it
    ending = threading.Event()
    when_closed(0, ending.set)
    module, _, function = name.partition(":")
    try:
        found = getattr(import_module(module), function)(ending, *map(json.loads, arguments))
    except StreamReconError as error:
        sys.exit(str(error))
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    _call(*sys.argv[1:])
