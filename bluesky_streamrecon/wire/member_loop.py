"""What a rank's and the controller's endpoint do in their thread to keep the link to the beamline."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from bluesky_streamrecon.wire.codec import encode
from bluesky_streamrecon.wire.members import LinkState, Member, MemberEvent
from bluesky_streamrecon.wire.security import ClientSecurity
from bluesky_streamrecon.wire.sockets import Transport
from bluesky_streamrecon.wire.worker import Worker

__all__ = ["MemberLoop"]

BEAMLINE = "beamline"
PATIENCE_S = 0.2


class MemberLoop:
    """A member, its transport, and the thread around them."""

    def __init__(
        self,
        member: Member,
        transport: Transport,
        address: str,
        security: ClientSecurity | None,
        clock: Callable[[], float],
    ) -> None:
        self.member = member
        self.transport = transport
        self.events: deque[MemberEvent] = deque()
        self._address = address
        self._security = security
        self._clock = clock
        self._born = clock()
        self._worker: Worker | None = None

    def start(self, name: str, deliver: Callable[[], None]) -> None:
        """Connect and begin; an address that can not be used is told at once.

        Raises
        ------
        ConfigError
            If the address can not be used.
        """
        try:
            self._connect(self._clock())
        except BaseException:
            self.transport.close(0.0)
            raise
        self._worker = Worker(name, self.transport, self, self._clock, deliver)

    def post(self, command: Callable[[], None]) -> None:
        """Have the thread call this."""
        if self._worker is not None:
            self._worker.post(command)

    def close(self, linger_s: float) -> None:
        """End the thread; idempotent."""
        if self._worker is not None:
            self._worker.close(linger_s)

    def unlinked_seconds(self) -> float:
        """Seconds since the beamline was last heard of, or since the beginning."""
        seen = self.member.seen
        return max(0.0, self._clock() - (self._born if seen is None else seen))

    @property
    def settled(self) -> bool:
        """Nothing is left that should be sent before closing."""
        hopeless = self.member.state in (LinkState.DOWN, LinkState.REFUSED)
        return hopeless or (not self.member.unsettled and not self.member.outbox)

    def handle(self, name: str, link: bytes, frames: list[memoryview], now: float) -> None:  # noqa: ARG002
        """Take one message of the beamline."""
        self.member.receive(frames, now)

    def turn(self, now: float) -> float:
        """Do what is due."""
        member = self.member
        member.tick(now)
        if member.reconnect:
            self._connect(now)
        member.flush(now)
        while member.outbox:
            self.transport.send(BEAMLINE, None, encode(member.outbox.popleft()))
        if member.state is LinkState.REFUSED:
            self.transport.disconnect(BEAMLINE)
        self.events.extend(member.events)
        member.events.clear()
        return PATIENCE_S

    def _connect(self, now: float) -> None:
        keys, server = (None, None) if self._security is None else (self._security.keys, self._security.server)
        self.transport.connect(BEAMLINE, self._address, keys, server)
        self.member.connected(now)
