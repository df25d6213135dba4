"""Hypothesis profiles, and endpoints that are closed and leave nothing behind."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import pytest

from bluesky_streamrecon.beamline.serving import BeamlineEndpoint, QueuedFrame
from bluesky_streamrecon.exit_hooks import GUARD
from bluesky_streamrecon.wire import (
    CloseRun,
    ControllerEndpoint,
    Item,
    ItemGone,
    LinkLost,
    LinkRestored,
    OpenRun,
    OpenRunSpec,
    RankEndpoint,
    RunDone,
)

BOUND = 20.0
E = TypeVar("E")


class Collector:
    """Takes the beamline's events, and waits for them."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self._changed = threading.Condition()

    def __call__(self, event: object, sender: object = None) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def of(self, kind: type[E]) -> list[E]:
        with self._changed:
            return [event for event in self.events if isinstance(event, kind)]

    def wait(self, kind: type[E], match: Callable[[E], bool] = lambda _: True, count: int = 1) -> E:
        """Return the `count`-th event of this kind that matches, waiting for it at most BOUND seconds."""

        def found() -> list[E]:
            return [event for event in self.events if isinstance(event, kind) and match(event)]

        with self._changed:
            assert self._changed.wait_for(lambda: len(found()) >= count, BOUND), (kind.__name__, self.events)
            return found()[count - 1]


class Told(logging.Handler):
    """Takes what is logged, and waits for it: a thread of its own says it when it gets to it."""

    def __init__(self) -> None:
        super().__init__()
        self._messages: list[str] = []
        self._changed = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._changed:
            self._messages.append(record.getMessage())
            self._changed.notify_all()

    def wait(self, text: str) -> None:
        """Return as soon as a message with this text was logged, waiting for it at most BOUND seconds."""
        with self._changed:
            found = self._changed.wait_for(lambda: any(text in message for message in self._messages), BOUND)
            assert found, (text, self._messages)


class Wires:
    """Makes endpoints, and closes what the test left open."""

    def __init__(self) -> None:
        self.seen = Collector()
        self._open: list[Any] = []

    def beamline(self, **options: Any) -> BeamlineEndpoint:
        options = {"heartbeat_seconds": 0.1, "peer_timeout": 5.0, **options}
        return self._keep(BeamlineEndpoint(on_event=self.seen, **options))

    def rank(self, beamline: BeamlineEndpoint, rank: int = 0, size: int = 1, **options: Any) -> RankEndpoint:
        options = {"job_id": beamline.job_id, **options}
        return self._keep(RankEndpoint(beamline.address, rank=rank, size=size, **options))

    def controller(self, beamline: BeamlineEndpoint, **options: Any) -> ControllerEndpoint:
        return self._keep(ControllerEndpoint(beamline.address, job_id=beamline.job_id, **options))

    def fill(self, beamline: BeamlineEndpoint, first: int, last: int) -> None:
        """Append projections with these numbers."""
        for index in range(first, last + 1):
            beamline.append(QueuedFrame("projection", index, 0.1 * index, self.frame(index)))

    @staticmethod
    def frame(index: int, shape: tuple[int, int] = (6, 8), dtype: str = "<u2") -> np.ndarray:
        """Make a frame that shows its number and its rows."""
        rows, columns = np.indices(shape)
        return (100 * index + 10 * rows + columns % 10).astype(dtype)

    @staticmethod
    def take(endpoint: Any, kind: Any, skip: tuple[type, ...] = (LinkRestored,)) -> Any:
        """Return the next event, which must be of this kind; pass over those to be skipped."""
        limit = time.monotonic() + BOUND
        while True:
            event = endpoint.next(max(0.0, limit - time.monotonic()))
            assert event is not None, f"waited {BOUND} s for {kind}"
            if isinstance(event, kind):
                return event
            assert isinstance(event, skip), f"got {event}, expected {kind}"

    def follow(self, rank: RankEndpoint, skip: tuple[type, ...] = ()) -> list[int]:
        """Be a job: apply every item of the next run, report it done, and give the items' numbers."""
        run = self.take(rank, OpenRun, (LinkRestored, *skip))
        seen: list[int] = []
        while True:
            event = self.take(rank, (Item, ItemGone, CloseRun), (LinkLost, LinkRestored, *skip))
            if isinstance(event, CloseRun):
                rank.send(RunDone(run_uid=run.run_uid, rank=rank.rank, image_number=len(seen)))
                return seen
            if isinstance(event, Item):
                first, stop = run.rows
                number = event.index if event.kind == "projection" else 0
                np.testing.assert_array_equal(event.pixels, self.frame(number, run.detector_shape)[first:stop])
                seen.append(event.seq)
            rank.applied(event.seq)

    def _keep(self, endpoint: Any) -> Any:
        self._open.append(endpoint)
        return endpoint

    def close(self) -> None:
        for endpoint in reversed(self._open):
            endpoint.close(0.0)


@pytest.fixture
def wires() -> Iterator[Wires]:
    """Yield a function that makes endpoints, and fail the test that leaves a thread of theirs running."""
    before = set(threading.enumerate())  # a job that goes from test to test has threads of its own
    made = Wires()
    yield made
    made.close()
    started = set(threading.enumerate()) - before
    left = [each.name for each in started if each.name.startswith("streamrecon-") and each.name != GUARD]
    assert not left, f"still running after the test: {left}"


@pytest.fixture
def spec() -> Callable[..., OpenRunSpec]:
    """Return a function that makes runs with small frames."""

    def make(run_uid: str = "run-1", **options: Any) -> OpenRunSpec:
        options = {
            "recon_uid": f"recon-of-{run_uid}",
            "planned": 10,
            "detector_shape": (6, 8),
            "dtype": "<u2",
            **options,
        }
        return OpenRunSpec(run_uid=run_uid, **options)

    return make


@pytest.fixture
def told() -> Iterator[Told]:
    """Everything that is logged at any level, to be waited for."""
    ours = logging.getLogger("bluesky_streamrecon")
    handler, before = Told(), ours.level
    ours.addHandler(handler)
    ours.setLevel(logging.DEBUG)
    yield handler
    ours.setLevel(before)
    ours.removeHandler(handler)
