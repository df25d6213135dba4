"""Processes that receive what a beamline sends and compute nothing: ranks of a job, or the ends of plain sockets.

Plain ZeroMQ sockets carry the same frames, to compare the package's link with: nothing is numbered, acknowledged or
sent again. Outside `wire`, this is the only module that touches zmq, because they must not go through `wire`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import zmq

from bluesky_streamrecon.errors import JobError
from bluesky_streamrecon.exit_hooks import when_closed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bluesky_streamrecon.evaluation.bench.jobs import EventRecorder
    from bluesky_streamrecon.wire import BeamlineEndpoint

__all__ = ["BareSender", "bare_receivers", "main", "receiving_ranks"]

START_SECONDS = 60.0
PATIENCE_SECONDS = 60.0
LOOK_SECONDS = 0.2
HIGH_WATER = 16
END_OF_ROUND = b"."
RECEIVER, SENDER = "receiver", "sender"
"""Names of the key files."""

Socket = zmq.Socket[bytes]


@contextmanager
def receiving_ranks(
    size: int, directory: Path, *, curve: bool, memory: int
) -> Iterator[tuple[BeamlineEndpoint, EventRecorder]]:
    """Keep an endpoint with `size` linked ranks that compute nothing.

    Parameters
    ----------
    size : int
        Ranks, a process each.
    directory : Path
        For keys.
    curve : bool
        Encrypt.
    memory : int
        Bytes of frames that the endpoint may hold.

    Raises
    ------
    JobError
        If the ranks do not come.
    """
    from bluesky_streamrecon.evaluation.bench.harness import started
    from bluesky_streamrecon.evaluation.bench.jobs import EventRecorder
    from bluesky_streamrecon.wire import BeamlineEndpoint, ServerSecurity, generate_keys

    security = None
    if curve:
        allowed, _ = generate_keys(directory / "keys", RECEIVER)
        _, secret = generate_keys(directory / "keys", SENDER)
        security = ServerSecurity.from_files(secret, allowed)
    events = EventRecorder()
    endpoint = BeamlineEndpoint(on_event=events, security=security, memory_limit=memory)
    keys = str(directory / "keys") if curve else ""
    with ExitStack() as stack:
        stack.callback(endpoint.close, 0.5)
        for rank in range(size):
            arguments = ("rank", endpoint.address, endpoint.job_id, str(rank), str(size), keys)
            stack.enter_context(started(__name__, *arguments))
        stack.callback(endpoint.shutdown_peers, "the benchmark is over")
        events.wait(f"hello of {size} ranks", lambda: events.ranks == size, START_SECONDS)
        yield endpoint, events


@contextmanager
def bare_receivers(size: int, *, curve: bool) -> Iterator[BareSender]:
    """Keep plain sockets with `size` processes at their other ends.

    Raises
    ------
    JobError
        If the processes do not come.
    """
    from bluesky_streamrecon.evaluation.bench.harness import started

    sender = BareSender(size, curve=curve)
    with ExitStack() as stack:
        stack.callback(sender.close)
        for address in sender.addresses:
            stack.enter_context(started(__name__, "bare", address, sender.server_key))
        sender.wait(START_SECONDS)
        yield sender


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
    server_key : str
        That receivers need; empty if it is not encrypted.
    addresses : tuple of str
        Where each receiver connects to.
    """

    def __init__(self, receivers: int, *, curve: bool) -> None:
        self._context: zmq.Context[Socket] = zmq.Context()
        public, secret = zmq.curve_keypair() if curve else (b"", b"")
        self.server_key = public.decode("ascii")
        self._sockets = [_dealer(self._context) for _ in range(receivers)]
        for each in self._sockets:
            each.setsockopt(zmq.SNDTIMEO, int(PATIENCE_SECONDS * 1000))
            if curve:
                each.setsockopt(zmq.CURVE_SERVER, 1)
                each.setsockopt(zmq.CURVE_SECRETKEY, secret)
            each.bind("tcp://127.0.0.1:*")
        self.addresses = tuple(str(each.getsockopt_string(zmq.LAST_ENDPOINT)) for each in self._sockets)

    def close(self) -> None:
        """Close the sockets."""
        self._context.destroy(linger=0)

    def send(self, parts: Sequence[NDArray[np.generic]]) -> None:
        """Send each receiver its part, uncopied; waits while a receiver is behind.

        Raises
        ------
        JobError
            If a receiver takes no frame for too long.
        """
        try:
            for socket, part in zip(self._sockets, parts, strict=True):
                socket.send(part.reshape(-1).view("u1").data, copy=False)
        except zmq.Again as error:
            raise JobError(f"bench wire: a receiver took no frame for {PATIENCE_SECONDS:g} s; has it ended?") from error

    def finish_round(self, timeout: float) -> None:
        """Send every receiver the end of a round, and wait until each has answered; see `wait`."""
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


def _dealer(context: zmq.Context[Socket]) -> Socket:
    made = context.socket(zmq.DEALER)
    made.setsockopt(zmq.SNDHWM, HIGH_WATER)
    made.setsockopt(zmq.RCVHWM, HIGH_WATER)
    return made


# ----------------------------------------------------------------------------------- in the receiving process


def _be_rank(stop: threading.Event, address: str, job_id: str, rank: str, size: str, keys: str) -> None:
    """Acknowledge every item at once, and report every run as done."""
    from bluesky_streamrecon.wire import (
        ClientSecurity,
        CloseRun,
        Item,
        RankEndpoint,
        Refused,
        RunDone,
        Shutdown,
    )

    security = None
    if keys:
        security = ClientSecurity.from_files(Path(keys, f"{RECEIVER}.secret"), Path(keys, f"{SENDER}.public"))
    endpoint = RankEndpoint(address, job_id=job_id, rank=int(rank), size=int(size), security=security)
    try:
        while not stop.is_set():
            match endpoint.next(LOOK_SECONDS):
                case Item(seq=seq):
                    endpoint.applied(seq)
                case CloseRun(run_uid=uid):
                    endpoint.send(RunDone(run_uid=uid, rank=int(rank), image_number=0))
                case Shutdown() | Refused():
                    return
    finally:
        endpoint.close()


def _receive_bare(stop: threading.Event, address: str, server_key: str) -> None:
    """Take frames uncopied; answer once at first, and at each end of a round."""
    context: zmq.Context[Socket] = zmq.Context()
    try:
        socket = _dealer(context)
        if server_key:
            public, secret = zmq.curve_keypair()
            socket.setsockopt(zmq.CURVE_SERVERKEY, server_key.encode("ascii"))
            socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
            socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
        socket.connect(address)
        socket.send(b"!")
        while not stop.is_set():
            if socket.poll(int(LOOK_SECONDS * 1000)) and len(socket.recv(copy=False).buffer) == len(END_OF_ROUND):
                socket.send(b"!")
    finally:
        context.destroy(linger=0)


def main(kind: str, *arguments: str) -> None:
    """Receive until asked to end, or until standard input is closed, as when the process that started this is gone."""
    stop = threading.Event()
    when_closed(0, stop.set)
    kinds: dict[str, Callable[..., None]] = {"rank": _be_rank, "bare": _receive_bare}
    kinds[kind](stop, *arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
