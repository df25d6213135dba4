"""One reliable stream: numbered items go out, each is applied exactly once and in order. No I/O, no clock.

A `SenderSession` and a `ReceiverSession` make a pair. They serve projections (beamline to rank), run marks
(beamline to controller) and previews (rank to controller) alike. Whoever owns a session carries its answers
over some link that may lose, repeat or reorder messages, or break and be made again; time is passed in.

The rule is go-back-N: the receiver takes only the item after the last one, drops what it has, refuses what
comes too early and asks to go back. A sender that is new on a link, is asked to go back, or sees nothing move,
opens the stream (again): the receiver's answer says where to go on. Acknowledgements are cumulative. Items that
may be on their way are bounded by the sender (number and bytes), items not yet applied by the receiver's credit.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

import msgspec

from bluesky_streamrecon.errors import LocalProtocolError, RemoteProtocolError

__all__ = [
    "RECEIVER_MOVES",
    "SENDER_MOVES",
    "AckNumbers",
    "Ledger",
    "ReceiverSession",
    "ReceiverState",
    "SendItem",
    "SendOpen",
    "SenderSession",
    "SenderState",
    "Verdict",
]


class SenderState(enum.Enum):
    """Where a sender is. ``UNLINKED``: nobody to send to. ``OPENING``: asked the receiver what it has."""

    UNLINKED = "unlinked"
    OPENING = "opening"
    STREAMING = "streaming"


class ReceiverState(enum.Enum):
    """Where a receiver is. ``MISSING``: an item was lost on the way, and those after it are refused."""

    IN_ORDER = "in-order"
    MISSING = "missing"
    COMPLETE = "complete"


SENDER_MOVES: Final[dict[SenderState, dict[str, SenderState]]] = {
    SenderState.UNLINKED: {"link": SenderState.OPENING, "unlink": SenderState.UNLINKED},
    SenderState.OPENING: {
        "link": SenderState.OPENING,
        "ack": SenderState.STREAMING,
        "forget": SenderState.OPENING,
        "stall": SenderState.OPENING,
        "unlink": SenderState.UNLINKED,
    },
    SenderState.STREAMING: {
        "link": SenderState.OPENING,
        "ack": SenderState.STREAMING,
        "forget": SenderState.OPENING,
        "stall": SenderState.OPENING,
        "unlink": SenderState.UNLINKED,
    },
}
"""Legal moves of a sender: state, then what happens, then the state after it."""

RECEIVER_MOVES: Final[dict[ReceiverState, dict[str, ReceiverState]]] = {
    ReceiverState.IN_ORDER: {
        "expected": ReceiverState.IN_ORDER,
        "known": ReceiverState.IN_ORDER,
        "early": ReceiverState.MISSING,
        "last": ReceiverState.COMPLETE,
    },
    ReceiverState.MISSING: {
        "expected": ReceiverState.IN_ORDER,
        "known": ReceiverState.MISSING,
        "early": ReceiverState.MISSING,
        "last": ReceiverState.COMPLETE,
    },
    ReceiverState.COMPLETE: {"known": ReceiverState.COMPLETE},
}
"""Legal moves of a receiver; an item after the last one breaks the protocol."""


class Verdict(enum.Enum):
    """What the receiver does with an item."""

    ACCEPT = "accept"
    DUPLICATE = "duplicate"
    GAP = "gap"


@dataclass(frozen=True, slots=True)
class AckNumbers:
    """The numbers of an acknowledgement; see `messages.Ack`."""

    applied: int
    received: int
    credit: int
    resend: bool = False


@dataclass(frozen=True, slots=True)
class SendOpen:
    """Say what the stream is, and ask the receiver what it has."""


@dataclass(frozen=True, slots=True)
class SendItem:
    """Send this item; `again` if it was sent before."""

    seq: int
    again: bool


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the items of one run for one rank; stored with the run.

    Parameters
    ----------
    items : int
        Flats, darks and projections appended to the run.
    sent : int
        Of these, sent at least once.
    acknowledged : int
        Received by the rank's present process.
    applied : int
        In the rank's image (or flat and dark), counted by the rank.
    duplicate : int
        Arrived again, and were dropped by the rank as they should be.
    dropped : int
        Could not be sent, because their frame was gone; `why` tells the first reason.
    resent : int
        Sent once more after a broken link, a loss or a restart.
    gaps : int
        Refused by the rank because an item before them was missing.
    spilled : int
        Held in the temporary file at some time (of the run, not of this rank alone).
    restarts, reconnects : int
        Times that the rank came back as a new process, and as the same one.
    done : bool
        The rank has reported the run as done.
    """

    items: int = 0
    sent: int = 0
    acknowledged: int = 0
    applied: int = 0
    duplicate: int = 0
    dropped: int = 0
    resent: int = 0
    gaps: int = 0
    spilled: int = 0
    restarts: int = 0
    reconnects: int = 0
    done: bool = False
    why: str = ""

    @property
    def balanced(self) -> bool:
        """Every item was sent, acknowledged and applied, and none dropped."""
        return self.dropped == 0 and self.items == self.sent == self.acknowledged == self.applied

    def explain(self) -> str:
        """Say in a few words whether the ledger adds up, and where it does not."""
        counts = f"{self.items} items, {self.sent} sent, {self.acknowledged} acknowledged, {self.applied} applied"
        if self.balanced:
            return f"balanced: {counts}"
        return f"not balanced: {counts}, {self.dropped} dropped" + (f" ({self.why})" if self.why else "")


