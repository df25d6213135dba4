"""Beamline's end of the stream: one ROUTER that ranks and the controller connect to, on a thread of its own."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable

import msgspec
import numpy as np

from bluesky_streamrecon.beamline.serving.events import BeamlineEvent
from bluesky_streamrecon.beamline.serving.frames import FrameStore, QueuedFrame
from bluesky_streamrecon.beamline.serving.hub import Hub
from bluesky_streamrecon.beamline.serving.run import Run
from bluesky_streamrecon.errors import LocalProtocolError
from bluesky_streamrecon.partition import RowBlock
from bluesky_streamrecon.run_record import Ledger
from bluesky_streamrecon.wire.codec import MAXIMUM_CUTS_BYTES, MAXIMUM_PIXEL_BYTES, check_sendable
from bluesky_streamrecon.wire.endpoint import Endpoint
from bluesky_streamrecon.wire.events import PeerInfo
from bluesky_streamrecon.wire.fields import PIXEL_TYPES
from bluesky_streamrecon.wire.messages import ChangeRun, OpenRun, OpenRunSpec
from bluesky_streamrecon.wire.operator_messages import Answer
from bluesky_streamrecon.wire.security import ServerSecurity
from bluesky_streamrecon.wire.sockets import Transport

__all__ = ["BeamlineEndpoint"]

log = logging.getLogger(__name__)

PEERS = "peers"
READER_JOIN_S = 5.0


class BeamlineEndpoint(Endpoint[BeamlineEvent]):
    """Serve one run at a time to the ranks of a reconstruction job, and listen to its controller.

    No method waits for the network or a disk. `on_event` is called in the endpoint's thread: it must be quick,
    and an exception of it is logged.

    Parameters
    ----------
    address : str
        To bind; port ``*`` takes a free one. Any other host than loopback needs `security`.
    on_event : callable
        Called with each `BeamlineEvent`, and the peer that it came from or is about, if any.
    security : ServerSecurity, optional
        Own secret key and the public keys that are let in.
    insecure : bool
        Bind another host than loopback without keys all the same.
    job_id : str, optional
        Peers must name it in their hello; made up if not given.
    memory_limit : int
        Bytes of frames held in memory; above it inline frames go to a temporary file.
    heartbeat_seconds, peer_timeout : float
        How often something is sent at least, and after how long a silent peer is taken for lost; seconds.

    Raises
    ------
    ConfigError
        If the address is not loopback and there are neither keys nor ``insecure=True``, or it can not be bound.
    """

    def __init__(
        self,
        address: str = "tcp://127.0.0.1:*",
        *,
        on_event: Callable[[BeamlineEvent, PeerInfo | None], None],
        security: ServerSecurity | None = None,
        insecure: bool = False,
        job_id: str | None = None,
        memory_limit: int = 2**30,
        heartbeat_seconds: float = 1.0,
        peer_timeout: float = 10.0,
    ) -> None:
        self._job_id = job_id or uuid.uuid4().hex
        self._on_event = on_event
        self._memory_limit = memory_limit
        self._front = threading.Lock()
        self._open: Run | None = None
        self._closed = False
        self._stores: list[FrameStore] = []  # of the newest run, and of others whose thread still waits for a file
        transport = Transport(frame_limit=MAXIMUM_CUTS_BYTES, io_threads=2)
        try:
            self._address = transport.bind(PEERS, address, security, insecure=insecure)
        except BaseException:
            transport.close(0.0)
            raise
        if security is None and insecure:
            log.warning("bound %s without keys (insecure=True): anyone who reaches it can listen", self._address)
        self._hub = Hub(
            job_id=self._job_id,
            heartbeat_seconds=heartbeat_seconds,
            peer_timeout=peer_timeout,
        )
        super().__init__("streamrecon-beamline", transport, {PEERS: self._hub})
        self._thread.start()

    @property
    def address(self) -> str:
        """Address that peers connect to, with the real port."""
        return self._address

    @property
    def job_id(self) -> str:
        """What peers must name in their hello."""
        return self._job_id

    def open_run(self, spec: OpenRunSpec) -> None:
        """Begin a run; an unfinished earlier one is abandoned with a log record.

        Raises
        ------
        LocalProtocolError
            If the earlier run has not been closed, or a value of `spec` can not be sent.
        """
        spec = _checked(spec)
        with self._front:
            if self._closed:
                raise LocalProtocolError(f"endpoint {self._address}: used after it was closed")
            if self._open is not None:
                raise LocalProtocolError(
                    f"run {spec.run_uid[:8]}: opened while run {self._open.uid[:8]} is; close or abandon that first"
                )
            store = FrameStore(
                shape=spec.detector_shape,
                dtype=np.dtype(spec.dtype),
                limit=self._memory_limit,
                notify=self._transport.wake,
                name=spec.run_uid,
            )
            self._stores = [*(old for old in self._stores if old.alive), store]
            run = self._open = Run(spec, store)
            self._post(lambda: self._hub.open_run(run))

    def append(self, frame: QueuedFrame) -> None:
        """Queue one frame of the open run; neither copies nor waits.

        Raises
        ------
        LocalProtocolError
            If no run is open, the index is not the next one, or the array's shape or dtype is not the run's.
        """
        with self._front:
            run = self._open
            if run is None:
                raise LocalProtocolError(f"{frame.kind} {frame.index}: no run is open; call open_run first")
            run.check(frame)
            self._post(lambda: run.append(frame))

    def close_run(self, exit_status: str = "success", reason: str = "") -> None:
        """Close the run: no items follow; `RunFinished` comes when all have reported their result.

        Raises
        ------
        LocalProtocolError
            If no run is open.
        """
        with self._front:
            run, self._open = self._open, None
            if run is None:
                raise LocalProtocolError("close_run: no run is open")
            self._post(lambda: self._hub.close_run(run, exit_status, reason))

    def change_run(self, change: ChangeRun) -> None:
        """Send ranks and controller what people change of the open run, in its place among the frames; does not wait.

        Nothing happens if another run is open, or none.
        """
        with self._front:
            run = self._open
            if run is not None and run.uid == change.run_uid:
                self._post(lambda: run.mark(change))

    def abandon_run(self, reason: str = "") -> None:
        """Forget the open or closed run and its frames, and tell the peers so."""
        with self._front:
            self._open = None
            self._post(lambda: self._hub.abandon_run(reason or "given up by the user"))

    def shutdown_peers(self, reason: str = "") -> None:
        """Ask every linked peer, and every one that joins later, to end its process."""
        self._post(lambda: self._hub.shutdown(reason))

    def answer(self, operator: PeerInfo, answer: Answer) -> None:
        """Answer a person's program, if it is still there; does not wait."""
        self._post(lambda: self._hub.answer(operator, answer))

    def ledger(self) -> dict[int, Ledger]:
        """Per rank, what became of the newest run's items; empty while the number of ranks is not known."""
        with self.lock:
            return self._hub.ledger()

    def peers(self) -> tuple[PeerInfo, ...]:
        """Everyone who was ever welcomed, ranks first; `linked` tells who is there now."""
        with self.lock:
            return self._hub.peers()

    def memory(self) -> int:
        """Bytes of the newest run's frames in memory."""
        return self._stores[-1].memory if self._stores else 0

    def close(self, linger_s: float = 1.0) -> None:
        """Send what is queued for at most `linger_s` seconds, close the socket, join the threads; idempotent."""
        with self._front:
            self._open, self._closed = None, True
        super().close(linger_s)
        for store in self._stores:
            store.stop()
        for store in self._stores:
            store.join(READER_JOIN_S)

    # ------------------------------------------------------------------ in the endpoint's thread

    def _after_turn(self) -> None:
        events = self._hub.events
        while events:
            event, sender = events.popleft()
            try:
                self._on_event(event, sender)
            except Exception:
                log.exception("on_event raised for %s; going on", type(event).__name__)


def _checked(spec: OpenRunSpec) -> OpenRunSpec:
    """Check in the caller's thread whether the run can be sent to anyone."""
    where = f"run {spec.run_uid[:8]}"
    try:
        dtype = np.dtype(spec.dtype).newbyteorder("<").str
    except TypeError as error:
        raise LocalProtocolError(f"{where}: got dtype {spec.dtype!r}: {error}") from error
    if dtype not in PIXEL_TYPES:
        raise LocalProtocolError(f"{where}: got dtype {spec.dtype!r}, expected one of {', '.join(PIXEL_TYPES)}")
    rows, columns = spec.detector_shape
    spec = msgspec.structs.replace(spec, dtype=dtype, detector_shape=(int(rows), int(columns)))
    if rows * columns * np.dtype(dtype).itemsize > MAXIMUM_PIXEL_BYTES:
        raise LocalProtocolError(
            f"{where}: a frame of {spec.detector_shape} {dtype} is above {MAXIMUM_PIXEL_BYTES} bytes"
        )
    check_sendable(OpenRun(block=RowBlock(0, int(rows), 0, 0, 1), **msgspec.structs.asdict(spec)))
    return spec
