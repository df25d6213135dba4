"""Connections that never say who they are: few at a time, for a short time, and without effect."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from bluesky_streamrecon.wire import (
    AllRanksReady,
    ClientSecurity,
    LinkLost,
    LinkRestored,
    OpenRunSpec,
    PeerJoined,
    PreviewReceived,
    RunFinished,
    RunOpened,
    ServerSecurity,
    make_keys,
)
from bluesky_streamrecon.wire.door import MOST_STRANGERS, QUEUE, QUEUE_IN_A_CROWD, Door, most_strangers

SILENT = int(os.environ.get("WIRE_SILENT", "400"))  # connections that say nothing
BOUND = 20.0
ON_THEIR_WAY = 400  # accepted, and not yet told to us
MORE_THAN_ALLOWED = 2**32
CROWD = """
import resource, socket, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
crowd = []
for _ in range(int(sys.argv[2])):
    crowd.append(socket.create_connection(("127.0.0.1", int(sys.argv[1]))))
print("there", flush=True)
for silent in crowd:
    try:
        while silent.recv(4096):
            pass
    except ConnectionResetError:
        pass
print("closed", flush=True)
"""

Spec = Callable[..., OpenRunSpec]

needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc/self/fd")


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def descriptors() -> int:
    """Give the open file descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def resident() -> int:
    """Give the bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def back_to(expected: int) -> int:
    """Give the descriptors as soon as no more than expected are open: libzmq closes in threads of its own."""
    pause = threading.Event()
    for _ in range(int(BOUND / 0.02)):
        if descriptors() <= expected:
            break
        pause.wait(0.02)
    return descriptors()


@contextlib.contextmanager
def crowd(address: str, number: int) -> Iterator[Callable[[], str]]:
    """Open silent connections from another process; give what reads the next word of it ("there", "closed")."""
    words = [sys.executable, "-c", CROWD, str(port_of(address)), str(number)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as made:
        assert made.stdout is not None
        out = made.stdout
        try:
            yield lambda: out.readline().strip()
        finally:
            made.kill()


@needs_proc
@pytest.mark.parametrize("with_keys", [False, True])
def test_crowd_of_silent_connections_changes_nothing_and_uses_up_nothing(
    wires: Any, spec: Spec, caplog: pytest.LogCaptureFixture, with_keys: bool
) -> None:
    ours, theirs = make_keys(), make_keys()
    server = ServerSecurity(ours, frozenset({theirs.public})) if with_keys else None
    client = ClientSecurity(theirs, ours.public) if with_keys else None
    beamline = wires.beamline(security=server, peer_timeout=3.0)
    first = wires.rank(beamline, 0, 2, security=client)
    wires.seen.wait(PeerJoined)
    before = descriptors()
    with crowd(beamline.address, SILENT) as word:
        assert word() == "there"
        assert descriptors() - before < MOST_STRANGERS + ON_THEIR_WAY
        second = wires.rank(beamline, 1, 2, security=client)
        wires.seen.wait(AllRanksReady)
        beamline.open_run(spec())
        wires.fill(beamline, 1, 5)
        beamline.close_run()
        for rank in (first, second):
            assert wires.follow(rank, skip=(LinkLost,)) == [1, 2, 3, 4, 5]
        wires.seen.wait(RunFinished)
        assert word() == "closed"
    second.close(0.0)
    assert back_to(before) <= before
    assert all(entry.balanced for entry in beamline.ledger().values())
    assert len(beamline.peers()) == 2
    told = [record.message for record in caplog.records if "had not said hello" in record.message]
    assert told
    assert "127.0.0.1:" in told[0]
    assert len(told) <= len(str(SILENT))  # the first, the tenth, ...


def test_quiet_peer_that_said_hello_stays_while_a_silent_connection_goes(wires: Any) -> None:
    beamline = wires.beamline(peer_timeout=0.5)
    rank = wires.rank(beamline)
    wires.seen.wait(PeerJoined)
    with zmq.Context() as context, context.socket(zmq.DEALER) as silent:
        silent.linger = 0
        gone = silent.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        silent.connect(beamline.address)  # goes through libzmq's own handshake, which answers pings for ever
        assert gone.poll(BOUND * 1000)
        silent.disable_monitor()
        gone.close(0)
    assert [peer.linked for peer in beamline.peers()] == [True]
    assert len(wires.seen.of(PeerJoined)) == 1
    wires.take(rank, LinkRestored)
    assert rank.next(0) is None


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="the system does not tell what a connection has sent")
def test_message_without_end_is_cut_off_before_it_fills_the_memory(
    wires: Any, spec: Spec, caplog: pytest.LogCaptureFixture
) -> None:
    beamline = wires.beamline(peer_timeout=60.0)
    rank = wires.rank(beamline)
    beamline.open_run(spec())
    wires.fill(beamline, 1, 3)
    before = resident()
    sent = 0
    with socket.create_connection(("127.0.0.1", port_of(beamline.address)), timeout=BOUND) as raw:
        raw.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
        body = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
        raw.sendall(b"\x04" + bytes([len(body)]) + body)
        frame = b"\x03" + struct.pack(">Q", 200_000) + bytes(200_000)  # "and there is more"
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while sent < MORE_THAN_ALLOWED:
                raw.sendall(frame)
                sent += len(frame)
    assert sent < MORE_THAN_ALLOWED
    assert resident() - before < 2**29
    assert any("has sent more than" in record.message for record in caplog.records)
    wires.fill(beamline, 4, 5)
    beamline.close_run()
    assert wires.follow(rank) == [1, 2, 3, 4, 5]
    wires.seen.wait(RunFinished)


def test_port_for_previews_has_the_same_door(wires: Any, told: Any) -> None:
    beamline = wires.beamline()
    controller = wires.controller(beamline)
    previews = wires.previews(beamline)
    previews.connect(controller.preview_address)
    previews.begin("run-1")
    number = most_strangers() + 50
    with crowd(controller.preview_address, number) as word:
        assert word() == "there"
        previews.send(image_number=1, projections=1, rows=(2,), pixels=np.ones((1, 8, 8), np.float32))
        assert wires.take(controller, PreviewReceived, (RunOpened, LinkRestored)).preview.image_number == 1
        told.wait("previews: connection closed")
    previews.send(image_number=2, projections=2, rows=(2,), pixels=np.ones((1, 8, 8), np.float32))
    assert wires.take(controller, PreviewReceived, (RunOpened, LinkRestored)).preview.image_number == 2


class Listening:
    """A listening socket, and pairs of connected ones."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self._open = [self.socket]

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Give both ends of a connection: the one accepted, and the other."""
        other = socket.create_connection(("127.0.0.1", self.port), timeout=BOUND)
        here, _ = self.socket.accept()
        self._open += [here, other]
        return here, other

    def close(self) -> None:
        for one in self._open:
            one.close()


@pytest.fixture
def listening() -> Iterator[Listening]:
    made = Listening()
    yield made
    made.close()


def test_of_too_many_strangers_those_who_came_first_go(listening: Listening) -> None:
    door = Door("test", listening.port, most=2, seconds=10.0)
    pairs = [listening.pair() for _ in range(4)]
    for here, _ in pairs:
        door.opened(here.fileno())
    door.look(lambda link: False, 0.0)
    assert (door.closed, door.strangers) == (2, 2)
    assert [other.recv(1) for _, other in pairs[:2]] == [b"", b""]
    pairs[3][0].sendall(b"!")
    assert pairs[3][1].recv(1) == b"!"


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux how many newcomers may queue")
def test_few_newcomers_may_queue_as_long_as_there_is_a_crowd(listening: Listening) -> None:
    def may_queue() -> int:
        told = listening.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        return int(struct.unpack_from("=I", told, 28)[0])  # tcpi_sacked of a socket that listens

    door = Door("test", listening.port, most=1, seconds=10.0)
    door.listening(listening.socket.fileno())
    for here, _ in [listening.pair() for _ in range(3)]:
        door.opened(here.fileno())
    door.look(lambda link: False, 0.0)
    assert (door.closed, may_queue()) == (2, QUEUE_IN_A_CROWD)
    door.look(lambda link: False, 0.5)
    assert may_queue() == QUEUE_IN_A_CROWD
    door.look(lambda link: False, 2.0)
    assert may_queue() == QUEUE


def test_who_is_known_is_no_stranger_and_becomes_one_when_forgotten(listening: Listening) -> None:
    door = Door("test", listening.port, most=1, seconds=10.0)
    here, _ = listening.pair()
    door.opened(here.fileno())
    door.spoke(here.fileno(), b"rank 0")
    assert door.look(lambda link: link == b"rank 0", 0.0) == float("inf")
    door.look(lambda link: link == b"rank 0", 1000.0)
    assert (door.closed, door.strangers) == (0, 0)
    door.look(lambda link: False, 1001.0)
    assert (door.closed, door.strangers) == (0, 1)
    door.look(lambda link: False, 1012.0)
    assert (door.closed, len(door)) == (1, 0)


def test_descriptor_that_became_somebody_elses_is_left_alone(listening: Listening) -> None:
    door = Door("test", listening.port, most=1, seconds=1.0)
    here, _ = listening.pair()
    descriptor = here.fileno()
    door.opened(descriptor)
    door.look(lambda link: False, 0.0)
    ours, far = socket.socketpair()
    with ours, far:
        os.dup2(ours.fileno(), descriptor)  # libzmq has closed the connection, and we do not know yet
        door.look(lambda link: False, 2.0)
        assert (door.closed, len(door)) == (0, 0)
        door.opened(descriptor)
        assert len(door) == 0
        os.write(descriptor, b"!")
        assert far.recv(1) == b"!"


def test_strangers_leave_descriptors_for_others() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert 1 <= most_strangers() <= min(MOST_STRANGERS, max(1, soft // 4))