class SenderSession:
    """Sending half of a stream to one receiver.

    Use: `append` for each new item; `link` and `unlink` as the receiver comes and goes; `acknowledge` with what
    it says; then take from `peek` and confirm with `advance` until there is nothing. `tick` now and then.

    Parameters
    ----------
    window_items, window_bytes : int
        Most that is on its way (sent, not received) at a time; one item is always allowed.
    resend_seconds : float
        Without progress for this long the receiver is asked again what it has; doubles each time running.
    """

    def __init__(
        self, *, window_items: int = 256, window_bytes: int = 64 * 2**20, resend_seconds: float = 10.0
    ) -> None:
        self.state = SenderState.UNLINKED
        self.first = 1
        self.received = 0
        self.applied = 0
        self.high = 0
        self.resent = 0
        self.dropped = 0
        self._next = 1
        self._edge = 0
        self._window_items = window_items
        self._window_bytes = window_bytes
        self._resend_seconds = resend_seconds
        self._patience = resend_seconds
        self._since = 0.0
        self._open_due = False
        self._bytes = [0]

    @property
    def last(self) -> int:
        """Number of the newest item; 0 before the first."""
        return len(self._bytes) - 1

    @property
    def in_flight(self) -> int:
        """Items sent and not acknowledged as received."""
        return max(0, self._next - 1 - self.received)

    def append(self, nbytes: int) -> int:
        """Count one more item of this size and give its number."""
        self._bytes.append(self._bytes[-1] + nbytes)
        return self.last

    def link(self, now: float) -> None:
        """Begin anew on a fresh link: ask the receiver what it has."""
        self._move("link")
        self._reopen(now)

    def unlink(self) -> None:
        """Stop sending; nothing is forgotten."""
        self._move("unlink")

    def reopen(self, now: float) -> None:
        """Send the opening once more, because it says something new; without a link that comes by itself."""
        if self.state is not SenderState.UNLINKED:
            self._move("stall")
            self._reopen(now)

    def forget(self, first: int, now: float) -> None:
        """Items before `first` can not be sent any more; count those that never were."""
        self.first = max(self.first, first)
        if self._next < self.first:
            self.dropped += self.first - self._next
            self._next = self.first
            if self.state is not SenderState.UNLINKED:
                self._move("forget")
                self._reopen(now)

    def acknowledge(self, ack: AckNumbers, now: float) -> bool:
        """Take what the receiver says it has; tell whether anything new is applied.

        Raises
        ------
        RemoteProtocolError
            If it claims more than there is, or to have applied what it has not received.
        """
        if self.state is SenderState.UNLINKED:
            return False
        opening = self.state is SenderState.OPENING
        most = self.last if opening else self.high
        if ack.received > most or ack.applied > ack.received:
            raise RemoteProtocolError(
                f"acknowledgement: got applied={ack.applied}, received={ack.received}, expected applied <= "
                f"received <= {most} ({'appended' if opening else 'sent'}); does the peer mix up two runs?"
            )
        if opening:
            if ack.received < self.first - 1:
                return False  # answers an older opening, before items were forgotten
            changed = ack.applied != self.applied
            self.received, self.applied = ack.received, ack.applied
            self.high = max(self.high, ack.received)
            self._next = self.received + 1
            self._edge = ack.applied + ack.credit
            self._progress(now)
            self._move("ack")
            return changed
        if ack.received > self.received:
            self.received = ack.received
            self._progress(now)
            self._next = max(self._next, self.received + 1)
        changed = ack.applied > self.applied
        self.applied = max(self.applied, ack.applied)
        self._edge = max(self._edge, ack.applied + ack.credit)
        if ack.resend and ack.received == self.received and self._next > self.received + 1:
            self._move("stall")
            self._reopen(now)
        return changed

    def peek(self) -> SendOpen | SendItem | None:
        """Tell what is to be sent next; None if there is nothing, or nothing is allowed now."""
        if self._open_due:
            return SendOpen()
        if self.state is not SenderState.STREAMING or self._next > min(self.last, self._edge):
            return None
        flying = self._next - 1 - self.received
        weight = self._bytes[self._next] - self._bytes[self.received]
        if flying and (flying >= self._window_items or weight > self._window_bytes):
            return None
        return SendItem(self._next, again=self._next <= self.high)

    def advance(self, now: float) -> None:
        """Confirm that what `peek` told was sent."""
        what = self.peek()
        if isinstance(what, SendOpen):
            self._open_due = False
        elif what is None:
            raise LocalProtocolError(f"sender: advanced in state {self.state.value} with nothing to send")
        else:
            if not self.in_flight:
                self._since = now
            self.resent += what.again
            self.high = max(self.high, what.seq)
            self._next = what.seq + 1

    def tick(self, now: float) -> None:
        """Ask the receiver again what it has if nothing has moved for too long."""
        if now - self._since < self._patience:
            return
        if self.state is SenderState.OPENING or (self.state is SenderState.STREAMING and self.in_flight):
            self._move("stall")
            self._open_due = True
            self._since = now
            self._patience = min(self._patience * 2, 16 * self._resend_seconds)

    def _reopen(self, now: float) -> None:
        self._open_due = True
        self._progress(now)

    def _progress(self, now: float) -> None:
        self._since = now
        self._patience = self._resend_seconds

    def _move(self, what: str) -> None:
        try:
            self.state = SENDER_MOVES[self.state][what]
        except KeyError:
            raise LocalProtocolError(f"sender: {what!r} is not allowed in state {self.state.value!r}") from None
        if self.state is not SenderState.OPENING:
            self._open_due = False


