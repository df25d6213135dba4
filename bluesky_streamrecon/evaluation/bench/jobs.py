"""A real job with its controller, to which benchmarks stream scans, and a record of when its events came.

Documents go through publisher, link, MPI ranks, previews and controller as at a beamline; only the RunEngine and its
devices are left out, since they are on another computer than the job. Times are seconds.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.beamline.job_link import JobLink
from bluesky_streamrecon.beamline.launcher import MpiLauncher
from bluesky_streamrecon.beamline.processes import ProcessExit
from bluesky_streamrecon.beamline.publisher import Publisher
from bluesky_streamrecon.beamline.run_state import JobEvent
from bluesky_streamrecon.beamline.serving import (
    Acked,
    AllRanksReady,
    BeamlineEndpoint,
    PeerJoined,
    PeerLost,
    RunFinished,
)
from bluesky_streamrecon.errors import JobError
from bluesky_streamrecon.evaluation.bench.documents import ScanDocuments
from bluesky_streamrecon.evaluation.bench.sample import DARK_COUNT, FLAT_COUNT
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings
from bluesky_streamrecon.wire import Answer, Ask, RunStatus
from bluesky_streamrecon.wire.events import PeerInfo
from bluesky_streamrecon.wire.messages import Problem, Score, Status

__all__ = ["EventRecorder", "RunningJob", "running_job"]

START_SECONDS = 120.0
IMAGE_SECONDS = 300.0
SCORE_SECONDS = 60.0


class EventRecorder:
    """Callable that takes a link's events from any thread, and records when they came.

    Parameters
    ----------
    clock : callable, optional
        Seconds.

    Attributes
    ----------
    ranks : int
        Ranks that were all linked; 0 before that.
    applied : dict of int to int
        Last item that each rank acknowledged as applied, in the present run.
    imaged_at : dict of int to float
        When every rank had these many projections in the image.
    spent_at : dict of int to float
        Processor time of all processes then; 0 where the system does not report it.
    update_seconds : dict of int to float
        Time of each image's update; of ranks, the slowest one counts.
    judged_at : dict of int to float
        When the score of the image from these many projections came.
    finished : bool
        Every rank has reported the present run as done.
    status : RunStatus
        The present run, as viewers see it.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._failure: str | None = None
        self._pids: set[int] = set()
        self.ranks = 0
        self.begin("")

    def begin(self, run_uid: str) -> None:
        """Discard what was recorded of the last run, and record this one from now on."""
        with self._changed:
            self._run_uid = run_uid
            self._images: dict[int, int] = {}
            self.applied: dict[int, int] = {}
            self.imaged_at: dict[int, float] = {}
            self.spent_at: dict[int, float] = {}
            self.update_seconds: dict[int, float] = {}
            self.judged_at: dict[int, float] = {}
            self.finished = False
            self.status = RunStatus(state="reconstructing", run_uid=run_uid or None)

    @property
    def used(self) -> int:
        """Last item that every rank has acknowledged as applied."""
        return min(self.applied.values()) if len(self.applied) == self.ranks else 0

    def __call__(self, event: JobEvent, sender: PeerInfo | None = None) -> None:  # noqa: ARG002
        """Take one event."""
        now = self._clock()
        with self._changed:
            match event:
                case AllRanksReady(size=size):
                    self.ranks = size
                case PeerJoined(peer=peer):
                    self._pids.add(peer.pid)
                case Acked(run_uid=uid, rank=rank, applied=applied) if uid == self._run_uid:
                    self.applied[rank] = applied
                case Status(run_uid=self._run_uid, image_number=number):
                    self.status = msgspec.structs.replace(self.status, image_number=number, used=event.projections)
                    if event.step_seconds > 0:
                        slowest = self.update_seconds.get(event.image_number, 0.0)
                        self.update_seconds[event.image_number] = max(slowest, event.step_seconds)
                    self._images[event.rank] = event.projections
                    everywhere = min(self._images.values())
                    if len(self._images) == self.ranks and everywhere not in self.imaged_at:
                        self.imaged_at[everywhere] = now
                        self.spent_at[everywhere] = _processor_seconds(self._pids)
                case Score(run_uid=self._run_uid, projections=projections):
                    self.judged_at.setdefault(projections, now)
                case RunFinished(run_uid=uid) if uid == self._run_uid:
                    self.finished = True
                case Problem(where=where, text=text):
                    self._failure = self._failure or f"{where}: {text}"
                case ProcessExit():
                    self._failure = self._failure or str(event)
                case PeerLost(peer=peer, reason=reason):
                    self._failure = self._failure or f"{peer} lost: {reason}"
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
            If a problem was reported, or it took longer than `timeout`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None or done(), timeout)
            if self._failure is not None:
                raise JobError(f"benchmark: while it waited for {what}: {self._failure}")
            if not done():
                raise JobError(f"benchmark: {what}: did not come within {timeout:g} s; is the machine overloaded?")


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job to which scans are streamed, one after the other; see `running_job`.

    Parameters
    ----------
    recon : ReconSettings
        For all scans; the axis is known.
    shape : (int, int)
        Detector rows and columns.
    endpoint : BeamlineEndpoint
        To which viewers connect.
    events : EventRecorder
        Of the present scan.
    """

    recon: ReconSettings
    shape: tuple[int, int]
    endpoint: BeamlineEndpoint
    events: EventRecorder

    def scan(
        self,
        counts: NDArray[np.uint16],
        angles: NDArray[np.float64],
        *,
        steering: SteeringSettings,
        interval: float = 0.0,
    ) -> list[float]:
        """Stream one scan, and wait for its last score.

        Parameters
        ----------
        counts : ndarray of uint16, shape (n, rows, columns)
            Frames.
        angles : ndarray of float64, shape (n,)
            Radians.
        steering : SteeringSettings
            Advisory, since the scan goes on to its end.
        interval : float, optional
            From one projection to the next; 0: as fast as they are taken.

        Returns
        -------
        list of float
            When each projection was handed to the publisher.

        Raises
        ------
        JobError
            If a problem is reported, or something takes too long.
        """
        events, total = self.events, len(counts)
        publisher = Publisher(self.endpoint, on_problem=events.fail)
        scan = ScanDocuments(publisher, self.shape, total, self.recon, steering)
        events.begin(scan.uid)
        scan.start()
        for stream, count in (("dark", DARK_COUNT), ("flat", FLAT_COUNT)):
            scan.stream(stream)
            scan.frame(stream, 0.0, np.full(self.shape, count, np.uint16))
        scan.stream("primary")
        pause, handed, start = threading.Event(), [], time.perf_counter()
        for i in range(total):
            if interval:
                pause.wait(max(0.0, start + i * interval - time.perf_counter()))
            handed.append(time.perf_counter())
            scan.frame("primary", float(angles[i]), counts[i])
        last = total // self.recon.step * self.recon.step
        events.wait("the last image", lambda: last in events.imaged_at, IMAGE_SECONDS)
        scan.stop()
        events.wait("the end of the run", lambda: events.finished, IMAGE_SECONDS)
        events.wait("the last image's score", lambda: total in events.judged_at, SCORE_SECONDS)
        return handed


@contextmanager
def running_job(recon: ReconSettings, shape: tuple[int, int], *, threads: int | None = None) -> Iterator[RunningJob]:
    """Start a job, and end it in the end.

    Parameters
    ----------
    recon, shape
        See `RunningJob`.
    threads : int, optional
        Of each rank; by default its share of the cores.

    Raises
    ------
    JobError
        If the job does not start.
    """
    events = EventRecorder()

    def heard(event: JobEvent, sender: PeerInfo | None = None) -> None:
        if isinstance(event, Ask) and sender is not None:
            link.endpoint.answer(sender, Answer(number=event.seq, status=events.status))
        else:
            events(event)

    with tempfile.TemporaryDirectory(prefix="streamrecon-bench-") as logs:
        launcher = MpiLauncher(threads=threads, log_directory=Path(logs))
        link = JobLink(lambda on_event: BeamlineEndpoint(on_event=on_event), launcher, heard)
        try:
            link.launch(recon.ranks)
            events.wait("hello of the job and its controller", lambda: link.complete, START_SECONDS)
            yield RunningJob(recon, shape, link.endpoint, events)
        finally:
            link.close("the benchmark is over")


def _processor_seconds(pids: Collection[int]) -> float:
    """Return the processor time so far of this process and of others; 0 if the system does not report it."""
    total = 0.0
    try:
        for pid in {os.getpid(), *pids}:
            # After the name, which is in parentheses, user and system time are the 12th and 13th field.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return 0.0
    return total
