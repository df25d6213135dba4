"""The thread of an endpoint: it polls sockets, runs what other threads ask for, and lets each link take its turn."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from bluesky_streamrecon.wire.codec import encode
from bluesky_streamrecon.wire.listener import Listener
from bluesky_streamrecon.wire.member import LinkState, Member
from bluesky_streamrecon.wire.security import KeyPair
from bluesky_streamrecon.wire.sockets import Transport

__all__ = ["Connecting", "Endpoint", "Listening", "Part"]

log = logging.getLogger(__name__)

E = TypeVar("E")

MESSAGES_PER_TURN = 256
ERROR_PAUSE_S = 0.1
PATIENCE_S = 0.2


class Part(Protocol):
    """One socket of an endpoint and the protocol on it; its methods are called in the endpoint's thread."""

    @property
    def settled(self) -> bool:
        """Nothing is left that should be sent before closing."""
        ...

    def receive(self, link: bytes, frames: list[memoryview], now: float) -> None:
        """Take one message."""
        ...

    def turn(self, now: float) -> float:
        """Do what is due, send what is ready; return the seconds until the next turn at the latest."""
        ...


class Listening:
    """A listening socket, already bound."""

    def __init__(self, name: str, transport: Transport, listener: Listener) -> None:
        self._name, self._transport, self._listener = name, transport, listener

    @property
    def settled(self) -> bool:
        """Nothing is left that was said and not sent."""
        return self._listener.settled

    def receive(self, link: bytes, frames: list[memoryview], now: float) -> None:
        """Take one message."""
        self._listener.receive(link, frames, now)

    def turn(self, now: float) -> float:
        """Do what is due."""
        self._listener.tick(now)
        more = self._listener.pump(lambda link, message: self._transport.send(self._name, link, encode(message)), now)
        return 0.0 if more else self._listener.heartbeat_seconds / 4


class Connecting:
    """A connecting socket, made anew whenever its link is lost.

    Parameters
    ----------
    name, transport, member
        The socket's name, where it is, and the protocol on it.
    keys : KeyPair, optional
        Own keys.
    """

    def __init__(self, name: str, transport: Transport, member: Member, keys: KeyPair | None = None) -> None:
        self.member = member
        self._name, self._transport, self._keys = name, transport, keys
        self._address: str | None = None
        self._server: str | None = None

    @property
    def hopeless(self) -> bool:
        """There is nobody to send to."""
        return self._address is None or self.member.state is LinkState.REFUSED

    @property
    def settled(self) -> bool:
        """Nothing is left that should be sent, or there is nobody to send it to."""
        connection = self.member.connection
        return self.hopeless or not (
            connection.outbox or any(not sender.settled for sender in connection.senders.values())
        )

    def go_to(self, address: str | None, server: str | None, now: float) -> None:
        """Connect to this address (with this CURVE public key) from now on; None: to nobody.

        Raises
        ------
        ConfigError
            If the address can not be used.
        """
        if (address, server) == (self._address, self._server):
            return
        self._address, self._server = address, server
        self.member.redirect()
        if address is None:
            self._transport.disconnect(self._name)
        else:
            self._connect(address, now)

    def receive(self, link: bytes, frames: list[memoryview], now: float) -> None:  # noqa: ARG002
        """Take one message."""
        self.member.receive(frames, now)

    def turn(self, now: float) -> float:
        """Do what is due."""
        member = self.member
        if self._address is None:
            return PATIENCE_S
        member.tick(now)
        if member.reconnect:
            self._connect(self._address, now)
        more = member.pump(lambda message: self._transport.send(self._name, None, encode(message)), now)
        if member.state is LinkState.REFUSED:
            self._transport.disconnect(self._name)
        return 0.0 if more else PATIENCE_S

    def _connect(self, address: str, now: float) -> None:
        self._transport.connect(self._name, address, self._keys, self._server)
        self.member.connected(now)


class Endpoint(Generic[E]):
    """One thread around some sockets, and the events that it hands out.

    Parameters
    ----------
    name : str
        Of the thread.
    transport : Transport
        Used by this thread alone once it runs, and closed by it.
    parts : dict of str to Part
        By the name of the socket.
    clock : callable
        Monotonic seconds.

    Attributes
    ----------
    lock : RLock
        Held by the thread while it works.
    """

    def __init__(self, name: str, transport: Transport, parts: dict[str, Part], clock: Callable[[], float]) -> None:
        self.lock = threading.RLock()
        self._transport = transport
        self._parts = parts
        self._clock = clock
        self._commands: deque[Callable[[], None]] = deque()
        self._deadline: float | None = None
        self._queue: deque[E] = deque()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name)

    def next(self, timeout: float | None = None) -> E | None:
        """Take the next event; wait at most `timeout` seconds (None: for ever, 0: not at all), then return None."""
        with self._changed:
            if not self._changed.wait_for(lambda: bool(self._queue), timeout):
                return None
            return self._queue.popleft()

    def close(self, linger_s: float = 1.0) -> None:
        """Send what is queued for at most `linger_s` seconds, close the sockets, join the thread; idempotent."""
        if self._deadline is None:
            self._deadline = time.monotonic() + linger_s
        self._transport.wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # ------------------------------------------------------------------ for subclasses

    def _post(self, command: Callable[[], None]) -> None:
        """Have the thread call this soon, in the order of posting; does not wait."""
        self._commands.append(command)
        self._transport.wake()

    def _after_turn(self) -> None:
        """Hand out events; called in the thread after each turn, not holding `lock`."""

    def _hand_out(self, events: Iterable[E]) -> None:
        with self._changed:
            self._queue.extend(events)
            self._changed.notify()

    # ------------------------------------------------------------------ in the thread

    def _run(self) -> None:
        wait = 0.0
        while True:
            wait = self._guarded(self._once, wait)
            deadline = self._deadline
            if deadline is None:
                if threading.main_thread().is_alive():
                    continue
                deadline = 0.0  # nobody is left to close us, and we must not keep the process
            left = deadline - time.monotonic()
            if left <= 0 or (not self._commands and all(part.settled for part in self._parts.values())):
                break
            wait = min(wait, left)
        self._guarded(self._transport.close, max(0.0, left))

    def _once(self, wait: float) -> float:
        names = self._transport.poll(wait)
        now = self._clock()
        with self.lock:
            for name in names:
                for _ in range(MESSAGES_PER_TURN):
                    message = self._transport.receive(name)
                    if message is None:
                        break
                    self._parts[name].receive(*message, now)
            while self._commands:
                self._guarded(self._commands.popleft())
            wait = min(part.turn(now) for part in self._parts.values())
        self._after_turn()
        return wait

    def _guarded(self, what: Callable[..., float | None], *arguments: float) -> float:
        """Call it; an error must not end the thread silently, nor make it spin."""
        try:
            return what(*arguments) or 0.0
        except BaseException:
            log.exception("thread %s: unexpected error; going on", threading.current_thread().name)
            return ERROR_PAUSE_S
