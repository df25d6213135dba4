"""The listening end of links, without sockets: who said hello, is still there, and what they may send.

Messages come in with the link they came by; a link is whatever bytes the transport names a connection by. Time is
passed in, monotonic seconds.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

import msgspec

from bluesky_streamrecon.errors import RemoteProtocolError
from bluesky_streamrecon.logs import RateLimitedWarning
from bluesky_streamrecon.wire import messages as m
from bluesky_streamrecon.wire.channel import MessageMissingError
from bluesky_streamrecon.wire.codec import Buffer, UnknownVersionError, decode
from bluesky_streamrecon.wire.events import PeerInfo
from bluesky_streamrecon.wire.link import LinkEnd, Sent

__all__ = ["Listener", "MaySend", "Peer", "SendTo"]

log = logging.getLogger(__name__)

SendTo = Callable[[bytes, msgspec.Struct], Sent]
MOST_REPLIES: Final = 1000  # to those who have not said hello


class MaySend(NamedTuple):
    """What peers of one role may send, besides the messages of every link."""

    messages: tuple[type[msgspec.Struct], ...]
    credits: Mapping[str, int]
    """Channels that they may open, and the credit of each."""


class Peer(LinkEnd):
    """Our end of the link to somebody who was welcomed, whether linked now or not."""

    def __init__(self, hello: m.Hello) -> None:
        super().__init__()
        self.hello = hello
        self.link: bytes | None = None
        self.ahead: float | None = None

    @property
    def info(self) -> PeerInfo:
        """Who it is."""
        return PeerInfo(linked=self.link is not None, ahead=self.ahead, **msgspec.structs.asdict(self.hello))

    @property
    def key(self) -> tuple[str, int | str]:
        """What a newer process with the same key takes the place of."""
        hello = self.hello
        return (hello.role, hello.instance if hello.role == "operator" else hello.rank)

    def __str__(self) -> str:
        return str(self.info)


class Listener:
    """Peers and their links.

    Parameters
    ----------
    job_id : str
        Hellos must name it.
    heartbeat_seconds, peer_timeout : float
        Seconds.
    wall : callable
        Seconds since the epoch, to compare with the peers'.
    """

    roles: Mapping[str, MaySend]
    """Who may say hello, and what they may send."""

    def __init__(
        self,
        *,
        job_id: str,
        heartbeat_seconds: float = 1.0,
        peer_timeout: float = 10.0,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.job_id = job_id
        self.garbage = RateLimitedWarning(log, "malformed message ignored")
        self.heartbeat_seconds = heartbeat_seconds
        self._timeout = peer_timeout
        self._wall = wall
        self._refused = RateLimitedWarning(log, "hello refused")
        self._unknown = RateLimitedWarning(log, "message ignored, its link never said hello")
        self._peers: dict[tuple[str, int | str], Peer] = {}
        self._links: dict[bytes, Peer] = {}
        self._replies: deque[tuple[bytes, m.Problem]] = deque(maxlen=MOST_REPLIES)

    # ------------------------------------------------------------------ what differs

    def refusal(self, hello: m.Hello) -> tuple[str, str] | None:  # noqa: ARG002
        """Return what of this hello can not be accepted, and why."""
        return None

    def joined(self, peer: Peer, before: Peer | None) -> None:
        """Note that a peer was welcomed; `before`: who it was last, the same object after a reconnect."""

    def left(self, peer: Peer, reason: str) -> None:
        """Note that a peer's link is gone; no reason: it has a newer one."""

    def received(self, peer: Peer, message: m.Message) -> None:
        """Take a message: a plain one, the next of a channel, or an acknowledgement of something new."""
        raise NotImplementedError

    @property
    def settled(self) -> bool:
        """No plain message is left to be sent."""
        return not self._replies and not any(peer.outbox for peer in self._links.values())

    # ------------------------------------------------------------------ from the transport

    def receive(self, link: bytes, frames: Sequence[Buffer], now: float) -> None:
        """Take one message; whatever it is, nothing is raised."""
        peer = self._links.get(link)
        try:
            message = decode(frames)
            if isinstance(message, m.Hello):
                self._hello(link, message, now)
            elif peer is None:
                self._unknown.add(type(message).__name__)
                self._reply(link, "link", "say hello first")
            else:
                peer.seen = now
                self._receive(peer, message)
        except UnknownVersionError as error:
            self._refused.add(error)
            self._reply(link, "version", str(error))
        except MessageMissingError as error:
            self._reply(link, "link", str(error))
            if peer is not None:
                self._lose(peer, str(error))
        except RemoteProtocolError as error:
            self.garbage.add(error if peer is None else f"{peer}: {error}")
            if peer is not None:
                peer.send_plain(_problem("message", str(error)))

    def tick(self, now: float) -> None:
        """Look at what should have happened by now. Call after what has arrived was received."""
        for peer in list(self._links.values()):
            silent = peer.keep_alive(now, self._timeout, self.heartbeat_seconds, m.Heartbeat())
            if silent:
                self._lose(peer, f"nothing heard for {silent:.1f} s")

    def pump(self, send: SendTo, now: float, budget: int = 64) -> bool:
        """Send what is due, then messages of channels, one per peer in turn; return whether more is ready."""
        while self._replies:
            send(*self._replies.popleft())
        ready = dict(self._links)
        while ready and budget > 0:
            for link, peer in list(ready.items()):
                sent = peer.send_next(partial(send, link), now)
                budget -= sent is Sent.DONE
                if sent is Sent.NOBODY:
                    self._lose(peer, "connection closed")
                if sent is not Sent.DONE:
                    del ready[link]
        return bool(ready)

    # ------------------------------------------------------------------ insides

    def _receive(self, peer: Peer, message: m.Message) -> None:
        role = peer.hello.role
        if isinstance(message, m.Heartbeat):
            if message.time:
                peer.ahead = message.time - self._wall()
        elif not isinstance(message, (m.Ack, m.OpenChannel, *self.roles[role].messages)):
            raise RemoteProtocolError(f"{type(message).__name__} is not for a {role} to send here")
        elif peer.take(message, self.roles[role].credits):
            self.received(peer, message)

    def _hello(self, link: bytes, hello: m.Hello, now: float) -> None:
        if hello.job_id != self.job_id:
            text = f"job id: got {hello.job_id[:64]!r}, expected that of the job that is served here; is it left over "
            refusal: tuple[str, str] | None = ("hello", text + "from an earlier session, or meant for another address?")
        elif hello.role not in self.roles:
            refusal = ("hello", f"role: got {hello.role!r}, expected {' or '.join(self.roles)}")
        else:
            refusal = self.refusal(hello)
        if refusal is not None:
            who = f"{hello.role} {hello.rank} of {hello.size} at {hello.host[:64]}:{hello.pid}"
            self._refused.add(f"{who}: {refusal[1]}")
            self._reply(link, *refusal)
            return
        fresh = Peer(hello)
        before = self._peers.get(fresh.key)
        owner = self._links.get(link)
        if owner is not None and owner is not before:
            self._lose(owner, "its link was taken by another hello")
        if before is not None and before.hello.instance == hello.instance:
            peer, peer.hello = before, hello
        else:
            peer = fresh
            if before is not None and before.link not in (None, link):
                self._reply(before.link or b"", "superseded", "a newer process took over")
        if before is not None:
            self._lose(before, "")
        peer.link = link
        self._peers[peer.key] = self._links[link] = peer
        log.info("%s: %s (%s)", peer, "joined again" if before is not None else "joined", hello.software)
        welcome = m.Welcome(
            job_id=self.job_id,
            heartbeat_seconds=self.heartbeat_seconds,
            peer_timeout=self._timeout,
        )
        peer.send_plain(welcome)
        peer.begin(now)
        self.joined(peer, before)

    def _lose(self, peer: Peer, reason: str) -> None:
        if peer.link is not None:
            self._links.pop(peer.link, None)
            peer.link = None
            peer.break_off()
            self.left(peer, reason)

    def _reply(self, link: bytes, where: str, text: str) -> None:
        self._replies.append((link, _problem(where, text)))


def _problem(where: str, text: str) -> m.Problem:
    return m.Problem(fault="remote", where=where, text=text[:4096])
