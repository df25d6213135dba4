"""Previews from ranks to the controller, both ends, without sockets. Time is passed in."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import RemoteProtocolError
from bluesky_streamrecon.projection_sets import ProjectionSet, ProjectionStore, most_views
from bluesky_streamrecon.wire import messages as m
from bluesky_streamrecon.wire.channel import Sender
from bluesky_streamrecon.wire.listener import Listener, MaySend, Peer

__all__ = ["PreviewReceiver", "PreviewSender"]

FEWEST = 4
MOST = 64
MOST_BYTES = 2**28


class PreviewSender(Sender):
    """A rank's end: keeps the newest previews of a run, also those that arrived, for a controller that comes back.

    Line integrals are all kept: the oldest preview that is left brings those of all before it. In a long scan these are
    views, each the mean of projections at nearly the same angle (see `ProjectionStore`).

    Parameters
    ----------
    run_uid : str
        Of all the previews.
    most, most_bytes : int
        Previews that are kept, and the memory of their slices; the newest few are kept in any case.
    """

    def __init__(self, run_uid: str, *, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        super().__init__("previews", run_uid)
        self._most = most
        self._most_bytes = most_bytes
        self._kept: dict[int, m.Preview] = {}
        self._kept_bytes = 0
        self._before: ProjectionStore | None = None
        self._before_first = 0

    def send(self, preview: m.Preview) -> int:
        """Keep one more preview, let go the oldest if there are too many, and return its number.

        The first one of other rows brings the line integrals of all projections: those before it are of no use then.
        """
        size = _size(preview)
        if any(kept.rows != preview.rows for kept in self._kept.values()):
            self._kept, self._kept_bytes, self._before = {}, 0, None
        seq = self.append(size)
        self._kept[seq] = msgspec.structs.replace(preview, seq=seq)
        self._kept_bytes += size
        while len(self._kept) > self._most or (self._kept_bytes > self._most_bytes and len(self._kept) > FEWEST):
            self._let_go(self._kept.pop(next(iter(self._kept))))
        self.forget(next(iter(self._kept)))
        return seq

    def message(self, seq: int) -> msgspec.Struct | None:
        """Return a preview; with the oldest that is kept come the line integrals of all before it."""
        preview = self._kept[seq]
        if self._before is None or seq != next(iter(self._kept)):
            return preview
        own, before = preview.views, self._before.views()
        parts = [before] if own is None else [before, own]
        merged = ProjectionSet(*(np.concatenate(field) for field in zip(*map(_fields, parts), strict=True)))
        return preview.with_views(merged, self._before_first)

    def _let_go(self, preview: m.Preview) -> None:
        """Keep the line integrals of a preview that will not be sent any more: previews may go, these not."""
        self._kept_bytes -= _size(preview)
        views = preview.views
        if views is None:
            return
        if self._before is None:
            self._before = ProjectionStore(most_views(preview.columns))
            self._before_first = preview.lines_first
        self._before.extend(views)


class PreviewReceiver(Listener):
    """The controller's end: takes previews of every rank, in order and once each, and puts them into `events`."""

    def __init__(self, *, credit: int, events: deque[Any] | None = None, **listening: Any) -> None:
        super().__init__(**listening)
        self.roles = {"rank": MaySend((m.Preview,), {"previews": credit})}
        self.events: deque[Any] = deque() if events is None else events

    def taken(self, preview: m.Preview) -> None:
        """Note that the user has this preview and all before it."""
        peer = self._peers.get(("rank", preview.rank))
        receiver = None if peer is None else peer.receivers.get("previews")
        if receiver is not None and receiver.stream == preview.run_uid and preview.seq > receiver.applied:
            receiver.apply(min(preview.seq, receiver.received))

    def received(self, peer: Peer, message: m.Message) -> None:
        """Take a preview, which must be of its sender and channel."""
        if isinstance(message, m.Preview):
            stream = peer.receivers["previews"].stream
            got, expected = (message.rank, message.run_uid), (peer.hello.rank, stream)
            if got != expected:
                raise RemoteProtocolError(
                    f"preview {message.seq}: got rank {got[0]} of run {got[1][:8]}, expected rank {expected[0]} of run "
                    f"{expected[1][:8]}, as its hello and its channel have it"
                )
            self.events.append(message)


def _size(preview: m.Preview) -> int:
    return 0 if preview.pixels is None else preview.pixels.nbytes


def _fields(views: ProjectionSet) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    return views.values, views.angles, views.counts
