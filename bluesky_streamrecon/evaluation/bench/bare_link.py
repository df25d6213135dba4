"""What ZeroMQ does by itself: plain sockets that carry the same frames, to compare the package's link with.

Nothing is numbered, acknowledged or sent again. Outside `wire`, this is the only module that touches zmq, because
it must not go through `wire`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
import zmq
from numpy.typing import NDArray

from bluesky_streamrecon.errors import JobError

__all__ = ["BareReceiver", "BareSender"]

HIGH_WATER = 16
PATIENCE_MS = 60_000
ANY_PORT = "tcp://127.0.0.1:*"


class BareSender:
    """One PUSH socket for each receiver, and a PULL socket for their replies.

    Parameters
    ----------
    receivers : int
        How many.
    curve : bool
        Encrypt.
    """

    def __init__(self, receivers: int, *, curve: bool) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        public, secret = zmq.curve_keypair() if curve else (None, None)
        self.server_key = None if public is None else public.decode("ascii")
        self._pushers = [self._socket(zmq.PUSH, secret) for _ in range(receivers)]
        self._replies = self._socket(zmq.PULL, secret)

    def __enter__(self) -> BareSender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.destroy(linger=0)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where each receiver connects to."""
        return tuple(_address(pusher) for pusher in self._pushers)

    @property
    def reply_address(self) -> str:
        """Where receivers answer to."""
        return _address(self._replies)

    def send(self, parts: Sequence[NDArray[np.generic]]) -> None:
        """Send each receiver its part, uncopied; waits while a receiver is behind.

        Raises
        ------
        JobError
            If a receiver takes nothing for too long.
        """
        try:
            for pusher, part in zip(self._pushers, parts, strict=True):
                pusher.send(part.reshape(-1).view(np.uint8).data, copy=False)
        except zmq.Again as error:
            raise JobError(f"bench wire: a receiver took nothing for {PATIENCE_MS // 1000} s; has it ended?") from error

    def end(self, mark: bytes) -> None:
        """Tell every receiver that a round is over."""
        for pusher in self._pushers:
            pusher.send(mark)

    def wait(self, timeout: float) -> None:
        """Wait for a reply of every receiver.

        Raises
        ------
        JobError
            If one has not come within `timeout` seconds.
        """
        for _ in self._pushers:
            if not self._replies.poll(timeout * 1000):
                raise JobError(f"bench wire: a receiver did not answer within {timeout:g} s; has it ended?")
            self._replies.recv()

    def _socket(self, kind: int, secret: bytes | None) -> Any:
        made = self._context.socket(kind)
        made.setsockopt(zmq.SNDHWM, HIGH_WATER)
        made.setsockopt(zmq.RCVHWM, HIGH_WATER)
        made.setsockopt(zmq.SNDTIMEO, PATIENCE_MS)
        if secret is not None:
            made.setsockopt(zmq.CURVE_SERVER, 1)
            made.setsockopt(zmq.CURVE_SECRETKEY, secret)
        made.bind(ANY_PORT)
        return made


class BareReceiver:
    """The other end of a `BareSender`."""

    def __init__(self, address: str, replies: str, server_key: str | None) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._frames = self._socket(zmq.PULL, address, server_key)
        self._replies = self._socket(zmq.PUSH, replies, server_key)

    def __enter__(self) -> BareReceiver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.destroy(linger=0)

    def take(self, timeout: float) -> memoryview | None:
        """Take a frame, uncopied, or None after `timeout` seconds."""
        if not self._frames.poll(timeout * 1000):
            return None
        taken: memoryview = self._frames.recv(copy=False).buffer
        return taken

    def reply(self) -> None:
        """Answer."""
        self._replies.send(b"!")

    def _socket(self, kind: int, address: str, server_key: str | None) -> Any:
        made = self._context.socket(kind)
        made.setsockopt(zmq.SNDHWM, HIGH_WATER)
        made.setsockopt(zmq.RCVHWM, HIGH_WATER)
        if server_key is not None:
            public, secret = zmq.curve_keypair()
            made.setsockopt(zmq.CURVE_SERVERKEY, server_key.encode("ascii"))
            made.setsockopt(zmq.CURVE_PUBLICKEY, public)
            made.setsockopt(zmq.CURVE_SECRETKEY, secret)
        made.connect(address)
        return made


def _address(bound: Any) -> str:
    return str(bound.getsockopt_string(zmq.LAST_ENDPOINT))
