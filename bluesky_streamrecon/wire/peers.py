"""What connects to a beamline: a rank, and the controller; each an endpoint with its own thread."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable

import numpy as np

from bluesky_streamrecon.errors import ConfigError, LocalProtocolError
from bluesky_streamrecon.wire.codec import MAXIMUM_PIXEL_BYTES
from bluesky_streamrecon.wire.endpoint import Connecting, E, Endpoint, Listening, Part
from bluesky_streamrecon.wire.events import ControllerEvent, RankEvent
from bluesky_streamrecon.wire.images import Picture, Preview
from bluesky_streamrecon.wire.member import LinkState, Member
from bluesky_streamrecon.wire.messages import (
    AbandonRun,
    CloseRun,
    Hello,
    Item,
    ItemGone,
    OpenRun,
    PreviewAt,
    Problem,
    RunDone,
    Score,
    Status,
)
from bluesky_streamrecon.wire.previews import PreviewReceiver, PreviewSender
from bluesky_streamrecon.wire.security import ClientSecurity, ServerSecurity
from bluesky_streamrecon.wire.sockets import Transport, local_host_towards, own_software, process_info

__all__ = ["ControllerEndpoint", "PeerEndpoint", "RankEndpoint", "hello_of"]

log = logging.getLogger(__name__)

BEAMLINE, PREVIEWS = "beamline", "previews"


class PeerEndpoint(Endpoint[E]):
    """An endpoint that connects to a beamline."""

    def __init__(
        self,
        name: str,
        address: str,
        transport: Transport,
        member: Member,
        security: ClientSecurity | None,
        clock: Callable[[], float],
        **parts: Part,
    ) -> None:
        keys, server = (None, None) if security is None else (security.keys, security.server)
        self._beamline = Connecting(BEAMLINE, transport, member, keys)
        self._born = clock()
        try:
            self._beamline.go_to(address, server, clock())
        except BaseException:
            transport.close(0.0)
            raise
        super().__init__(name, transport, {BEAMLINE: self._beamline, **parts}, clock)
        self._thread.start()

    def unlinked_seconds(self) -> float:
        """Seconds since the beamline was last heard of, or since the beginning; small while linked."""
        seen = self._beamline.member.seen
        return max(0.0, self._clock() - (self._born if seen is None else seen))

    def _after_turn(self) -> None:
        events = self._beamline.member.events
        self._hand_out(events)  # type: ignore[arg-type]
        events.clear()


def hello_of(role: str, job_id: str, software: str, **more: object) -> Hello:
    """Return the hello of a new endpoint in this process."""
    host, pid = process_info()
    about = {"host": host, "pid": pid, "software": software or own_software()}
    return Hello(job_id=job_id, role=role, instance=uuid.uuid4().hex, **about, **more)  # type: ignore[arg-type]


class RankEndpoint(PeerEndpoint[RankEvent]):
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
    retain : int
        Newest previews of the run that are kept for a controller that comes late or comes back, at most.
    software : str
        Name and version, for people.
    clock : callable
        Monotonic seconds.

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
        retain: int = 64,
        software: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 <= rank < size:
            raise ConfigError(f"rank: got {rank} of {size}, expected 0 <= rank < size")
        self.rank = rank
        self._resume = resume
        self._retain = retain
        self._front = threading.Lock()
        self._run_uid: str | None = None
        self._taken = 0
        self._applied = 0
        self._end: int | None = None
        self._previews: PreviewSender | None = None
        self._queued = 0  # previews that the thread has not seen yet
        self._flushed = threading.Event()
        self._flushed.set()
        self._delivered = True
        hello = hello_of("rank", job_id, software, rank=rank, size=size)
        transport = Transport(frame_limit=MAXIMUM_PIXEL_BYTES)
        to_controller = Member(hello, channel=None, to="the controller")
        self._controller = Connecting(PREVIEWS, transport, to_controller, None if security is None else security.keys)
        member = Member(hello, credit=credit, resume=resume)
        name = f"streamrecon-rank-{rank}"
        super().__init__(name, address, transport, member, security, clock, **{PREVIEWS: self._controller})

    def next(self, timeout: float | None = None) -> RankEvent | None:
        """Take the next event; wait at most `timeout` seconds (None: for ever, 0: not at all), then return None."""
        event = super().next(timeout)
        with self._front:
            if isinstance(event, OpenRun):
                self._run_uid, self._end = event.run_uid, None
                self._post(self._forget_previews)
                resumed = self._resume is not None and self._resume[0] == self._run_uid
                self._applied = self._taken = self._resume[1] if self._resume is not None and resumed else 0
            elif isinstance(event, Item | ItemGone):
                self._taken = event.seq
            elif isinstance(event, CloseRun):
                self._end = event.seq
            elif isinstance(event, AbandonRun) and event.run_uid == self._run_uid:
                self._run_uid = None
        return event

    def pending(self) -> int:
        """Items that have arrived and not been taken with `next`."""
        with self._changed:
            return sum(isinstance(event, Item | ItemGone) for event in self._queue)

    def applied(self, seq: int) -> None:
        """All items up to `seq` are in the image (or the flat and dark); their memory may be reused.

        Raises
        ------
        LocalProtocolError
            If `seq` is smaller than before, or has not been taken with `next`.
        """
        with self._front:
            uid = self._run_uid
            if uid is None:
                log.info("rank %d: item %d is applied, but its run was abandoned", self.rank, seq)
                return
            if not self._applied <= seq <= self._taken:
                raise LocalProtocolError(
                    f"item {seq} of run {uid[:8]}: reported as applied, expected {self._applied} to {self._taken} "
                    "(reported before, taken with next)"
                )
            self._applied = seq
        self._post(lambda: self._beamline.member.applied(uid, seq))

    def send(self, message: Status | RunDone | Problem | Preview) -> None:
        """Send a message; does not wait.

        A status is lost while there is no link. A result or a problem is sent until the beamline has it; what was
        applied and received of the run is filled into its `RunDone`. A preview goes to the controller, with the line
        integrals that went into the image and were not sent before; its arrays are not to be changed any more.

        Raises
        ------
        LocalProtocolError
            If a run is reported as done and its `CloseRun` was not taken with `next` before, or a preview's arrays are
            not as in `Preview`.
        """
        if isinstance(message, Preview):
            _check_preview(message)
            with self._front:
                self._queued += 1
                self._flushed.clear()
            self._post(lambda: self._send_preview(message))
            return
        if isinstance(message, RunDone):
            with self._front:
                if self._run_uid != message.run_uid:
                    log.info("run %s: done, but it was abandoned", message.run_uid)
                    return
                if self._end is None:
                    raise LocalProtocolError(
                        f"run {message.run_uid[:8]}: reported as done before its end was taken with next"
                    )
        self._post(lambda: self._beamline.member.send(message))

    @property
    def previews_dropped(self) -> int:
        """Previews of the newest run that fell out of what is kept before they could be sent."""
        return 0 if self._previews is None else self._previews.dropped

    def flush_previews(self, timeout: float) -> bool:
        """Wait until the controller has all previews, or there is none, or `timeout` seconds; return whether it has."""
        return self._flushed.wait(timeout) and self._delivered

    # ------------------------------------------------------------------ in the thread

    def _send_preview(self, preview: Preview) -> None:
        now = self._clock()
        if self._previews is None or self._previews.stream != preview.run_uid:
            self._previews = PreviewSender(preview.run_uid, most=self._retain)
            member = self._controller.member
            if member.state is LinkState.LINKED:
                member.connection.serve(self._previews, now)
            else:
                member.connection.senders[PREVIEWS] = self._previews
        self._previews.send(preview, now)
        with self._front:
            self._queued -= 1

    def _forget_previews(self) -> None:
        self._previews = None
        self._controller.member.connection.senders.pop(PREVIEWS, None)

    def _after_turn(self) -> None:
        events = self._beamline.member.events
        for event in events:
            if isinstance(event, PreviewAt):
                try:
                    self._controller.go_to(event.address, event.key, self._clock())
                except ConfigError as error:
                    log.error("rank %d: no previews: %s", self.rank, error)
        gone = {event.run_uid for event in events if isinstance(event, AbandonRun)}
        if gone:
            with self._changed:
                kept = [e for e in self._queue if not (isinstance(e, Item | ItemGone) and e.run_uid in gone)]
                self._queue.clear()
                self._queue.extend(kept)
        self._hand_out(event for event in events if not isinstance(event, PreviewAt))  # type: ignore[misc]
        events.clear()
        self._controller.member.events.clear()
        with self._front:
            if not self._queued and self._controller.settled:
                self._delivered = self._previews is None or self._previews.settled
                self._flushed.set()


def _check_preview(preview: Preview) -> None:
    where, pixels, lines = f"preview of image {preview.image_number}", preview.pixels, preview.lines
    shape = (len(preview.rows), preview.size, preview.size)
    if pixels is None or not preview.rows or (pixels.dtype, pixels.shape) != (np.float32, shape):
        got = "no pixels" if pixels is None else f"{pixels.dtype.str} {pixels.shape}"
        raise LocalProtocolError(f"{where}: got {got}, expected float32 {shape} for rows {preview.rows}")
    if lines is not None and (lines.dtype != np.float32 or lines.shape[1] != len(preview.rows)):
        raise LocalProtocolError(
            f"{where}: got line integrals {lines.dtype.str} {lines.shape}, expected float32 (views, "
            f"{len(preview.rows)}, columns)"
        )
    if pixels.nbytes > MAXIMUM_PIXEL_BYTES:
        raise LocalProtocolError(f"{where}: got {pixels.nbytes} bytes, expected at most {MAXIMUM_PIXEL_BYTES}")


class ControllerEndpoint(PeerEndpoint[ControllerEvent]):
    """The controller's end: scores go to the beamline, previews come from the ranks.

    Parameters
    ----------
    address, job_id, security, software, clock
        As for `RankEndpoint`.
    preview_bind : str
        Where ranks bring their previews; any other host than loopback needs `preview_security`.
    preview_announce : str, optional
        Address that ranks are told; None: `preview_bind` with the real port, and where it binds all interfaces,
        the one that faces the beamline.
    preview_security : ServerSecurity, optional
        Keys of that socket; its public key travels to the ranks by way of the beamline.
    insecure : bool
        Bind another host than loopback without keys all the same.
    credit : int
        Previews of each rank that are held until they are taken.
    """

    def __init__(
        self,
        address: str,
        *,
        job_id: str,
        preview_bind: str = "tcp://127.0.0.1:*",
        preview_announce: str | None = None,
        security: ClientSecurity | None = None,
        preview_security: ServerSecurity | None = None,
        insecure: bool = False,
        credit: int = 64,
        software: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        transport = Transport(frame_limit=MAXIMUM_PIXEL_BYTES)
        try:
            bound = transport.bind(PREVIEWS, preview_bind, preview_security, insecure=insecure)
        except BaseException:
            transport.close(0.0)
            raise
        self.preview_address = preview_announce or _announced(bound, address)
        """Address that ranks are told."""
        key = None if preview_security is None else preview_security.keys.public
        hello = hello_of("controller", job_id, software, preview_address=self.preview_address, preview_key=key)
        self._previews = PreviewReceiver(job_id=job_id, session=hello.instance, credit=credit)
        part = Listening(PREVIEWS, transport, self._previews)
        super().__init__(
            "streamrecon-controller", address, transport, Member(hello), security, clock, **{PREVIEWS: part}
        )

    def next(self, timeout: float | None = None) -> ControllerEvent | None:
        """Take the next event, as `Endpoint.next`; a preview counts as applied when it is taken."""
        event = super().next(timeout)
        if isinstance(event, Preview):
            self._post(lambda: self._previews.taken(event))
        return event

    def send(self, message: Score | Problem | Picture) -> None:
        """Send a score or a problem until the beamline has it, or a picture, which is lost while there is no link."""
        self._post(lambda: self._beamline.member.send(message))

    def _after_turn(self) -> None:
        super()._after_turn()
        self._hand_out(self._previews.events)
        self._previews.events.clear()


def _announced(bound: str, beamline: str) -> str:
    host, _, port = bound.removeprefix("tcp://").rpartition(":")
    if bound.startswith("tcp://") and host in ("0.0.0.0", "[::]", "*"):  # noqa: S104 - only compared
        found = local_host_towards(beamline)
        return f"tcp://[{found}]:{port}" if ":" in found else f"tcp://{found}:{port}"
    return bound
