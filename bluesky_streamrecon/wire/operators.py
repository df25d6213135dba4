"""People's programs at the beamline's end, without sockets: how many, at what pace, and the pictures they see.

They are sent nothing that they have not asked for. One picture at a time comes up from the controller, and the cuts of
one wish at a time from the ranks, only while somebody waits for them. Time is passed in, monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from bluesky_streamrecon.wire.cuts import Cuts, ShowCuts
from bluesky_streamrecon.wire.images import Picture, ShowMe
from bluesky_streamrecon.wire.listener import Peer

__all__ = ["MOST_AT_ONCE", "MOST_OPERATORS", "CutWishes", "OperatorSessions"]

MOST_OPERATORS: Final = 16
ASKS_PER_SECOND: Final = 20.0
MOST_AT_ONCE: Final = 40
SAME_PICTURE_SECONDS: Final = 1.0
"""Between two times that one operator is sent the same picture."""
PICTURE_SECONDS: Final = 5.0
"""After which a picture that the controller did not send is asked for again."""
MOST_CUT_WISHES: Final = 64
"""Of all viewers together; the oldest is dropped."""
CUT_SECONDS: Final = 1.0
"""After which the ranks, where they did not answer, are sent the wish again, or the next one if it is not wished any
more."""
CUT_WISH_SECONDS: Final = 10.0
"""After which nobody waits for cuts any more."""


@dataclass(slots=True)
class _Viewer:
    looking: ShowMe | None = None
    shown: tuple[str, int] = ("", 0)
    shown_at: float = -1e9


class OperatorSessions:
    """State of all operators: what they wait to see, and how much they may ask."""

    most = MOST_OPERATORS

    def __init__(self) -> None:
        self._viewers: dict[str, _Viewer] = {}
        self._picture: Picture | None = None
        self._asked_at: float | None = None  # when the controller was asked for a picture that has not come
        self._paced_at: float | None = None

    def why_not(self, linked: int) -> str:
        """Return why another operator can not be let in; nothing if it can."""
        if linked < MOST_OPERATORS:
            return ""
        return f"operators: {linked} are connected, expected at most {MOST_OPERATORS}; close one of them"

    def leave(self, peer: Peer) -> None:
        """Forget what an operator wanted to see."""
        self._viewers.pop(peer.hello.instance, None)

    def look(self, peer: Peer, wish: ShowMe, now: float) -> None:
        """Send a picture of another image than this as soon as there is one."""
        viewer = self._viewers.setdefault(peer.hello.instance, _Viewer())
        viewer.looking = wish
        self._show(peer, viewer, now)

    def show(self, picture: Picture, operators: Sequence[Peer], now: float) -> None:
        """Take the controller's newest picture; whoever waits for one gets it."""
        self._asked_at = None
        self._picture = picture
        self._show_all(operators, now)

    def new_controller(self) -> None:
        """Another controller knows nothing of a picture that was asked for."""
        self._asked_at = None

    def wish(self, now: float) -> ShowMe | None:
        """Return what to ask the controller for; None if nobody waits for a picture, or it was asked."""
        if not any(viewer.looking is not None for viewer in self._viewers.values()):
            return None
        if self._asked_at is not None and now - self._asked_at < PICTURE_SECONDS:
            return None
        self._asked_at = now
        if self._picture is None:
            return ShowMe()
        return ShowMe(run_uid=self._picture.run_uid, image_number=self._picture.image_number)

    def tick(self, operators: Sequence[Peer], now: float) -> None:
        """Show pictures that had to wait, and let every operator ask more, at a limited pace."""
        self._show_all(operators, now)
        since = now if self._paced_at is None else self._paced_at
        more = int((now - since) * ASKS_PER_SECOND)
        if more or self._paced_at is None:
            self._paced_at = now
        for peer in operators:
            receiver = peer.receivers.get("orders")
            if receiver is not None and more:
                receiver.apply(min(receiver.received, receiver.applied + more))

    def _show_all(self, operators: Sequence[Peer], now: float) -> None:
        for peer in operators:
            viewer = self._viewers.get(peer.hello.instance)
            if viewer is not None:
                self._show(peer, viewer, now)

    def _show(self, peer: Peer, viewer: _Viewer, now: float) -> None:
        wish, picture = viewer.looking, self._picture
        if wish is None or picture is None:
            return
        shown = (picture.run_uid, picture.image_number)
        if (wish.run_uid, wish.image_number) == shown:
            return
        if viewer.shown == shown and now - viewer.shown_at < SAME_PICTURE_SECONDS:
            return
        viewer.looking, viewer.shown, viewer.shown_at = None, shown, now
        peer.send_plain(picture)


class CutWishes:
    """Which cuts viewers wish to see: the newest wish of each counts, and the ranks have one at a time."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], tuple[Peer, ShowCuts, float]] = {}  # next in turn first
        self._numbers = 0
        self._asked: ShowCuts | None = None  # as the viewer sent it; its number at the ranks is `_numbers`
        self._asked_at = 0.0

    def want(self, peer: Peer, wish: ShowCuts, now: float) -> None:
        """Take a viewer's wish in the place of its last one."""
        key = (peer.hello.instance, wish.viewer)
        self._waiting.pop(key, None)
        self._waiting[key] = (peer, wish, now)
        while len(self._waiting) > MOST_CUT_WISHES:
            del self._waiting[next(iter(self._waiting))]

    def leave(self, peer: Peer) -> None:
        """Forget what an operator's viewers wished."""
        self._waiting = {key: kept for key, kept in self._waiting.items() if key[0] != peer.hello.instance}

    def wish(self, now: float) -> ShowCuts | None:
        """Return what to send the ranks; None if nobody waits, or they have a wish that they may still answer."""
        self._waiting = {key: kept for key, kept in self._waiting.items() if now - kept[2] < CUT_WISH_SECONDS}
        if not self._waiting or (self._asked is not None and now - self._asked_at < CUT_SECONDS):
            return None
        wishes = [wish for _, wish, _ in self._waiting.values()]
        if not any(wish is self._asked for wish in wishes):
            self._asked = wishes[0]
            self._numbers += 1
        self._asked_at = now  # the same number again: an image may take longer than we waited
        return msgspec.structs.replace(self._asked or wishes[0], viewer="", number=self._numbers)

    def show(self, cuts: Cuts) -> None:
        """Send the cuts that were asked for to their viewer, if it still waits for them."""
        if self._asked is None or cuts.number != self._numbers:
            return
        asked, self._asked = self._asked, None
        for key, (peer, wish, _) in self._waiting.items():
            if wish is asked:
                del self._waiting[key]
                peer.send_plain(msgspec.structs.replace(cuts, viewer=wish.viewer, number=wish.number))
                return
