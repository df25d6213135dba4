"""The connections of a listening socket, and which of them have to go.

libzmq accepts whoever comes, and keeps a connection that never says anything for as long as it lasts. It tells the
descriptor of each one, though: shut down at that level, the connection is closed by libzmq itself. A *stranger* is a
connection by which nobody has come who was let in by our own protocol. Strangers are few at a time, have little time,
and may send little. As libzmq closes more slowly than a crowd can come, few newcomers may queue as long as there is
a crowd: the kernel passes over the others, who try again by themselves a second later. Times are seconds of any clock
that does not go back.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from bluesky_streamrecon.wire.tally import Tally

__all__ = ["Door", "most_strangers"]

log = logging.getLogger(__name__)

MOST_STRANGERS: Final = 256
STRANGER_BYTES: Final = 2**20
LOOK_SECONDS: Final = 0.05
QUIET_SECONDS: Final = 1.0  # without a crowd, after which newcomers may queue again
QUEUE: Final = 100  # newcomers that the kernel keeps for libzmq, which has the same default
QUEUE_IN_A_CROWD: Final = 8
_AT_ONCE: Final = struct.pack("ii", 1, 0)  # tell the other end that it is over, whatever it was about to send
_RECEIVED_AT: Final = 128  # of tcpi_bytes_received in Linux' struct tcp_info (4.1 and newer)


def most_strangers() -> int:
    """Give how many strangers are let in at a time: a quarter of the file descriptors of this process, at most 256."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_STRANGERS if soft == resource.RLIM_INFINITY else max(1, min(MOST_STRANGERS, soft // 4))


@dataclass(slots=True)
class _Connection:
    peer: object
    since: float | None = None  # when we first saw it, or last found it to be a stranger
    link: bytes | None = None
    known: bool = False
    before: int = 0  # bytes received before it was a stranger

    def __str__(self) -> str:
        if isinstance(self.peer, tuple):
            return f"{self.peer[0]}:{self.peer[1]}"
        return "a local socket"


