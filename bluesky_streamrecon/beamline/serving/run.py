"""One run as the beamline serves it: the log of its items, a sender for each rank and the controller. No I/O."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from bluesky_streamrecon.beamline.serving.frames import FrameStore, Gone, QueuedFrame
from bluesky_streamrecon.errors import LocalProtocolError
from bluesky_streamrecon.partition import RowBlock, partition_rows
from bluesky_streamrecon.run_record import Ledger
from bluesky_streamrecon.wire import messages as m
from bluesky_streamrecon.wire.channel import MessageSender, Sender

__all__ = ["Run"]

LOOK_AHEAD = 4

Mark = m.ChangeRun | m.CloseRun
"""What stands in the log and is no item."""


class _ItemSender(Sender):
    """What one rank is sent of a run, and what became of it."""

    def __init__(self, run: Run, block: RowBlock) -> None:
        super().__init__("run", run.uid, **run.sending)
        self.block = block
        self._rows = block.with_halo(run.spec.halo, run.spec.detector_shape[0])
        self.done: m.RunDone | None = None
        self.restarts = 0
        self.reconnects = 0
        self.coalesced = False  # took steps together, so its images depend on what had arrived when
        self.redo = 0  # projections taken when its last process came
        self._run = run
        self._ack: m.Ack | None = None
        self._duplicate = 0  # of earlier processes of the rank
        self._gone: set[int] = set()
        self._why = ""
        for entry in run.log:
            self.append_entry(entry)

    def append_entry(self, entry: QueuedFrame | Mark) -> None:
        """Count one more entry of the log."""
        first, stop = self._rows
        self.append((stop - first) * self._run.row_bytes if isinstance(entry, QueuedFrame) else 0)

    def came_back(self, *, restarted: bool) -> None:
        """Count it; a new process has nothing, so what it reported before counts no more."""
        if not restarted:
            self.reconnects += 1
            return
        self.restarts += 1
        self.redo = 0 if self.coalesced else self._run.projections_up_to(len(self._run.log))
        self.done = None
        self._gone.clear()
        if self._ack is not None:
            self._duplicate += self._ack.duplicate
            self._ack = None

    def acknowledge(self, ack: m.Ack) -> bool:
        """Take the rank's acknowledgement; return whether it has applied more (or, after a restart, less)."""
        changed = super().acknowledge(ack)
        if ack.stream == self.stream:
            self._ack = ack
        return changed

    def opening(self) -> msgspec.Struct:
        """Return the message that opens the run."""
        return self._run.opening(self.block, self.redo)

    def message(self, seq: int) -> msgspec.Struct | None:
        """Return an entry of the log, or what stands in its place; None while a frame is fetched."""
        run, (first, stop) = self._run, self._rows
        entry = run.log[seq - 1]
        if not isinstance(entry, QueuedFrame):
            return entry
        frame = run.frames.get(entry)
        for ahead in run.log[seq : seq + LOOK_AHEAD]:
            if isinstance(ahead, QueuedFrame):
                run.frames.prefetch(ahead)
        if frame is None:
            return None
        about: dict[str, Any] = {
            "run_uid": run.uid,
            "seq": seq,
            "kind": entry.kind,
            "index": entry.index,
            "angle": entry.angle,
        }
        if isinstance(frame, Gone):
            self._gone.add(seq)
            self._why = self._why or frame.why
            return m.ItemGone(**about, why=frame.why[:4096])
        return m.Item(
            **about,
            monitor=entry.monitor,
            rows=self._rows,
            dtype=run.spec.dtype,  # type: ignore[arg-type]
            shape=(stop - first, run.spec.detector_shape[1]),
            pixels=frame[first:stop],
        )

    def ledger(self) -> Ledger:
        """Return what became of the items."""
        log, ack = self._run.log, self._ack
        marks = [seq for seq, entry in enumerate(log, 1) if not isinstance(entry, QueuedFrame)]

        def real(seq: int) -> int:
            return seq - sum(passed <= seq for passed in (*self._gone, *marks))

        return Ledger(
            items=len(log) - len(marks),
            sent=real(self.high),
            acknowledged=real(self.received),
            applied=real(self.applied),
            duplicate=self._duplicate + (ack.duplicate if ack else 0),
            dropped=len(self._gone),
            resent=self.resent,
            spilled=self._run.frames.spilled,
            restarts=self.restarts,
            reconnects=self.reconnects,
            done=self.done is not None,
            why=self._why,
        )


