"""Connections of strangers: libzmq closes those that never say what they are, or say too much; a run goes on."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bluesky_streamrecon.beamline.serving import AllRanksReady, RunFinished
from bluesky_streamrecon.wire import ClientSecurity, OpenRunSpec, ServerSecurity, make_keys
from bluesky_streamrecon.wire import sockets as sockets_module
from bluesky_streamrecon.wire.codec import MAXIMUM_CUTS_BYTES

SILENT = int(os.environ.get("WIRE_SILENT", "100"))  # connections that say nothing
BOUND = 20.0
PYZMQ = 2  # descriptors that pyzmq keeps from the first uncopied message on

Spec = Callable[..., OpenRunSpec]

needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc/self/fd")


def connect(address: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=BOUND)


def descriptors() -> int:
    """Return the number of open file descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def back_to(expected: int) -> int:
    """Return the descriptors as soon as no more than expected are open: libzmq closes in threads of its own."""
    pause = threading.Event()
    for _ in range(int(BOUND / 0.02)):
        if descriptors() <= expected:
            break
        pause.wait(0.02)
    return descriptors()


def is_closed(far: socket.socket) -> bool:
    """Wait until the other end has closed the connection."""
    with contextlib.suppress(ConnectionResetError):
        while select.select([far], [], [], BOUND)[0]:
            if not far.recv(4096):
                return True
        return False
    return True


# An anonymous peer with one message of the letter x.
OLDER = {
    "unversioned": b"\x01\x00" + b"\x02\x00x",
    "ZMTP 1": b"\xff\0\0\0\0\0\0\0\x01\x7f" + b"\x00\x05" + b"\x01\x00" + b"\x02\x00x",
    "ZMTP 2": b"\xff\0\0\0\0\0\0\0\x01\x7f" + b"\x01\x05" + b"\x00\x00" + b"\x00\x01x",
}


@pytest.mark.parametrize("greeting", OLDER.values(), ids=OLDER)
def test_older_protocols_of_zeromq_are_refused_as_one_that_greets_a_closing_port_would_end_the_process(
    wires: Any, greeting: bytes
) -> None:
    with connect(wires.beamline().address) as stranger:
        stranger.sendall(greeting)
        assert is_closed(stranger)


@needs_proc
@pytest.mark.parametrize("with_keys", [False, True])
def test_silent_connections_are_closed_and_a_run_goes_on_beside_them(
    wires: Any, spec: Spec, monkeypatch: pytest.MonkeyPatch, with_keys: bool
) -> None:
    monkeypatch.setattr(sockets_module, "HANDSHAKE_MS", 500)
    ours, theirs = make_keys(), make_keys()
    server = ServerSecurity(ours, frozenset({theirs.public})) if with_keys else None
    client = ClientSecurity(theirs, ours.public) if with_keys else None
    beamline = wires.beamline(security=server)
    first = wires.rank(beamline, 0, 2, security=client)
    before = descriptors()
    crowd = [connect(beamline.address) for _ in range(SILENT)]
    second = wires.rank(beamline, 1, 2, security=client)
    wires.seen.wait(AllRanksReady)
    beamline.open_run(spec())
    wires.fill(beamline, 1, 5)
    beamline.close_run()
    for rank in (first, second):
        assert wires.follow(rank) == [1, 2, 3, 4, 5]
    wires.seen.wait(RunFinished)
    assert all(is_closed(far) for far in crowd)
    for far in crowd:
        far.close()
    second.close(0.0)
    assert back_to(before + PYZMQ) <= before + PYZMQ
    assert all(entry.balanced for entry in beamline.ledger().values())
    assert len(beamline.peers()) == 2


def test_connection_that_announces_a_frame_above_the_limit_is_closed(wires: Any) -> None:
    beamline = wires.beamline()
    with connect(beamline.address) as raw:
        raw.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
        body = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
        raw.sendall(b"\x04" + bytes([len(body)]) + body)
        raw.sendall(b"\x02" + struct.pack(">Q", MAXIMUM_CUTS_BYTES + 1))
        assert is_closed(raw)
