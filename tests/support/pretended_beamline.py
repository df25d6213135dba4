"""A beamline that is pretended, behind the real wire: it answers operators, and shows cuts of images."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np

from bluesky_streamrecon.beamline.serving import BeamlineEndpoint
from bluesky_streamrecon.cuts import Cut
from bluesky_streamrecon.exit_hooks import GUARD
from bluesky_streamrecon.wire import (
    Answer,
    Ask,
    ClientSecurity,
    Cuts,
    Judged,
    OpenRunSpec,
    OperatorEndpoint,
    Order,
    RankEndpoint,
    RunStatus,
    ServerSecurity,
    ShowCuts,
    Shutdown,
)

BOUND = 20.0
VOLUME = (12, 16, 16)


class Beamline:
    """Answers operators as `ReconJob` does, and shows cuts when they are wished for."""

    def __init__(self, security: ServerSecurity | None = None, keys: ClientSecurity | None = None) -> None:
        about = {"detector_shape": VOLUME[:2], "preview_rows": (3, 5)}
        self.status = RunStatus(state="running", run_uid="run-1", planned=12, **about)
        self.judged: tuple[Judged, ...] = ()
        self.orders: list[Order] = []
        self.refuse = ""
        self.endpoint = BeamlineEndpoint(on_event=self._hear, heartbeat_seconds=0.1, security=security)
        self._keys = keys
        self._value: float | None = None
        self.wishes: list[ShowCuts] = []
        self._rank: RankEndpoint | None = None
        self._cutting = threading.Thread(target=self._cut)

    def connect(self) -> OperatorEndpoint:
        return OperatorEndpoint(self.endpoint.address, job_id=self.endpoint.job_id)

    def begin_cuts(self) -> None:
        """Make the first image, with the value 100 row + 10 y + x everywhere."""
        self.show(1)

    volume = VOLUME

    def show(self, number: int, value: float | None = None) -> None:
        """Make an image from as many projections as its number, of one value; None: 100 row + 10 y + x."""
        if self._rank is None:
            about = {"run_uid": "run-1", "recon_uid": "recon-1", "planned": 12, "detector_shape": VOLUME[:2]}
            self.endpoint.open_run(OpenRunSpec(dtype="<u2", **about))
            self._rank = RankEndpoint(
                self.endpoint.address, job_id=self.endpoint.job_id, rank=0, size=1, security=self._keys
            )
            self._cutting.start()
        self._value = value
        self.status = msgspec.structs.replace(self.status, image_number=number)

    def _cut(self) -> None:
        assert self._rank is not None
        while (event := self._rank.next()) is not None and not isinstance(event, Shutdown):
            if not isinstance(event, ShowCuts):
                continue
            self.wishes.append(event)
            number = self.status.image_number
            about = {
                "run_uid": self.status.run_uid,
                "image_number": number,
                "projections": number,
                "volume": self.volume,
            }
            pixels = b"".join(self._values(cut).astype("<f4").tobytes() for cut in event.cuts)
            self._rank.send(Cuts(number=event.number, cuts=event.cuts, pixels=pixels, made=1.0, angle=0.5, **about))

    def _values(self, cut: Cut) -> np.ndarray[Any, Any]:
        """Return the image's values; of the sinogram every other direction, of the rest nothing."""
        points, limits = cut.points().reshape(-1, 3), np.array(self.volume) - 0.5
        if cut.space == "sinogram":
            directions = np.rint(points[:, 1] / np.pi * 12)
            return np.where(directions % 2, np.nan, points[:, 2])
        values = points @ [100.0, 10.0, 1.0] if self._value is None else np.full(len(points), self._value)
        inside = ((points >= -0.5) & (points <= limits)).all(axis=1) & (cut.space == "volume")
        return np.where(inside, values, np.nan)

    def close(self) -> None:
        if self._rank is not None:
            self.endpoint.shutdown_peers("the test is over")
            self._cutting.join(BOUND)
            self._rank.close(0)
        self.endpoint.close(0)

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
