"""The wakeup of a thread that polls, and sockets without room."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest

from bluesky_streamrecon.wire.link import Sent
from bluesky_streamrecon.wire.sockets import Transport

BOUND = 20.0


class Meanwhile:
    """A receiving end that has something happen in another thread while it is read."""

    def __init__(self, ear: Any, happens: Any) -> None:
        self._wake_receiver, self._happens = ear, happens

    def recv(self, size: int) -> bytes:
        self._happens()
        return self._wake_receiver.recv(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wake_receiver, name)


@pytest.fixture
def transport():
    made = Transport(frame_limit=2**20)
    yield made
    made.close(0.0)


def ends(transport: Transport) -> bool:
    """Tell whether the next poll ends before its time."""
    over = threading.Event()

    def poll() -> None:
        transport.poll(BOUND)
        over.set()

    polling = threading.Thread(target=poll)
    polling.start()
    ended = over.wait(BOUND / 4)
    if not ended:
        transport._wake_sender.send(b"!")
    polling.join()
    return ended


def test_wakeup_ends_the_next_poll_or_the_present_one(transport):
    transport.wake()
    assert ends(transport)
    threading.Timer(0.01, transport.wake).start()
    assert ends(transport)


def test_wakeup_while_another_is_read_suppresses_no_later_one(transport):
    transport._wake_receiver = Meanwhile(transport._wake_receiver, transport.wake)
    transport.wake()
    transport.poll(BOUND)
    transport._wake_receiver = transport._wake_receiver._wake_receiver
    transport.wake()
    assert ends(transport)


def fill(transport: Transport, name: str, link: bytes) -> int:
    """Send numbers until there is no room, and return how many were sent."""
    for number in range(100_000):
        sent = transport.send(name, link, [b"%d" % number, bytes(2**14)])
        if sent is not Sent.DONE:
            assert sent is Sent.FULL
            return number
    raise AssertionError("there was always room")


def drain(transport: Transport, name: str, count: int) -> tuple[list[int], bytes]:
    """Return so many numbers that arrive, and the link of the last one."""
    numbers, link = [], b""
    while len(numbers) < count and transport.poll(BOUND):
        while (message := transport.receive(name)) is not None:
            link, (number, _) = message
            numbers.append(int(bytes(number)))
    return numbers, link


def test_socket_without_room_says_so_and_all_that_it_took_arrives(transport):
    server = Transport(frame_limit=2**20)
    try:
        address = server.bind("peers", "tcp://127.0.0.1:*", None, insecure=False)
        transport.connect("beamline", address, None, None)
        up = fill(transport, "beamline", b"")
        arrived, link = drain(server, "peers", up)
        assert arrived == list(range(up))
        down = fill(server, "peers", link)
        assert drain(transport, "beamline", down)[0] == list(range(down))
    finally:
        server.close(0.0)


FEW_DESCRIPTORS = """
import os, resource, sys
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.wire.sockets import Transport

Transport(frame_limit=2**20).close(0.0)  # all is imported
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
taken = []
try:
    while True:
        taken.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    for descriptor in taken[:int(sys.argv[1])]:
        os.close(descriptor)
try:
    Transport(frame_limit=2**20)
except ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize("left", [0, 4, 6])
def test_process_that_has_hardly_any_descriptors_left_is_told_so_where_libzmq_would_abort_it(left):
    words = [sys.executable, "-c", FEW_DESCRIPTORS, str(left)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "Too many open files" in ended.stdout
