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

CUT_SECONDS: Final = 1.0
"""After which the ranks, where they did not answer, are sent the wish again, or the next one if it is not wished any
more."""


class CutWishes:
    """Which cuts viewers wish to see: the newest wish of each counts, and the ranks have one at a time.

    A wish is kept until it is answered, or its viewer wishes for something else or is gone. Viewers that wait for the
    same when the ranks are asked, as pages that have just been opened, are served together.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], tuple[Peer, m.ShowCuts]] = {}  # next in turn first
        self._asked: list[m.ShowCuts] = []  # of the same cuts, as viewers sent them
        self._asked_at = 0.0
        self._first = self._last = 0  # numbers under which the ranks have had them

    def want(self, peer: Peer, wish: m.ShowCuts) -> None:
        """Take a viewer's wish in the place of its last one."""
        key = (peer.hello.instance, wish.viewer)
        self._waiting.pop(key, None)
        self._waiting[key] = (peer, wish)

    def leave(self, peer: Peer) -> None:
        """Forget what an operator's viewers wished."""
        self._waiting = {key: kept for key, kept in self._waiting.items() if key[0] != peer.hello.instance}

    def wish(self, now: float) -> m.ShowCuts | None:
        """Return the next wish for the ranks; None if there is none, or they have one that they may still answer."""
        if not self._waiting or (self._asked and now - self._asked_at < CUT_SECONDS):
            return None
        wishes = [wish for _, wish in self._waiting.values()]
        self._last += 1  # also of the same once more: what ranks have answered once they answer no more
        if not any(wish is asked for wish in wishes for asked in self._asked):
            self._asked = [wish for wish in wishes if wish.cuts == wishes[0].cuts]
            self._first = self._last
        self._asked_at = now
        return msgspec.structs.replace(self._asked[0], viewer="", number=self._last)

    def show(self, cuts: m.Cuts) -> None:
        """Send the cuts that were asked for to those of their viewers that still wait for them."""
        if not self._asked or not self._first <= cuts.number <= self._last:
            return
        asked, self._asked = self._asked, []
        for key, (peer, wish) in list(self._waiting.items()):
            if any(wish is each for each in asked):
                del self._waiting[key]
                peer.send_plain(msgspec.structs.replace(cuts, viewer=wish.viewer, number=wish.number))
