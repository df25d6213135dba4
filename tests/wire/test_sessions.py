"""One stream: what sender and receiver may do, must do, and must not."""

from __future__ import annotations

import pytest

from bluesky_streamrecon.errors import LocalProtocolError, RemoteProtocolError
from bluesky_streamrecon.wire import Ledger
from bluesky_streamrecon.wire.sessions import (
    RECEIVER_MOVES,
    SENDER_MOVES,
    AckNumbers,
    ReceiverSession,
    ReceiverState,
    SenderSession,
    SenderState,
    SendItem,
    SendOpen,
    Verdict,
)


def streaming(items: int = 5, credit: int = 100, **options: float) -> SenderSession:
    sender = SenderSession(**options)  # type: ignore[arg-type]
    for _ in range(items):
        sender.append(10)
    sender.link(0.0)
    assert sender.peek() == SendOpen()
    sender.advance(0.0)
    sender.acknowledge(AckNumbers(0, 0, credit), 0.0)
    return sender


def drain(sender: SenderSession, now: float = 0.0) -> list[int]:
    sent = []
    while isinstance(what := sender.peek(), SendItem):
        sent.append(what.seq)
        sender.advance(now)
    return sent


def test_tables_know_every_state_and_lead_to_known_ones() -> None:
    assert set(SENDER_MOVES) == set(SenderState)
    assert {state for moves in SENDER_MOVES.values() for state in moves.values()} <= set(SenderState)
    assert set(RECEIVER_MOVES) == set(ReceiverState)


def test_nothing_is_sent_before_the_receiver_said_what_it_has() -> None:
    sender = SenderSession()
    sender.append(10)
    assert sender.peek() is None
    sender.link(0.0)
    assert sender.peek() == SendOpen()
    sender.advance(0.0)
    assert sender.peek() is None
    sender.acknowledge(AckNumbers(0, 0, 8), 0.0)
    assert sender.peek() == SendItem(1, again=False)


def test_items_follow_in_order_up_to_the_credit() -> None:
    sender = streaming(items=9, credit=4)
    assert drain(sender) == [1, 2, 3, 4]
    sender.acknowledge(AckNumbers(applied=2, received=4, credit=4), 0.0)
    assert drain(sender) == [5, 6]


def test_bytes_on_their_way_are_bounded_but_one_item_always_goes() -> None:
    assert drain(streaming(window_bytes=25)) == [1, 2]
    assert drain(streaming(window_bytes=1)) == [1]
    assert drain(streaming(window_items=3)) == [1, 2, 3]


def test_fresh_link_goes_on_after_what_was_received() -> None:
    sender = streaming()
    drain(sender)
    sender.unlink()
    assert sender.peek() is None
    sender.link(1.0)
    sender.advance(1.0)
    sender.acknowledge(AckNumbers(applied=1, received=3, credit=9), 1.0)
    assert drain(sender) == [4, 5]
    assert sender.resent == 2


def test_sender_goes_back_when_asked_to() -> None:
    sender = streaming()
    drain(sender)
    sender.acknowledge(AckNumbers(applied=0, received=2, credit=9, resend=True), 0.0)
    assert sender.peek() == SendOpen()
    sender.advance(0.0)
    sender.acknowledge(AckNumbers(applied=0, received=2, credit=9), 0.0)
    assert drain(sender) == [3, 4, 5]


def test_request_to_go_back_that_comes_late_is_ignored() -> None:
    sender = streaming()
    drain(sender)
    sender.acknowledge(AckNumbers(applied=0, received=4, credit=9), 0.0)
    sender.acknowledge(AckNumbers(applied=0, received=2, credit=9, resend=True), 0.0)
    assert sender.peek() is None


def test_silence_makes_the_sender_ask_again_ever_more_patiently() -> None:
    sender = streaming(resend_seconds=10.0)
    drain(sender)
    asked = []
    for now in range(1, 200):
        sender.tick(float(now))
        if sender.peek() == SendOpen():
            asked.append(now)
            sender.advance(float(now))
    assert asked == [10, 30, 70, 150]


@pytest.mark.parametrize("numbers", [AckNumbers(0, 6, 9), AckNumbers(3, 2, 9)])
def test_receiver_that_claims_too_much_breaks_the_protocol(numbers: AckNumbers) -> None:
    sender = streaming()
    drain(sender)
    with pytest.raises(RemoteProtocolError, match="acknowledgement"):
        sender.acknowledge(numbers, 0.0)


def test_confirming_what_was_not_due_is_our_own_fault() -> None:
    with pytest.raises(LocalProtocolError, match="nothing to send"):
        SenderSession().advance(0.0)


def test_receiver_takes_the_next_drops_the_known_and_refuses_the_early() -> None:
    receiver = ReceiverSession(credit=9)
    assert receiver.offer(1) is Verdict.ACCEPT
    assert receiver.offer(1) is Verdict.DUPLICATE
    assert receiver.offer(3) is Verdict.GAP
    assert receiver.ack() == AckNumbers(applied=0, received=1, credit=9, resend=True)
    assert receiver.offer(4) is Verdict.GAP
    assert receiver.ack() == AckNumbers(applied=0, received=1, credit=9, resend=False)
    assert receiver.offer(2) is Verdict.ACCEPT
    assert receiver.offer(3, last=True) is Verdict.ACCEPT
    assert (receiver.duplicate, receiver.gaps, receiver.state) == (1, 2, ReceiverState.COMPLETE)


def test_acknowledgement_is_due_only_when_something_happened() -> None:
    receiver = ReceiverSession(credit=9)
    assert receiver.ack() is not None
    assert receiver.ack() is None
    receiver.offer(1)
    assert receiver.ack() == AckNumbers(0, 1, 9)
    receiver.apply(1)
    assert receiver.ack() == AckNumbers(1, 1, 9)
    assert receiver.ack(again=True) == AckNumbers(1, 1, 9)


def test_item_beyond_the_credit_breaks_the_protocol() -> None:
    with pytest.raises(RemoteProtocolError, match="credit"):
        ReceiverSession(credit=2).offer(3)


def test_item_after_the_last_breaks_the_protocol() -> None:
    receiver = ReceiverSession(credit=9)
    receiver.offer(1, last=True)
    assert receiver.offer(1) is Verdict.DUPLICATE
    with pytest.raises(RemoteProtocolError, match="after the last"):
        receiver.offer(2)


def test_applying_what_has_not_come_is_our_own_fault() -> None:
    receiver = ReceiverSession(credit=9)
    receiver.offer(1)
    with pytest.raises(LocalProtocolError, match="applied item 2"):
        receiver.apply(2)


def test_ledger_that_does_not_add_up_says_where() -> None:
    good = Ledger(items=3, sent=3, acknowledged=3, applied=3)
    assert good.balanced
    assert good.explain() == "balanced: 3 items, 3 sent, 3 acknowledged, 3 applied"
    for bad in (
        Ledger(items=3, sent=3, acknowledged=3, applied=2),
        Ledger(items=4, sent=3, acknowledged=3, applied=3, dropped=1, why="disk full"),
    ):
        assert not bad.balanced
        assert bad.explain().startswith("not balanced")
    assert bad.explain().endswith("1 dropped (disk full)")
