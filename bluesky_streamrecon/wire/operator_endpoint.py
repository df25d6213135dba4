"""An operator's end: questions and orders go to the beamline, and each is waited for."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from bluesky_streamrecon.errors import JobError, SteeringError
from bluesky_streamrecon.wire.codec import MAXIMUM_HEADER_BYTES
from bluesky_streamrecon.wire.events import AnswerReceived, Refused, ShutdownRequested
from bluesky_streamrecon.wire.member_loop import MemberLoop
from bluesky_streamrecon.wire.members import LinkState, Member
from bluesky_streamrecon.wire.messages import Hello
from bluesky_streamrecon.wire.operator_messages import Action, Answer, Ask
from bluesky_streamrecon.wire.security import ClientSecurity
from bluesky_streamrecon.wire.sockets import Transport, own_software, process_info

__all__ = ["OperatorEndpoint"]


class _Waiting:
    """One question, until it is answered."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.answer: Answer | None = None
        self.failure = ""


class OperatorEndpoint:
    """Ask and command a beamline; may be used by several threads at once.

    Parameters
    ----------
    address : str
        Of the beamline.
    job_id : str
        The beamline's.
    security : ClientSecurity, optional
        Our keys and the beamline's public one.
    software : str, optional
        For its log.
    clock : callable, optional
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
        security: ClientSecurity | None = None,
        software: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        host, pid = process_info()
        hello = Hello(
            job_id=job_id,
            role="operator",
            instance=uuid.uuid4().hex,
            host=host,
            pid=pid,
            software=software or own_software(),
        )
        self.address = address
        self.ending = threading.Event()
        """Set when the beamline has said that its job ends."""
        self._numbers = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}
        self._lock = threading.Lock()
        self._refused = ""
        transport = Transport(frame_limit=MAXIMUM_HEADER_BYTES)
        self._link = MemberLoop(Member(hello), transport, address, security, clock)
        self._link.start("streamrecon-operator", self._deliver)

    @property
    def linked(self) -> bool:
        """The beamline has welcomed us, and the link is there."""
        return self._link.member.state is LinkState.LINKED

    def ask(self, action: Action, *, timeout: float = 10.0, **fields: Any) -> Answer:
        """Ask, and wait for the answer.

        Parameters
        ----------
        action : str
            ``"status"``, ``"look"`` or an order, see `Ask`.
        timeout : float, optional
            Seconds.
        **fields
            The other fields of `Ask`.

        Raises
        ------
        JobError
            If the beamline refuses us, or does not answer in time.
        SteeringError
            If it answers that this can not be done.
        """
        number, waiting = next(self._numbers), _Waiting()
        if action not in ("status", "look"):
            fields.setdefault("uid", uuid.uuid4().hex)
        question = Ask(number=number, action=action, **fields)
        with self._lock:
            if self._refused:
                raise JobError(self._refused)
            self._waiting[number] = waiting
        self._link.post(lambda: self._link.member.ask(question))
        answered = waiting.done.wait(timeout)
        with self._lock:
            self._waiting.pop(number, None)
        if not answered:
            self._link.post(lambda: self._link.member.forget(number))
            there = "it is there, but does not answer" if self.linked else "nobody is there, or keys do not fit"
            raise JobError(f"beamline at {self.address}: no answer to {action!r} within {timeout:g} s; {there}")
        if waiting.answer is None:
            raise JobError(waiting.failure)
        if not waiting.answer.ok:
            raise SteeringError(waiting.answer.text)
        return waiting.answer

    def close(self, linger_s: float = 0.2) -> None:
        """Close the socket and join the thread; whoever still waits is told so. Idempotent."""
        self._fail("the connection to the beamline was closed")
        self._link.close(linger_s)

    def _deliver(self) -> None:
        events = self._link.events
        while events:
            event = events.popleft()
            if isinstance(event, AnswerReceived):
                with self._lock:
                    waiting = self._waiting.get(event.answer.number)
                if waiting is not None:
                    waiting.answer = event.answer
                    waiting.done.set()
            elif isinstance(event, Refused):
                self._fail(f"the beamline at {self.address} refuses us: {event.text}")
            elif isinstance(event, ShutdownRequested):
                self.ending.set()

    def _fail(self, text: str) -> None:
        with self._lock:
            self._refused = self._refused or text
            waiting = list(self._waiting.values())
        for one in waiting:
            one.failure = text
            one.done.set()
