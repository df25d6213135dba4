"""A rank's end of the projection stream, on a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from typing import Literal, cast

from bluesky_streamrecon.errors import ConfigError, LocalProtocolError
from bluesky_streamrecon.wire.codec import MAXIMUM_PIXEL_BYTES
from bluesky_streamrecon.wire.events import ItemLost, ItemReceived, RankEvent, RunAbandoned, RunClosed, RunOpened
from bluesky_streamrecon.wire.member_loop import MemberLoop
from bluesky_streamrecon.wire.members import Member
from bluesky_streamrecon.wire.messages import Hello, Problem, RunDone, Status
from bluesky_streamrecon.wire.security import ClientSecurity
from bluesky_streamrecon.wire.sockets import Transport, own_software, process_info
from bluesky_streamrecon.wire.worker import EventQueue

__all__ = ["RankEndpoint"]

log = logging.getLogger(__name__)


class RankEndpoint:
    """A rank's end of the projection stream.

    Parameters
    ----------
    address : str
        Of the beamline.
    job_id : str
        The beamline's.
    rank, size : int
        This rank and the number of ranks.
    security : ClientSecurity, optional
        Own key files and the beamline's public key.
    credit : int
        Items held that are not applied yet; raised to twice the run's window or step where that is more. A user who
        takes so many without reporting any as applied gets no more.
    resume : (str, int), optional
        Run uid and last applied item of a checkpoint: that run's items are sent from the one after it.
    software : str
        Name and version, for people.
    clock : callable
        Monotonic seconds.

    Raises
    ------
    ConfigError
        If the address can not be used.
    """

    def __init__(
        self,
        address: str,
        *,
        job_id: str,
        rank: int,
        size: int,
        security: ClientSecurity | None = None,
        credit: int = 64,
        resume: tuple[str, int] | None = None,
        software: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 <= rank < size:
            raise ConfigError(f"rank: got {rank} of {size}, expected 0 <= rank < size")
        self._rank = rank
        self._resume = resume
        host, pid = process_info()
        hello = Hello(
            job_id=job_id,
            role="rank",
            instance=uuid.uuid4().hex,
            rank=rank,
            size=size,
            host=host,
            pid=pid,
            software=software or own_software(),
        )
        transport = Transport(frame_limit=MAXIMUM_PIXEL_BYTES)
        member = Member(hello, credit=credit, resume=resume)
        self._front = threading.Lock()
        self._queue: EventQueue[RankEvent] = EventQueue()
        self._run_uid: str | None = None
        self._taken = 0
        self._applied = 0
        self._end: int | None = None
        self._link = MemberLoop(member, transport, address, security, clock)
        self._link.start(f"streamrecon-rank-{rank}", self._deliver)

    def next(self, timeout: float | None = None) -> RankEvent | None:
        """Take the next event; wait at most `timeout` seconds (None: for ever, 0: not at all), then give None."""
        event = self._queue.get(timeout)
        with self._front:
            if isinstance(event, RunOpened):
                self._run_uid, self._end = event.run.run_uid, None
                resumed = self._resume is not None and self._resume[0] == self._run_uid
                self._applied = self._taken = self._resume[1] if self._resume is not None and resumed else 0
            elif isinstance(event, ItemReceived | ItemLost):
                self._taken = event.item.seq
            elif isinstance(event, RunClosed):
                self._end = event.close.seq
            elif isinstance(event, RunAbandoned) and event.run_uid == self._run_uid:
                self._run_uid = None
        return event

    def pending(self) -> int:
        """Items that have arrived and not been taken with `next`."""
        return self._queue.count((ItemReceived, ItemLost))

    def unlinked_seconds(self) -> float:
        """Seconds since the beamline was last heard of; small while linked."""
        return self._link.unlinked_seconds()

    def applied(self, seq: int) -> None:
        """All items up to `seq` are in the image (or the flat and dark); their memory may be reused.

        Raises
        ------
        LocalProtocolError
            If `seq` is smaller than before, or has not been taken with `next`.
        """
        with self._front:
            uid = self._run_uid
            if uid is None:
                log.info("rank %d: item %d is applied, but its run was abandoned", self._rank, seq)
                return
            if not self._applied <= seq <= self._taken:
                raise LocalProtocolError(
                    f"item {seq} of run {uid[:8]}: reported as applied, expected {self._applied} to {self._taken} "
                    "(reported before, taken with next)"
                )
            self._applied = seq
        self._link.post(lambda: self._link.member.applied(uid, seq))

    def status(
        self,
        state: str,
        *,
        projections: int = 0,
        image_number: int = 0,
        lag: int = 0,
        step_seconds: float = 0.0,
        text: str = "",
    ) -> None:
        """Tell the beamline how far this rank is; lost while there is no link."""
        uid = self._run_uid
        if uid is not None:
            status = Status(
                run_uid=uid,
                rank=self._rank,
                state=state,
                projections=projections,
                image_number=image_number,
                lag=lag,
                step_seconds=step_seconds,
                text=text[:4096],
            )
            self._link.post(lambda: self._link.member.status(status))

    def done(
        self,
        *,
        image_number: int,
        axis: float | None = None,
        counts: Mapping[str, int] | None = None,
        result: str | None = None,
        text: str = "",
    ) -> None:
        """Report the closed run as done, surely (again after a reconnect, until noted).

        Raises
        ------
        LocalProtocolError
            If `RunClosed` was not taken with `next` before.
        """
        with self._front:
            uid = self._run_uid
            if uid is None:
                log.info("rank %d: done, but its run was abandoned", self._rank)
                return
            if self._end is None:
                raise LocalProtocolError(f"run {uid[:8]}: reported as done before its end was taken with next")
        report = RunDone(
            run_uid=uid,
            rank=self._rank,
            applied=0,
            image_number=image_number,
            axis=axis,
            counts=dict(counts or {}),
            result=result,
            text=text[:4096],
        )
        self._link.post(lambda: self._link.member.done(report))

    def problem(self, where: str, text: str, *, fault: Literal["local", "remote"] = "local") -> None:
        """Report a problem, surely."""
        problem = Problem(fault=fault, where=where[:256], text=text[:4096], run_uid=self._run_uid)
        self._link.post(lambda: self._link.member.report(problem))

    def close(self, linger_s: float = 1.0) -> None:
        """Send what is queued for at most `linger_s` seconds, close the socket, join the thread; idempotent."""
        self._link.close(linger_s)

    def _deliver(self) -> None:
        events = self._link.events
        if any(isinstance(event, RunAbandoned) for event in events):
            gone = {event.run_uid for event in events if isinstance(event, RunAbandoned)}
            self._queue.drop(lambda e: isinstance(e, ItemReceived | ItemLost) and e.item.run_uid in gone)
        self._queue.put(cast("deque[RankEvent]", events))
