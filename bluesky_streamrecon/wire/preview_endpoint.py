"""A rank's road to the controller, on a thread of its own."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import LocalProtocolError
from bluesky_streamrecon.views import Views
from bluesky_streamrecon.wire.codec import MAXIMUM_HEADER_BYTES, MAXIMUM_PIXEL_BYTES, encode
from bluesky_streamrecon.wire.messages import Preview
from bluesky_streamrecon.wire.previews import PreviewOut
from bluesky_streamrecon.wire.security import ClientSecurity
from bluesky_streamrecon.wire.sockets import Transport
from bluesky_streamrecon.wire.worker import Worker

__all__ = ["PreviewSender"]

CONTROLLER = "controller"
PATIENCE_S = 0.2


class _PreviewLoop:
    """What happens in the thread."""

    def __init__(self, out: PreviewOut, transport: Transport, security: ClientSecurity | None) -> None:
        self.out = out
        self.transport = transport
        self.quiet = threading.Event()
        self.quiet.set()
        self.front = threading.Lock()
        self.asked: tuple[str | None, int] = (None, 0)  # newest preview that the user sent
        self._security = security
        self.goal: tuple[str | None, str | None] = (None, None)  # where the user wants previews to go
        self._where: tuple[str | None, str | None] = (None, None)

    @property
    def settled(self) -> bool:
        return self.out.settled or self.hopeless

    def go_to(self, address: str | None, key: str | None, now: float) -> None:
        if (address, key) == self._where:
            return
        self._where = (address, key)
        self.out.refused = None
        if address is None or self.out.run_uid is not None:  # without a run there is nothing to say hello with
            self._reconnect(now)

    def begin(self, run_uid: str, now: float) -> None:
        first = self.out.run_uid is None
        self.out.begin(run_uid, now)
        if first:
            self._reconnect(now)

    def handle(self, name: str, link: bytes, frames: list[memoryview], now: float) -> None:  # noqa: ARG002
        self.out.receive(frames, now)

    def turn(self, now: float) -> float:
        self.out.tick(now)
        if self.out.reconnect:
            self._reconnect(now)
        if self.out.refused is not None:
            self.transport.disconnect(CONTROLLER)
        while True:
            what = self.out.next(now)
            if what is None:
                return PATIENCE_S
            self.transport.send(CONTROLLER, None, encode(what[0]), what[1], what[2])

    @property
    def hopeless(self) -> bool:
        return self.goal[0] is None or self.out.refused is not None

    def tell_flush(self) -> None:
        with self.front:
            session = self.out.session
            there = (self.out.run_uid, 0 if session is None else session.last)
            if there == self.asked and self.out.settled:
                self.quiet.set()

    def _reconnect(self, now: float) -> None:
        address, key = self._where
        if address is None:
            self.transport.disconnect(CONTROLLER)
            self.out.disconnected()
            return
        keys = None if self._security is None else self._security.keys
        self.transport.connect(CONTROLLER, address, keys, key)
        self.out.connected(now)


class PreviewSender:
    """A rank's road to the controller; never makes the rank wait.

    One object serves a rank for its whole life: `begin` names the run, `connect` says where the controller is
    (from `OpenRun.preview_address` or `PreviewMoved`; None as long as there is none).

    Parameters
    ----------
    job_id : str
        The beamline's.
    rank : int
        This rank.
    security : ClientSecurity, optional
        Own key files; the controller's public key comes with `connect`.
    retain : int
        Newest previews of the run that are kept for a controller that comes late or comes back.
    """

    def __init__(
        self,
        *,
        job_id: str,
        rank: int,
        security: ClientSecurity | None = None,
        retain: int = 64,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rank = rank
        self._clock = clock
        self._loop = _PreviewLoop(
            PreviewOut(job_id=job_id, instance=uuid.uuid4().hex, rank=rank, retain=retain),
            Transport(frame_limit=MAXIMUM_HEADER_BYTES),
            security,
        )
        self._worker = Worker(
            f"streamrecon-preview-{rank}", self._loop.transport, self._loop, clock, self._loop.tell_flush
        )

    def connect(self, address: str | None, key: str | None = None) -> None:
        """Send previews to this address (with this CURVE public key) from now on."""
        self._loop.goal = (address, key)
        self._worker.post(lambda: self._loop.go_to(address, key, self._clock()))

    def begin(self, run_uid: str) -> None:
        """Start with preview 1 of another run; what is kept of the last one is dropped."""
        with self._loop.front:
            self._loop.asked = (run_uid, 0)
            self._worker.post(lambda: self._loop.begin(run_uid, self._clock()))

    def send(
        self,
        *,
        image_number: int,
        projections: int,
        rows: tuple[int, ...],
        pixels: NDArray[np.float32],
        final: bool = False,
        lines: Views | None = None,
        axis: float | None = None,
    ) -> int:
        """Queue the slices of one image and give their sequence number.

        Parameters
        ----------
        rows : tuple of int
            Detector rows that the slices are of.
        pixels : ndarray of float32, shape (len(rows), N, N)
            Not to be changed any more.
        lines : Views, optional
            Line integrals of these rows: all that went into the image and were not sent before. They are not to be
            changed any more.
        axis : float, optional
            Detector column of the rotation axis.

        Raises
        ------
        LocalProtocolError
            If `begin` was not called, or shape or dtype are not these.
        """
        if pixels.dtype != np.float32 or pixels.ndim != 3 or pixels.shape[0] != len(rows) or not rows:
            raise LocalProtocolError(
                f"preview of image {image_number}: got {pixels.dtype.str} {pixels.shape}, expected float32 "
                f"({len(rows)}, N, N) for rows {rows}"
            )
        if lines is not None and (lines.values.dtype != np.float32 or lines.values.shape[1] != len(rows)):
            raise LocalProtocolError(
                f"preview of image {image_number}: got line integrals {lines.values.dtype.str} {lines.values.shape}, "
                f"expected float32 (views, {len(rows)}, columns)"
            )
        if pixels.shape[1] != pixels.shape[2] or pixels.nbytes > MAXIMUM_PIXEL_BYTES:
            raise LocalProtocolError(
                f"preview of image {image_number}: got {pixels.shape}, expected square slices of at most "
                f"{MAXIMUM_PIXEL_BYTES} bytes together"
            )
        with self._loop.front:
            run_uid, seq = self._loop.asked
            if run_uid is None:
                raise LocalProtocolError(f"preview of image {image_number}: call begin with the run first")
            seq += 1
            self._loop.asked = (run_uid, seq)
            preview = Preview(
                run_uid=run_uid,
                seq=seq,
                rank=self._rank,
                image_number=image_number,
                projections=projections,
                final=final,
                rows=rows,
                size=pixels.shape[1],
                angles_used=() if lines is None else tuple(lines.angles.tolist()),
                columns=0 if lines is None else lines.values.shape[2],
                lines_first=0 if lines is None else projections - int(lines.counts.sum()),
                lines_counts=() if lines is None or lines.single else tuple(lines.counts.tolist()),
                axis=axis,
            )
            values = None if lines is None else lines.values
            self._loop.quiet.clear()
            self._worker.post(lambda: self._loop.out.append(preview, pixels, self._clock(), values))
            return seq

    @property
    def dropped(self) -> int:
        """Previews of this run that fell out of what is kept before they could be sent."""
        session = self._loop.out.session
        return 0 if session is None else session.dropped

    def flush(self, timeout: float) -> bool:
        """Wait until the controller has everything that was sent, or `timeout` seconds; tell which.

        Does not wait where there is no controller.
        """
        self._worker.post(lambda: None)
        return self._loop.quiet.wait(0.0 if self._loop.hopeless else timeout)

    def close(self, linger_s: float = 1.0) -> None:
        """Send what is queued for at most `linger_s` seconds, close the socket, join the thread; idempotent."""
        self._worker.close(linger_s)
