"""The wakeup of a thread that polls."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from bluesky_streamrecon.wire.sockets import Transport

BOUND = 20.0


class Meanwhile:
    """An ear that has something happen in another thread while it is listened to."""

    def __init__(self, ear: Any, happens: Any) -> None:
        self._ear, self._happens = ear, happens

    def recv(self, size: int) -> bytes:
        self._happens()
        return self._ear.recv(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ear, name)


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
        transport._bell.send(b"!")
    polling.join()
    return ended


def test_ring_ends_the_next_poll_or_the_present_one(transport):
    transport.wake()
    assert ends(transport)
    threading.Timer(0.01, transport.wake).start()
    assert ends(transport)


def test_ring_in_the_moment_in_which_another_is_answered_silences_no_later_one(transport):
    transport._ear = Meanwhile(transport._ear, transport.wake)
    transport.wake()
    transport.poll(BOUND)
    transport._ear = transport._ear._ear
    transport.wake()
    assert ends(transport)