class Run:
    """A run from its opening until every rank is done.

    Parameters
    ----------
    spec : OpenRunSpec
        With a `dtype` of the wire.
    frames : FrameStore
        Where the items' frames are.
    **sending
        Of the items, see `Sender`.
    """

    def __init__(self, spec: m.OpenRunSpec, frames: FrameStore, **sending: Any) -> None:
        self.spec, self._preview_rows = spec, spec.preview_rows
        self.uid = spec.run_uid
        self.frames = frames
        self.log: list[QueuedFrame | Mark] = []
        self.close: m.CloseRun | None = None
        self.finished = False
        self.sending = sending
        self.row_bytes = spec.detector_shape[1] * np.dtype(spec.dtype).itemsize
        self._projections = [0]  # number of the last one, by entries of the log
        self._senders: dict[int, _ItemSender] = {}
        self._controller = MessageSender("run", self.uid, self.opening(RowBlock(0, spec.detector_shape[0], 0, 0, 1)))
        self._results: tuple[m.RunDone, ...] = ()
        self._checked = {"flat": 0, "dark": 0, "projection": 0}  # numbers of the last ones

    def check(self, frame: QueuedFrame) -> None:
        """Check a frame that is about to be appended, in whatever thread.

        Raises
        ------
        LocalProtocolError
            If the index is not the next one of its kind, the angle is not finite, or shape or dtype are not the run's.
        """
        where = f"{frame.kind} {frame.index} of run {self.uid[:8]}"
        expected = self._checked.get(frame.kind, -1) + 1
        if frame.index != expected:
            raise LocalProtocolError(f"{where}: expected {frame.kind} {expected}")
        if not np.isfinite(frame.angle):
            raise LocalProtocolError(f"{where}: got angle {frame.angle}, expected finite radians")
        if (pixels := frame.pixels) is not None:
            shape, dtype = self.spec.detector_shape, np.dtype(self.spec.dtype)
            if pixels.shape != shape or pixels.dtype.newbyteorder("=") != dtype.newbyteorder("="):
                raise LocalProtocolError(
                    f"{where}: got {pixels.dtype.str} {pixels.shape}, expected {dtype.str} {shape}; was the detector "
                    "ROI changed after the run was opened?"
                )
        self._checked[frame.kind] = frame.index

    def finish(self) -> None:
        """Forget the frames: nobody is sent any more of them."""
        self.finished = True
        self.frames.stop()
        # The log still says what there was.
        self.log = [QueuedFrame(e.kind, e.index) if isinstance(e, QueuedFrame) else e for e in self.log]

    @property
    def abandoned(self) -> bool:
        """Given up before all ranks were done."""
        return self.finished and not self._results

    def append(self, frame: QueuedFrame) -> None:
        """Add one item, unless the run is over."""
        if self.finished:
            return
        self.frames.add(len(self.log) + 1, frame)
        self._append(frame, frame.index if frame.kind == "projection" else self._projections[-1])

    def mark(self, mark: Mark) -> None:
        """Add what is no item after the items so far, and send it to the controller as well."""
        if (
            isinstance(mark, m.ChangeRun) and mark.selection is not None
        ):  # a rank that is started again begins with them
            self.spec = msgspec.structs.replace(self.spec, preview_rows=mark.selection.rows or self._preview_rows)
        if not self.finished:
            self._append(msgspec.structs.replace(mark, seq=len(self.log) + 1), self._projections[-1])
            self._controller.send(mark)

    def _append(self, entry: QueuedFrame | Mark, projections: int) -> None:
        self.log.append(entry)
        self._projections.append(projections)
        for sender in self._senders.values():
            sender.append_entry(entry)

    def finish_log(self, exit_status: str, reason: str) -> None:
        """No more items: the closing mark comes after the last of them."""
        last = {entry.kind: entry.index for entry in self.log if isinstance(entry, QueuedFrame)}
        self.close = m.CloseRun(
            run_uid=self.uid,
            projections=last.get("projection", 0),
            flats=last.get("flat", 0),
            darks=last.get("dark", 0),
            exit_status=exit_status[:256],
            reason=reason[:4096],
        )
        self.mark(self.close)

    def partition(self, size: int) -> None:
        """Deal the rows to this many ranks; everything is sent from the first item on."""
        blocks = partition_rows(self.spec.detector_shape[0], size, share=min(self.spec.recon.share, size))
        self._senders = {rank: _ItemSender(self, block) for rank, block in enumerate(blocks)}

    def projections_up_to(self, seq: int) -> int:
        """Projections among the first `seq` items."""
        return self._projections[seq]

    def sender(self, role: str, rank: int) -> Sender:
        """Return what sends the run to a rank or the controller."""
        return self._senders[rank] if role == "rank" else self._controller

    def came_back(self, rank: int, *, restarted: bool) -> None:
        """Note that a rank is linked again, as a new process or the same."""
        sender = self._senders.get(rank)
        if sender is not None and not self.finished:
            sender.came_back(restarted=restarted)

    def note(self, status: m.Status) -> None:
        """Remember whether a rank has left out images."""
        sender = self._senders.get(status.rank)
        if sender is not None and status.projections > status.image_number * self.spec.recon.step:
            sender.coalesced = True

    def done(self, report: m.RunDone) -> tuple[m.RunDone, ...]:
        """Take a rank's last report; return those of all ranks, in their order, if it was the last one missing."""
        sender = self._senders.get(report.rank)
        if sender is None or self.finished:
            return ()
        if report.ack is not None:
            sender.acknowledge(report.ack)
        sender.done = report
        results = tuple(each.done for _, each in sorted(self._senders.items()) if each.done is not None)
        if len(results) == len(self._senders):
            self._results = results
            self.finish()
        return self._results

    def ledger(self) -> dict[int, Ledger]:
        """Return the ledger of each rank."""
        return {rank: sender.ledger() for rank, sender in sorted(self._senders.items())}

    def opening(self, block: RowBlock, redo: int = 0) -> m.OpenRun:
        """Return the message that opens the run for a peer with these rows."""
        return m.OpenRun(block=block, redo=redo, **msgspec.structs.asdict(self.spec))
