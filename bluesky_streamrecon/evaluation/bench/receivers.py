"""Processes that receive what a beamline sends and compute nothing: ranks of a job, or the ends of plain sockets.

Plain ZeroMQ sockets carry the same frames, to compare the package's link with: nothing is numbered, acknowledged or
sent again. Outside `wire`, this is the only module that touches zmq, because they must not go through `wire`.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import zmq

from bluesky_streamrecon.errors import JobError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bluesky_streamrecon.beamline.serving import BeamlineEndpoint
    from bluesky_streamrecon.evaluation.bench.jobs import EventRecorder

    SendBare = Callable[[Iterable[Sequence[NDArray[np.generic]]]], None]

__all__ = ["bare_receivers", "be_rank", "receive_bare", "receiving_ranks"]

PATIENCE_SECONDS = 60.0
LOOK_SECONDS = 0.2
HIGH_WATER = 16
END_OF_ROUND = b"."
RECEIVER, SENDER = "receiver", "sender"
"""Names of the key files."""

Socket = zmq.Socket[bytes]


@contextmanager
def receiving_ranks(size: int, *, memory: int, curve: bool = False) -> Iterator[tuple[BeamlineEndpoint, EventRecorder]]:
    """Keep an endpoint with `size` linked ranks that compute nothing.

    Parameters
    ----------
    size : int
        Ranks, a process each.
    memory : int
        Bytes of frames that the endpoint may hold.
    curve : bool, optional
        Encrypt.

    Raises
    ------
    JobError
        If the ranks do not come.
    """
    from bluesky_streamrecon.beamline.serving import BeamlineEndpoint
    from bluesky_streamrecon.evaluation.bench.harness import beside
    from bluesky_streamrecon.evaluation.bench.jobs import EventRecorder
    from bluesky_streamrecon.wire import ServerSecurity, generate_keys

    with ExitStack() as stack:
        security, keys = None, ""
        if curve:
            keys = stack.enter_context(tempfile.TemporaryDirectory(prefix="streamrecon-bench-"))
            allowed, _ = generate_keys(Path(keys), RECEIVER)
            _, secret = generate_keys(Path(keys), SENDER)
            security = ServerSecurity.from_files(secret, allowed)
        events = EventRecorder()
        endpoint = BeamlineEndpoint(on_event=events, security=security, memory_limit=memory)
        stack.callback(endpoint.close, 0.5)
        for rank in range(size):
            stack.enter_context(beside(be_rank, endpoint.address, endpoint.job_id, rank, size, keys))
        stack.callback(endpoint.shutdown_peers, "the benchmark is over")
        events.wait(f"hello of {size} ranks", lambda: events.ranks == size, PATIENCE_SECONDS)
        yield endpoint, events


@contextmanager
def bare_receivers(size: int, *, curve: bool) -> Iterator[SendBare]:
    """Keep a DEALER socket for each of `size` processes, which answer on it.

    Parameters
    ----------
    size : int
        How many.
    curve : bool
        Encrypt.

    Yields
    ------
    callable
        Sends frames, each as parts for every process, uncopied, and waits until all have arrived.

    Raises
    ------
    JobError
        If a process does not come, or takes or answers nothing for too long.
    """
    from bluesky_streamrecon.evaluation.bench.harness import beside

    public, secret = zmq.curve_keypair() if curve else (b"", b"")
    context: zmq.Context[Socket] = zmq.Context()
    sockets = [_dealer(context) for _ in range(size)]
    with ExitStack() as stack:
        stack.callback(context.destroy, linger=0)
        for socket in sockets:
            if curve:
                socket.curve_server, socket.curve_secretkey = True, secret
            port = socket.bind_to_random_port("tcp://127.0.0.1")
            stack.enter_context(beside(receive_bare, f"tcp://127.0.0.1:{port}", public.decode("ascii")))

        def send(frames: Iterable[Sequence[NDArray[np.generic]]]) -> None:
            for parts in frames:
                for socket, part in zip(sockets, parts, strict=True):
                    socket.send(part.reshape(-1).view("u1").data, copy=False)
            for socket in sockets:
                socket.send(END_OF_ROUND)
            for socket in sockets:
                socket.recv()

        try:
            for socket in sockets:
                socket.recv()
            yield send
        except zmq.Again as error:
            text = f"bench wire: a plain socket took or answered nothing for {PATIENCE_SECONDS:g} s"
            raise JobError(f"{text}; has its receiver ended?") from error


def _dealer(context: zmq.Context[Socket]) -> Socket:
    made = context.socket(zmq.DEALER)
    made.sndhwm = made.rcvhwm = HIGH_WATER
    made.sndtimeo = made.rcvtimeo = int(PATIENCE_SECONDS * 1000)
    return made


# ----------------------------------------------------------------------------------- in the receiving process


def be_rank(ending: threading.Event, address: str, job_id: str, rank: int, size: int, keys: str) -> None:
    """Acknowledge every item at once, and report every run as done, until asked to end."""
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
    endpoint = RankEndpoint(address, job_id=job_id, rank=rank, size=size, security=security)
    try:
        while not ending.is_set():
            match endpoint.next(LOOK_SECONDS):
                case Item(seq=seq):
                    endpoint.applied(seq)
                case CloseRun(run_uid=uid):
                    endpoint.send(RunDone(run_uid=uid, rank=rank, image_number=0))
                case Shutdown() | Refused():
                    return
    finally:
        endpoint.close()


def receive_bare(ending: threading.Event, address: str, server_key: str) -> None:
    """Take frames uncopied, until asked to end; answer once at first, and at each end of a round."""
    context: zmq.Context[Socket] = zmq.Context()
    try:
        socket = _dealer(context)
        if server_key:
            socket.curve_serverkey = server_key.encode("ascii")
            socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
        socket.connect(address)
        socket.send(b"!")
        while not ending.is_set():
            if socket.poll(int(LOOK_SECONDS * 1000)) and len(socket.recv(copy=False).buffer) == len(END_OF_ROUND):
                socket.send(b"!")
    finally:
        context.destroy(linger=0)
