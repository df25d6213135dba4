"""A channel: numbered messages one way over a link, each taken exactly once and in order. No I/O, no clock.

Items of a run, reports, previews, and operators' orders with their answers travel on channels. A `Sender` and a
`Receiver` make a pair, over some link that may lose, repeat or reorder messages, or break and be made again; time is
passed in.

The rule is go-back-N: the receiver takes only the message after the last one, drops what it has, refuses what
comes too early and asks to go back. A sender that is new on a link, is asked to go back, or sees nothing move,
opens the channel (again): the receiver's acknowledgement says where to go on. Acknowledgements are cumulative. How many
messages there are after the last applied one is bounded by the receiver's credit, their bytes on the way by the sender.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from typing import Final

import msgspec

from bluesky_streamrecon.errors import LocalProtocolError, RemoteProtocolError
from bluesky_streamrecon.wire.messages import Ack, OpenChannel

__all__ = [
    "RECEIVER_MOVES",
    "SENDER_MOVES",
    "MessageSender",
    "Receiver",
    "ReceiverState",
    "Sender",
    "SenderState",
]


class SenderState(enum.Enum):
    """Where a sender is. ``UNLINKED``: nobody to send to. ``OPENING``: asked the receiver what it has."""

    UNLINKED = "unlinked"
    OPENING = "opening"
    STREAMING = "streaming"


class ReceiverState(enum.Enum):
    """Where a receiver is. ``MISSING``: a message was lost on the way, and those after it are refused."""

    IN_ORDER = "in-order"
    MISSING = "missing"
    COMPLETE = "complete"


_ALWAYS: Final = {"link": SenderState.OPENING, "unlink": SenderState.UNLINKED}
_LINKED: Final = {"ack": SenderState.STREAMING, "forget": SenderState.OPENING, "stall": SenderState.OPENING}

SENDER_MOVES: Final[dict[SenderState, dict[str, SenderState]]] = {
    SenderState.UNLINKED: _ALWAYS,
    SenderState.OPENING: _ALWAYS | _LINKED,
    SenderState.STREAMING: _ALWAYS | _LINKED,
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
"""Legal moves of a receiver; a message after the last one breaks the protocol."""


class Sender(ABC):
    """Sending half of a channel to one receiver.

    Use: `append` for each new message; `link` and `unlink` as the receiver comes and goes; `acknowledge` with what
    it says; then send what `next` returns and confirm with `advance` until there is nothing. `tick` now and then.

    Parameters
    ----------
    channel, stream : str
        Which channel, and what numbers belong to: a run, or an instance of the sending program.
    window_bytes : int
        Most that is on its way (sent, not received) at a time; one message is always allowed.
    resend_seconds : float
        Without progress for this long the receiver is asked again what it has; doubles each time running.
    """

    def __init__(
        self,
        channel: str,
        stream: str,
        *,
        window_bytes: int = 64 * 2**20,
        resend_seconds: float = 10.0,
    ) -> None:
        self.channel = channel
        self.stream = stream
        self.state = SenderState.UNLINKED
        self.first = 1
        self.received = 0
        self.applied = 0
        self.high = 0
        self.resent = 0
        self.dropped = 0
        self._next = 1
        self._edge = 0
        self._window_bytes = window_bytes
        self._resend_seconds = resend_seconds
        self._patience = resend_seconds
        self._since = 0.0
        self._open_due = False
        self._bytes = [0]

    def opening(self) -> msgspec.Struct:
        """Return the message that opens the channel."""
        return OpenChannel(channel=self.channel, stream=self.stream, first=self.first)

    @abstractmethod
    def message(self, seq: int) -> msgspec.Struct | None:
        """Return a numbered message; None while it is being fetched."""

    @property
    def last(self) -> int:
        """Number of the newest message; 0 before the first."""
        return len(self._bytes) - 1

    @property
    def in_flight(self) -> int:
        """Messages sent and not acknowledged as received."""
        return max(0, self._next - 1 - self.received)

    @property
    def settled(self) -> bool:
        """The receiver has everything that can still be sent."""
        return self.received >= self.last

    def append(self, nbytes: int = 0) -> int:
        """Count one more message of this size and return its number."""
        self._bytes.append(self._bytes[-1] + nbytes)
        return self.last

    def link(self, now: float) -> None:
        """Begin anew on a fresh link: ask the receiver what it has."""
        self._move("link")
        self._reopen(now)

    def unlink(self) -> None:
        """Stop sending; nothing is forgotten."""
        self._move("unlink")

    def forget(self, first: int, now: float) -> None:
        """Messages before `first` can not be sent any more; count those that never were."""
        self.first = max(self.first, first)
        if self._next < self.first:
            self.dropped += self.first - self._next
            self._next = self.first
            if self.state is not SenderState.UNLINKED:
                self._move("forget")
                self._reopen(now)

    def acknowledge(self, ack: Ack, now: float) -> bool:
        """Take what the receiver says it has; return whether anything new is applied.

        Raises
        ------
        RemoteProtocolError
            If it claims more than there is, or to have applied what it has not received.
        """
        if self.state is SenderState.UNLINKED or ack.stream != self.stream:
            return False
        opening = self.state is SenderState.OPENING
        most = self.last if opening else self.high
        if ack.received > most or ack.applied > ack.received:
            raise RemoteProtocolError(
                f"acknowledgement of {self.channel}: got applied={ack.applied}, received={ack.received}, expected "
                f"applied <= received <= {most} ({'appended' if opening else 'sent'}); does the peer mix up two runs?"
            )
        if opening:
            if ack.received < self.first - 1:
                return False  # answers an older opening, before messages were forgotten
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

    def next(self) -> msgspec.Struct | None:
        """Return what is to be sent next; None if there is nothing, or nothing is allowed now."""
        seq = self.peek()
        if seq is None:
            return None
        return self.message(seq) if seq else self.opening()

    def peek(self) -> int | None:
        """Return the number of the message to be sent next, 0 for the opening, or None."""
        if self._open_due:
            return 0
        if self.state is not SenderState.STREAMING or self._next > min(self.last, self._edge):
            return None
        if self.in_flight and self._bytes[self._next] - self._bytes[self.received] > self._window_bytes:
            return None
        return self._next

    def advance(self, now: float) -> None:
        """Confirm that what `next` returned was sent."""
        seq = self.peek()
        if seq is None:
            raise LocalProtocolError(f"{self.channel}: advanced in state {self.state.value} with nothing to send")
        if seq == 0:
            self._open_due = False
            return
        if not self.in_flight:
            self._since = now
        self.resent += seq <= self.high
        self.high = max(self.high, seq)
        self._next = seq + 1

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
            raise LocalProtocolError(f"{self.channel}: {what!r} is not allowed in state {self.state.value!r}") from None
        if self.state is not SenderState.OPENING:
            self._open_due = False


class MessageSender(Sender):
    """A sender that keeps its messages until they have arrived; none is ever dropped."""

    def __init__(self, channel: str, stream: str, *, resend_seconds: float = 10.0) -> None:
        super().__init__(channel, stream, resend_seconds=resend_seconds)
        self._kept: dict[int, msgspec.Struct] = {}

    def send(self, message: msgspec.Struct) -> int:
        """Queue a message and return its number."""
        seq = self.append()
        self._kept[seq] = msgspec.structs.replace(message, seq=seq)
        return seq

    def message(self, seq: int) -> msgspec.Struct | None:
        """Return a message that has not arrived yet."""
        return self._kept[seq]

    def acknowledge(self, ack: Ack, now: float) -> bool:
        """Take what the receiver says it has, and forget that."""
        changed = super().acknowledge(ack, now)
        while self.first <= self.received:
            self._kept.pop(self.first, None)
            self.first += 1
        return changed


class Receiver:
    """Receiving half of a channel.

    Parameters
    ----------
    channel, stream : str
        As the sender's.
    credit : int
        Messages that are held after the last applied one.
    applied : int
        Start after this message (from a checkpoint).
    """

    def __init__(self, channel: str, stream: str, *, credit: int, applied: int = 0) -> None:
        self.channel = channel
        self.stream = stream
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
        """Answer the sender's opening; messages before `first` will never come and count as dropped."""
        self._ack_due = True
        missed = first - 1 - self.received
        if missed > 0:
            self.dropped += missed
            if self.applied == self.received:
                self.applied += missed
            self.received += missed
            if self.state is ReceiverState.MISSING:
                self.state = ReceiverState.IN_ORDER

    def offer(self, seq: int, *, last: bool = False) -> bool:
        """Return whether a message that has arrived is the next one; `last` if none may follow it.

        One that is known is dropped, and one that comes too early refused; both are counted.

        Raises
        ------
        RemoteProtocolError
            If it lies beyond the credit, or after the last one.
        """
        self._ack_due = True
        if seq <= self.received:
            self.duplicate += 1
            self._move("known", seq)
            return False
        if seq > self.applied + self.credit:
            raise RemoteProtocolError(
                f"{self.channel} {seq}: expected at most {self.applied + self.credit} (applied {self.applied}, credit "
                f"{self.credit}); the sender does not keep to the credit"
            )
        if seq > self.received + 1:
            self.gaps += 1
            if self.state is ReceiverState.IN_ORDER:
                self._resend = True
            self._move("early", seq)
            return False
        self._move("last" if last else "expected", seq)
        self._resend = False
        self.received = seq
        return True

    def apply(self, seq: int) -> None:
        """All messages up to `seq` are applied.

        Raises
        ------
        LocalProtocolError
            If it has not been received, or less than before.
        """
        if not self.applied <= seq <= self.received:
            raise LocalProtocolError(
                f"applied {self.channel} {seq}: expected {self.applied} to {self.received} (applied before, received)"
            )
        if seq > self.applied:
            self.applied = seq
            self._ack_due = True

    def ack(self, *, again: bool = False) -> Ack | None:
        """Return the acknowledgement that is due, or with `again` the present one; None if none is due."""
        if not (self._ack_due or again):
            return None
        ack = self.present_ack()
        self._ack_due = self._resend = False
        return ack

    def present_ack(self) -> Ack:
        """Return what there is now, whether it is due or not."""
        return Ack(
            channel=self.channel,
            stream=self.stream,
            applied=self.applied,
            received=self.received,
            credit=self.credit,
            duplicate=self.duplicate,
            gaps=self.gaps,
            resend=self._resend,
        )

    def _move(self, what: str, seq: int) -> None:
        try:
            self.state = RECEIVER_MOVES[self.state][what]
        except KeyError:
            raise RemoteProtocolError(f"{self.channel} {seq} came after the last one, {self.received}") from None
