"""A link that breaks in the middle of a run costs nothing but time."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bluesky_streamrecon.beamline.serving import Acked, PeerLost, QueuedFrame, RunFinished
from bluesky_streamrecon.wire import CloseRun, Item, LinkLost, LinkRestored, OpenRun, OpenRunSpec, RankEndpoint, RunDone


class Cable:
    """A TCP proxy on loopback that can be cut, or made to carry nothing."""

    def __init__(self, address: str) -> None:
        host, port = address.removeprefix("tcp://").split(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.carries = threading.Event()
        self.carries.set()
        self._start(self._accept)

    def cut(self) -> None:
        """Break every connection that is open now."""
        with self._lock:
            ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.carries.set()
        self.cut()
        for thread in self._threads:
            thread.join(10)

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target, timeout=10)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            with self._lock:
                self._ends += [near, far]
            self._start(self._carry, near, far)

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        back = threading.Thread(target=self._pipe, args=(far, near), daemon=True)
        back.start()
        self._pipe(near, far)
        back.join()
        near.close()
        far.close()

    def _pipe(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.carries.wait()
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def cables() -> Iterator[Callable[[str], Cable]]:
    made: list[Cable] = []

    def make(address: str) -> Cable:
        made.append(Cable(address))
        return made[-1]

    yield make
    for cable in made:
        cable.close()


def connect(wires: Any, beamline: Any, cable: Cable) -> RankEndpoint:
    return wires._keep(RankEndpoint(cable.address, job_id=beamline.job_id, rank=0, size=1))


def test_link_that_is_cut_again_and_again_loses_nothing(
    wires: Any, spec: Callable[..., OpenRunSpec], cables: Callable[[str], Cable]
) -> None:
    beamline = wires.beamline()
    cable = cables(beamline.address)
    rank = connect(wires, beamline, cable)
    beamline.open_run(spec())
    wires.take(rank, OpenRun)
    applied = 0
    for cut in range(3):
        for index in range(20 * cut + 1, 20 * cut + 21):
            beamline.append(QueuedFrame("projection", index, 0.0, wires.frame(index)))
        while applied < 20 * cut + 10:
            event = wires.take(rank, Item, (LinkLost, LinkRestored))
            assert event.seq == applied + 1
            applied = event.seq
            rank.applied(applied)
        cable.cut()
        wires.seen.wait(PeerLost, count=cut + 1)
    beamline.close_run()
    while applied < 60:
        event = wires.take(rank, Item, (LinkLost, LinkRestored))
        assert event.seq == applied + 1
        applied = event.seq
        rank.applied(applied)
    wires.take(rank, CloseRun, (LinkLost, LinkRestored))
    rank.send(RunDone(run_uid="run-1", rank=0, image_number=60))
    wires.seen.wait(RunFinished)
    ledger = beamline.ledger()[0]
    assert ledger.balanced, ledger.explain()
    assert (ledger.restarts, ledger.reconnects) == (0, 3)


def test_link_that_carries_nothing_for_a_while_is_taken_up_again(
    wires: Any, spec: Callable[..., OpenRunSpec], cables: Callable[[str], Cable]
) -> None:
    beamline = wires.beamline(peer_timeout=0.6)
    cable = cables(beamline.address)
    rank = connect(wires, beamline, cable)
    beamline.open_run(spec())
    wires.take(rank, OpenRun)
    beamline.append(QueuedFrame("projection", 1, 0.0, wires.frame(1)))
    wires.take(rank, Item)
    rank.applied(1)
    wires.seen.wait(Acked)
    cable.carries.clear()
    wires.seen.wait(PeerLost)
    wires.take(rank, LinkLost)
    for index in (2, 3):
        beamline.append(QueuedFrame("projection", index, 0.0, wires.frame(index)))
    beamline.close_run()
    cable.carries.set()
    for seq in (2, 3):
        assert wires.take(rank, Item, (LinkLost, LinkRestored)).seq == seq
        rank.applied(seq)
    wires.take(rank, CloseRun, (LinkLost, LinkRestored))
    rank.send(RunDone(run_uid="run-1", rank=0, image_number=3))
    wires.seen.wait(RunFinished)
    assert beamline.ledger()[0].balanced
    assert beamline.ledger()[0].restarts == 0
