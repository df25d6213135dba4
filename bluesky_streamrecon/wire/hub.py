"""The beamline's side of the protocol without sockets: peers, the run, and what each of them is sent.

Frames come in with the link they came by; messages for links, and events for the user, are collected until
they are taken. Time is passed in. A link is whatever bytes the transport names a connection by.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import RemoteProtocolError
from bluesky_streamrecon.logs import set_run
from bluesky_streamrecon.wire import events as ev
from bluesky_streamrecon.wire.codec import Buffer, UnknownVersionError, decode_up
from bluesky_streamrecon.wire.messages import (
    AbandonRun,
    Ack,
    Finalize,
    Heartbeat,
    Hello,
    Noted,
    PreviewAt,
    Problem,
    Report,
    RunDone,
    Score,
    Shutdown,
    Status,
    UpMessage,
    Welcome,
)
from bluesky_streamrecon.wire.operator_messages import Answer, Picture
from bluesky_streamrecon.wire.operators import OperatorDesk
from bluesky_streamrecon.wire.run import Run
from bluesky_streamrecon.wire.sessions import AckNumbers, Ledger, SenderSession
from bluesky_streamrecon.wire.tally import Tally

__all__ = ["Hub", "Outgoing"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message for one link, with pixels where the message has some."""

    link: bytes
    message: msgspec.Struct
    pixels: NDArray[np.generic] | None = None


class Turn(Protocol):
    """Whoever sends: gives False if the link is gone."""

    def __call__(self, outgoing: Outgoing) -> bool:
        """Send it now."""
        ...


@dataclass(slots=True)
class _Peer:
    hello: Hello
    link: bytes | None
    seen: float
    sent: float
    noted: int = 0
    ahead: float | None = None

    @property
    def name(self) -> str:
        hello = self.hello
        what = f"rank {hello.rank} of {hello.size}" if hello.role == "rank" else "controller"
        return f"{what} ({hello.host}:{hello.pid})"

    @property
    def info(self) -> ev.PeerInfo:
        hello = self.hello
        return ev.PeerInfo(
            role=hello.role,
            rank=hello.rank,
            size=hello.size,
            host=hello.host,
            pid=hello.pid,
            software=hello.software,
            instance=hello.instance,
            linked=self.link is not None,
            ahead=self.ahead,
        )


