"""Hears what a beamline's endpoint and the processes around it tell, and waits for it. Times are seconds."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bluesky_streamrecon.beamline.launcher import MpiLauncher
from bluesky_streamrecon.beamline.link import JobLink, LinkEvent
from bluesky_streamrecon.beamline.processes import ProcessExit
from bluesky_streamrecon.errors import JobError
from bluesky_streamrecon.wire import BeamlineEndpoint
from bluesky_streamrecon.wire.events import (
    Acked,
    AllRanksReady,
    PeerJoined,
    ProblemReported,
    RunFinished,
    ScoreReceived,
    StatusReceived,
    StreamFailed,
)

__all__ = ["Ear", "running_job"]

START_SECONDS = 120.0


class Ear:
    """Callable that takes events from any thread and notes when they came.

    Parameters
    ----------
    clock : callable, optional
        Seconds.
    meter : callable, optional
        Given the processes that have said hello, tells what they have used so far.

    Attributes
    ----------
    ranks : int
        Ranks that were all linked; 0 before that.
    controller : bool
        The controller has said hello.
    pids : set of int
        Processes that have said hello.
    applied : dict of int to int
        Last item that each rank acknowledged as applied, in the present run.
    imaged_at : dict of int to float
        When every rank had these many projections in the image.
    spent_at : dict of int to float
        What `meter` told then.
    judged_at : dict of int to float
        When the score of the image from these many projections came.
    finished : bool
        Every rank has reported the present run as done.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        meter: Callable[[Collection[int]], float] = lambda _pids: 0.0,
    ) -> None:
        self._clock = clock
        self._meter = meter
        self._changed = threading.Condition()
        self._failure: str | None = None
        self._images: dict[int, int] = {}
        self._run_uid = ""
        self.ranks = 0
        self.controller = False
        self.pids: set[int] = set()
        self.applied: dict[int, int] = {}
        self.imaged_at: dict[int, float] = {}
        self.spent_at: dict[int, float] = {}
        self.judged_at: dict[int, float] = {}
        self.finished = False

    def begin(self, run_uid: str) -> None:
        """Forget the last run; from now on this one counts."""
        with self._changed:
            self._run_uid = run_uid
            self._images, self.applied, self.imaged_at, self.spent_at, self.judged_at = {}, {}, {}, {}, {}
            self.finished = False

    @property
    def used(self) -> int:
        """Last item that every rank has acknowledged as applied."""
        return min(self.applied.values()) if len(self.applied) == self.ranks else 0

    def __call__(self, event: LinkEvent) -> None:
        """Take one event."""
        now = self._clock()
        with self._changed:
            match event:
                case AllRanksReady(size=size):
                    self.ranks = size
                case PeerJoined(peer=peer):
                    self.pids.add(peer.pid)
                    self.controller = self.controller or peer.role == "controller"
                case Acked(run_uid=uid, rank=rank, applied=applied) if uid == self._run_uid:
                    self.applied[rank] = applied
                case StatusReceived(status=status) if status.run_uid == self._run_uid:
                    self._images[status.rank] = status.projections
                    everywhere = min(self._images.values())
                    if len(self._images) == self.ranks and everywhere not in self.imaged_at:
                        self.imaged_at[everywhere] = now
                        self.spent_at[everywhere] = self._meter(self.pids)
                case ScoreReceived(score=score) if score.run_uid == self._run_uid:
                    self.judged_at.setdefault(score.projections, now)
                case RunFinished(run_uid=uid) if uid == self._run_uid:
                    self.finished = True
                case ProblemReported(problem=problem):
                    self._failure = self._failure or f"{problem.where}: {problem.text}"
                case StreamFailed(text=text):
                    self._failure = self._failure or text
                case ProcessExit():
                    self._failure = self._failure or str(event)
                case _:
                    return
            self._changed.notify_all()

    def fail(self, text: str) -> None:
        """End every wait with this problem."""
        with self._changed:
            self._failure = self._failure or text
            self._changed.notify_all()

    def wait(self, what: str, done: Callable[[], bool], timeout: float) -> None:
        """Wait until `done`, which may look at the attributes.

        Raises
        ------
        JobError
            If a problem was told, or it took longer than `timeout`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None or done(), timeout)
            if self._failure is not None:
                raise JobError(f"benchmark: while it waited for {what}: {self._failure}")
            if not done():
                raise JobError(f"benchmark: {what}: did not come within {timeout:g} s; is the machine overloaded?")


@contextmanager
def running_job(
    ear: Ear,
    ranks: int,
    *,
    hear: Callable[[LinkEvent], None] | None = None,
    threads: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[JobLink]:
    """Start a job and its controller, give the link when all have said hello, and end them.

    Parameters
    ----------
    ear : Ear
        What waits for them.
    ranks : int
        MPI ranks.
    hear : callable, optional
        Given all events in place of `ear`, to which it hands them on.
    threads, environment
        As for `MpiLauncher`.

    Raises
    ------
    JobError
        If they do not start.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamrecon-bench-")))
        launcher = MpiLauncher(threads=threads, log_directory=directory, environment=environment)
        link = JobLink(lambda on_event: BeamlineEndpoint(on_event=on_event), launcher, hear or ear)
        stack.callback(link.close, "the benchmark is over")
        link.launch(ranks)
        ear.wait("hello of the job and its controller", lambda: ear.ranks == ranks and ear.controller, START_SECONDS)
        yield link
