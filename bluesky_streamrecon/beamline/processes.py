"""One process that we started: its log, its standard input, and its end, which is noticed at once.

A process gets a session of its own, so that Ctrl-C at the prompt does not reach it, and a pipe as standard input:
when that closes, by `stop` or because this interpreter died, it is to exit. Times are seconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

from bluesky_streamrecon.errors import JobError

__all__ = ["Child", "ProcessExit", "log_tail"]

TAIL_LINES = 12
TERM_SECONDS = 2.0  # from SIGTERM to SIGKILL


@dataclass(frozen=True, slots=True)
class ProcessExit:
    """A process ended that nobody had asked to.

    Parameters
    ----------
    role : str
        What the process was, for people.
    code : int
        Exit status; negative: the signal that killed it.
    log : Path
        Where its output is.
    tail : str
        The last lines of it.
    expected : bool
        A scheduler ended it at its time limit, or to make room; it did not fail.
    """

    role: str
    code: int
    log: Path
    tail: str
    expected: bool = False

    @property
    def how(self) -> str:
        """How it ended, in words."""
        by = f"killed by {signal.Signals(-self.code).name}" if self.code < 0 else f"exit status {self.code}"
        return f"ended ({by})"

    def __str__(self) -> str:
        output = f"its last lines:\n{self.tail}" if self.tail else "no output; is the disk of the log full?"
        return f"{self.role} {self.how}; log: {self.log}; {output}"


@dataclass(eq=False)
class Child:
    """A supervised process.

    Parameters
    ----------
    role : str
        What it is, for people.
    command : sequence of str
        Program and arguments.
    log : Path
        File for its standard output and error.
    environment : mapping, optional
        Variables added to ours.
    on_exit : callable, optional
        Called, in a thread of ours, with a `ProcessExit` if it ends before `stop` is called.
    append : bool, optional
        Keep what is in the log.

    Raises
    ------
    JobError
        If the program can not be started.
    """

    role: str
    command: Sequence[str]
    log: Path
    _: KW_ONLY
    environment: Mapping[str, str] = field(default_factory=dict)
    on_exit: Callable[[ProcessExit], None] | None = None
    append: bool = False

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._owner = os.getpid()
        try:
            with self.log.open("ab" if self.append else "wb") as output:
                self._process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "PYTHONUNBUFFERED": "1", **self.environment},
                    start_new_session=True,
                )
        except OSError as error:
            raise JobError(f"{self.role}: {self.command[0]!r} can not be started: {error}") from error
        threading.Thread(target=self._watch, name=f"streamrecon-{self.role}", daemon=True).start()

    @property
    def pid(self) -> int:
        """Of the process; also the number of its session."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """It has not ended."""
        return not self._ended.is_set()

    @property
    def code(self) -> int | None:
        """Exit status, or None while it runs."""
        return self._process.returncode

    def release(self) -> None:
        """From now on its end is expected; close its standard input."""
        self._stopping.set()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def expect_exit(self) -> None:
        """From now on its end is expected; it was asked to in another way."""
        self._stopping.set()

    def wait(self, timeout: float) -> bool:
        """Wait for its end at most `timeout` seconds; tell whether it came."""
        return self._ended.wait(timeout)

    def stop(self, grace: float) -> None:
        """End it and everything that it started: standard input closed, SIGTERM after `grace` seconds, then SIGKILL.

        Nothing happens in a process that was forked from ours: when that ends, the job is still wanted.
        """
        if os.getpid() != self._owner:
            return
        self.release()
        if not self.wait(grace):
            _signal_session(self.pid, signal.SIGTERM)
            if not self.wait(TERM_SECONDS):
                _signal_session(self.pid, signal.SIGKILL)
                self.wait(TERM_SECONDS)
        if _session(self.pid):  # what outlived its leader
            deadline = time.monotonic() + TERM_SECONDS
            _signal_session(self.pid, signal.SIGTERM)
            pause = threading.Event()
            while _session(self.pid) and time.monotonic() < deadline:
                pause.wait(0.02)
            _signal_session(self.pid, signal.SIGKILL)

    def _watch(self) -> None:
        code = self._process.wait()
        self._ended.set()
        if not self._stopping.is_set() and self.on_exit is not None:
            self.on_exit(ProcessExit(self.role, code, self.log, log_tail(self.log)))


def log_tail(path: Path, lines: int = TAIL_LINES) -> str:
    """Return the last lines of a log file; empty if there are none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 16_384))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.rstrip().splitlines()[-lines:])


def _session(leader: int) -> list[int]:
    """Return the processes of a session that are not dead yet (Linux; elsewhere only the leader's group is known)."""
    members = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] not in ("Z", "X"):
            members.append(int(entry.parent.name))
    return members


def _signal_session(leader: int, number: int) -> None:
    """Signal a session's processes: MPI launchers put ranks into process groups of their own."""
    with contextlib.suppress(OSError):
        os.killpg(leader, number)
    for pid in _session(leader):
        with contextlib.suppress(OSError):
            os.kill(pid, number)
