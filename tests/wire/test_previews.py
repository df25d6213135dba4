"""Previews reach the controller in order and once, and never make the rank wait."""

from __future__ import annotations

import random
from collections import deque

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesky_streamrecon.views import most_views
from bluesky_streamrecon.wire.codec import encode
from bluesky_streamrecon.wire.messages import Preview, PreviewHello
from bluesky_streamrecon.wire.previews import PreviewIn, PreviewOut
from bluesky_streamrecon.wire.sessions import SenderState

RETAIN = 5


def preview(seq: int, run_uid: str = "run") -> tuple[Preview, np.ndarray]:
    """Image `seq`, of 2 * seq projections; it brings the line integrals of the last two."""
    header = Preview(
        run_uid=run_uid,
        seq=seq,
        rank=0,
        image_number=seq,
        projections=2 * seq,
        rows=(1,),
        size=2,
        angles_used=(2.0 * seq - 1, 2.0 * seq),
        columns=3,
        lines_first=2 * seq - 2,
    )
    return header, np.full((1, 2, 2), seq, dtype=np.float32)


def lines_of(seq: int) -> np.ndarray:
    return np.repeat(np.array([2 * seq - 1, 2 * seq], np.float32), 3).reshape(2, 1, 3)


class Pair:
    """A rank's and the controller's side, and the network between them."""

    def __init__(self) -> None:
        self.now = 100.0
        self.links = 0
        self.out = PreviewOut(
            job_id="job",
            instance="a",
            rank=0,
            retain=RETAIN,
            heartbeat_seconds=1.0,
            peer_timeout=5.0,
            resend_seconds=2.0,
        )
        self.up: deque[list[bytes]] = deque()
        self.down: deque[list[bytes]] = deque()
        self.made = 0
        self.lives: list[list[int]] = []
        self.lines: list[int] = []  # projections whose line integrals this life of the controller has
        self.restart_controller()
        self.out.begin("run", self.now)
        self.relink()

    def restart_controller(self) -> None:
        self.into = PreviewIn(job_id="job", credit=3, heartbeat_seconds=1.0, peer_timeout=5.0)
        self.lives.append([])
        self.lines = []
        self.up.clear()
        self.down.clear()

    def relink(self) -> None:
        self.links += 1
        self.up.clear()
        self.down.clear()
        self.out.connected(self.now)

    def make(self) -> None:
        self.made += 1
        self.out.append(*preview(self.made), self.now, lines_of(self.made))

    def act(self, user: bool = True) -> None:
        """Both sides do what is due, and the controller's user takes what has come."""
        self.out.tick(self.now)
        if self.out.reconnect:
            self.relink()
        while (what := self.out.next(self.now)) is not None:
            self.up.append([encode(what[0]), *(frame.tobytes() for frame in what[1:] if frame is not None)])
        while user and self.into.events:
            event = self.into.events.popleft()
            assert np.all(event.pixels == event.preview.seq)
            self.lives[-1].append(event.preview.seq)
            told = range(event.preview.lines_first + 1, event.preview.projections + 1)
            assert event.preview.angles_used == tuple(told)
            np.testing.assert_array_equal(event.lines, np.repeat(told, 3).reshape(-1, 1, 3))
            self.lines += [projection for projection in told if projection not in self.lines]
            self.into.applied(event.preview)
        self.into.flush(self.now)
        while self.into.outbox:
            outgoing = self.into.outbox.popleft()
            if outgoing.link == b"%d" % self.links:
                self.down.append([encode(outgoing.message)])

    def move(self, fate: random.Random | None) -> None:
        for flying, take in ((self.up, self._to_controller), (self.down, self._to_rank)):
            late = 0
            for _ in range(len(flying)):
                copies = 1 if fate is None else fate.choice((1, 1, 1, 1, 1, 0, 2, -1))
                if copies < 0:
                    late += 1
                    continue
                frames = flying[late]
                del flying[late]
                for _ in range(copies):
                    take(frames)

    def _to_controller(self, frames: list[bytes]) -> None:
        self.into.receive(b"%d" % self.links, frames, self.now)

    def _to_rank(self, frames: list[bytes]) -> None:
        self.out.receive(frames, self.now)

    def heal(self) -> None:
        for count in range(200):
            self.act()
            self.move(None)
            self.now += 0.3
            settled = self.out.session is not None and self.out.session.state is SenderState.STREAMING
            if count > 10 and settled and self.out.settled and not self.into.events and not self.up and not self.down:
                return
        raise AssertionError(f"not settled: {self.out.session}")


