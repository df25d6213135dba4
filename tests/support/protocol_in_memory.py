"""Both ends of the protocol in memory, and a network between them that does what it is told."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bluesky_streamrecon.beamline.serving.frames import QueuedFrame
from bluesky_streamrecon.beamline.serving.hub import Hub
from bluesky_streamrecon.beamline.serving.run import Run
from bluesky_streamrecon.settings import ReconSettings
from bluesky_streamrecon.wire import OpenRunSpec, Refused
from bluesky_streamrecon.wire.codec import encode
from bluesky_streamrecon.wire.connector import Connector, LinkState
from bluesky_streamrecon.wire.link import Sent
from bluesky_streamrecon.wire.messages import ChangeRun, CloseRun, Hello, Item, OpenRun, RunDone, Score

__all__ = ["CREDIT", "FAULTS", "WINDOW", "World", "do"]

ROWS, COLUMNS = 4, 3
WINDOW = 2  # items
CREDIT = 4


def pixels_of(seq: int) -> np.ndarray:
    return np.full((ROWS, COLUMNS), seq, dtype="<u2")


class Shelf:
    """Frames that are always there."""

    spilled = 0

    def get(self, frame: QueuedFrame) -> np.ndarray:
        return pixels_of(frame.seq)

    def add(self, seq: int, frame: QueuedFrame) -> None:
        frame.seq = seq

    def prefetch(self, frame: QueuedFrame) -> None:
        """There already."""

    def failures(self) -> list[str]:
        return []

    def stop(self) -> None:
        """Nothing to be let go."""


@dataclass
class Direction:
    """One direction of one link: messages on their way."""

    flying: deque[list[bytes]] = field(default_factory=deque)

    def put(self, frames: list[bytes]) -> None:
        self.flying.append(frames)

    def take(self, which: int) -> list[bytes] | None:
        if not self.flying:
            return None
        which %= len(self.flying)
        frames = self.flying[which]
        del self.flying[which]
        return frames


class Party:
    """One peer with its user, who applies what comes and reports the run as done."""

    def __init__(self, world: World, role: str, rank: int, size: int) -> None:
        self.world, self.role, self.rank, self.size = world, role, rank, size
        self.life = 0
        self.start()

    def start(self) -> None:
        """Begin a new life as a new process."""
        self.life += 1
        hello = Hello(
            job_id="job",
            role=self.role,
            instance=f"{self.role}-{self.rank}-{self.life}",
            rank=self.rank,
            size=self.size,
        )
        self.connector = Connector(hello, credit=CREDIT, greeting_seconds=3.0)
        self.connector._credit = CREDIT
        self.cut()
        self.waiting: deque[Any] = deque()
        self.applied: list[int] = []
        self.corrected: list[float] = []
        self.opened = self.closed = self.reported = False
        self.scores = 0

    def cut(self) -> None:
        """The connection breaks; what is on its way is lost, and neither side is told."""
        self.up, self.down = Direction(), Direction()
        self.link = b""
        self.lossy = False  # something that went over this link was lost, or came late

    def turn(self) -> None:
        """Do what an endpoint's thread does."""
        now, connector = self.world.now, self.connector
        connector.tick(now)
        if connector.state is LinkState.DOWN:
            self.cut()
            self.world.links += 1
            self.link = b"link-%d" % self.world.links
            connector.connected(now)
        connector.pump(self.send, now)
        while connector.events:
            self.take(connector.events.popleft())

    def send(self, message: Any) -> Sent:
        if self.world.full():
            return Sent.FULL
        if self.link:
            self.up.put(encode(message))
        return Sent.DONE

    def take(self, event: Any) -> None:
        """Check what the endpoint promises its user."""
        assert not isinstance(event, Refused), event
        if isinstance(event, OpenRun):
            assert not self.opened, "a run is opened once in the life of a process"
            self.opened = True
        elif isinstance(event, Item):
            self.waiting.append(event)
            assert len(self.waiting) <= self.connector.receiver.credit
            first, stop = event.rows
            assert np.array_equal(event.pixels, pixels_of(event.seq)[first:stop])
        elif isinstance(event, ChangeRun):
            self.corrected.append(event.axis)
        elif isinstance(event, CloseRun):
            assert not self.closed
            self.closed = True

    def work(self, most: int) -> None:
        """The user applies some of what is waiting, and reports the run once it is through."""
        for _ in range(min(most, len(self.waiting))):
            item = self.waiting.popleft()
            assert item.seq == self.world.items[len(self.applied)], "exactly once and in order"
            self.applied.append(item.seq)
            self.connector.applied("run", item.seq)
        if self.role == "controller" and self.opened and not self.closed:
            self.scores += 1
            self.connector.send(Score(run_uid="run", image_number=1000 * self.life + self.scores, projections=0))
        if self.closed and not self.waiting and not self.reported and self.role == "rank":
            self.reported = True
            self.connector.send(RunDone(run_uid="run", rank=self.rank, image_number=len(self.applied)))


