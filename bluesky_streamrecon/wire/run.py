"""One run as the beamline serves it: the log of its items, and a sending session for each peer. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import LocalProtocolError
from bluesky_streamrecon.partition import RowBlock, partition_rows
from bluesky_streamrecon.wire.messages import (
    Ack,
    CloseRun,
    Item,
    ItemGone,
    ItemKind,
    OpenRun,
    OpenRunSpec,
    RunDone,
    Status,
)
from bluesky_streamrecon.wire.sessions import (
    AckNumbers,
    Ledger,
    SenderSession,
    SendOpen,
)
from bluesky_streamrecon.wire.store import Gone

__all__ = ["Entry", "Frames", "Run"]

LOOK_AHEAD = 4

Pixels = NDArray[np.generic]


class Frames(Protocol):
    """Where a run takes its frames from, by sequence number; `FrameStore` is one."""

    @property
    def spilled(self) -> int:
        """Frames that went to a file so far."""
        ...

    def get(self, seq: int) -> Pixels | Gone | None:
        """Give the frame, or None while it is being fetched."""
        ...

    def prefetch(self, seq: int) -> None:
        """Fetch it if there is room: it will be asked for soon."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One item of the log."""

    kind: ItemKind
    index: int
    angle: float


@dataclass(slots=True)
class _Stream:
    block: RowBlock
    session: SenderSession
    done: RunDone | None = None
    ack: Ack | None = None
    duplicate: int = 0  # of earlier processes of the rank
    gaps: int = 0
    resent: int = 0
    restarts: int = 0
    reconnects: int = 0
    coalesced: bool = False  # took steps together, so its images depend on what had arrived when
    redo: int = 0  # projections taken when its last process came
    gone: set[int] = field(default_factory=set)
    why: str = ""


