"""Beamlines whose moves, exposures and readings stop where a test wants them to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ophyd_async.core import StaticPathProvider, UUIDFilenameProvider

from bluesky_streamrecon.sim_devices import RotaryStage, SimBeamline, TomoDetector, TriggerLine, sim_beamline

BOUND = 20.0


class Hold:
    """Holds the n-th pass (from 1) in the RunEngine's loop until it is let go; `reached` tells that it is there."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.passes = 0
        self.reached = threading.Event()
        self._go: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._free = False

    async def __call__(self, seconds: float = 0.0) -> None:
        self.passes += 1
        if self.passes == self.at and not self._free:
            self._go, self._loop = asyncio.Event(), asyncio.get_running_loop()
            self.reached.set()
            await self._go.wait()

    def release(self) -> None:
        self._free = True
        if self._go is not None and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._go.set)


@pytest.fixture
def hold() -> Iterator[Callable[[int], Hold]]:
    """Make holds; all are let go at the end."""
    made: list[Hold] = []

    def make(at: int) -> Hold:
        made.append(Hold(at))
        return made[-1]

    yield make
    for one in made:
        one.release()


@pytest.fixture
def held_beamline(run_engine, tmp_path) -> Callable[..., SimBeamline]:
    """Make a beamline whose exposures and moves pass through a hold (exposures: twice each)."""

    def make(*, exposing: Hold | None = None, moving: Hold | None = None) -> SimBeamline:
        plain = sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True)
        stage = plain.stage
        if moving is not None:
            now = [0.0]

            async def sleep(seconds: float) -> None:
                await moving(seconds)
                now[0] += seconds

            stage = RotaryStage("stage", velocity=3600.0, acceleration_time=0.0, sleep=sleep, clock=lambda: now[0])
        scene = type(plain.detector.scene)(plain.camera, stage, plain.table, plain.shutter, plain.detector.scene.faults)
        detector = plain.detector
        if exposing is not None or moving is not None:
            paths = StaticPathProvider(UUIDFilenameProvider(), tmp_path)
            sleep = exposing or asyncio.sleep
            detector = TomoDetector(
                scene, paths, TriggerLine(), exposure=1.0, instant=exposing is None, sleep=sleep, name="detector"
            )
        return SimBeamline(stage, detector, plain.shutter, plain.table, plain.camera, tmp_path)

    return make


def of(documents: list[tuple[str, dict[str, Any]]], name: str, stream: str | None = None) -> list[dict[str, Any]]:
    """Documents of one name, and of one stream."""
    streams = {doc["uid"]: doc["name"] for kind, doc in documents if kind == "descriptor"}
    return [doc for kind, doc in documents if kind == name and stream in (None, streams.get(doc.get("descriptor")))]


@pytest.fixture(name="of")
def _of() -> Callable[..., list[dict[str, Any]]]:
    return of
