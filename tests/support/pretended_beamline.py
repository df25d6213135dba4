"""A beamline that is pretended, behind the real wire: it answers operators, and shows pictures."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np

from bluesky_streamrecon.exit_hooks import GUARD
from bluesky_streamrecon.wire import (
    Answer,
    Ask,
    BeamlineEndpoint,
    ClientSecurity,
    ControllerEndpoint,
    Cuts,
    Judged,
    OpenRunSpec,
    OperatorEndpoint,
    Order,
    Picture,
    RankEndpoint,
    RunStatus,
    ServerSecurity,
    ShowCuts,
    ShowMe,
    Shutdown,
)
from bluesky_streamrecon.wire.images import Sinogram

BOUND = 20.0
VOLUME = (12, 16, 16)
SINOGRAM = Sinogram(
    start=0.0,
    span=np.pi,
    turn=np.pi,
    newest=np.pi / 2,
    counts=bytes([1, 0, 2, 0]),
    columns=3,
    low=0.0,
    high=2.0,
    pixels=bytes([1, 128, 255, 0, 0, 0, 9, 9, 9, 0, 0, 0, *[7] * 12]),
)


class Beamline:
    """Answers operators as `ReconJob` does, and shows pictures when they are wanted."""

    def __init__(self, security: ServerSecurity | None = None, keys: ClientSecurity | None = None) -> None:
        self.status = RunStatus(state="running", run_uid="run-1", planned=12)
        self.judged: tuple[Judged, ...] = ()
        self.orders: list[Order] = []
        self.refuse = ""
        self._pictures: list[Picture] = []
        self._may = threading.Semaphore(0)
        self.endpoint = BeamlineEndpoint(on_event=self._hear, heartbeat_seconds=0.1, security=security)
        self._controller = ControllerEndpoint(self.endpoint.address, job_id=self.endpoint.job_id, security=keys)
        self._thread = threading.Thread(target=self._draw)
        self._thread.start()
        self.wishes: list[ShowCuts] = []
        self._rank: RankEndpoint | None = None
        self._cutting = threading.Thread(target=self._cut)

    def connect(self) -> OperatorEndpoint:
        return OperatorEndpoint(self.endpoint.address, job_id=self.endpoint.job_id)

    def show(self, number: int, grey: int = 100, **changes: Any) -> None:
        picture = Picture(
            run_uid=self.status.run_uid or "",
            image_number=number,
            projections=number,
            rows=(3, 5),
            size=4,
            full_size=8,
            low=0.0,
            high=1.0,
            pixels=bytes([grey]) * 32,
            made=1.0,
            sinogram=SINOGRAM,
        )
        self._pictures.append(msgspec.structs.replace(picture, **changes))
        self._may.release()

    def begin_cuts(self) -> None:
        """Open the run, with a rank whose image has the value 100 row + 10 y + x everywhere."""
        shape = VOLUME[:2]
        spec = OpenRunSpec(run_uid="run-1", recon_uid="recon-1", planned=12, detector_shape=shape, dtype="<u2")
        self.endpoint.open_run(spec)
        self._rank = RankEndpoint(self.endpoint.address, job_id=self.endpoint.job_id, rank=0, size=1)
        self._cutting.start()
        self.status = msgspec.structs.replace(self.status, image_number=1)

    def _cut(self) -> None:
        assert self._rank is not None
        while (event := self._rank.next()) is not None and not isinstance(event, Shutdown):
            if not isinstance(event, ShowCuts):
                continue
            self.wishes.append(event)
            points = np.concatenate([cut.points().reshape(-1, 3) for cut in event.cuts])
            inside = ((points >= -0.5) & (points <= np.array(VOLUME) - 0.5)).all(axis=1)
            values = np.where(inside, points @ [100.0, 10.0, 1.0], np.nan).astype("<f4")
            number = self.status.image_number
            about = {"run_uid": "run-1", "image_number": number, "projections": number, "volume": VOLUME}
            self._rank.send(Cuts(number=event.number, cuts=event.cuts, pixels=values.tobytes(), **about))

    def close(self) -> None:
        if self._rank is not None:
            self.endpoint.shutdown_peers("the test is over")
            self._cutting.join(BOUND)
            self._rank.close(0)
        self._may.release()
        self._pictures.clear()
        self._controller.close(0)
        self.endpoint.close(0)
        self._thread.join(BOUND)

    def _hear(self, ask: Any, sender: Any) -> None:
        if not isinstance(ask, Ask):
            return
        ok, text = True, ""
        if ask.order is not None:
            ok, text = not self.refuse, self.refuse or f"{ask.action} done"
            if ok:
                self.orders.append(ask.order)
                held = {"hold": ask.order, "release": None}.get(ask.action, self.status.held)
                self.status = msgspec.structs.replace(self.status, held=held)
        judged = tuple(each for each in self.judged if each.image_number > ask.after)
        self.endpoint.answer(sender, Answer(number=ask.seq, ok=ok, text=text, status=self.status, judged=judged))

    def _draw(self) -> None:
        while True:
            self._may.acquire()
            if not self._pictures:
                return
            while not isinstance(event := self._controller.next(BOUND), ShowMe):
                if event is None:
                    return
            self._controller.send(self._pictures.pop(0))


@contextmanager
def pretended_beamline(*security: Any) -> Iterator[Beamline]:
    """Fail if a thread of the beamline, or of those who look at it, is left running."""
    before = set(threading.enumerate())  # a job that goes from test to test has threads of its own
    made = Beamline(*security)
    yield made
    made.close()
    started = set(threading.enumerate()) - before
    left = [each.name for each in started if each.name.startswith("streamrecon-") and each.name != GUARD]
    assert not left, f"still running after the test: {left}"