class World:
    """A beamline, some ranks, and a clock that only moves when told."""

    def __init__(self, ranks: int, *, controller: bool = False) -> None:
        self.now = 100.0
        self.links = 0
        self.congestion: random.Random | None = None
        self.hub = Hub(
            job_id="job",
            heartbeat_seconds=1.0,
            peer_timeout=5.0,
        )
        self.parties = [Party(self, "rank", rank, ranks) for rank in range(ranks)]
        if controller:
            self.parties.append(Party(self, "controller", 0, 1))
        self.events: list[Any] = []
        spec = OpenRunSpec(
            run_uid="run",
            recon_uid="recon",
            planned=9,
            detector_shape=(ROWS, COLUMNS),
            dtype="<u2",
            recon=ReconSettings(window=2),
        )
        self.run = Run(spec, Shelf(), window_bytes=WINDOW * ROWS * COLUMNS * 2)

    @property
    def ranks(self) -> list[Party]:
        return [party for party in self.parties if party.role == "rank"]

    @property
    def items(self) -> list[int]:
        """Numbers of the items in the log; those between them are of marks."""
        return [seq for seq, entry in enumerate(self.run.log, 1) if isinstance(entry, QueuedFrame)]

    @property
    def corrections(self) -> list[float]:
        return [entry.axis for entry in self.run.log if isinstance(entry, ChangeRun)]

    def open(self) -> None:
        if self.hub.run is None:
            self.hub.open_run(self.run)

    def append(self) -> None:
        if self.hub.run is not None and self.run.close is None:
            seq = len(self.run.log) + 1
            self.run.append(QueuedFrame("projection", seq, 0.1, pixels_of(seq)))

    def correct(self) -> None:
        if self.hub.run is not None and self.run.close is None:
            self.run.mark(ChangeRun(run_uid="run", axis=float(len(self.run.log))))

    def close(self) -> None:
        if self.hub.run is not None and self.run.close is None:
            self.run.finish_log("success", "")

    def turn(self) -> None:
        """Let everyone do what is due."""
        for party in self.parties:
            party.turn()
        self.hub.tick(self.now)
        self.hub.pump(self.send, self.now, budget=8)
        self.events += [event for event, _ in self.hub.events]
        self.hub.events.clear()

    def send(self, link: bytes, message: Any) -> Sent:
        if self.full():
            return Sent.FULL
        for party in self.parties:
            if party.link == link:
                party.down.put(encode(message))
        return Sent.DONE

    def full(self) -> bool:
        """Return whether there is no room in the socket at this moment."""
        return self.congestion is not None and self.congestion.random() < 0.3

    def deliver(self, party: Party, *, up: bool, which: int = 0, copies: int = 1) -> None:
        """Bring one message of a channel (0: the oldest) to its end, or lose it (no copies)."""
        frames = (party.up if up else party.down).take(which)
        if frames is None:
            return
        party.lossy |= which > 0 or copies == 0
        for _ in range(copies):
            if up and party.link:
                self.hub.receive(party.link, frames, self.now)
            elif not up:
                party.connector.receive(b"", frames, self.now)

    def round(self) -> None:
        """Everyone acts, and all that is on its way arrives."""
        self.turn()
        for party in self.parties:
            for up in (True, False):
                for _ in range(len((party.up if up else party.down).flying)):
                    self.deliver(party, up=up)
            party.turn()

    def storm(self, seed: int) -> None:
        """Everyone acts; of what is on its way, some is lost, some comes twice, some late and out of order.

        In every other storm sockets have no room now and then.
        """
        fate = random.Random(seed)
        self.congestion = fate if seed % 2 else None
        self.turn()
        for party in self.parties:
            for up in (True, False):
                late = 0
                for _ in range(len((party.up if up else party.down).flying)):
                    copies = fate.choice((1, 1, 1, 1, 1, 1, 0, 2, -1))
                    if copies < 0:
                        late += 1
                    else:
                        self.deliver(party, up=up, which=late, copies=copies)
            party.turn()

    def heal(self, rounds: int = 400) -> None:
        """Let the network work again until everything is done; a connection that lost something ends, as TCP's do."""
        for party in self.parties:
            if party.lossy:
                party.cut()
        self.open()
        self.close()
        self.congestion = None
        for _ in range(rounds):
            self.round()
            for party in self.parties:
                party.work(99)
            self.now += 0.5
            if self.done:
                return
        raise AssertionError(f"not done after {rounds} rounds: {self.hub.ledger()}, {self.parties[0].connector.state}")

    @property
    def done(self) -> bool:
        reported = all(party.reported or party.role != "rank" for party in self.parties)
        settled = all(party.connector.reports.settled and party.closed for party in self.parties)
        linked = all(party.connector.state is LinkState.LINKED for party in self.parties)
        return self.run.finished and reported and settled and linked


FAULTS = (
    "append correct append turn storm storm storm storm storm storm flow flow deliver lose lose repeat reorder reorder "
    "work work cut restart relink wait wait long-wait open"
)


def do(world: World, what: str, who: int, number: int) -> None:
    party = world.parties[who % len(world.parties)]
    few = number % 6
    up = bool(who & 4)
    if what in ("lose", "repeat", "reorder"):
        world.turn()  # so that there is something on its way
    if what == "append":
        for _ in range(few + 1):
            world.append()
    elif what == "correct":
        world.correct()
    elif what == "open":
        world.open()
    elif what == "turn":
        world.turn()
    elif what == "storm":
        world.storm(number)
        party.work(number % 4)
        world.now += 0.3
    elif what == "flow":
        for _ in range(number % 4):
            world.round()
    elif what == "deliver":
        for _ in range(few + 1):
            world.deliver(party, up=up)
    elif what == "lose":
        world.deliver(party, up=up, which=few, copies=0)
    elif what == "repeat":
        world.deliver(party, up=up, which=0, copies=2)
    elif what == "reorder":
        world.deliver(party, up=up, which=few)
    elif what == "work":
        party.turn()
        party.work(few)
    elif what == "cut":
        party.cut()
    elif what == "relink":
        if party.connector.state in (LinkState.GREETING, LinkState.LINKED):
            party.connector.lose("so the test wants it")
    elif what == "restart":
        party.cut()
        party.start()
    elif what == "wait":
        world.now += 0.3 * (few + 1)
    elif what == "long-wait":
        world.now += 3.0 * (few + 1)
