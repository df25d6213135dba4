"""One channel: what sender and receiver may do, must do, and must not."""

from __future__ import annotations

import pytest

from bluesky_streamrecon.errors import LocalProtocolError, RemoteProtocolError
from bluesky_streamrecon.run_record import Ledger
from bluesky_streamrecon.wire import Score
from bluesky_streamrecon.wire.channel import (
    SENDER_MOVES,
    MessageMissingError,
    MessageSender,
    Receiver,
    Sender,
    SenderState,
)
from bluesky_streamrecon.wire.messages import Ack, Heartbeat, OpenChannel


class Numbers(Sender):
    """Sends numbers, as the text of heartbeats."""

    def opening(self) -> OpenChannel:
        return OpenChannel(channel=self.channel, stream=self.stream)

    def message(self, seq: int) -> Heartbeat:
        return Heartbeat(time=float(seq))


def ack(applied: int = 0, received: int = 0, credit: int = 9, **more: int) -> Ack:
    return Ack(channel="test", stream="s", applied=applied, received=received, credit=credit, **more)  # type: ignore[arg-type]


def receiving(credit: int = 9) -> Receiver:
    return Receiver("test", "s", credit=credit)


def streaming(items: int = 5, credit: int = 100, **options: int) -> Numbers:
    sender = Numbers("test", "s", **options)
    for _ in range(items):
        sender.append(10)
    sender.link()
    assert sender.peek() == 0
    sender.advance()
    sender.acknowledge(ack(0, 0, credit))
    return sender


def drain(sender: Sender) -> list[int]:
    sent = []
    while seq := sender.peek():
        sent.append(seq)
        sender.advance()
    return sent


def test_tables_know_every_state_and_lead_to_known_ones() -> None:
    assert set(SENDER_MOVES) == set(SenderState)
    assert {state for moves in SENDER_MOVES.values() for state in moves.values()} <= set(SenderState)


def test_nothing_is_sent_before_the_receiver_said_what_it_has() -> None:
    sender = Numbers("test", "s")
    sender.append(10)
    assert sender.peek() is None
    sender.link()
    assert sender.peek() == 0
    sender.advance()
    assert sender.peek() is None
    sender.acknowledge(ack(0, 0, 8))
    assert sender.peek() == 1


def test_items_follow_in_order_up_to_the_credit() -> None:
    sender = streaming(items=9, credit=4)
    assert drain(sender) == [1, 2, 3, 4]
    sender.acknowledge(ack(applied=2, received=4, credit=4))
    assert drain(sender) == [5, 6]


def test_bytes_on_their_way_are_bounded_but_one_item_always_goes() -> None:
    assert drain(streaming(window_bytes=25)) == [1, 2]
    assert drain(streaming(window_bytes=1)) == [1]


def test_fresh_link_goes_on_after_what_was_received() -> None:
    sender = streaming()
    drain(sender)
    sender.unlink()
    assert sender.peek() is None
    sender.link()
    sender.advance()
    sender.acknowledge(ack(applied=1, received=3, credit=9))
    assert drain(sender) == [4, 5]
    assert sender.resent == 2


def test_process_that_comes_back_with_less_is_sent_all_again() -> None:
    sender = streaming()
    drain(sender)
    sender.acknowledge(ack(applied=4, received=5))
    sender.link()
    sender.advance()
    assert sender.acknowledge(ack(applied=0, received=0))
    assert drain(sender) == [1, 2, 3, 4, 5]
    assert (sender.applied, sender.resent) == (0, 5)


def test_messages_that_are_let_go_while_the_receiver_is_asked_what_it_has_make_the_sender_ask_again() -> None:
    sender = MessageSender("test", "s")
    for number in range(1, 8):
        sender.send(Score(run_uid="run", image_number=number, projections=0))
    sender.link()
    sender.advance()
    sender.acknowledge(ack(applied=0, received=0))
    drain(sender)
    sender.link()
    sender.advance()
    sender.forget(3)
    assert not sender.acknowledge(ack(applied=0, received=1))
    assert sender.next() == OpenChannel(channel="test", stream="s", first=3)
    sender.advance()
    sender.acknowledge(ack(applied=2, received=2))
    assert drain(sender) == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("numbers", [ack(0, 6, 9), ack(3, 2, 9)])
def test_receiver_that_claims_too_much_breaks_the_protocol(numbers: Ack) -> None:
    sender = streaming()
    drain(sender)
    with pytest.raises(RemoteProtocolError, match="acknowledgement"):
        sender.acknowledge(numbers)


def test_confirming_what_was_not_due_is_our_own_fault() -> None:
    with pytest.raises(LocalProtocolError, match="nothing to send"):
        Numbers("test", "s").advance()


def test_receiver_takes_the_next_drops_the_known_and_refuses_to_go_on_without_one() -> None:
    receiver = receiving(9)
    assert receiver.offer(1)
    assert not receiver.offer(1)
    with pytest.raises(MessageMissingError, match="test 3 came, and 2 is missing"):
        receiver.offer(3)
    assert receiver.ack() == ack(applied=0, received=1, credit=9, duplicate=1)
    assert receiver.offer(2)
    assert receiver.offer(3, last=True)
    assert (receiver.duplicate, receiver.complete) == (1, True)


def test_acknowledgement_is_due_only_when_something_happened() -> None:
    receiver = receiving(9)
    assert receiver.ack() is not None
    assert receiver.ack() is None
    receiver.offer(1)
    assert receiver.ack() == ack(0, 1, 9)
    receiver.apply(1)
    assert receiver.ack() == ack(1, 1, 9)


def test_item_beyond_the_credit_breaks_the_protocol() -> None:
    with pytest.raises(RemoteProtocolError, match="credit"):
        receiving(2).offer(3)


def test_item_after_the_last_breaks_the_protocol() -> None:
    receiver = receiving(9)
    receiver.offer(1, last=True)
    assert not receiver.offer(1)
    with pytest.raises(RemoteProtocolError, match="after the last"):
        receiver.offer(2)


def test_applying_what_has_not_come_is_our_own_fault() -> None:
    receiver = receiving(9)
    receiver.offer(1)
    with pytest.raises(LocalProtocolError, match="applied test 2"):
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


def test_messages_are_kept_until_they_have_arrived_however_many_there_are() -> None:
    sender = MessageSender("reports", "instance")
    for number in range(1, 150_001):
        sender.send(Score(run_uid="run", image_number=number, projections=number))
    sender.link()
    assert sender.next() == OpenChannel(channel="reports", stream="instance")
    sender.advance()
    credit, sent = Ack(channel="reports", stream="instance", applied=0, received=0, credit=2), []
    sender.acknowledge(credit)
    while isinstance(score := sender.next(), Score):
        sent.append((score.seq, score.image_number))
        sender.advance()
    assert sent == [(1, 1), (2, 2)]
    sender.acknowledge(Ack(channel="reports", stream="instance", applied=2, received=2, credit=2))
    sender.link()
    assert sender.next() == OpenChannel(channel="reports", stream="instance", first=3)
    assert (sender.dropped, sender.last, sender.settled) == (0, 150_000, False)


def test_acknowledgement_of_another_stream_is_ignored() -> None:
    sender = streaming()
    drain(sender)
    assert not sender.acknowledge(Ack(channel="test", stream="other", applied=5, received=5, credit=9))
    assert sender.received == 0
