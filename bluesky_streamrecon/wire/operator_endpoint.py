"""A person's program at its end: it asks and orders, and each answer is waited for."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import msgspec

from bluesky_streamrecon.cuts import Cut
from bluesky_streamrecon.errors import ConfigError, JobError, LocalProtocolError, SteeringError
from bluesky_streamrecon.wire import events as ev
from bluesky_streamrecon.wire import messages as m
from bluesky_streamrecon.wire.codec import MAXIMUM_CUTS_BYTES, check_sendable
from bluesky_streamrecon.wire.connector import Connector
from bluesky_streamrecon.wire.peers import PeerEndpoint, hello_of
from bluesky_streamrecon.wire.security import ClientSecurity
from bluesky_streamrecon.wire.sockets import Transport

__all__ = ["OperatorEndpoint"]

T = TypeVar("T")


class OperatorEndpoint(PeerEndpoint[ev.OperatorEvent]):
    """Ask and command a beamline; may be used by several threads at once.

    Parameters
    ----------
    address, job_id, security
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
    ) -> None:
        self.address = address
        self.ending = threading.Event()
        """Set when the beamline announces that its job ends."""
        self._asked: dict[int, Future[m.Answer]] = {}  # by number
        self._wished: dict[str, tuple[m.ShowCuts, Future[m.Cuts]]] = {}  # by viewer
        self._wishes = 0
        self._over = ""  # why nothing can be asked any more
        connector = Connector(hello_of("operator", job_id), channel="orders")
        transport = Transport(frame_limit=MAXIMUM_CUTS_BYTES)
        super().__init__("streamrecon-operator", address, transport, connector, security)

    @property
    def linked(self) -> bool:
        """The beamline has welcomed us, and the link is there."""
        return self._connector.linked

    def ask(self, ask: m.Ask, *, timeout: float = 10.0) -> m.Answer:
        """Ask or order something, surely and once, and wait for the answer.

        Raises
        ------
        JobError
            If the beamline refuses us, or does not answer in time.
        SteeringError
            If it answers that this can not be done.
        """
        if ask.order is not None and not ask.order.uid:
            ask = msgspec.structs.replace(ask, order=msgspec.structs.replace(ask.order, uid=uuid.uuid4().hex))
        with self._working():
            self._check_not_over()
            number = self._connector.reports.send(ask)
            answered = self._asked[number] = Future()
        try:
            answer = answered.result(timeout)
        except TimeoutError:
            there = "it is there, but does not answer" if self.linked else "nobody is there, or keys do not fit"
            text = f"beamline at {self.address}: no answer to {ask.action!r} within {timeout:g} s; {there}"
            raise JobError(text) from None
        finally:
            self._asked.pop(number, None)
        if not answer.ok:
            raise SteeringError(answer.text)
        return answer

    def show_cuts(self, cuts: Sequence[Cut], *, viewer: str = "") -> Future[m.Cuts]:
        """Wish to see cuts of the newest image; does not wait. They come as soon as there is an image.

        Parameters
        ----------
        cuts : sequence of Cut
            At most four.
        viewer : str, optional
            Whose wish it is: it takes the place of the one before, which gets a `JobError`.

        Raises
        ------
        ConfigError
            If a cut can not be sent, or there are too many, or too many pixels.
        JobError
            If the beamline refuses us.
        """
        with self._working():
            self._check_not_over()
            self._wishes += 1
            wish = m.ShowCuts(viewer=viewer, number=self._wishes, cuts=tuple(cuts))
            try:
                check_sendable(wish)
            except LocalProtocolError as error:
                raise ConfigError(str(error)) from None
            shown: Future[m.Cuts] = Future()
            _, before = self._wished.get(viewer, (None, None))
            self._wished[viewer] = wish, shown
            _settle(before, JobError("the same viewer wishes to see something else by now"))
            self._connector.send(wish)
        return shown

    def close(self, linger_s: float = 0.2) -> None:
        """Close the socket and join the thread; who still waits gets an error. Idempotent."""
        with self.lock:
            self._end("the connection to the beamline was closed")
        super().close(linger_s)

    def _check_not_over(self) -> None:
        if self._over:
            raise JobError(self._over)

    # ------------------------------------------------------------------ in the thread

    def _after_turn(self) -> None:
        events = self._connector.events
        with self.lock:
            while events:
                event = events.popleft()
                if isinstance(event, m.Answer):
                    _settle(self._asked.pop(event.number, None), event)
                elif isinstance(event, m.Cuts):
                    wish, shown = self._wished.get(event.viewer, (None, None))
                    if wish is not None and wish.number == event.number:
                        del self._wished[event.viewer]
                        _settle(shown, event)
                elif isinstance(event, ev.LinkRestored):
                    for wish, _ in self._wished.values():  # questions are on a channel
                        self._connector.send(wish)
                elif isinstance(event, ev.Refused):
                    self._end(f"the beamline at {self.address} refuses us: {event.text}")
                elif isinstance(event, m.Shutdown):
                    self.ending.set()

    def _end(self, text: str) -> None:
        """Raise an error for everybody who waits, and for all who ask later."""
        self._over = self._over or text
        waiting: list[Future[Any]] = [*self._asked.values(), *(shown for _, shown in self._wished.values())]
        for future in waiting:
            _settle(future, JobError(self._over))
        self._asked.clear()
        self._wished.clear()


def _settle(future: Future[T] | None, result: T | JobError) -> None:
    """End the wait for something with its result or error, unless nobody waits for it any more."""
    if future is None or not future.set_running_or_notify_cancel():
        return
    if isinstance(result, JobError):
        future.set_exception(result)
    else:
        future.set_result(result)
