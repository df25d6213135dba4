"""The thread of an endpoint: it polls sockets, runs what other threads ask for, and lets each link take its turn."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar

import msgspec

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.exit_hooks import close_at_end
from bluesky_streamrecon.logs import set_role
from bluesky_streamrecon.wire.codec import encode
from bluesky_streamrecon.wire.connector import Connector, LinkState
from bluesky_streamrecon.wire.link import Sent
from bluesky_streamrecon.wire.listener import Listener
from bluesky_streamrecon.wire.security import KeyPair
from bluesky_streamrecon.wire.sockets import Transport

__all__ = ["Endpoint"]

log = logging.getLogger(__name__)

E = TypeVar("E")

MESSAGES_PER_TURN = 256
ERROR_PAUSE_S = 0.1
PATIENCE_S = 0.2
RECONNECT_S = 0.2


class Endpoint(Generic[E]):
    """One thread around some sockets, and the events that it hands out.

    Parameters
    ----------
    name : str
        Of the thread.
    transport : Transport
        Used by this thread alone once it runs, and closed by it.
    ends : dict of str to Listener or Connector
        The protocol on each socket, by the socket's name: a listening one is bound already, a connecting one is made
        anew whenever its link is lost.
    keys : KeyPair, optional
        Own keys, for connecting.
    events : deque, optional
        Where the ends put what `next` hands out.

    Attributes
    ----------
    lock : RLock
        Held by the thread while it works.
    """

    def __init__(
        self,
        name: str,
        transport: Transport,
        ends: Mapping[str, Listener | Connector],
        keys: KeyPair | None = None,
        events: deque[E] | None = None,
    ) -> None:
        self.lock = threading.RLock()
        self._transport = transport
        self._ends = ends
        self._keys = keys
        self._commands: deque[Callable[[], None]] = deque()
        self._deadline: float | None = None
        self._events: deque[E] = deque() if events is None else events
        self._changed = threading.Condition(self.lock)  # notified after each turn
        self._thread = threading.Thread(target=self._run, name=name)
        close_at_end(self)

    def next(self, timeout: float | None = None) -> E | None:
        """Take the next event; wait at most `timeout` seconds (None: for ever, 0: not at all), then return None."""
        with self._changed:
            if not self._changed.wait_for(lambda: bool(self._events), timeout):
                return None
            return self._events.popleft()

    def close(self, linger_s: float = 1.0) -> None:
        """Send what is queued for at most `linger_s` seconds, close the sockets, join the thread; idempotent."""
        if self._deadline is None:
            self._deadline = time.monotonic() + linger_s
        self._transport.wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # ------------------------------------------------------------------ for subclasses

    def _post(self, command: Callable[[], None]) -> None:
        """Queue a call for the thread, without waiting for it."""
        self._commands.append(command)
        self._transport.wake()

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Keep the thread from working meanwhile, and wake it then."""
        with self.lock:
            yield
        self._transport.wake()

    def _after_turn(self) -> None:
        """Look at what has come; called in the thread after each turn, not holding `lock`."""

    def _connect(self, name: str, end: Connector) -> None:
        """Connect a socket to where the other end is.

        Raises
        ------
        ConfigError
            If the address can not be used.
        """
        if end.target is not None:
            self._transport.connect(name, *end.target, self._keys)
            end.connected(time.monotonic())

    # ------------------------------------------------------------------ in the thread

    def _run(self) -> None:
        set_role(self._thread.name.removeprefix("streamrecon-"))
        wait = 0.0
        while True:
            wait = self._guarded(self._once, wait)
            deadline = self._deadline
            if deadline is None:
                continue
            left = deadline - time.monotonic()
            if left <= 0 or (not self._commands and all(end.settled for end in self._ends.values())):
                break
            wait = min(wait, left)
        self._guarded(self._transport.close, max(0.0, left))

    def _once(self, wait: float) -> float:
        names = self._transport.poll(wait)
        now = time.monotonic()
        with self.lock:
            for name in names:
                for _ in range(MESSAGES_PER_TURN):
                    message = self._transport.receive(name)
                    if message is None:
                        break
                    self._ends[name].receive(*message, now)
            while self._commands:
                self._guarded(self._commands.popleft())
            wait = min(self._turn(name, end, now) for name, end in self._ends.items())
            self._changed.notify_all()
        self._after_turn()
        return wait

    def _turn(self, name: str, end: Listener | Connector, now: float) -> float:
        """Do what is due on a socket, send what is ready; return the seconds until the next turn at the latest."""

        def send(link: bytes, message: msgspec.Struct) -> Sent:
            return self._transport.send(name, link, encode(message))

        end.tick(now)
        if isinstance(end, Listener):
            return 0.0 if end.pump(send, now) else end.heartbeat_seconds / 4
        if end.has_no_peer:
            self._transport.disconnect(name)
        elif end.state is LinkState.DOWN and now - end.since > RECONNECT_S:
            try:
                self._connect(name, end)
            except ConfigError as error:
                log.error("%s: %s", name, error)
                end.go_to(None, None)
        return 0.0 if end.pump(lambda message: send(b"", message), now) else PATIENCE_S

    def _guarded(self, what: Callable[..., float | None], *arguments: float) -> float:
        """Call it; an error must not end the thread silently, nor make it spin."""
        try:
            return what(*arguments) or 0.0
        except BaseException:
            log.exception("thread %s: unexpected error; going on", threading.current_thread().name)
            return ERROR_PAUSE_S
