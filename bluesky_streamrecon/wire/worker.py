"""The thread of an endpoint: it polls a transport, runs what other threads ask for, and lets a core take its turn."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from bluesky_streamrecon.wire.sockets import Transport

__all__ = ["Core", "EventQueue", "Worker"]

log = logging.getLogger(__name__)

E = TypeVar("E")

MESSAGES_PER_TURN = 256
ERROR_PAUSE_S = 0.1


class Core(Protocol):
    """What an endpoint does in its thread."""

    def handle(self, name: str, link: bytes, frames: list[memoryview], now: float) -> None:
        """Take one message that came by the socket `name`."""
        ...

    def turn(self, now: float) -> float:
        """Do what is due, send what is ready; give the seconds until the next turn at the latest."""
        ...

    @property
    def settled(self) -> bool:
        """Nothing is left that should be sent before closing."""
        ...


class Worker:
    """One thread around a transport.

    Parameters
    ----------
    name : str
        Of the thread.
    transport : Transport
        Used by this thread alone from now on, and closed by it.
    core : Core
        Its methods are called in the thread, holding `lock`.
    clock : callable
        Seconds, handed to the core.
    deliver : callable
        Called in the thread after each turn, not holding `lock`.
    """

    def __init__(
        self,
        name: str,
        transport: Transport,
        core: Core,
        clock: Callable[[], float],
        deliver: Callable[[], None],
    ) -> None:
        self.lock = threading.RLock()
        self._transport = transport
        self._core = core
        self._clock = clock
        self._deliver = deliver
        self._commands: deque[Callable[[], None]] = deque()
        self._deadline: float | None = None
        self._thread = threading.Thread(target=self._run, name=name)
        self._thread.start()

    def post(self, command: Callable[[], None]) -> None:
        """Have the thread call this soon, in the order of posting; does not wait."""
        self._commands.append(command)
        self._transport.wake()

    def close(self, linger_s: float) -> None:
        """Let the core settle for at most `linger_s` seconds, close the transport, join the thread; idempotent."""
        if self._deadline is None:
            self._deadline = time.monotonic() + linger_s
        self._transport.wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

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
            if left <= 0 or (not self._commands and self._core.settled):
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
                    self._core.handle(name, *message, now)
            while self._commands:
                self._guarded(self._commands.popleft())
            wait = self._core.turn(now)
        self._deliver()
        return wait

    def _guarded(self, what: Callable[..., float | None], *arguments: float) -> float:
        """Call it; an error must not end the thread silently, nor make it spin."""
        try:
            return what(*arguments) or 0.0
        except Exception:
            log.exception("thread %s: unexpected error; going on", threading.current_thread().name)
            return ERROR_PAUSE_S


class EventQueue(Generic[E]):
    """Events from the endpoint's thread to its user."""

    def __init__(self) -> None:
        self._events: deque[E] = deque()
        self._changed = threading.Condition()

    def put(self, events: deque[E]) -> None:
        """Take over all of these."""
        if events:
            with self._changed:
                self._events.extend(events)
                events.clear()
                self._changed.notify()

    def get(self, timeout: float | None) -> E | None:
        """Give the oldest; None after `timeout` seconds (None: wait for ever)."""
        with self._changed:
            if not self._changed.wait_for(lambda: bool(self._events), timeout):
                return None
            return self._events.popleft()

    def drop(self, unwanted: Callable[[E], bool]) -> None:
        """Remove events that nobody wants any more."""
        with self._changed:
            self._events = deque(event for event in self._events if not unwanted(event))

    def count(self, kind: type | tuple[type, ...]) -> int:
        """Tell how many of a kind wait."""
        with self._changed:
            return sum(isinstance(event, kind) for event in self._events)
