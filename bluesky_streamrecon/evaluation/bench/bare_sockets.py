"""What ZeroMQ does by itself: plain sockets that carry the same frames, to compare the package's link with.

Nothing is numbered, acknowledged or sent again. Outside `wire`, this is the only module that touches zmq, because
it must not go through `wire`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType

import numpy as np
import zmq
from numpy.typing import NDArray

from bluesky_streamrecon.errors import JobError

__all__ = ["BareSender", "receive_bare"]

HIGH_WATER = 16
PATIENCE_MS = 60_000
END_OF_ROUND = b"."

Socket = zmq.Socket[bytes]


class BareSender:
    """One DEALER socket for each receiver, which answers on it.

    Parameters
    ----------
    receivers : int
        How many.
    curve : bool
        Encrypt.

    Attributes
    ----------
    server_key : str or None
        That receivers need, if it is encrypted.
    """

    def __init__(self, receivers: int, *, curve: bool) -> None:
        self._context: zmq.Context[Socket] = zmq.Context()
        public, secret = zmq.curve_keypair() if curve else (None, None)
        self.server_key = None if public is None else public.decode("ascii")
        self._sockets = []
        for _ in range(receivers):
            made = _dealer(self._context)
            made.setsockopt(zmq.SNDTIMEO, PATIENCE_MS)
            if secret is not None:
                made.setsockopt(zmq.CURVE_SERVER, 1)
                made.setsockopt(zmq.CURVE_SECRETKEY, secret)
            made.bind("tcp://127.0.0.1:*")
            self._sockets.append(made)

    def __enter__(self) -> BareSender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.destroy(linger=0)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where each receiver connects to."""
        return tuple(str(each.getsockopt_string(zmq.LAST_ENDPOINT)) for each in self._sockets)

    def send(self, parts: Sequence[NDArray[np.generic]]) -> None:
        """Send each receiver its part, uncopied; waits while a receiver is behind.

        Raises
        ------
        JobError
            If a receiver takes nothing for too long.
        """
        try:
            for socket, part in zip(self._sockets, parts, strict=True):
                socket.send(part.reshape(-1).view(np.uint8).data, copy=False)
        except zmq.Again as error:
            raise JobError(f"bench wire: a receiver took nothing for {PATIENCE_MS // 1000} s; has it ended?") from error

    def finish_round(self, timeout: float) -> None:
        """Tell every receiver that a round is over, and wait until each has answered; see `wait`."""
        for socket in self._sockets:
            socket.send(END_OF_ROUND)
        self.wait(timeout)

    def wait(self, timeout: float) -> None:
        """Wait for a reply of every receiver.

        Raises
        ------
        JobError
            If one has not come within `timeout` seconds.
        """
        for socket in self._sockets:
            if not socket.poll(int(timeout * 1000)):
                raise JobError(f"bench wire: a receiver did not answer within {timeout:g} s; has it ended?")
            socket.recv()


def receive_bare(address: str, server_key: str | None, stop: threading.Event, look: float) -> None:
    """Take frames uncopied until `stop` is set; answer once at first, and at each end of a round.

    Parameters
    ----------
    address, server_key : str
        Of the `BareSender`; no key: it is not encrypted.
    stop : Event
        Ends it, within `look` seconds.
    """
    context: zmq.Context[Socket] = zmq.Context()
    try:
        socket = _dealer(context)
        if server_key is not None:
            public, secret = zmq.curve_keypair()
            socket.setsockopt(zmq.CURVE_SERVERKEY, server_key.encode("ascii"))
            socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
            socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
        socket.connect(address)
        socket.send(b"!")
        while not stop.is_set():
            if socket.poll(int(look * 1000)) and len(socket.recv(copy=False).buffer) == len(END_OF_ROUND):
                socket.send(b"!")
    finally:
        context.destroy(linger=0)


def _dealer(context: zmq.Context[Socket]) -> Socket:
    made = context.socket(zmq.DEALER)
    made.setsockopt(zmq.SNDHWM, HIGH_WATER)
    made.setsockopt(zmq.RCVHWM, HIGH_WATER)
    return made