class ReceiverSession:
    """Receiving half of a stream.

    Parameters
    ----------
    credit : int
        Items that are held after the last applied one.
    applied : int
        Start after this item (from a checkpoint).
    """

    def __init__(self, *, credit: int, applied: int = 0) -> None:
        self.state = ReceiverState.IN_ORDER
        self.credit = credit
        self.applied = applied
        self.received = applied
        self.duplicate = 0
        self.gaps = 0
        self.dropped = 0
        self._ack_due = True
        self._resend = False

    def open(self, first: int = 1) -> None:
        """Answer the sender's opening; items before `first` will never come and count as dropped."""
        self._ack_due = True
        missed = first - 1 - self.received
        if missed > 0:
            self.dropped += missed
            if self.applied == self.received:
                self.applied += missed
            self.received += missed
            if self.state is ReceiverState.MISSING:
                self.state = ReceiverState.IN_ORDER

    def offer(self, seq: int, *, last: bool = False) -> Verdict:
        """Decide on an item that has arrived; `last` if none may follow it.

        Raises
        ------
        RemoteProtocolError
            If it lies beyond the credit, or after the last one.
        """
        self._ack_due = True
        if seq <= self.received:
            self.duplicate += 1
            self._move("known", seq)
            return Verdict.DUPLICATE
        if seq > self.applied + self.credit:
            raise RemoteProtocolError(
                f"item {seq}: expected at most {self.applied + self.credit} (applied {self.applied}, credit "
                f"{self.credit}); the sender does not keep to the credit"
            )
        if seq > self.received + 1:
            self.gaps += 1
            if self.state is ReceiverState.IN_ORDER:
                self._resend = True
            self._move("early", seq)
            return Verdict.GAP
        self._move("last" if last else "expected", seq)
        self._resend = False
        self.received = seq
        return Verdict.ACCEPT

    def apply(self, seq: int) -> None:
        """All items up to `seq` are applied.

        Raises
        ------
        LocalProtocolError
            If it has not been received, or less than before.
        """
        if not self.applied <= seq <= self.received:
            raise LocalProtocolError(
                f"applied item {seq}: expected {self.applied} to {self.received} (applied before, received)"
            )
        if seq > self.applied:
            self.applied = seq
            self._ack_due = True

    def ack(self, *, again: bool = False) -> AckNumbers | None:
        """Give the acknowledgement that is due, or with `again` the present one; None if none is due."""
        if not (self._ack_due or again):
            return None
        numbers = AckNumbers(self.applied, self.received, self.credit, self._resend)
        self._ack_due = self._resend = False
        return numbers

    def _move(self, what: str, seq: int) -> None:
        try:
            self.state = RECEIVER_MOVES[self.state][what]
        except KeyError:
            raise RemoteProtocolError(f"item {seq} came after the last one, {self.received}") from None
