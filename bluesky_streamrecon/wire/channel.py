"""A channel: numbered messages one way over a link, each taken exactly once and in order. No I/O, no clock.

Items of a run, reports, previews, and operators' orders with their answers travel on channels. A `Sender` and a
`Receiver` make a pair over a link, which keeps the order of messages, and loses some only by breaking.

A sender that is new on a link opens the channel: the receiver's acknowledgement says where to go on. Acknowledgements
are cumulative. The receiver takes only the message after the last one and drops what it has; where one is missing, the
link is to be broken. How many messages there are after the last applied one is bounded by the receiver's credit, their
bytes on the way by the sender.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from typing import Final

import msgspec

from bluesky_streamrecon.errors import LocalProtocolError, RemoteProtocolError
from bluesky_streamrecon.wire.messages import Ack, OpenChannel

__all__ = [
    "SENDER_MOVES",
    "MessageMissingError",
    "MessageSender",
    "Receiver",
    "Sender",
    "SenderState",
]


class SenderState(enum.Enum):
    """Where a sender is. ``UNLINKED``: nobody to send to. ``OPENING``: asked the receiver what it has."""

    UNLINKED = "unlinked"
    OPENING = "opening"
    STREAMING = "streaming"


_ALWAYS: Final = {"link": SenderState.OPENING, "unlink": SenderState.UNLINKED}
_LINKED: Final = {"ack": SenderState.STREAMING, "forget": SenderState.OPENING}

SENDER_MOVES: Final[dict[SenderState, dict[str, SenderState]]] = {
    SenderState.UNLINKED: _ALWAYS,
    SenderState.OPENING: _ALWAYS | _LINKED,
    SenderState.STREAMING: _ALWAYS | _LINKED,
}
"""Legal moves of a sender: state, then what happens, then the state after it."""


class MessageMissingError(RemoteProtocolError):
    """A message was lost on its way, so the link is of no use any more."""


class Sender(ABC):
    """Sending half of a channel to one receiver.

    Use: `append` for each new message; `link` and `unlink` as the receiver comes and goes; `acknowledge` with what
    it says; then send what `next` returns and confirm with `advance` until there is nothing.

    Parameters
    ----------
    channel, stream : str
        Which channel, and what numbers belong to: a run, or an instance of the sending program.
    window_bytes : int
        Most that is on its way (sent, not received) at a time; one message is always allowed.
    """

    def __init__(self, channel: str, stream: str, *, window_bytes: int = 64 * 2**20) -> None:
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

    def link(self) -> None:
        """Begin anew on a fresh link: ask the receiver what it has."""
        self._move("link")

    def unlink(self) -> None:
        """Stop sending; nothing is forgotten."""
        self._move("unlink")

    def forget(self, first: int) -> None:
        """Messages before `first` can not be sent any more; count those that never were."""
        self.first = max(self.first, first)
        if self._next < self.first:
            self.dropped += self.first - self._next
            self._next = self.first
            if self.state is not SenderState.UNLINKED:
                self._move("forget")

    def acknowledge(self, ack: Ack) -> bool:
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
        before = self.applied
        if opening:
            if ack.received < self.first - 1:  # answers an older opening, before messages were forgotten: ask again
                self._open_due = True
                return False
            self.received = self.applied = self._edge = 0  # a new process of the receiver may have less
            self._next = ack.received + 1
            self.high = max(self.high, ack.received)
            self._move("ack")
        self.received = max(self.received, ack.received)
        self.applied = max(self.applied, ack.applied)
        self._edge = max(self._edge, ack.applied + ack.credit)
        self._next = max(self._next, self.received + 1)
        return self.applied != before

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

    def advance(self) -> None:
        """Note that what `next` returned was sent."""
        seq = self.peek()
        if seq is None:
            raise LocalProtocolError(f"{self.channel}: advanced in state {self.state.value} with nothing to send")
        if seq == 0:
            self._open_due = False
            return
        self.resent += seq <= self.high
        self.high = max(self.high, seq)
        self._next = seq + 1

    def _move(self, what: str) -> None:
        try:
            self.state = SENDER_MOVES[self.state][what]
        except KeyError:
            raise LocalProtocolError(f"{self.channel}: {what!r} is not allowed in state {self.state.value!r}") from None
        self._open_due = self.state is SenderState.OPENING


class MessageSender(Sender):
    """A sender that keeps its messages until they have arrived; none is ever dropped.

    Parameters
    ----------
    channel, stream : str
        As for `Sender`.
    opening : Struct, optional
        What opens the channel, where that is another message than `OpenChannel`: all is kept for a receiver that comes
        back as a new process.
    """

    def __init__(self, channel: str, stream: str, opening: msgspec.Struct | None = None) -> None:
        super().__init__(channel, stream)
        self._kept: dict[int, msgspec.Struct] = {}
        self._opening = opening

    def opening(self) -> msgspec.Struct:
        """Return the message that opens the channel."""
        return self._opening or super().opening()

    def send(self, message: msgspec.Struct) -> int:
        """Queue a message and return its number."""
        seq = self.append()
        self._kept[seq] = msgspec.structs.replace(message, seq=seq)
        return seq

    def message(self, seq: int) -> msgspec.Struct | None:
        """Return a message that is kept."""
        return self._kept[seq]

    def acknowledge(self, ack: Ack) -> bool:
        """Take what the receiver says it has, and forget that."""
        changed = super().acknowledge(ack)
        while self._opening is None and self.first <= self.received:
            del self._kept[self.first]
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
        self.complete = False
        self.credit = credit
        self.applied = applied
        self.received = applied
        self.duplicate = 0
        self.dropped = 0
        self._ack_due = True

    def open(self, first: int = 1) -> None:
        """Answer the sender's opening; messages before `first` will never come and count as dropped."""
        self._ack_due = True
        missed = first - 1 - self.received
        if missed > 0:
            self.dropped += missed
            if self.applied == self.received:
                self.applied += missed
            self.received += missed

    def offer(self, seq: int, *, last: bool = False) -> bool:
        """Return whether a message that has arrived is new: the next one; `last` if none may follow it.

        Raises
        ------
        MessageMissingError
            If one before it has not arrived.
        RemoteProtocolError
            If it lies beyond the credit, or after the last one.
        """
        self._ack_due = True
        if seq <= self.received:
            self.duplicate += 1
            return False
        if self.complete:
            raise RemoteProtocolError(f"{self.channel} {seq} came after the last one, {self.received}")
        if seq > self.applied + self.credit:
            raise RemoteProtocolError(
                f"{self.channel} {seq}: expected at most {self.applied + self.credit} (applied {self.applied}, credit "
                f"{self.credit}); the sender does not keep to the credit"
            )
        if seq > self.received + 1:
            raise MessageMissingError(f"{self.channel} {seq} came, and {self.received + 1} is missing")
        self.received, self.complete = seq, last
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

    def ack(self) -> Ack | None:
        """Return the acknowledgement that is due; None if none is."""
        if not self._ack_due:
            return None
        self._ack_due = False
        return self.present_ack()

    def present_ack(self) -> Ack:
        """Return what there is now, whether it is due or not."""
        return Ack(
            channel=self.channel,
            stream=self.stream,
            applied=self.applied,
            received=self.received,
            credit=self.credit,
            duplicate=self.duplicate,
        )