class Run:
    """A run from its opening until every rank is done.

    Parameters
    ----------
    spec : OpenRunSpec
        With a `dtype` of the wire.
    frames : Frames
        Where the items' frames are.
    """

    def __init__(self, spec: OpenRunSpec, frames: Frames) -> None:
        self.spec = spec
        self.uid = spec.run_uid
        self.frames = frames
        self.planned = spec.planned
        self.log: list[Entry] = []
        self.close: CloseRun | None = None
        self.finished = False
        self.new_session: Callable[[], SenderSession] = SenderSession
        self._projections = [0]
        self._row_bytes = spec.detector_shape[1] * np.dtype(spec.dtype).itemsize
        self._streams: dict[int, _Stream] = {}
        self._controller: SenderSession | None = None
        self._results: tuple[RunDone, ...] | None = None

    @property
    def abandoned(self) -> bool:
        """Given up before all ranks were done."""
        return self.finished and self._results is None

    def append(self, entry: Entry) -> int:
        """Add one item and give its sequence number."""
        self.log.append(entry)
        self._projections.append(self._projections[-1] + (entry.kind == "projection"))
        for stream in self._streams.values():
            stream.session.append(stream.block.rows * self._row_bytes)
        return len(self.log)

    def finish_log(self, exit_status: str, reason: str) -> None:
        """No more items: number the closing mark after the last of them."""
        kinds = [entry.kind for entry in self.log]
        self.close = CloseRun(
            run_uid=self.uid,
            seq=len(self.log) + 1,
            projections=kinds.count("projection"),
            flats=kinds.count("flat"),
            darks=kinds.count("dark"),
            exit_status=exit_status[:256],
            reason=reason[:4096],
        )
        for stream in self._streams.values():
            stream.session.append(0)
        if self._controller is not None:
            self._controller.append(0)

    def lengthen(self, planned: int, now: float) -> None:
        """Tell the controller, now and whenever it comes back, that so many projections are planned by now."""
        self.planned = planned
        if self._controller is not None and not self.finished:
            self._controller.reopen(now)

    def deal(self, size: int) -> None:
        """Deal the rows to this many ranks; everything is sent from the first item on."""
        rows = self.spec.detector_shape[0]
        blocks = partition_rows(rows, size, share=min(self.spec.recon.share, size))
        self._streams = {rank: _Stream(block, self._full_session(block)) for rank, block in enumerate(blocks)}

    def projections_up_to(self, seq: int) -> int:
        """Projections among the first `seq` items."""
        return self._projections[seq]

    # ------------------------------------------------------------------ peers

    def link(self, role: str, rank: int, now: float) -> None:
        """Begin to send to a peer on a fresh link."""
        session = self._session(role, rank)
        if session is not None:
            session.link(now)

    def unlink(self, role: str, rank: int) -> None:
        """Stop sending to a peer."""
        session = self._session(role, rank)
        if session is not None:
            session.unlink()

    def came_back(self, rank: int, *, restarted: bool) -> None:
        """Count it; a new process has nothing, so what it reported before counts no more."""
        stream = self._streams.get(rank)
        if stream is None or self.finished:
            return
        if not restarted:
            stream.reconnects += 1
            return
        stream.restarts += 1
        stream.redo = 0 if stream.coalesced else self._projections[-1]
        stream.done = None
        stream.gone.clear()
        if stream.ack is not None:
            stream.duplicate += stream.ack.duplicate
            stream.gaps += stream.ack.gaps
            stream.ack = None

    def acknowledge(self, role: str, rank: int, numbers: AckNumbers, now: float, ack: Ack) -> bool:
        """Take a peer's acknowledgement; tell whether it has applied more (or, after a restart, less)."""
        session = self._session(role, rank)
        if session is None:
            return False
        changed = session.acknowledge(numbers, now)
        if role == "rank":
            self._streams[rank].ack = ack
        return changed

    def note(self, status: Status) -> None:
        """Remember whether a rank has left out images."""
        stream = self._streams.get(status.rank)
        if stream is not None and status.projections > status.image_number * self.spec.recon.step:
            stream.coalesced = True

    def done(self, report: RunDone) -> bool:
        """Take a rank's last report; tell whether it was the last one missing."""
        stream = self._streams.get(report.rank)
        if stream is None or self.finished:
            return False
        stream.done = report
        results = [s.done for _, s in sorted(self._streams.items())]
        if any(done is None for done in results):
            return False
        self._results = tuple(done for done in results if done is not None)
        self.finished = True
        return True

    def results(self) -> tuple[RunDone, ...]:
        """Give the reports of all ranks, in their order; none before the last of them."""
        return self._results or ()

    def tick(self, now: float) -> None:
        """Let every session look at the time."""
        for stream in self._streams.values():
            stream.session.tick(now)
        if self._controller is not None:
            self._controller.tick(now)

    # ------------------------------------------------------------------ sending

    def next_for(
        self, role: str, rank: int, preview: tuple[str | None, str | None]
    ) -> tuple[msgspec.Struct, Pixels | None] | None:
        """Give the message that this peer is to be sent next, or None."""
        session = self._session(role, rank)
        what = None if session is None else session.peek()
        if what is None:
            return None
        if isinstance(what, SendOpen):
            return self._open_message(role, rank, preview), None
        if role != "rank":
            return msgspec.structs.replace(self._closing(), seq=1), None
        if what.seq > len(self.log):
            return self._closing(), None
        stream = self._streams[rank]
        frame = self.frames.get(what.seq)
        for ahead in range(what.seq + 1, min(what.seq + LOOK_AHEAD, len(self.log)) + 1):
            self.frames.prefetch(ahead)
        if frame is None:
            return None
        entry = self.log[what.seq - 1]
        if isinstance(frame, Gone):
            stream.gone.add(what.seq)
            stream.why = stream.why or frame.why
            gone = ItemGone(
                run_uid=self.uid,
                seq=what.seq,
                kind=entry.kind,
                index=entry.index,
                angle=entry.angle,
                why=frame.why[:4096],
            )
            return gone, None
        block = stream.block
        item = Item(
            run_uid=self.uid,
            seq=what.seq,
            kind=entry.kind,
            index=entry.index,
            angle=entry.angle,
            rows=(block.first, block.stop),
            dtype=self.spec.dtype,  # type: ignore[arg-type]
            shape=(block.rows, self.spec.detector_shape[1]),
        )
        return item, frame[block.first : block.stop]

    def sent_to(self, role: str, rank: int, now: float) -> None:
        """Confirm that what `next_for` gave was sent."""
        session = self._session(role, rank)
        if session is None:
            raise LocalProtocolError(f"run {self.uid[:8]}: nothing to confirm for {role} {rank}")
        session.advance(now)

    def ledger(self) -> dict[int, Ledger]:
        """Ledger of each rank."""
        return {rank: self._ledger(stream) for rank, stream in sorted(self._streams.items())}

    # ------------------------------------------------------------------ insides

    def _ledger(self, stream: _Stream) -> Ledger:
        items, session, ack = len(self.log), stream.session, stream.ack

        def real(seq: int) -> int:
            seq = min(seq, items)
            return seq - sum(gone <= seq for gone in stream.gone)

        done = stream.done
        newest: Ack | RunDone | None = done or ack
        return Ledger(
            items=items,
            sent=real(session.high),
            acknowledged=real(session.received if done is None else min(done.received, session.high)),
            applied=real(session.applied) if done is None else done.applied,
            duplicate=stream.duplicate + (newest.duplicate if newest else 0),
            dropped=len(stream.gone),
            resent=session.resent,
            gaps=stream.gaps + (newest.gaps if newest else 0),
            spilled=self.frames.spilled,
            restarts=stream.restarts,
            reconnects=stream.reconnects,
            done=done is not None,
            why=stream.why,
        )

    def _session(self, role: str, rank: int) -> SenderSession | None:
        if role == "rank":
            stream = None if self.finished else self._streams.get(rank)
            return None if stream is None else stream.session
        if self._controller is None:
            self._controller = self.new_session()
            if self.close is not None:
                self._controller.append(0)
        return self._controller

    def _full_session(self, block: RowBlock) -> SenderSession:
        session = self.new_session()
        for _ in self.log:
            session.append(block.rows * self._row_bytes)
        if self.close is not None:
            session.append(0)
        return session

    def _closing(self) -> CloseRun:
        if self.close is None:
            raise LocalProtocolError(f"run {self.uid[:8]}: asked for its end while it is open")
        return self.close

    def _open_message(self, role: str, rank: int, preview: tuple[str | None, str | None]) -> OpenRun:
        spec = self.spec
        rows = spec.detector_shape[0]
        return OpenRun(
            run_uid=self.uid,
            recon_uid=spec.recon_uid,
            planned=spec.planned if role == "rank" else self.planned,
            detector_shape=spec.detector_shape,
            dtype=spec.dtype,  # type: ignore[arg-type]
            block=self._streams[rank].block if role == "rank" else RowBlock(0, rows, 0, 0, 1),
            recon=spec.recon,
            steering=spec.steering,
            preview_rows=spec.preview_rows,
            preview_address=preview[0],
            preview_key=preview[1],
            output=spec.output,
            metadata=spec.metadata,
            redo=self._streams[rank].redo if role == "rank" else 0,
        )
