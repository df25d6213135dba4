"""What people's programs wish to see, at the beamline's end, without sockets.

They are sent nothing that they have not asked for. The cuts of one wish at a time come up from the ranks, only while
somebody waits for them. Time is passed in, monotonic seconds.
"""

from __future__ import annotations

from typing import Final

import msgspec

from bluesky_streamrecon.wire import messages as m
from bluesky_streamrecon.wire.listener import Peer

__all__ = ["CutWishes"]

MOST_CUT_WISHES: Final = 64
"""Of all viewers together; the oldest is dropped."""
CUT_SECONDS: Final = 1.0
"""After which the ranks, where they did not answer, are sent the wish again, or the next one if it is not wished any
more."""
CUT_WISH_SECONDS: Final = 10.0
"""After which nobody waits for cuts any more."""


class CutWishes:
    """Which cuts viewers wish to see: the newest wish of each counts, and the ranks have one at a time.

    Viewers that wait for the same when the ranks are asked, as pages that have just been opened, are served together.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], tuple[Peer, m.ShowCuts, float]] = {}  # next in turn first
        self._numbers = 0
        self._asked: list[m.ShowCuts] = []  # of the same cuts, as viewers sent them; at the ranks they are `_numbers`
        self._asked_at = 0.0

    def want(self, peer: Peer, wish: m.ShowCuts, now: float) -> None:
        """Take a viewer's wish in the place of its last one."""
        key = (peer.hello.instance, wish.viewer)
        self._waiting.pop(key, None)
        self._waiting[key] = (peer, wish, now)
        while len(self._waiting) > MOST_CUT_WISHES:
            del self._waiting[next(iter(self._waiting))]

    def leave(self, peer: Peer) -> None:
        """Forget what an operator's viewers wished."""
        self._waiting = {key: kept for key, kept in self._waiting.items() if key[0] != peer.hello.instance}

    def wish(self, now: float) -> m.ShowCuts | None:
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

    def show(self, cuts: m.Cuts) -> None:
        """Send the cuts that were asked for to those of their viewers that still wait for them."""
        if not self._asked or cuts.number != self._numbers:
            return
        asked, self._asked = self._asked, []
        for key, (peer, wish, _) in list(self._waiting.items()):
            if any(wish is each for each in asked):
                del self._waiting[key]
                peer.send_plain(msgspec.structs.replace(cuts, viewer=wish.viewer, number=wish.number))
