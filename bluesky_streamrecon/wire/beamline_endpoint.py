"""Beamline's end of the stream: one ROUTER that ranks and the controller connect to, on a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import LocalProtocolError, ProtocolError
from bluesky_streamrecon.partition import RowBlock
from bluesky_streamrecon.wire.codec import MAXIMUM_HEADER_BYTES, MAXIMUM_PIXEL_BYTES, decode_down, encode
from bluesky_streamrecon.wire.events import BeamlineEvent, OperatorAsked, PeerInfo, StreamFailed
from bluesky_streamrecon.wire.hub import Hub, Outgoing
from bluesky_streamrecon.wire.messages import PIXEL_TYPES, ItemKind, OpenRun, OpenRunSpec
from bluesky_streamrecon.wire.operator_messages import Answer
from bluesky_streamrecon.wire.run import Entry, Run
from bluesky_streamrecon.wire.security import ServerSecurity
from bluesky_streamrecon.wire.sessions import Ledger
from bluesky_streamrecon.wire.sockets import Sent, Transport
from bluesky_streamrecon.wire.store import FrameSource, FrameStore
from bluesky_streamrecon.wire.worker import Worker

__all__ = ["BeamlineEndpoint"]

log = logging.getLogger(__name__)

PEERS = "peers"
READER_JOIN_S = 5.0


@dataclass(slots=True)
class _OpenRun:
    """What `append` looks at, in the caller's thread."""

    run: Run
    store: FrameStore
    shape: tuple[int, int]
    dtype: np.dtype[np.generic]
    items: int = 0
    counts: dict[str, int] = field(default_factory=lambda: {"flat": 0, "dark": 0, "projection": 0})


class _Core:
    """The hub, its transport, and the stores of its runs."""

    def __init__(self, hub: Hub, transport: Transport) -> None:
        self.hub = hub
        self.stores: list[FrameStore] = []
        self.events: deque[BeamlineEvent] = deque()
        self._transport = transport
        self._told: set[tuple[str, str]] = set()

    @property
    def settled(self) -> bool:
        return not self.hub.outbox

    def handle(self, name: str, link: bytes, frames: list[memoryview], now: float) -> None:  # noqa: ARG002
        self.hub.receive(link, frames, now)

    def turn(self, now: float) -> float:
        self.hub.tick(now)
        self._drain()
        more = self.hub.pump(self._send, now)
        self._drain()
        run = self.hub.run
        if run is not None and self.stores:
            store = self.stores[-1]
            for text in store.failures():
                self._failed(run.uid, text, now)
            if run.finished:
                store.stop()
        self._drain()
        self.events.extend(self.hub.events)
        self.hub.events.clear()
        return 0.0 if more else self.hub.patience

    def _drain(self) -> None:
        while self.hub.outbox:
            self._send(self.hub.outbox.popleft())

    def _send(self, outgoing: Outgoing) -> bool:
        sent = self._transport.send(PEERS, outgoing.link, encode(outgoing.message), outgoing.pixels)
        if sent is Sent.NOBODY:
            self.hub.unreachable(outgoing.link)
        return sent is not Sent.NOBODY

    def _failed(self, run_uid: str, text: str, now: float) -> None:
        cause = text.split(":", 1)[-1]
        if (run_uid, cause) in self._told:
            return
        if len(self._told) < 64:
            self._told.add((run_uid, cause))
        log.error("run %s: the stream is not complete: %s", run_uid, text)
        self.hub.problem(text, now)
        self.events.append(StreamFailed(run_uid, text))


