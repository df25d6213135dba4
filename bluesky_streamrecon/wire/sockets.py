"""Everything that touches zmq: sockets, keys on the connection, and the wakeup of a thread that polls.

A `Transport` belongs to one thread once it runs; only `wake` may be called from another.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import zmq
import zmq.utils.z85

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.logs import RateLimitedWarning
from bluesky_streamrecon.wire.codec import Buffer
from bluesky_streamrecon.wire.link import Sent
from bluesky_streamrecon.wire.security import KeyPair, ServerSecurity, check_bind, write_keys

__all__ = ["Transport", "generate_keys", "make_keys"]

log = logging.getLogger(__name__)

CLOSED_AFTER_MS: Final = 30_000
KEYS_REMEMBERED: Final = 128
SERVER_HIGH_WATER: Final = 64  # messages of one connection that wait for a server
HANDSHAKE_MS: Final = 5000  # after which libzmq closes a connection that has not completed its handshake
DESCRIPTORS: Final = 32  # more than a context and its sockets take
BAD_HANDSHAKES: Final = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


def make_keys() -> KeyPair:
    """Make a CURVE key pair.

    Raises
    ------
    ConfigError
        If this libzmq was built without CURVE.
    """
    if not zmq.has("curve"):
        raise ConfigError("keys: this libzmq was built without CURVE; install pyzmq from its wheel")
    public, secret = zmq.curve_keypair()
    return KeyPair(public=public.decode("ascii"), secret=secret.decode("ascii"))


def generate_keys(directory: str | Path, name: str) -> tuple[Path, Path]:
    """Make a CURVE key pair in ``NAME.public`` and ``NAME.secret`` (mode 0600) and return their paths.

    Raises
    ------
    ConfigError
        If one of the files exists (nothing is overwritten), or they can not be written.
    """
    return write_keys(directory, name, make_keys())


class Transport:
    """Named sockets, one of which may be a server, with one poller, a wakeup, and for the server the check of keys.

    Parameters
    ----------
    frame_limit : int
        Longest frame that is taken in, bytes; a connection that sends a longer one is closed.
    io_threads : int
        Of libzmq, which encrypt and copy.

    Raises
    ------
    ConfigError
        If the process has hardly any file descriptors left.
    """

    def __init__(self, *, frame_limit: int, io_threads: int = 1) -> None:
        _check_descriptors()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.MAXMSGSIZE, frame_limit),
            (zmq.HEARTBEAT_IVL, CLOSED_AFTER_MS // 3),
            (zmq.HEARTBEAT_TIMEOUT, CLOSED_AFTER_MS),
            (zmq.HANDSHAKE_IVL, HANDSHAKE_MS),
        ):
            self._context.setsockopt(option, value)  # of each socket that is made
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._server = ""  # name of the ROUTER
        self._guard: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._allowed: frozenset[bytes] = frozenset()
        self._refused: set[str] = set()
        self._refusals = RateLimitedWarning(log, "connection refused, its key is not on the list")
        self._handshakes = RateLimitedWarning(
            log, "handshake failed: no key, one for another server, or closed too early"
        )
        self._poller = zmq.Poller()
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._wake_sender.setblocking(False)
        self._poller.register(self._wake_receiver, zmq.POLLIN)
        self._woken = False

    # ------------------------------------------------------------------ sockets

    def bind(
        self,
        name: str,
        address: str,
        security: ServerSecurity | None,
        *,
        insecure: bool,
    ) -> str:
        """Open the ROUTER and return its address with the real port.

        Raises
        ------
        ConfigError
            If the address may not or can not be bound.
        """
        check_bind(address, security, insecure=insecure)
        router = self._context.socket(zmq.ROUTER)
        try:
            router.setsockopt(zmq.ROUTER_MANDATORY, 1)
            router.setsockopt(zmq.RCVHWM, SERVER_HIGH_WATER)
            router.setsockopt(zmq.IPV6, 1 if "[" in address else 0)
            # Refuses protocols before ZMTP 3, of which a greeting that comes while a ROUTER closes aborts the process.
            router.setsockopt(zmq.ZAP_DOMAIN, b"streamrecon")
            if security is not None:
                self._check_handshakes(router, security)
            router.bind(address)
        except zmq.ZMQError as error:
            router.close()
            raise ConfigError(f"address {address}: can not be bound: {error}; is the port taken?") from error
        self._sockets[name] = router
        self._server = name
        self._poller.register(router, zmq.POLLIN)
        return router.getsockopt_string(zmq.LAST_ENDPOINT)

    def connect(self, name: str, address: str, server: str | None, keys: KeyPair | None) -> None:
        """Open a DEALER (in the place of an older one of this name); it keeps on trying by itself.

        Raises
        ------
        ConfigError
            If the address can not be used at all.
        """
        self.disconnect(name)
        dealer = self._context.socket(zmq.DEALER)
        try:
            if server is not None:
                keys = keys or make_keys()
                dealer.setsockopt(zmq.CURVE_SERVERKEY, server.encode("ascii"))
                dealer.setsockopt(zmq.CURVE_PUBLICKEY, keys.public.encode("ascii"))
                dealer.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode("ascii"))
            dealer.setsockopt(zmq.RECONNECT_IVL, 100)
            dealer.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)
            dealer.setsockopt(zmq.IPV6, 1 if "[" in address else 0)
            dealer.connect(address)
        except zmq.ZMQError as error:
            dealer.close()
            raise ConfigError(f"address {address}: can not be connected to: {error}") from error
        self._sockets[name] = dealer
        self._poller.register(dealer, zmq.POLLIN)

    def disconnect(self, name: str, linger_ms: int = 0) -> None:
        """Close the socket of this name, if there is one."""
        old = self._sockets.pop(name, None)
        if old is not None:
            self._poller.unregister(old)
            old.close(linger=linger_ms)

    def send(self, name: str, link: bytes, frames: Sequence[Buffer]) -> Sent:
        """Send one message (to this link, of a ROUTER) without waiting; large frames are not copied."""
        there = self._sockets.get(name)
        if there is None:
            return Sent.NOBODY
        try:
            there.send_multipart([link, *frames] if link else frames, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return Sent.FULL
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return Sent.NOBODY
            raise
        return Sent.DONE

    def receive(self, name: str) -> tuple[bytes, list[memoryview]] | None:
        """Take one message without waiting: the link it came by (empty for a DEALER) and its frames."""
        there = self._sockets.get(name)
        if there is None:
            return None
        try:
            frames = [frame.buffer for frame in there.recv_multipart(zmq.NOBLOCK, copy=False)]
        except zmq.Again:
            return None
        return (bytes(frames[0]), frames[1:]) if name == self._server else (b"", frames)

    # ------------------------------------------------------------------ waiting

    def poll(self, timeout_s: float) -> set[str]:
        """Wait for messages or `wake`, and return the names of the sockets that have something."""
        ready = {id(key): None for key, _ in self._poller.poll(max(0, int(timeout_s * 1000)))}
        with contextlib.suppress(BlockingIOError):
            while self._wake_receiver.recv(4096):
                pass
        self._woken = False  # not before: a wakeup that was read just now would suppress those of the next poll
        if not ready:
            return set()
        if self._guard is not None and id(self._guard) in ready:
            self._check_keys(self._guard)
        if self._monitor is not None and id(self._monitor) in ready:
            self._read_monitor(self._monitor)
        return {name for name, there in self._sockets.items() if id(there) in ready}

    def wake(self) -> None:
        """End the present or the next `poll` at once; may be called from any thread, also after `close`.

        What the caller wants seen after that `poll` it must have put in place before.
        """
        if self._woken:
            return
        self._woken = True
        with contextlib.suppress(OSError):  # full: it will wake anyway; closed: nobody is asleep
            self._wake_sender.send(b"!")

    def close(self, linger_s: float) -> None:
        """Close all sockets, waiting at most this long for what is on its way out."""
        linger = max(0, int(linger_s * 1000))
        if self._server:
            self._sockets[self._server].disable_monitor()
        for name in list(self._sockets):
            self.disconnect(name, linger)
        for ours in (self._guard, self._monitor):
            if ours is not None:
                self._poller.unregister(ours)
                ours.close()
        self._context.term()
        self._poller.unregister(self._wake_receiver)
        self._wake_receiver.close()
        self._wake_sender.close()

    # ------------------------------------------------------------------ insides

    def _check_handshakes(self, router: zmq.Socket[Any], security: ServerSecurity) -> None:
        """Require a key that is on the list of whoever connects.

        What libzmq asks about keys (ZAP, RFC 27) is answered in the thread that polls, and which handshakes fail before
        that is reported to it. That has no limit: at one, libzmq would wait for us.
        """
        self._allowed = frozenset(zmq.utils.z85.decode(key) for key in (*security.allowed, security.keys.public))
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_SECRETKEY, security.keys.secret.encode("ascii"))
        router.setsockopt(zmq.ZAP_DOMAIN, b"streamrecon")  # so that nobody is let in whom we were not asked about
        self._guard = self._context.socket(zmq.ROUTER)
        self._guard.bind("inproc://zeromq.zap.01")
        router.monitor("inproc://streamrecon-monitor", BAD_HANDSHAKES)
        self._monitor = self._context.socket(zmq.PAIR)
        self._monitor.setsockopt(zmq.RCVHWM, 0)
        self._monitor.connect("inproc://streamrecon-monitor")
        for ours in (self._guard, self._monitor):
            self._poller.register(ours, zmq.POLLIN)

    def _check_keys(self, guard: zmq.Socket[bytes]) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                frames = guard.recv_multipart(zmq.NOBLOCK)
                cut = frames.index(b"") + 1
                route, (version, request, _domain, address, _identity, mechanism, *rest) = frames[:cut], frames[cut:]
                key = rest[0] if rest else b""
                good = version == b"1.0" and mechanism == b"CURVE" and key in self._allowed
                if not good:
                    self._note_refusal(address, key)
                status = [b"200", b"OK"] if good else [b"400", b"not on the list"]
                guard.send_multipart([*route, b"1.0", request, *status, b"", b""], zmq.NOBLOCK)

    def _note_refusal(self, address: bytes, key: bytes) -> None:
        text = zmq.utils.z85.encode(key).decode("ascii") if len(key) == 32 else "none"
        if text in self._refused:
            return
        if len(self._refused) < KEYS_REMEMBERED:
            self._refused.add(text)
            log.warning("connection from %s refused: its key %s is not on the list", address.decode("latin-1"), text)
        else:
            self._refusals.add(f"{address.decode('latin-1')}, {text}")

    def _read_monitor(self, monitor: zmq.Socket[bytes]) -> None:
        from zmq.utils.monitor import recv_monitor_message  # and asyncio, which no rank needs

        with contextlib.suppress(zmq.Again):
            while True:
                event = recv_monitor_message(monitor, zmq.NOBLOCK)
                self._handshakes.add(f"{event['endpoint'].decode('latin-1')}, error {event['value']:#x}")


def _check_descriptors() -> None:
    """Refuse to begin where libzmq would run out of descriptors half-way, which aborts the process."""
    try:
        with contextlib.ExitStack() as taken:
            for _ in range(DESCRIPTORS):
                taken.enter_context(Path(os.devnull).open("rb", buffering=0))
    except OSError as error:
        raise ConfigError(
            f"connections need up to {DESCRIPTORS} file descriptors: {error.strerror}; what has this process opened "
            "(ls -l /proc/PID/fd)? More are allowed by `ulimit -n 4096` before it is started"
        ) from error


def local_host_towards(address: str) -> str:
    """Return which of this machine's addresses faces a ``tcp://host:port``; nothing is sent."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host.strip("[]"), int(port)))
            return str(probe.getsockname()[0])
        except (OSError, ValueError):
            return socket.gethostname()
