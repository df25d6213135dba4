"""People's programs at the beamline's end, without sockets: who is there, what they ask, and the pictures they see.

They are guests: few, at a limited pace, and sent nothing that they have not asked for. One picture at a time comes up
from the controller, and only while somebody waits for one. Time is passed in, monotonic seconds.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from bluesky_streamrecon.wire import events as ev
from bluesky_streamrecon.wire.messages import Heartbeat, Hello, Problem, UpMessage
from bluesky_streamrecon.wire.operator_messages import Answer, Ask, Picture, ShowMe
from bluesky_streamrecon.wire.tally import Tally

__all__ = ["OperatorDesk"]

log = logging.getLogger(__name__)

MOST_OPERATORS: Final = 16
ASKS_PER_SECOND: Final = 20.0
MOST_AT_ONCE: Final = 40
SAME_PICTURE_SECONDS: Final = 1.0
"""Between two times that one operator is sent the same picture."""
PICTURE_SECONDS: Final = 5.0
"""After which a picture that the controller did not send is asked for again."""

Send = Callable[[bytes, msgspec.Struct], None]


@dataclass(slots=True)
class _Guest:
    hello: Hello
    link: bytes
    seen: float
    sent: float
    since: float  # allowance was last topped up
    allowance: float = float(MOST_AT_ONCE)
    looking: Ask | None = None
    shown: tuple[str, int] = ("", 0)
    shown_at: float = field(default=-1e9)

    @property
    def name(self) -> str:
        return f"operator ({self.hello.host}:{self.hello.pid})"


class OperatorDesk:
    """Everyone who said hello as an operator.

    Parameters
    ----------
    send : callable
        ``f(link, message)``.
    events : deque
        Where questions that are not for the desk are put.
    heartbeat_seconds, peer_timeout : float
        As for other peers.
    """

    def __init__(
        self, send: Send, events: deque[ev.BeamlineEvent], *, heartbeat_seconds: float, peer_timeout: float
    ) -> None:
        self._send = send
        self._events = events
        self._heartbeat = heartbeat_seconds
        self._timeout = peer_timeout
        self._guests: dict[bytes, _Guest] = {}
        self._picture: Picture | None = None
        self._asked_at: float | None = None  # when the controller was asked for a picture that has not come
        self._hasty = Tally(log, "question of an operator ignored: too many")

    def __contains__(self, link: bytes) -> bool:
        return link in self._guests

    def __len__(self) -> int:
        return len(self._guests)

    def why_not(self, hello: Hello) -> str:
        """Say why this operator can not be let in; nothing if it can."""
        mine = [guest for guest in self._guests.values() if guest.hello.instance == hello.instance]
        if not mine and len(self._guests) >= MOST_OPERATORS:
            return f"operators: {len(self._guests)} are connected, expected at most {MOST_OPERATORS}; close one of them"
        return ""

    def join(self, link: bytes, hello: Hello, now: float) -> None:
        """Let an operator in, again or for the first time."""
        for old in [key for key, guest in self._guests.items() if guest.hello.instance == hello.instance]:
            del self._guests[old]
        guest = _Guest(hello, link, now, now, now)
        self._guests[link] = guest
        log.info("%s: joined (%s)", guest.name, hello.software)

    def leave(self, link: bytes) -> None:
        """Forget a link."""
        guest = self._guests.pop(link, None)
        if guest is not None:
            log.info("%s: gone", guest.name)

    def receive(self, link: bytes, message: UpMessage, now: float) -> None:
        """Take a message of an operator; only questions mean anything."""
        guest = self._guests[link]
        guest.seen = now
        if not isinstance(message, Ask):
            if not isinstance(message, Heartbeat | Problem):
                self._hasty.add(f"{guest.name}: {type(message).__name__} is not for operators to send")
            return
        if not self._afford(guest, now):
            self._hasty.add(guest.name)
            self._say(guest, Answer(number=message.number, ok=False, text="too many questions at once; ask later"), now)
        elif message.action == "look":
            guest.looking = message
            self._show(guest, now)
        else:
            self._events.append(ev.OperatorAsked(link, guest.hello.instance, guest.hello.host, message))

    def answer(self, asked: ev.OperatorAsked, answer: Answer, now: float) -> None:
        """Send an answer to the one who asked, if they are still there."""
        guest = self._guests.get(asked.link)
        if guest is not None and guest.hello.instance == asked.instance:
            self._say(guest, answer, now)

    def show(self, picture: Picture, now: float) -> None:
        """Take the controller's newest picture; whoever waits for one gets it."""
        self._asked_at = None
        self._picture = picture
        for guest in self._guests.values():
            self._show(guest, now)

    def new_controller(self) -> None:
        """Another controller knows nothing of a picture that was asked for."""
        self._asked_at = None

    def wish(self, now: float) -> ShowMe | None:
        """Give what to tell the controller: that somebody waits for a picture; None if nobody does, or it was told."""
        if not any(guest.looking is not None for guest in self._guests.values()):
            return None
        if self._asked_at is not None and now - self._asked_at < PICTURE_SECONDS:
            return None
        self._asked_at = now
        if self._picture is None:
            return ShowMe()
        return ShowMe(run_uid=self._picture.run_uid, image_number=self._picture.image_number)

    def tick(self, now: float) -> None:
        """Forget who is silent, and show that we are here."""
        for link, guest in list(self._guests.items()):
            if now - guest.seen > self._timeout:
                self.leave(link)
                continue
            self._show(guest, now)
            if now - guest.sent >= self._heartbeat:
                self._say(guest, Heartbeat(), now)

    def tell(self, message: msgspec.Struct, now: float) -> None:
        """Say something to all of them."""
        for guest in self._guests.values():
            self._say(guest, message, now)

    def _show(self, guest: _Guest, now: float) -> None:
        look, picture = guest.looking, self._picture
        if look is None or picture is None or (look.run_uid, look.after) == (picture.run_uid, picture.image_number):
            return
        shown = (picture.run_uid, picture.image_number)
        if guest.shown == shown and now - guest.shown_at < SAME_PICTURE_SECONDS:
            return
        guest.looking, guest.shown, guest.shown_at = None, shown, now
        self._say(guest, Answer(number=look.number, picture=picture), now)

    def _afford(self, guest: _Guest, now: float) -> bool:
        guest.allowance = min(MOST_AT_ONCE, guest.allowance + ASKS_PER_SECOND * (now - guest.since))
        guest.since = now
        if guest.allowance < 1:
            return False
        guest.allowance -= 1
        return True

    def _say(self, guest: _Guest, message: msgspec.Struct, now: float) -> None:
        guest.sent = now
        self._send(guest.link, message)
