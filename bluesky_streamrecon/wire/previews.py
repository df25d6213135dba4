"""Previews from ranks to the controller, both sides, without sockets. Time is passed in."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import LocalProtocolError, RemoteProtocolError
from bluesky_streamrecon.views import Views, ViewStore, most_views
from bluesky_streamrecon.wire.codec import Buffer, UnknownVersionError, decode_preview_down, decode_preview_up
from bluesky_streamrecon.wire.events import PreviewReceived
from bluesky_streamrecon.wire.hub import Outgoing
from bluesky_streamrecon.wire.messages import Heartbeat, Preview, PreviewAck, PreviewHello, PreviewWelcome, Problem
from bluesky_streamrecon.wire.sessions import AckNumbers, ReceiverSession, SenderSession, SenderState, SendOpen, Verdict
from bluesky_streamrecon.wire.tally import Tally

__all__ = ["PreviewIn", "PreviewOut"]

log = logging.getLogger(__name__)

Slices = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A preview that can still be sent, with the line integrals that came with it."""

    preview: Preview
    pixels: Slices
    lines: Slices | None


class PreviewOut:
    """A rank's side: keeps the newest previews of a run, and sends them as the controller's credit allows.

    Line integrals are all kept, until the next run: the oldest preview that is left brings those of all before it. In a
    long scan these are views, each the mean of projections at nearly the same angle (see `ViewStore`).

    When `reconnect` is true, the connection is to be made anew, and `connected` called.
    """

    def __init__(
        self,
        *,
        job_id: str,
        instance: str,
        rank: int,
        retain: int,
        heartbeat_seconds: float = 1.0,
        peer_timeout: float = 10.0,
        resend_seconds: float = 5.0,
    ) -> None:
        self.reconnect = False
        self.refused: str | None = None
        self.session: SenderSession | None = None
        self.run_uid: str | None = None
        self._garbage = Tally(log, "malformed message of the controller ignored")
        self._job_id = job_id
        self._instance = instance
        self._rank = rank
        self._retain = retain
        self._heartbeat = heartbeat_seconds
        self._timeout = peer_timeout
        self._resend = resend_seconds
        self._connected = False
        self._kept: dict[int, _Kept] = {}
        self._before: ViewStore | None = None
        self._before_first = 0
        self._seen = 0.0
        self._sent = 0.0

    @property
    def settled(self) -> bool:
        """The controller has everything that can still be sent."""
        return self.session is None or self.session.received >= self.session.last

    def begin(self, run_uid: str, now: float) -> None:
        """Start with preview 1 of another run."""
        self.run_uid = run_uid
        self._kept.clear()
        self._before = None
        self.session = SenderSession(window_items=64, resend_seconds=self._resend)
        if self._connected:
            self.session.link(now)

    def append(self, preview: Preview, pixels: Slices, now: float, lines: Slices | None = None) -> None:
        """Keep one more preview, and let go the oldest if there are too many."""
        if self.session is None or preview.run_uid != self.run_uid:
            return
        seq = self.session.append(pixels.nbytes)
        if seq != preview.seq:
            raise LocalProtocolError(f"preview {preview.seq} of run {preview.run_uid[:8]}: expected {seq}")
        self._kept[seq] = _Kept(preview, pixels, lines)
        while len(self._kept) > self._retain:
            self._let_go(self._kept.pop(next(iter(self._kept))))
        self.session.forget(next(iter(self._kept)), now)

    def connected(self, now: float) -> None:
        """There is a fresh connection to the controller."""
        self._connected = True
        self.reconnect = False
        self._seen = self._sent = now
        if self.session is not None:
            self.session.link(now)

    def disconnected(self) -> None:
        """There is no controller to connect to."""
        self._connected = self.reconnect = False
        if self.session is not None:
            self.session.unlink()

    def receive(self, frames: Sequence[Buffer], now: float) -> None:
        """Take one message of the controller; whatever it is, nothing is raised."""
        if self.reconnect or self.refused:
            return
        try:
            message = decode_preview_down(frames)
            self._seen = now
            if isinstance(message, Problem):
                self._problem(message, now)
            elif isinstance(message, PreviewWelcome | PreviewAck):
                self._answer(message, now)
        except RemoteProtocolError as error:
            self._garbage.add(error)

    def tick(self, now: float) -> None:
        """Look at what should have happened by now."""
        if not self._connected or self.session is None:
            return
        if now - self._seen > self._timeout:
            self._seen = now
            self.reconnect = True
            self.session.unlink()
            return
        self.session.tick(now)

    def next(self, now: float) -> tuple[msgspec.Struct, Slices | None, Slices | None] | None:
        """Take what is to be sent next (header, pixels, line integrals), or None."""
        session = self.session
        if session is None or not self._connected or self.refused:
            return None
        what = session.peek()
        if what is not None:
            session.advance(now)
            self._sent = now
            if isinstance(what, SendOpen):
                return self._hello(session), None, None
            return self._message(what.seq)
        if session.state is SenderState.STREAMING and now - self._sent >= self._heartbeat:
            self._sent = now
            return Heartbeat(), None, None
        return None

    def _let_go(self, kept: _Kept) -> None:
        """Keep the line integrals of a preview that will not be sent any more: previews may go, these not."""
        if kept.lines is None:
            return
        if self._before is None:
            self._before = ViewStore(most_views(kept.preview.columns))
            self._before_first = kept.preview.lines_first
        self._before.extend(_views(kept.preview, kept.lines))

    def _message(self, seq: int) -> tuple[Preview, Slices, Slices | None]:
        """Give header and frames; with the oldest that is kept come the line integrals of all before it."""
        kept = self._kept[seq]
        if self._before is None or seq != next(iter(self._kept)):
            return kept.preview, kept.pixels, kept.lines
        before = self._before.views()
        parts = [before] if kept.lines is None else [before, _views(kept.preview, kept.lines)]
        counts = tuple(count for part in parts for count in part.counts.tolist())
        header = msgspec.structs.replace(
            kept.preview,
            angles_used=tuple(angle for part in parts for angle in part.angles.tolist()),
            columns=before.values.shape[2],
            lines_first=self._before_first,
            lines_counts=() if all(part.single for part in parts) else counts,
        )
        return header, kept.pixels, np.concatenate([part.values for part in parts])

    def _hello(self, session: SenderSession) -> PreviewHello:
        return PreviewHello(
            job_id=self._job_id,
            instance=self._instance,
            rank=self._rank,
            run_uid=self.run_uid or "-",
            first=session.first,
        )

    def _answer(self, message: PreviewWelcome | PreviewAck, now: float) -> None:
        if self.session is None or message.run_uid != self.run_uid or message.rank != self._rank:
            return
        if isinstance(message, PreviewWelcome):
            numbers = AckNumbers(message.last_applied, message.last_received, message.credit)
            self._heartbeat, self._timeout = message.heartbeat_seconds, message.peer_timeout
        elif self.session.state is SenderState.OPENING:
            return
        else:
            numbers = AckNumbers(message.applied, message.received, message.credit, message.resend)
        self.session.acknowledge(numbers, now)

    def _problem(self, message: Problem, now: float) -> None:
        if message.where == "link":
            if self.session is not None and self.session.state is SenderState.STREAMING:
                self.session.link(now)
        elif message.where in ("hello", "version"):
            log.error("rank %d: previews refused by the controller: %s", self._rank, message.text)
            self.refused = message.text
        else:
            log.warning("run %s: the controller reports a problem in %s: %s", *_told(message))


