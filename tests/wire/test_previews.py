"""Previews reach the controller in order and once, and never make the rank wait."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesky_streamrecon.projection_sets import most_views
from bluesky_streamrecon.wire.channel import SenderState
from bluesky_streamrecon.wire.codec import encode
from bluesky_streamrecon.wire.connector import Connector
from bluesky_streamrecon.wire.link import Sent
from bluesky_streamrecon.wire.messages import Hello
from bluesky_streamrecon.wire.previews import PreviewReceiver, PreviewSender
from bluesky_streamrecon.wire.run_messages import Preview

RETAIN = 5


def preview(seq: int, run_uid: str = "run") -> Preview:
    """Image `seq`, of 2 * seq projections; it brings the line integrals of the last two."""
    return Preview(
        run_uid=run_uid,
        seq=seq,
        rank=0,
        image_number=seq,
        projections=2 * seq,
        rows=(1,),
        shape=(2, 2),
        angles_used=(2.0 * seq - 1, 2.0 * seq),
        columns=3,
        lines_first=2 * seq - 2,
        pixels=np.full((1, 2, 2), seq, dtype=np.float32),
        lines=lines_of(seq),
    )


def lines_of(seq: int) -> np.ndarray:
    return np.repeat(np.array([2 * seq - 1, 2 * seq], np.float32), 3).reshape(2, 1, 3)


def test_first_preview_of_other_rows_brings_all_and_none_before_it_is_sent_any_more():
    sender = PreviewSender("run", most=RETAIN)
    for number in range(1, RETAIN + 3):
        sender.send(preview(number))
    last = RETAIN + 3
    lines = np.concatenate([lines_of(number) for number in range(1, last + 1)])
    other = msgspec.structs.replace(
        preview(last), rows=(2,), lines=lines, lines_first=0, angles_used=tuple(map(float, range(1, 2 * last + 1)))
    )
    sender.send(other)
    assert (sender.first, sender.message(last)) == (last, msgspec.structs.replace(other, seq=last))
    for number in range(last + 1, last + RETAIN + 1):  # it is let go, and its line integrals are not
        sender.send(msgspec.structs.replace(preview(number), rows=(2,)))
    oldest = sender.message(last + 1)
    assert (oldest.lines_first, oldest.lines[:, 0, 0].tolist()) == (0, list(range(1, 2 * last + 3)))


class Pair:
    """A rank's and the controller's end, and the network between them."""

    def __init__(self) -> None:
        self.now = 100.0
        self.links = 0
        hello = Hello(job_id="job", role="rank", instance="a", rank=0, size=1)
        self.rank = Connector(hello, channel=None, greeting_seconds=2.0)
        self.up: deque[list[bytes]] = deque()
        self.down: deque[list[bytes]] = deque()
        self.made = 0
        self.lossy = False  # something that went over the present link was lost, or came late
        self.lives: list[list[int]] = []
        self.lines: list[int] = []  # projections whose line integrals this life of the controller has
        self.restart_controller()
        self.begin("run")

    def begin(self, run_uid: str) -> None:
        self.out = PreviewSender(run_uid, most=RETAIN)
        self.rank.serve(self.out)

    def restart_controller(self) -> None:
        self.into = PreviewReceiver(job_id="job", credit=3, heartbeat_seconds=1.0, peer_timeout=5.0)
        self.lives.append([])
        self.lines = []
        self.up.clear()
        self.down.clear()

    def make(self) -> None:
        self.made += 1
        self.out.send(preview(self.made))

    def act(self, user: bool = True) -> None:
        """Both ends do what is due, and the controller's user takes what has come."""
        self.rank.tick(self.now)
        if self.rank.state.value == "down":
            self.links += 1
            self.lossy = False
            self.up.clear()
            self.down.clear()
            self.rank.connected(self.now)
        self.rank.pump(self.send_up, self.now)
        self.rank.events.clear()
        while user and self.into.events:
            event = self.into.events.popleft()
            assert np.all(event.pixels == event.seq)
            self.lives[-1].append(event.seq)
            told = range(event.lines_first + 1, event.projections + 1)
            assert event.angles_used == tuple(told)
            np.testing.assert_array_equal(event.lines, np.repeat(told, 3).reshape(-1, 1, 3))
            self.lines += [projection for projection in told if projection not in self.lines]
            self.into.taken(event)
        self.into.tick(self.now)
        self.into.pump(self.send_down, self.now)

    def send_up(self, message: Any) -> Sent:
        self.up.append(encode(message))
        return Sent.DONE

    def send_down(self, link: bytes, message: Any) -> Sent:
        if link == b"%d" % self.links:
            self.down.append(encode(message))
        return Sent.DONE

    def move(self, fate: random.Random | None) -> None:
        for flying, take in ((self.up, self._to_controller), (self.down, self._to_rank)):
            late = 0
            for _ in range(len(flying)):
                copies = 1 if fate is None else fate.choice((1, 1, 1, 1, 1, 0, 2, -1))
                self.lossy |= copies < 1
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
        self.rank.receive(b"", frames, self.now)

    def heal(self) -> None:
        """Let the network work again; a connection that lost something ends, as TCP's do."""
        if self.lossy and self.rank.state.value in ("greeting", "linked"):
            self.rank.lose("the connection was reset")
        for count in range(200):
            self.act()
            self.move(None)
            self.now += 0.3
            streaming = self.out.state is SenderState.STREAMING
            if count > 10 and streaming and self.out.settled and not self.into.events:
                return
        raise AssertionError(f"not settled: {self.out.state}")


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
            if pair.rank.state.value in ("greeting", "linked"):
                pair.rank.lose("so the test wants it")
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
    assert pair.out.dropped == 7


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
    pair.begin("other")
    pair.out.send(preview(1, "other"))
    pair.heal()
    assert pair.lives == [[1, 1]]


