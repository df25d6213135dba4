"""The controller's end: scores and finalize go up to the beamline, previews come in from the ranks."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from typing import Literal, cast

from bluesky_streamrecon.wire.codec import MAXIMUM_PIXEL_BYTES, encode
from bluesky_streamrecon.wire.events import ControllerEvent, PreviewReceived
from bluesky_streamrecon.wire.member_loop import MemberLoop
from bluesky_streamrecon.wire.members import Member
from bluesky_streamrecon.wire.messages import Finalize, Hello, Problem, Score
from bluesky_streamrecon.wire.operator_messages import Picture
from bluesky_streamrecon.wire.previews import PreviewIn
from bluesky_streamrecon.wire.security import ClientSecurity, ServerSecurity
from bluesky_streamrecon.wire.sockets import Sent, Transport, local_host_towards, own_software, process_info
from bluesky_streamrecon.wire.worker import EventQueue

__all__ = ["ControllerEndpoint"]

PREVIEWS = "previews"


class _ControllerLoop(MemberLoop):
    """The link to the beamline, and the previews beside it."""

    def __init__(
        self,
        previews: PreviewIn,
        member: Member,
        transport: Transport,
        address: str,
        security: ClientSecurity | None,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(member, transport, address, security, clock)
        self._previews = previews

    def handle(self, name: str, link: bytes, frames: list[memoryview], now: float) -> None:
        if name == PREVIEWS:
            self._previews.receive(link, frames, now)
        else:
            super().handle(name, link, frames, now)

    def turn(self, now: float) -> float:
        self._previews.flush(now)
        while self._previews.outbox:
            answer = self._previews.outbox.popleft()
            if self.transport.send(PREVIEWS, answer.link, encode(answer.message)) is Sent.NOBODY:
                self._previews.unreachable(answer.link)
        wait = super().turn(now)
        self.events.extend(self._previews.events)
        self._previews.events.clear()
        return wait


class ControllerEndpoint:
    """The controller's end: scores and finalize go to the beamline, previews come from the ranks.

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
        self._preview_address = preview_announce or _announced(bound, address)
        host, pid = process_info()
        hello = Hello(
            job_id=job_id,
            role="controller",
            instance=uuid.uuid4().hex,
            host=host,
            pid=pid,
            software=software or own_software(),
            preview_address=self._preview_address,
            preview_key=None if preview_security is None else preview_security.keys.public,
        )
        self._queue: EventQueue[ControllerEvent] = EventQueue()
        self._previews = PreviewIn(job_id=job_id, credit=credit)
        self._link = _ControllerLoop(self._previews, Member(hello), transport, address, security, clock)
        self._link.start("streamrecon-controller", self._deliver)

    @property
    def preview_address(self) -> str:
        """Address that ranks are told."""
        return self._preview_address

    def next(self, timeout: float | None = None) -> ControllerEvent | None:
        """Take the next event; wait at most `timeout` seconds (None: for ever, 0: not at all), then give None.

        A preview counts as applied when it is taken.
        """
        event = self._queue.get(timeout)
        if isinstance(event, PreviewReceived):
            preview = event.preview
            self._link.post(lambda: self._previews.applied(preview))
        return event

    def unlinked_seconds(self) -> float:
        """Seconds since the beamline was last heard of; small while linked."""
        return self._link.unlinked_seconds()

    def score(
        self,
        run_uid: str,
        *,
        image_number: int,
        projections: int,
        score: float | None,
        metrics: Mapping[str, float | None] | None = None,
        verdict: Literal["continue", "enough", "invalid"] = "continue",
        policy: str = "",
        text: str = "",
    ) -> None:
        """Report the judgement of one image, surely."""
        body = Score(
            run_uid=run_uid,
            image_number=image_number,
            projections=projections,
            score=score,
            metrics=dict(metrics or {}),
            verdict=verdict,
            policy=policy,
            text=text[:4096],
        )
        self._link.post(lambda: self._link.member.report(body))

    def finalize(
        self,
        run_uid: str,
        *,
        reason: str,
        score: float | None = None,
        threshold: float | None = None,
        projections: int = 0,
        image_number: int = 0,
    ) -> None:
        """Ask for the end of this run, surely; the beamline ignores it for any run but the open one."""
        body = Finalize(
            run_uid=run_uid,
            reason=reason[:4096],
            score=score,
            threshold=threshold,
            projections=projections,
            image_number=image_number,
        )
        self._link.post(lambda: self._link.member.report(body))

    def show(self, picture: Picture) -> None:
        """Send a picture to those who watch; lost if there is no link."""
        self._link.post(lambda: self._link.member.show(picture))

    def problem(self, where: str, text: str, *, fault: Literal["local", "remote"] = "local") -> None:
        """Report a problem, surely."""
        problem = Problem(fault=fault, where=where[:256], text=text[:4096])
        self._link.post(lambda: self._link.member.report(problem))

    def close(self, linger_s: float = 1.0) -> None:
        """Send what is queued for at most `linger_s` seconds, close the sockets, join the thread; idempotent."""
        self._link.close(linger_s)

    def _deliver(self) -> None:
        self._queue.put(cast("deque[ControllerEvent]", self._link.events))


def _announced(bound: str, beamline: str) -> str:
    host, _, port = bound.removeprefix("tcp://").rpartition(":")
    if bound.startswith("tcp://") and host in ("0.0.0.0", "[::]", "*"):  # noqa: S104 - only compared
        found = local_host_towards(beamline)
        return f"tcp://[{found}]:{port}" if ":" in found else f"tcp://{found}:{port}"
    return bound