@dataclass(slots=True)
class _Source:
    run_uid: str
    instance: str
    receiver: ReceiverSession
    link: bytes
    seen: float
    sent: float


class PreviewIn:
    """The controller's side: takes previews of every rank, in order and once each."""

    def __init__(self, *, job_id: str, credit: int, heartbeat_seconds: float = 1.0, peer_timeout: float = 10.0) -> None:
        self.outbox: deque[Outgoing] = deque()
        self.events: deque[PreviewReceived] = deque()
        self.garbage = Tally(log, "malformed preview ignored")
        self._refused = Tally(log, "preview hello refused")
        self._job_id = job_id
        self._credit = credit
        self._heartbeat = heartbeat_seconds
        self._timeout = peer_timeout
        self._sources: dict[int, _Source] = {}
        self._links: dict[bytes, int] = {}

    def applied(self, preview: Preview) -> None:
        """Note that the user took this preview."""
        source = self._sources.get(preview.rank)
        if source is not None and source.run_uid == preview.run_uid and preview.seq > source.receiver.applied:
            source.receiver.apply(min(preview.seq, source.receiver.received))

    def receive(self, link: bytes, frames: Sequence[Buffer], now: float) -> None:
        """Take one message of a rank; whatever it is, nothing is raised."""
        try:
            message, pixels, lines = decode_preview_up(frames)
            if isinstance(message, PreviewHello):
                self._hello(link, message, now)
                return
            rank = self._links.get(link)
            if rank is None:
                self._reply(link, Problem(fault="remote", where="link", text="say hello first"))
                return
            source = self._sources[rank]
            source.seen = now
            if isinstance(message, Problem):
                log.warning("run %s: rank %d reports a problem in %s: %s", message.run_uid, rank, *_told(message)[1:])
            elif isinstance(message, Preview) and pixels is not None:
                if message.rank != rank or message.run_uid != source.run_uid:
                    raise RemoteProtocolError(
                        f"preview {message.seq}: got rank {message.rank} of run {message.run_uid[:8]}, expected "
                        f"rank {rank} of run {source.run_uid[:8]}, as its hello said"
                    )
                if source.receiver.offer(message.seq) is Verdict.ACCEPT:
                    self.events.append(PreviewReceived(message, pixels, lines))
        except RemoteProtocolError as error:
            self.garbage.add(error)
            if isinstance(error, UnknownVersionError):
                self._reply(link, Problem(fault="remote", where="version", text=str(error)))

    def unreachable(self, link: bytes) -> None:
        """Forget a link that the transport knows no more."""
        self._links.pop(link, None)

    def flush(self, now: float) -> None:
        """Put acknowledgements that are due into the outbox, and a sign of life where nothing was said for long."""
        for rank, source in self._sources.items():
            if self._links.get(source.link) != rank:
                continue
            if now - source.seen > self._timeout:
                del self._links[source.link]
                continue
            numbers = source.receiver.ack(again=now - source.sent >= self._heartbeat)
            if numbers is not None:
                source.sent = now
                ack = PreviewAck(
                    run_uid=source.run_uid,
                    rank=rank,
                    applied=numbers.applied,
                    received=numbers.received,
                    credit=numbers.credit,
                    resend=numbers.resend,
                )
                self._reply(source.link, ack)

    def _hello(self, link: bytes, hello: PreviewHello, now: float) -> None:
        if hello.job_id != self._job_id:
            self._refused.add(f"rank {hello.rank}: another job id")
            text = f"job id: got {hello.job_id[:64]!r}, expected that of this controller"
            self._reply(link, Problem(fault="remote", where="hello", text=text))
            return
        source = self._sources.get(hello.rank)
        if source is not None and source.link != link:
            self._links.pop(source.link, None)
        if source is None or (source.run_uid, source.instance) != (hello.run_uid, hello.instance):
            receiver = ReceiverSession(credit=self._credit)
            source = _Source(hello.run_uid, hello.instance, receiver, link, now, now)
        source.link, source.seen, source.sent = link, now, now
        source.receiver.open(hello.first)
        source.receiver.ack()
        self._sources[hello.rank] = source
        self._links[link] = hello.rank
        welcome = PreviewWelcome(
            job_id=self._job_id,
            run_uid=source.run_uid,
            rank=hello.rank,
            last_applied=source.receiver.applied,
            last_received=source.receiver.received,
            credit=self._credit,
            heartbeat_seconds=self._heartbeat,
            peer_timeout=self._timeout,
        )
        self._reply(link, welcome)

    def _reply(self, link: bytes, message: msgspec.Struct) -> None:
        self.outbox.append(Outgoing(link, message))


def _views(preview: Preview, lines: Slices) -> Views:
    counts = preview.lines_counts or [1] * len(lines)
    return Views(lines, np.array(preview.angles_used), np.array(counts, np.int64))


def _told(problem: Problem) -> tuple[str | None, str, str]:
    return problem.run_uid, problem.where, problem.text