def test_controller_does_not_take_previews_of_another_job_or_of_who_is_no_rank() -> None:
    into = PreviewReceiver(job_id="job", credit=3)
    replies: list[Any] = []
    strangers = [
        Hello(job_id="other", role="rank", instance="a"),
        Hello(job_id="job", role="operator", instance="b"),
    ]
    for hello in strangers:
        into.receive(b"1", encode(hello), 0.0)
        into.receive(b"1", encode(preview(1)), 0.0)
    into.pump(lambda _, message: replies.append(message) or Sent.DONE, 0.0)  # type: ignore[func-returns-value]
    assert ["job id" in replies[0].text, "role" in replies[2].text] == [True, True]
    assert not into.events


@pytest.mark.parametrize("change", [{"rank": 1}, {"run_uid": "other"}])
def test_preview_that_does_not_match_its_hello_is_ignored(change: dict[str, object]) -> None:
    pair = Pair()
    pair.heal()
    before = pair.into.garbage.count
    pair._to_controller(encode(msgspec.structs.replace(preview(1), **change)))
    assert not pair.into.events
    assert pair.into.garbage.count == before + 1


def test_line_integrals_of_a_long_run_are_kept_as_means_in_bounded_memory():
    pair = Pair()
    for _ in range(2000):
        pair.make()
    oldest = next(iter(pair.out._kept))
    header = pair.out.message(oldest)
    lines = header.lines
    assert len(lines) == len(header.angles_used) == len(header.lines_counts) <= most_views(3) + 2
    assert (header.lines_first, sum(header.lines_counts)) == (0, header.projections)
    assert pair.out.message(oldest + 1).lines_counts == ()
    assert np.average(lines[:, 0, 0], weights=header.lines_counts) == pytest.approx((header.projections + 1) / 2)


def test_few_previews_are_kept_where_they_are_large() -> None:
    out = PreviewSender("run", most=64, most_bytes=5 * 16)
    for seq in range(1, 11):
        out.send(preview(seq))
    assert out.first == 6
    small = PreviewSender("run", most=64, most_bytes=16)
    for seq in range(1, 11):
        small.send(preview(seq))
    assert small.first == 7
