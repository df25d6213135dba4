"""A person's program at its end: it asks and orders, and each answer is waited for."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable

import msgspec

from bluesky_streamrecon.errors import JobError, SteeringError
from bluesky_streamrecon.wire.codec import MAXIMUM_HEADER_BYTES
from bluesky_streamrecon.wire.events import LinkRestored, OperatorEvent, Refused
from bluesky_streamrecon.wire.images import Picture, ShowMe
from bluesky_streamrecon.wire.member import LinkState, Member
from bluesky_streamrecon.wire.messages import Shutdown
from bluesky_streamrecon.wire.operator_messages import Answer, Ask
from bluesky_streamrecon.wire.peers import PeerEndpoint, hello_of
from bluesky_streamrecon.wire.security import ClientSecurity
from bluesky_streamrecon.wire.sockets import Transport

__all__ = ["OperatorEndpoint"]


class _Waiting:
    """Somebody who waits for an answer or a picture."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.result: Answer | Picture | None = None
        self.failure = ""


class OperatorEndpoint(PeerEndpoint[OperatorEvent]):
    """Ask and command a beamline; may be used by several threads at once.

    Parameters
    ----------
    address, job_id, security, software, clock
        As for `RankEndpoint`.

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
        security: ClientSecurity | None = None,
        software: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = address
        self.ending = threading.Event()
        """Set when the beamline has said that its job ends."""
        self._answered: dict[int, _Waiting] = {}  # by the order's number
        self._viewers: dict[_Waiting, ShowMe] = {}
        self._open: set[_Waiting] = set()
        self._front = threading.Lock()
        self._refused = ""
        member = Member(hello_of("operator", job_id, software), channel="orders")
        transport = Transport(frame_limit=MAXIMUM_HEADER_BYTES)
        super().__init__("streamrecon-operator", address, transport, member, security, clock)

    @property
    def linked(self) -> bool:
        """The beamline has welcomed us, and the link is there."""
        return self._beamline.member.state is LinkState.LINKED

    def ask(self, ask: Ask, *, timeout: float = 10.0) -> Answer:
        """Ask or order something, surely and once, and wait for the answer.

        Raises
        ------
        JobError
            If the beamline refuses us, or does not answer in time.
        SteeringError
            If it answers that this can not be done.
        """
        waiting = _Waiting()
        if ask.action != "status" and not ask.uid:
            ask = msgspec.structs.replace(ask, uid=uuid.uuid4().hex)

        def send() -> None:
            self._answered[self._beamline.member.reports.send(ask)] = waiting

        answer = self._wait(waiting, send, timeout, f"no answer to {ask.action!r}")
        assert isinstance(answer, Answer)  # noqa: S101
        if not answer.ok:
            raise SteeringError(answer.text)
        return answer

    def look(self, seen: ShowMe, *, timeout: float = 10.0) -> Picture:
        """Wait for a picture of another image than the one that was `seen`.

        Raises
        ------
        JobError
            If the beamline refuses us, or there is none in time.
        """
        waiting = _Waiting()

        def send() -> None:
            self._viewers[waiting] = seen
            self._beamline.member.send(seen)

        picture = self._wait(waiting, send, timeout, "no picture")
        assert isinstance(picture, Picture)  # noqa: S101
        return picture

    def close(self, linger_s: float = 0.2) -> None:
        """Close the socket and join the thread; whoever still waits is told so. Idempotent."""
        self._fail("the connection to the beamline was closed")
        super().close(linger_s)

    def _wait(self, waiting: _Waiting, send: Callable[[], None], timeout: float, what: str) -> Answer | Picture | None:
        with self._front:
            if self._refused:
                raise JobError(self._refused)
            self._open.add(waiting)
        self._post(send)
        answered = waiting.done.wait(timeout)
        with self._front:
            self._open.discard(waiting)
        if not answered:
            self._post(lambda: self._forget(waiting))
            there = "it is there, but does not answer" if self.linked else "nobody is there, or keys do not fit"
            raise JobError(f"beamline at {self.address}: {what} within {timeout:g} s; {there}")
        if waiting.failure:
            raise JobError(waiting.failure)
        return waiting.result

    # ------------------------------------------------------------------ in the thread

    def _after_turn(self) -> None:
        events = self._beamline.member.events
        while events:
            event = events.popleft()
            if isinstance(event, Answer):
                self._give(self._answered.pop(event.number, None), event)
            elif isinstance(event, Picture):
                for waiting in list(self._viewers):
                    self._give(waiting, event)
                self._viewers.clear()
            elif isinstance(event, LinkRestored):
                for seen in self._viewers.values():
                    self._beamline.member.send(seen)
            elif isinstance(event, Refused):
                self._fail(f"the beamline at {self.address} refuses us: {event.text}")
            elif isinstance(event, Shutdown):
                self.ending.set()

    def _give(self, waiting: _Waiting | None, result: Answer | Picture) -> None:
        if waiting is not None:
            waiting.result = result
            waiting.done.set()

    def _forget(self, waiting: _Waiting) -> None:
        self._viewers.pop(waiting, None)
        self._answered = {number: other for number, other in self._answered.items() if other is not waiting}

    def _fail(self, text: str) -> None:
        with self._front:
            self._refused = self._refused or text
            for waiting in self._open:
                if not waiting.done.is_set():
                    waiting.failure = text
                    waiting.done.set()