class BeamlineEndpoint:
    """Serve one run at a time to the ranks of a reconstruction job, and listen to its controller.

    No method waits for the network or a disk. `on_event` is called in the endpoint's thread: it must be quick,
    and an exception of it is logged.

    Parameters
    ----------
    address : str
        To bind; port ``*`` takes a free one. Any other host than loopback needs `security`.
    on_event : callable
        Called with each `BeamlineEvent`.
    security : ServerSecurity, optional
        Own secret key and the public keys that are let in.
    insecure : bool
        Bind another host than loopback without keys all the same.
    job_id : str, optional
        Peers must name it in their hello; made up if not given.
    memory_limit : int
        Bytes of frames held in memory; above it inline frames go to a temporary file.
    spill_directory : path, optional
        Where that file is made; None: the system's directory for temporary files.
    heartbeat_seconds, peer_timeout : float
        How often something is sent at least, and after how long a silent peer is taken for lost; seconds.
    clock : callable
        Monotonic seconds.

    Raises
    ------
    ConfigError
        If the address is not loopback and there are neither keys nor ``insecure=True``, or it can not be bound.
    """

    def __init__(
        self,
        address: str = "tcp://127.0.0.1:*",
        *,
        on_event: Callable[[BeamlineEvent], None],
        security: ServerSecurity | None = None,
        insecure: bool = False,
        job_id: str | None = None,
        memory_limit: int = 2**30,
        spill_directory: str | Path | None = None,
        heartbeat_seconds: float = 1.0,
        peer_timeout: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._job_id = job_id or uuid.uuid4().hex
        self._on_event = on_event
        self._memory_limit = memory_limit
        self._directory = spill_directory
        self._clock = clock
        self._front = threading.Lock()
        self._open: _OpenRun | None = None
        self._closed = False
        transport = Transport(frame_limit=MAXIMUM_HEADER_BYTES, io_threads=2)
        try:
            self._address = transport.bind(PEERS, address, security, insecure=insecure)
        except BaseException:
            transport.close(0.0)
            raise
        if security is None and insecure:
            log.warning("bound %s without keys (insecure=True): anyone who reaches it can listen", self._address)
        hub = Hub(
            job_id=self._job_id,
            session=uuid.uuid4().hex,
            heartbeat_seconds=heartbeat_seconds,
            peer_timeout=peer_timeout,
            resend_seconds=peer_timeout,
        )
        self._core = _Core(hub, transport)
        self._wake = transport.wake
        self._worker = Worker("streamrecon-beamline", transport, self._core, clock, self._deliver)

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
            self._check_not_closed()
            if self._open is not None:
                raise LocalProtocolError(
                    f"run {spec.run_uid[:8]}: opened while run {self._open.run.uid[:8]} is; close or abandon that first"
                )
            store = FrameStore(
                shape=spec.detector_shape,
                dtype=np.dtype(spec.dtype),
                limit=self._memory_limit,
                directory=self._directory,
                notify=self._wake,
                name=spec.run_uid,
            )
            run = Run(spec, store)
            self._open = _OpenRun(run, store, spec.detector_shape, np.dtype(spec.dtype))
            self._worker.post(lambda: self._do_open(run, store))

    def append(self, kind: ItemKind, index: int, angle: float, source: NDArray[np.generic] | FrameSource) -> int:
        """Queue one frame of the open run and give its sequence number; neither copies nor waits.

        Parameters
        ----------
        kind : {"flat", "dark", "projection"}
            Flats and darks come before the projections that they are for.
        index : int
            1, 2, 3, ... within the kind.
        angle : float
            Radians; 0 for flats and darks.
        source : ndarray, shape (rows, columns), or FrameSource
            The frame, not to be changed any more, or where it is read from (in another thread, maybe repeatedly).

        Raises
        ------
        LocalProtocolError
            If no run is open, the index is not the next one, or the array's shape or dtype is not the run's.
        """
        with self._front:
            state = self._open
            if state is None:
                raise LocalProtocolError(f"{kind} {index}: no run is open; call open_run first")
            where = f"{kind} {index} of run {state.run.uid[:8]}"
            if state.counts.get(kind, -1) + 1 != index:
                raise LocalProtocolError(f"{where}: expected {kind} {state.counts.get(kind, -1) + 1}")
            if not np.isfinite(angle):
                raise LocalProtocolError(f"{where}: got angle {angle}, expected finite radians")
            if isinstance(source, np.ndarray):
                if source.shape != state.shape or source.dtype.newbyteorder("=") != state.dtype.newbyteorder("="):
                    raise LocalProtocolError(
                        f"{where}: got {source.dtype.str} {source.shape}, expected {state.dtype.str} {state.shape}; "
                        "was the detector ROI changed after the run was opened?"
                    )
            elif not isinstance(source, FrameSource):
                raise LocalProtocolError(f"{where}: got {type(source).__name__}, expected an ndarray or a FrameSource")
            state.counts[kind] = index
            state.items += 1
            seq, entry = state.items, Entry(kind, index, float(angle))
            self._worker.post(lambda: self._do_append(state, seq, entry, source))
        return seq

    def close_run(self, exit_status: str = "success", reason: str = "") -> None:
        """Tell the ranks that no items follow; `RunFinished` comes when all have reported their result.

        Raises
        ------
        LocalProtocolError
            If no run is open.
        """
        with self._front:
            state, self._open = self._open, None
            if state is None:
                raise LocalProtocolError("close_run: no run is open")
            self._worker.post(lambda: self._do_close(state, exit_status, reason))

    def lengthen_run(self, planned: int) -> None:
        """Tell the controller that the open run is going to take so many projections; does not wait."""
        with self._front:
            state = self._open
            if state is not None:
                self._worker.post(lambda: state.run.lengthen(planned, self._clock()))

    def abandon_run(self, reason: str = "") -> None:
        """Forget the open or closed run and its frames, and tell the peers so."""
        with self._front:
            self._open = None
            self._worker.post(lambda: self._core.hub.abandon_run(reason or "given up by the user", self._clock()))

    def shutdown_peers(self, reason: str = "") -> None:
        """Ask every linked peer, and every one that joins later, to end its process."""
        self._worker.post(lambda: self._core.hub.shutdown(reason, self._clock()))

    def answer(self, asked: OperatorAsked, answer: Answer) -> None:
        """Answer a person's program, if it is still there; does not wait."""
        self._worker.post(lambda: self._core.hub.answer(asked, answer, self._clock()))

    def operators(self) -> int:
        """Programs of people that are connected."""
        with self._worker.lock:
            return self._core.hub.operators

    def ledger(self) -> dict[int, Ledger]:
        """Per rank, what became of the newest run's items; empty while the number of ranks is not known."""
        with self._worker.lock:
            return self._core.hub.ledger()

    def peers(self) -> tuple[PeerInfo, ...]:
        """Everyone who was ever welcomed, ranks first; `linked` tells who is there now."""
        with self._worker.lock:
            return self._core.hub.peers()

    def garbage(self) -> int:
        """Messages that were malformed, and ignored."""
        return self._core.hub.garbage.count

    def memory(self) -> int:
        """Bytes of the newest run's frames in memory."""
        stores = self._core.stores
        return stores[-1].memory if stores else 0

    def close(self, linger_s: float = 1.0) -> None:
        """Send what is queued for at most `linger_s` seconds, close the socket, join the threads; idempotent."""
        with self._front:
            self._open, self._closed = None, True
        self._worker.close(linger_s)
        for store in self._core.stores:
            store.stop()
        for store in self._core.stores:
            store.join(READER_JOIN_S)

    # ------------------------------------------------------------------ in the endpoint's thread

    def _deliver(self) -> None:
        events = self._core.events
        while events:
            event = events.popleft()
            try:
                self._on_event(event)
            except Exception:
                log.exception("on_event raised for %s; going on", type(event).__name__)

    def _do_open(self, run: Run, store: FrameStore) -> None:
        now = self._clock()
        self._core.hub.open_run(run, now)
        for old in self._core.stores:
            old.stop()
        self._core.stores = [*(old for old in self._core.stores if old.alive), store]

    def _do_append(self, state: _OpenRun, seq: int, entry: Entry, source: NDArray[np.generic] | FrameSource) -> None:
        if not state.run.finished:
            state.store.add(seq, source)
            state.run.append(entry)

    def _do_close(self, state: _OpenRun, exit_status: str, reason: str) -> None:
        log.info("run %s: closed after %d items: %s %s", state.run.uid, state.items, exit_status, reason)
        if not state.run.finished:
            state.run.finish_log(exit_status, reason)

    def _check_not_closed(self) -> None:
        if self._closed:
            raise LocalProtocolError(f"endpoint {self._address}: used after it was closed")


def _checked(spec: OpenRunSpec) -> OpenRunSpec:
    """Find out in the caller's thread whether the run can be told to anyone."""
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
    values = msgspec.structs.asdict(spec)
    try:
        decode_down([encode(OpenRun(block=RowBlock(0, int(rows), 0, 0, 1), **values))])
    except (ProtocolError, TypeError, OverflowError) as error:
        raise LocalProtocolError(f"{where}: can not be sent: {error}") from error
    return spec