class Door:
    """Strangers at one listening socket.

    Parameters
    ----------
    name : str
        Of the address, for the log.
    port : int, optional
        TCP port that is listened on; None where it is no TCP.
    most : int
        Strangers at a time; of more, those who came first have to go.
    seconds : float
        Time of a stranger.
    most_bytes : int
        What a stranger may send; looked at where the system tells (Linux).
    """

    def __init__(
        self, name: str, port: int | None, *, most: int, seconds: float, most_bytes: int = STRANGER_BYTES
    ) -> None:
        self._port = port
        self._most = most
        self._seconds = seconds
        self._bytes = most_bytes
        self._connections: dict[int, _Connection] = {}
        self._known = 0
        self._looked = float("-inf")
        self._listener: int | None = None
        self._crowded: float | None = None  # when there was a crowd last; None when newcomers may queue
        self._closed = Tally(log, f"{name}: connection closed that had not said hello")

    def __len__(self) -> int:
        return len(self._connections)

    @property
    def closed(self) -> int:
        """Connections that had to go so far."""
        return self._closed.count

    @property
    def strangers(self) -> int:
        """Connections by which nobody was known when we last looked."""
        return len(self._connections) - self._known

    def listening(self, descriptor: int) -> None:
        """Note which descriptor is listened on."""
        self._listener = descriptor

    def opened(self, descriptor: int) -> None:
        """Note that a connection was accepted; nothing happens if it is gone already."""
        self.gone(descriptor)
        with _socket_of(descriptor) as there:
            if there is not None and self._ours(there):
                self._connections[descriptor] = _Connection(_peer(there))

    def gone(self, descriptor: int) -> None:
        """Note that a connection was closed."""
        connection = self._connections.pop(descriptor, None)
        if connection is not None and connection.known:
            self._known -= 1

    def spoke(self, descriptor: int, link: bytes) -> None:
        """Note by which connection a link's message came."""
        connection = self._connections.get(descriptor)
        if connection is not None:
            connection.link = link

    def look(self, knows: Callable[[bytes], bool], now: float) -> float:
        """Close who has to go, and tell after how many seconds to look again.

        Parameters
        ----------
        knows : callable
            Tells whether somebody has said hello by a link and is still taken for there.
        """
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._look_at_all(knows, now)
        surplus = self.strangers - self._most
        if surplus > 0:
            if self._crowded is None:
                self._let_queue(QUEUE_IN_A_CROWD)
            self._crowded = now
            self._make_room(knows, surplus)
        elif self._crowded is not None and now - self._crowded > QUIET_SECONDS:
            self._crowded = None
            self._let_queue(QUEUE)
        return LOOK_SECONDS if self.strangers or self._crowded is not None else float("inf")

    def _look_at_all(self, knows: Callable[[bytes], bool], now: float) -> None:
        for descriptor, connection in list(self._connections.items()):
            known = connection.link is not None and knows(connection.link)
            if connection.since is None:
                connection.since = now
            elif connection.known and not known:
                connection.since, connection.before = now, self._received(descriptor)
            self._set(connection, known)
            if known:
                continue
            if now - connection.since > self._seconds:
                self._close(descriptor, f"silent for {self._seconds:g} s")
            elif self._received(descriptor) - connection.before > self._bytes:
                self._close(descriptor, f"it has sent more than {self._bytes} bytes all the same")

    def _make_room(self, knows: Callable[[bytes], bool], surplus: int) -> None:
        """Close those strangers who came first; called often in a crowd, so it looks at no more than it has to."""
        first = []
        for descriptor, connection in self._connections.items():
            self._set(connection, connection.link is not None and knows(connection.link))
            if not connection.known:
                first.append(descriptor)
                if len(first) == surplus:
                    break
        for descriptor in first[: max(0, self.strangers - self._most)]:
            self._close(descriptor, f"more than {self._most} at a time")

    def _set(self, connection: _Connection, known: bool) -> None:
        self._known += known - connection.known
        connection.known = known

    def _let_queue(self, newcomers: int) -> None:
        if self._listener is None:
            return
        with _socket_of(self._listener) as there:
            if there is None or not self._ours(there):
                return
            with contextlib.suppress(OSError):
                there.listen(newcomers)

    def _close(self, descriptor: int, why: str) -> None:
        connection = self._connections.pop(descriptor)
        with _socket_of(descriptor) as there:
            if there is None or _peer(there) != connection.peer:
                return
            self._closed.add(f"{connection}: {why}")
            with contextlib.suppress(OSError):  # the other end was faster
                there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
                there.shutdown(socket.SHUT_RDWR)

    def _received(self, descriptor: int) -> int:
        """Tell how many bytes have come in; 0 where the system does not tell."""
        option = getattr(socket, "TCP_INFO", None)
        if option is None or self._port is None:
            return 0
        try:
            there = socket.socket(fileno=descriptor)
        except OSError:
            return 0
        try:
            told = there.getsockopt(socket.IPPROTO_TCP, option, 256)
        except OSError:
            return 0
        finally:
            there.detach()
        return int(struct.unpack_from("=Q", told, _RECEIVED_AT)[0]) if len(told) >= _RECEIVED_AT + 8 else 0

    def _ours(self, there: socket.socket) -> bool:
        """Tell whether it is a connection to our port: a descriptor may have become somebody else's meanwhile."""
        try:
            name = there.getsockname()
        except OSError:
            return False
        return self._port is None or (isinstance(name, tuple) and name[1] == self._port)


@contextlib.contextmanager
def _socket_of(descriptor: int) -> Iterator[socket.socket | None]:
    """Hold on to what a descriptor stands for at this moment; None if that is no socket."""
    try:
        held = os.dup(descriptor)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            yield None
            return
        held = descriptor  # none is left for a second one: now of all times connections have to be closed
    try:
        there = socket.socket(fileno=held)
    except OSError:
        if held != descriptor:
            os.close(held)
        yield None
        return
    try:
        yield there
    finally:
        if held == descriptor:
            there.detach()
        else:
            there.close()


def _peer(there: socket.socket) -> object:
    try:
        return there.getpeername()
    except OSError:
        return None