class Hub:
    """State of the beamline's end.

    Parameters
    ----------
    job_id : str
        Hellos must name it.
    session : str
        Names this beamline process in welcomes.
    heartbeat_seconds, peer_timeout : float
        Seconds.
    resend_seconds : float
        See `SenderSession`.
    window_items, window_bytes : int
        See `SenderSession`.
    wall : callable
        Seconds since the epoch, to compare with the peers'.
    """

    def __init__(
        self,
        *,
        job_id: str,
        session: str,
        heartbeat_seconds: float = 1.0,
        peer_timeout: float = 10.0,
        resend_seconds: float = 10.0,
        window_items: int = 256,
        window_bytes: int = 64 * 2**20,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._wall = wall
        self.job_id = job_id
        self.session = session
        self.events: deque[ev.BeamlineEvent] = deque()
        self.outbox: deque[Outgoing] = deque()
        self.garbage = Tally(log, "malformed message ignored")
        self.run: Run | None = None
        self.size: int | None = None
        self._refused = Tally(log, "hello refused")
        self._strangers = Tally(log, "message ignored, its link never said hello")
        self._heartbeat = heartbeat_seconds
        self._timeout = peer_timeout
        self._new_session = lambda: SenderSession(
            window_items=window_items, window_bytes=window_bytes, resend_seconds=resend_seconds
        )
        self._peers: dict[tuple[str, int], _Peer] = {}
        self._links: dict[bytes, _Peer] = {}
        self._shutdown: str | None = None
        self._ready = False
        self._desk = OperatorDesk(
            self._reply, self.events, heartbeat_seconds=heartbeat_seconds, peer_timeout=peer_timeout
        )

    # ------------------------------------------------------------------ asked by the user

    def open_run(self, run: Run, now: float) -> None:
        """Make `run` the one that is served; an unfinished earlier one is abandoned."""
        if self.run is not None and not self.run.finished:
            self.abandon_run("another run was opened before this one was finished", now)
        self.run = run
        run.new_session = self._new_session
        if self.size is not None:
            run.deal(self.size)
        set_run(run.uid)
        log.info("run %s: opened, %d projections planned", run.uid, run.spec.planned)
        for peer in self._links.values():
            self._link_stream(peer, now)

    def abandon_run(self, reason: str, now: float) -> None:
        """Forget the run, and tell the peers so."""
        run = self.run
        if run is None or run.finished:
            return
        log.warning("run %s: abandoned: %s", run.uid, reason)
        run.finished = True
        for link in list(self._links):
            self._send(link, AbandonRun(run_uid=run.uid, reason=reason), now)

    def shutdown(self, reason: str, now: float) -> None:
        """Ask everyone, now and later, to end."""
        self._shutdown = reason
        for link in list(self._links):
            self._send(link, Shutdown(reason=reason), now)
        self._desk.tell(Shutdown(reason=reason), now)

    def answer(self, asked: ev.OperatorAsked, answer: Answer, now: float) -> None:
        """Answer an operator."""
        self._desk.answer(asked, answer, now)

    @property
    def operators(self) -> int:
        """People's programs that are connected."""
        return len(self._desk)

    def peers(self) -> tuple[ev.PeerInfo, ...]:
        """Everyone who was ever welcomed, ranks first."""
        return tuple(peer.info for _, peer in sorted(self._peers.items(), key=lambda p: (p[0][0] != "rank", p[0][1])))

    def ledger(self) -> dict[int, Ledger]:
        """Ledger of each rank for the newest run."""
        return {} if self.run is None else self.run.ledger()

    def problem(self, text: str, now: float) -> None:
        """Tell every peer of a problem on this side."""
        uid = None if self.run is None else self.run.uid
        for link in list(self._links):
            self._send(link, Problem(fault="local", where="beamline", text=text[:4096], run_uid=uid), now)

    # ------------------------------------------------------------------ from the transport

    def receive(self, link: bytes, frames: Sequence[Buffer], now: float) -> None:
        """Take one message; whatever it is, nothing is raised."""
        peer = self._links.get(link)
        try:
            message = decode_up(frames)
            if isinstance(message, Hello):
                self._hello(link, message, now)
                return
            if link in self._desk:
                self._desk.receive(link, message, now)
                return
            if peer is None:
                self._strangers.add(type(message).__name__)
                self._reply(link, Problem(fault="remote", where="link", text="say hello first"))
                return
            peer.seen = now
            self._from_peer(peer, message, now)
        except UnknownVersionError as error:
            self._refused.add(error)
            self._reply(link, Problem(fault="remote", where="version", text=str(error)))
        except RemoteProtocolError as error:
            self.garbage.add(error if peer is None else f"{peer.name}: {error}")
            if peer is not None:
                self._send(link, Problem(fault="remote", where="message", text=str(error)[:4096]), now)

    def unreachable(self, link: bytes) -> None:
        """Forget a link that the transport knows no more."""
        peer = self._links.get(link)
        if peer is not None:
            self._lose(peer, "connection closed")
        self._desk.leave(link)

    def tick(self, now: float) -> None:
        """Look at what should have happened by now. Call after what has arrived was received."""
        for link, peer in list(self._links.items()):
            if now - peer.seen > self._timeout:
                self._lose(peer, f"nothing heard for {now - peer.seen:.1f} s")
            elif now - peer.sent >= self._heartbeat:
                self._send(link, Heartbeat(), now)
        if self.run is not None and not self.run.abandoned:
            self.run.tick(now)
        self._desk.tick(now)
        controller = self._peers.get(("controller", 0))
        if controller is not None and controller.link is not None and (wish := self._desk.wish(now)) is not None:
            self._send(controller.link, wish, now)

    def pump(self, send: Turn, now: float, budget: int = 64) -> bool:
        """Send items, one per peer in turn, while windows, credit and the store allow; tell if more is ready."""
        run = self.run
        if run is None or run.abandoned:
            return False
        busy = True
        while busy and budget > 0:
            busy = False
            for link, peer in list(self._links.items()):
                what = run.next_for(peer.hello.role, peer.hello.rank, self._preview())
                if what is None:
                    continue
                if send(Outgoing(link, *what)):
                    run.sent_to(peer.hello.role, peer.hello.rank, now)
                    peer.sent = now
                    budget -= 1
                    busy = True
                else:
                    self._lose(peer, "connection closed")
        return busy

    @property
    def patience(self) -> float:
        """Seconds until `tick` is due again."""
        return self._heartbeat / 4

    # ------------------------------------------------------------------ hello

    def _hello(self, link: bytes, hello: Hello, now: float) -> None:
        where, why = self._why_not(hello)
        if why:
            who = f"{hello.role} {hello.rank} of {hello.size} at {hello.host[:64]}:{hello.pid}"
            self._refused.add(f"{who}: {why}")
            self._reply(link, Problem(fault="remote", where=where, text=why))
            return
        if hello.role == "operator":
            self._operator_joined(link, hello, now)
            return
        self._desk.leave(link)
        key = (hello.role, hello.rank if hello.role == "rank" else 0)
        old_owner = self._links.get(link)
        if old_owner is not None and old_owner is not self._peers.get(key):
            self._lose(old_owner, "its link was taken by another hello")
        peer = self._peers.get(key)
        restarted = peer is not None and peer.hello.instance != hello.instance
        if peer is None or restarted:
            if peer is not None and peer.link not in (None, link):
                self._reply(peer.link, Problem(fault="remote", where="superseded", text="a newer process took over"))
            self._unlink(peer)
            again = peer is not None
            peer = _Peer(hello, link, now, now, noted=hello.noted)
        else:
            if peer.link != link:
                self._unlink(peer)
            again = True
            peer.hello, peer.link, peer.seen, peer.noted = hello, link, now, max(peer.noted, hello.noted)
        peer.ahead = hello.time - self._wall() if hello.time else None
        self._peers[key] = peer
        self._links[link] = peer
        log.info("%s: %s (%s)", peer.name, "joined again" if again else "joined", hello.software)
        welcome = Welcome(
            job_id=self.job_id,
            session=self.session,
            heartbeat_seconds=self._heartbeat,
            peer_timeout=self._timeout,
            noted=peer.noted,
        )
        self._send(link, welcome, now)
        self.events.append(ev.PeerJoined(peer.info))
        if hello.role == "rank":
            self._rank_joined(peer, now, restarted=restarted, again=again)
        else:
            self._desk.new_controller()
            self._tell_preview_address(now)
        self._link_stream(peer, now)
        if hello.run_uid is not None and (self.run is None or self.run.uid != hello.run_uid or self.run.abandoned):
            self._send(link, AbandonRun(run_uid=hello.run_uid, reason="the beamline does not serve this run"), now)
        if self._shutdown is not None:
            self._send(link, Shutdown(reason=self._shutdown), now)

    def _operator_joined(self, link: bytes, hello: Hello, now: float) -> None:
        owner = self._links.get(link)
        if owner is not None:
            self._lose(owner, "its link was taken by another hello")
        self._desk.join(link, hello, now)
        welcome = Welcome(
            job_id=self.job_id, session=self.session, heartbeat_seconds=self._heartbeat, peer_timeout=self._timeout
        )
        self._reply(link, welcome)
        if self._shutdown is not None:
            self._reply(link, Shutdown(reason=self._shutdown))

    def _why_not(self, hello: Hello) -> tuple[str, str]:
        if hello.job_id != self.job_id:
            return "hello", (
                f"job id: got {hello.job_id[:64]!r}, expected that of this beamline; is the job left over from an "
                "earlier session, or meant for another address?"
            )
        if hello.role == "operator" and (why := self._desk.why_not(hello)):
            return "hello", why
        others = [p for p in self._links.values() if p.hello.role == "rank" and p.hello.size != hello.size]
        if hello.role == "rank" and others:
            return "size", (
                f"size: got a rank of {hello.size}, expected {self.size}, as its {len(others)} linked ranks say; "
                "does another job still run?"
            )
        return "", ""

    def _rank_joined(self, peer: _Peer, now: float, *, restarted: bool, again: bool) -> None:
        hello = peer.hello
        if self.size != hello.size:
            for key in [k for k, p in self._peers.items() if k[0] == "rank" and p is not peer]:
                del self._peers[key]
            self.size = hello.size
            self._ready = False
            if self.run is not None and not self.run.finished:
                self.run.deal(hello.size)
        elif self.run is not None and again:
            self.run.came_back(hello.rank, restarted=restarted)
        address, preview_key = self._preview()
        if address is not None and peer.link is not None:
            self._send(peer.link, PreviewAt(address=address, key=preview_key), now)
        linked = sum(p.hello.role == "rank" for p in self._links.values())
        if linked == self.size and not self._ready:
            self._ready = True
            self.events.append(ev.AllRanksReady(linked))

    def _link_stream(self, peer: _Peer, now: float) -> None:
        if self.run is not None and not self.run.abandoned:
            self.run.link(peer.hello.role, peer.hello.rank, now)

    def _preview(self) -> tuple[str | None, str | None]:
        peer = self._peers.get(("controller", 0))
        return (None, None) if peer is None else (peer.hello.preview_address, peer.hello.preview_key)

    def _tell_preview_address(self, now: float) -> None:
        address, key = self._preview()
        for link, peer in list(self._links.items()):
            if peer.hello.role == "rank":
                self._send(link, PreviewAt(address=address, key=key), now)

    # ------------------------------------------------------------------ what peers say

    def _from_peer(self, peer: _Peer, message: UpMessage, now: float) -> None:
        run = self.run
        if isinstance(message, Ack):
            if run is not None and not run.abandoned and message.run_uid == run.uid:
                numbers = AckNumbers(message.applied, message.received, message.credit, message.resend)
                hello = peer.hello
                if run.acknowledge(hello.role, hello.rank, numbers, now, message) and hello.role == "rank":
                    applied = min(message.applied, len(run.log))
                    self.events.append(ev.Acked(run.uid, hello.rank, applied, run.projections_up_to(applied)))
        elif isinstance(message, Status):
            if run is not None and message.run_uid == run.uid:
                run.note(message)
                self.events.append(ev.StatusReceived(message))
        elif isinstance(message, Report):
            if message.number == peer.noted + 1:
                self._report(peer, message.body)
                peer.noted = message.number
            if peer.link is not None:
                self._send(peer.link, Noted(number=peer.noted), now)
        elif isinstance(message, Problem):
            self._problem(peer, message)
        elif isinstance(message, Heartbeat) and message.time:
            peer.ahead = message.time - self._wall()  # its hello may have waited for us to listen
        elif isinstance(message, Picture) and peer.hello.role == "controller":
            self._desk.show(message, now)

    def _report(self, peer: _Peer, body: Score | Finalize | RunDone | Problem) -> None:
        run = self.run
        if isinstance(body, Problem):
            self._problem(peer, body)
        elif run is None or run.uid != body.run_uid or run.abandoned:
            log.warning("run %s: %s of %s ignored: not the open run", body.run_uid, type(body).__name__, peer.name)
        elif isinstance(body, Score):
            self.events.append(ev.ScoreReceived(body))
        elif isinstance(body, Finalize):
            if run.close is not None:
                log.info("run %s: finalize of %s ignored: already closed", run.uid, peer.name)
            else:
                log.info("run %s: %s asks for its end: %s", run.uid, peer.name, body.reason)
                self.events.append(ev.FinalizeReceived(body))
        elif peer.hello.role == "rank" and body.rank == peer.hello.rank:
            if run.close is None:
                log.warning("run %s: %s reports it as done, but it is open; ignored", run.uid, peer.name)
            elif run.done(body):
                results = run.results()
                log.info("run %s: finished by all %d ranks", run.uid, len(results))
                self.events.append(ev.RunFinished(run.uid, results))

    def _problem(self, peer: _Peer, problem: Problem) -> None:
        log.warning("run %s: %s reports a problem in %s: %s", problem.run_uid, peer.name, problem.where, problem.text)
        self.events.append(ev.ProblemReported(problem, peer.info))

    # ------------------------------------------------------------------ links

    def _lose(self, peer: _Peer, reason: str) -> None:
        if peer.link is None:
            return
        self._unlink(peer)
        if self._shutdown is None:
            log.warning("%s: lost: %s", peer.name, reason)
        else:
            log.info("%s: gone, as asked: %s", peer.name, reason)
        self.events.append(ev.PeerLost(peer.info, reason))

    def _unlink(self, peer: _Peer | None) -> None:
        if peer is None or peer.link is None:
            return
        self._links.pop(peer.link, None)
        peer.link = None
        if peer.hello.role == "rank":
            self._ready = False
        if self.run is not None:
            self.run.unlink(peer.hello.role, peer.hello.rank)

    def _send(self, link: bytes, message: msgspec.Struct, now: float) -> None:
        self.outbox.append(Outgoing(link, message))
        peer = self._links.get(link)
        if peer is not None:
            peer.sent = now

    def _reply(self, link: bytes, message: msgspec.Struct) -> None:
        self.outbox.append(Outgoing(link, message))
