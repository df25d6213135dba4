"""One end of a link: what is to be sent, plainly or on a channel, and when something last came from the other end.

What is sent plainly may be lost with the link; what goes on a channel is sent again on the next one. No I/O; time is
passed in.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Mapping

import msgspec

from bluesky_streamrecon.errors import RemoteProtocolError
from bluesky_streamrecon.wire import messages as m
from bluesky_streamrecon.wire.channel import Receiver, Sender

__all__ = ["LinkEnd", "SendNow", "Sent"]


class Sent(enum.Enum):
    """What became of a message that was to be sent. ``FULL``: not now, later."""

    DONE = "done"
    FULL = "full"
    NOBODY = "nobody"


SendNow = Callable[[msgspec.Struct], Sent]


class LinkEnd:
    """What one end knows of a link.

    Attributes
    ----------
    senders, receivers : dict
        Halves of channels at this end, by the name of the channel.
    linked : bool
        There is a link now.
    seen, sent_at : float
        When something came last, and when something was sent last.
    """

    def __init__(self) -> None:
        self.outbox: deque[msgspec.Struct] = deque()
        self.senders: dict[str, Sender] = {}
        self.receivers: dict[str, Receiver] = {}
        self.linked = False
        self.seen = 0.0
        self.sent_at = 0.0

    @property
    def settled(self) -> bool:
        """Nothing is left that should be sent."""
        return not self.outbox and all(sender.settled for sender in self.senders.values())

    def begin(self, now: float) -> None:
        """Begin on a fresh link: every channel is opened again."""
        self.linked, self.seen = True, now
        for sender in self.senders.values():
            sender.link()

    def break_off(self) -> None:
        """Stop sending: the link is gone, and plain messages that were not sent are lost with it."""
        self.linked = False
        self.outbox.clear()
        for sender in self.senders.values():
            sender.unlink()

    def serve(self, sender: Sender) -> None:
        """Send on this channel from now on, in the place of an older stream of it; as soon as there is a link."""
        self.senders[sender.channel] = sender
        if self.linked:
            sender.link()

    def send_plain(self, message: msgspec.Struct) -> None:
        """Send a message that may be lost with the link."""
        self.outbox.append(message)

    def take(self, message: msgspec.Struct, allowed: Mapping[str, int]) -> bool:
        """Do what the channels have to do about a message; return whether it is to be handled further.

        That is: an acknowledgement of something new, the next message of a channel, or a plain one.

        Parameters
        ----------
        message : Struct
            That has come.
        allowed : dict of str to int
            Channels that the other end may open, and the credit of each.

        Raises
        ------
        MessageMissingError
            If the link is to be broken, since a message was lost on it.
        RemoteProtocolError
            If a channel is not known or was not opened, or the other end does not keep to the rules.
        """
        if isinstance(message, m.Ack):
            sender = self.senders.get(message.channel)
            return sender is not None and sender.acknowledge(message)
        if isinstance(message, m.OpenChannel):
            self._open(message, allowed)
            return False
        return type(message) not in m.CHANNELS or self._is_next(message)

    def keep_alive(self, now: float, timeout: float, interval: float, heartbeat: m.Heartbeat) -> float:
        """Send a heartbeat if nothing was sent for `interval`; return how long nothing has come, if above `timeout`."""
        if now - self.seen > timeout:
            return now - self.seen
        if now - self.sent_at >= interval:
            self.sent_at = now
            self.outbox.append(heartbeat)
        return 0.0

    def send_next(self, send: SendNow, now: float) -> Sent | None:
        """Send plain messages, with acknowledgements that are due, then one of a channel; None if none is ready."""
        if self.linked:
            self.outbox.extend(ack for receiver in self.receivers.values() if (ack := receiver.ack()) is not None)
        while self.outbox:
            sent = send(self.outbox[0])
            if sent is not Sent.DONE:
                return sent
            self.outbox.popleft()
            self.sent_at = now
        for sender in self.senders.values():
            message = sender.next()
            if message is not None:
                sent = send(message)
                if sent is Sent.DONE:
                    sender.advance()
                    self.sent_at = now
                return sent
        return None

    def _open(self, message: m.OpenChannel, allowed: Mapping[str, int]) -> None:
        """Answer the opening of a channel; another stream than before begins with nothing received."""
        name = message.channel
        if name not in allowed:
            raise RemoteProtocolError(f"channel {name!r}: expected one of {', '.join(allowed) or '(none)'}")
        receiver = self.receivers.get(name)
        if receiver is None or receiver.stream != message.stream:
            receiver = self.receivers[name] = Receiver(name, message.stream, credit=allowed[name])
        receiver.open(message.first)

    def _is_next(self, message: msgspec.Struct) -> bool:
        """Return whether a message is the next one of its channel; a problem without a number is on none."""
        channel, seq = m.CHANNELS[type(message)], message.seq  # type: ignore[attr-defined]
        if seq == 0 and isinstance(message, m.Problem):
            return True
        receiver = self.receivers.get(channel)
        if receiver is None or seq == 0:
            raise RemoteProtocolError(f"{type(message).__name__} {seq}: the channel {channel!r} was not opened for it")
        return receiver.offer(seq, last=isinstance(message, m.CloseRun))