FAULTS = "make make storm storm storm flow relink restart wait long-wait lazy"
STEPS = st.lists(st.tuples(st.sampled_from(FAULTS.split()), st.integers(0, 2**16)), min_size=10, max_size=80)


@given(steps=STEPS)
def test_previews_arrive_in_order_and_once_and_the_newest_always_do(steps: list[tuple[str, int]]) -> None:
    pair = Pair()
    for what, number in steps:
        if what == "make":
            pair.make()
        elif what in ("storm", "flow"):
            pair.act()
            pair.move(random.Random(number) if what == "storm" else None)
        elif what == "lazy":
            pair.act(user=False)
            pair.move(None)
        elif what == "relink":
            pair.out.reconnect = True
        elif what == "restart":
            pair.restart_controller()
        else:
            pair.now += 0.4 if what == "wait" else 6.0
    pair.heal()
    for life in pair.lives:
        assert life == sorted(set(life))
    kept = list(range(max(1, pair.made - RETAIN + 1), pair.made + 1))
    assert pair.lives[-1][-len(kept) :] == kept if kept else not pair.lives[-1]
    if pair.lives[-1]:
        assert pair.lines == list(range(1, 2 * pair.made + 1))


def test_line_integrals_of_previews_that_were_dropped_are_not_lost() -> None:
    pair = Pair()
    pair.heal()
    for _ in range(20):
        pair.make()
    pair.heal()
    assert pair.lives == [[16, 17, 18, 19, 20]]
    assert pair.lines == list(range(1, 41))
    pair.restart_controller()
    pair.heal()
    assert pair.lines == list(range(1, 41))


def test_controller_that_comes_late_gets_what_is_kept() -> None:
    pair = Pair()
    for _ in range(12):
        pair.make()
    pair.heal()
    assert pair.lives == [[8, 9, 10, 11, 12]]
    assert pair.out.session is not None
    assert pair.out.session.dropped == 7


def test_controller_that_comes_back_gets_what_is_kept_again() -> None:
    pair = Pair()
    for _ in range(4):
        pair.make()
    pair.heal()
    pair.restart_controller()
    pair.heal()
    assert pair.lives == [[1, 2, 3, 4], [1, 2, 3, 4]]


def test_next_run_begins_with_preview_one() -> None:
    pair = Pair()
    pair.make()
    pair.heal()
    pair.out.begin("other", pair.now)
    header, pixels = preview(1, "other")
    pair.out.append(header, pixels, pair.now, lines_of(1))
    pair.heal()
    assert pair.lives == [[1, 1]]


def test_controller_does_not_take_previews_of_another_job() -> None:
    into = PreviewIn(job_id="job", credit=3)
    hello = PreviewHello(job_id="other", instance="a", rank=0, run_uid="run")
    into.receive(b"1", [encode(hello)], 0.0)
    answer = into.outbox.popleft().message
    assert "job id" in answer.text
    into.receive(b"1", [encode(preview(1)[0]), preview(1)[1].tobytes(), lines_of(1).tobytes()], 0.0)
    assert not into.events


@pytest.mark.parametrize("change", [{"rank": 1}, {"run_uid": "other"}])
def test_preview_that_does_not_match_its_hello_is_ignored(change: dict[str, object]) -> None:
    pair = Pair()
    pair.heal()
    header, pixels = preview(1)
    pair._to_controller([encode(msgspec.structs.replace(header, **change)), pixels.tobytes(), lines_of(1).tobytes()])
    assert not pair.into.events
    assert pair.into.garbage.count == 1


def test_line_integrals_of_a_long_run_are_kept_as_means_in_bounded_memory():
    pair = Pair()
    for _ in range(2000):
        pair.make()
    pair.relink()
    oldest = next(iter(pair.out._kept))
    header, _, lines = pair.out._message(oldest)
    assert len(lines) == len(header.angles_used) == len(header.lines_counts) <= most_views(3) + 2
    assert (header.lines_first, sum(header.lines_counts)) == (0, header.projections)
    assert pair.out._message(oldest + 1)[0].lines_counts == ()
    assert np.average(lines[:, 0, 0], weights=header.lines_counts) == pytest.approx((header.projections + 1) / 2)
