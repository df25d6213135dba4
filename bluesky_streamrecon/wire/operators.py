"""What people's programs wish to see, at the beamline's end, without sockets.

They are sent nothing that they have not asked for. One picture at a time comes up from the controller, and the cuts of
one wish at a time from the ranks, only while somebody waits for them. Time is passed in, monotonic seconds.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from bluesky_streamrecon.wire.cuts import Cuts, ShowCuts
from bluesky_streamrecon.wire.images import Picture, ShowMe
from bluesky_streamrecon.wire.listener import Peer

__all__ = ["CutWishes", "PictureWishes"]

SHOWN_SECONDS: Final = 0.25
"""Least time between two pictures for one operator."""
PICTURE_SECONDS: Final = 5.0
"""After which a picture that the controller did not send is asked for again."""
MOST_CUT_WISHES: Final = 64
"""Of all viewers together; the oldest is dropped."""
CUT_SECONDS: Final = 1.0
"""After which the ranks, where they did not answer, are sent the wish again, or the next one if it is not wished any
more."""
CUT_WISH_SECONDS: Final = 10.0
"""After which nobody waits for cuts any more."""


class PictureWishes:
    """Which operators wait for a picture, and of another image than which; the controller's newest one serves all."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[Peer, ShowMe]] = {}
        self._shown_at: dict[str, float] = {}
        self._newest: Picture | None = None
        self._asked_at = -math.inf  # when the controller was asked for a picture that has not come

    def want(self, peer: Peer, wish: ShowMe) -> None:
        """Take an operator's wish in the place of its last one."""
        self._waiting[peer.hello.instance] = (peer, wish)

    def leave(self, peer: Peer) -> None:
        """Forget what an operator wished to see."""
        self._waiting.pop(peer.hello.instance, None)
        self._shown_at.pop(peer.hello.instance, None)

    def show(self, picture: Picture) -> None:
        """Take the controller's newest picture."""
        self._newest = picture
        self.ask_again()

    def ask_again(self) -> None:
        """Note that the controller owes no picture: it has sent one, or is another."""
        self._asked_at = -math.inf

    def serve(self, now: float) -> ShowMe | None:
        """Send the newest picture to whoever waits for it; return what to ask the controller for, if anything."""
        seen = ShowMe()
        if (newest := self._newest) is not None:
            seen = ShowMe(run_uid=newest.run_uid, image_number=newest.image_number)
            for name, (peer, wish) in list(self._waiting.items()):
                if wish != seen and now - self._shown_at.get(name, -math.inf) >= SHOWN_SECONDS:
                    del self._waiting[name]
                    self._shown_at[name] = now
                    peer.send_plain(newest)
        if not self._waiting or now - self._asked_at < PICTURE_SECONDS:
            return None
        self._asked_at = now
        return seen


class CutWishes:
    """Which cuts viewers wish to see: the newest wish of each counts, and the ranks have one at a time.

    Viewers that wait for the same when the ranks are asked, as pages that have just been opened, are served together.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], tuple[Peer, ShowCuts, float]] = {}  # next in turn first
        self._numbers = 0
        self._asked: list[ShowCuts] = []  # of the same cuts, as viewers sent them; at the ranks they are `_numbers`
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
        if not self._waiting or (self._asked and now - self._asked_at < CUT_SECONDS):
            return None
        wishes = [wish for _, wish, _ in self._waiting.values()]
        if not any(wish is asked for wish in wishes for asked in self._asked):
            self._asked = [wish for wish in wishes if wish.cuts == wishes[0].cuts]
            self._numbers += 1
        self._asked_at = now  # the same number again: an image may take longer than we waited
        return msgspec.structs.replace(self._asked[0], viewer="", number=self._numbers)

    def show(self, cuts: Cuts) -> None:
        """Send the cuts that were asked for to those of their viewers that still wait for them."""
        if not self._asked or cuts.number != self._numbers:
            return
        asked, self._asked = self._asked, []
        for key, (peer, wish, _) in list(self._waiting.items()):
            if any(wish is each for each in asked):
                del self._waiting[key]
                peer.send_plain(msgspec.structs.replace(cuts, viewer=wish.viewer, number=wish.number))
