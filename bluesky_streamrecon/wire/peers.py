"""What connects to a beamline: a rank, and the controller; each an endpoint with its own thread."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections import deque
from typing import cast

from bluesky_streamrecon.errors import ConfigError, LocalProtocolError
from bluesky_streamrecon.wire import events as ev
from bluesky_streamrecon.wire import messages as m
from bluesky_streamrecon.wire.codec import MAXIMUM_PIXEL_BYTES, check_sendable
from bluesky_streamrecon.wire.connector import Connector
from bluesky_streamrecon.wire.endpoint import E, Endpoint
from bluesky_streamrecon.wire.listener import Listener
from bluesky_streamrecon.wire.previews import PreviewReceiver, PreviewSender
from bluesky_streamrecon.wire.security import ClientSecurity, ServerSecurity
from bluesky_streamrecon.wire.sockets import Transport, local_host_towards

__all__ = ["ControllerEndpoint", "PeerEndpoint", "RankEndpoint", "hello_of"]

BEAMLINE, PREVIEWS = "beamline", "previews"

PREVIEW_CREDIT = 64  # previews of each rank that are held until they are taken


class PeerEndpoint(Endpoint[E]):
    """An endpoint that connects to a beamline, and may have more sockets."""

    def __init__(
        self,
        name: str,
        address: str,
        transport: Transport,
        connector: Connector,
        security: ClientSecurity | None,
        **others: Listener | Connector,
    ) -> None:
        keys, server = (None, None) if security is None else (security.keys, security.server)
        events = cast("deque[E]", connector.events)  # of those, only what a peer of this kind is sent
        super().__init__(name, transport, {BEAMLINE: connector, **others}, keys, events)
        self._connector = connector
        connector.seen = time.monotonic()
        connector.go_to(address, server)
        try:
            self._connect(BEAMLINE, connector)
        except BaseException:
            transport.close(0.0)
            raise
        self._thread.start()

    def unlinked_seconds(self) -> float:
        """Seconds since the beamline last sent anything, or since the beginning; small while linked."""
        return max(0.0, time.monotonic() - self._connector.seen)


def hello_of(role: str, job_id: str, **more: object) -> m.Hello:
    """Return the hello of a new endpoint in this process."""
    from bluesky_streamrecon import __version__

    about = {"host": socket.gethostname(), "pid": os.getpid(), "instance": uuid.uuid4().hex}
    software = f"bluesky-streamrecon {__version__}"
    return m.Hello(job_id=job_id, role=role, software=software, **about, **more)  # type: ignore[arg-type]


class RankEndpoint(PeerEndpoint[ev.RankEvent]):
    """A rank's end: items of runs come from the beamline, previews go to the controller, wherever that is.

    Parameters
    ----------
    address : str
        Of the beamline.
    job_id : str
        The beamline's.
    rank, size : int
        This rank and the number of ranks.
    security : ClientSecurity, optional
        Own key files and the beamline's public key.
    credit : int
        Items held that are not applied yet; raised to twice the run's window or step where that is more. A user who
        takes so many without reporting any as applied gets no more.
    resume : (str, int), optional
        Run uid and last applied item of a checkpoint: that run's items are sent from the one after it.

    Raises
    ------
    ConfigError
        If the address can not be used.
    """

    def __init__(
        self,
        address: str,
        *,
        job_id: str,
        rank: int,
        size: int,
        security: ClientSecurity | None = None,
        credit: int = 64,
        resume: tuple[str, int] | None = None,
    ) -> None:
        if not 0 <= rank < size:
            raise ConfigError(f"rank: got {rank} of {size}, expected 0 <= rank < size")
        self.rank = rank
        self._resume = resume
        self._run_uid: str | None = None  # of the run whose items are taken
        self._taken = 0
        hello = hello_of("rank", job_id, rank=rank, size=size)
        self._controller = Connector(hello, channel=None, to="the controller")
        connector = Connector(hello, credit=credit, resume=resume)
        transport, name = Transport(frame_limit=MAXIMUM_PIXEL_BYTES), f"streamrecon-rank-{rank}"
        super().__init__(name, address, transport, connector, security, **{PREVIEWS: self._controller})

    def next(self, timeout: float | None = None) -> ev.RankEvent | None:
        """Take the next event; wait at most `timeout` seconds (None: for ever, 0: not at all), then return None."""
        event = super().next(timeout)
        if isinstance(event, m.OpenRun):
            uid, applied = self._resume or (None, 0)
            self._run_uid, self._taken = event.run_uid, applied if uid == event.run_uid else 0
            with self.lock:
                self._controller.senders.pop(PREVIEWS, None)
        elif isinstance(event, m.Item | m.ItemGone):
            self._taken = event.seq
        return event

    def pending(self) -> int:
        """Items that have arrived and not been taken with `next`."""
        with self.lock:
            return sum(isinstance(event, m.Item | m.ItemGone) for event in self._events)

    def applied(self, seq: int) -> None:
        """All items up to `seq` are in the image (or the flat and dark); their memory may be reused.

        Raises
        ------
        LocalProtocolError
            If `seq` has not been taken with `next`.
        """
        if seq > self._taken:
            raise LocalProtocolError(
                f"item {seq} of run {self._run_uid}: reported as applied, expected at most {self._taken}, the last one "
                "that was taken with next"
            )
        with self._working():
            self._connector.applied(self._run_uid, seq)

    def send(self, message: m.Status | m.RunDone | m.VolumeDone | m.Problem | m.Preview | m.Cuts) -> None:
        """Send a message; does not wait.

        A status or cuts are lost while there is no link. A result or a problem is sent until the beamline has it; what
        was applied and received of the run is filled into its `RunDone`. A preview goes to the controller, with the
        line integrals that went into the image and were not sent before; its arrays are not to be changed any more.

        Raises
        ------
        LocalProtocolError
            If a run is reported as done before its `CloseRun` has come, or a preview's arrays are not as in `Preview`.
        """
        if isinstance(message, m.Preview):
            check_sendable(message)
        with self._working():
            if isinstance(message, m.Preview):
                self._send_preview(message)
            else:
                self._connector.send(message)

    @property
    def previews_dropped(self) -> int:
        """Previews of the newest run that fell out of what is kept before they could be sent."""
        sender = self._controller.senders.get(PREVIEWS)
        return 0 if sender is None else sender.dropped

    def _send_preview(self, preview: m.Preview) -> None:
        sender = self._controller.senders.get(PREVIEWS)
        if not isinstance(sender, PreviewSender) or sender.stream != preview.run_uid:
            sender = PreviewSender(preview.run_uid)
            self._controller.serve(sender)
        sender.send(preview)

    def _after_turn(self) -> None:
        with self.lock:
            self._controller.events.clear()
            if (to := self._connector.preview_at) is not None:
                self._controller.go_to(to.address, to.key)


class ControllerEndpoint(PeerEndpoint[ev.ControllerEvent]):
    """The controller's end: scores go to the beamline, previews come from the ranks.

    Parameters
    ----------
    address, job_id, security
        As for `RankEndpoint`.
    preview_bind : str
        Where ranks bring their previews; any other host than loopback needs `preview_security`. If it binds all
        interfaces, ranks get the address of the one that faces the beamline.
    preview_security : ServerSecurity, optional
        Keys of that socket; its public key travels to the ranks by way of the beamline.
    insecure : bool
        Bind another host than loopback without keys all the same.
    """

    def __init__(
        self,
        address: str,
        *,
        job_id: str,
        preview_bind: str = "tcp://127.0.0.1:*",
        security: ClientSecurity | None = None,
        preview_security: ServerSecurity | None = None,
        insecure: bool = False,
    ) -> None:
        transport = Transport(frame_limit=MAXIMUM_PIXEL_BYTES)
        try:
            bound = transport.bind(PREVIEWS, preview_bind, preview_security, insecure=insecure)
        except BaseException:
            transport.close(0.0)
            raise
        self.preview_address = _announced(bound, address)
        """Address that ranks get."""
        key = None if preview_security is None else preview_security.keys.public
        hello = hello_of("controller", job_id, preview_address=self.preview_address, preview_key=key)
        connector, name = Connector(hello), "streamrecon-controller"
        self._previews = PreviewReceiver(job_id=job_id, credit=PREVIEW_CREDIT, events=connector.events)
        super().__init__(name, address, transport, connector, security, **{PREVIEWS: self._previews})

    def next(self, timeout: float | None = None) -> ev.ControllerEvent | None:
        """Take the next event, as `Endpoint.next`; a preview counts as applied when it is taken."""
        event = super().next(timeout)
        if isinstance(event, m.Preview):
            with self._working():
                self._previews.taken(event)
        return event

    def send(self, message: m.Score | m.Problem) -> None:
        """Send a score or a problem until the beamline has it, or a picture, which is lost while there is no link."""
        with self._working():
            self._connector.send(message)


def _announced(bound: str, beamline: str) -> str:
    host, _, port = bound.removeprefix("tcp://").rpartition(":")
    if bound.startswith("tcp://") and host in ("0.0.0.0", "[::]", "*"):  # noqa: S104 - only compared
        found = local_host_towards(beamline)
        return f"tcp://[{found}]:{port}" if ":" in found else f"tcp://{found}:{port}"
    return bound
