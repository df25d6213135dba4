"""Scans with a real job that stop in the middle, so that people can have their say."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from bluesky.preprocessors import plan_mutator
from bluesky.utils import Msg

from bluesky_streamrecon.plans import stream_tomo_plan
from bluesky_streamrecon.sim_devices import sim_beamline

BOUND = 90.0


class Halfway:
    """Holds a plan at one of its checkpoints (from 1), while the RunEngine's loop goes on."""

    def __init__(self, checkpoint: int) -> None:
        self.reached = threading.Event()
        self._checkpoint = checkpoint
        self._passed = 0
        self._go: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __call__(self, plan: Any) -> Any:
        return plan_mutator(plan, self._look)

    def go_on(self) -> None:
        if self._go is not None and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._go.set)

    def _look(self, msg: Msg) -> tuple[Any, Any]:
        if msg.command != "checkpoint":
            return None, None
        self._passed += 1
        if self._passed != self._checkpoint:
            return None, None
        return self._wait_before(msg), None

    def _wait_before(self, msg: Msg) -> Any:
        yield Msg("wait_for", None, [self._wait])
        return (yield msg)

    async def _wait(self) -> None:
        if self._go is None:
            self._go, self._loop = asyncio.Event(), asyncio.get_running_loop()
        self.reached.set()
        await asyncio.wait_for(self._go.wait(), BOUND)


@pytest.fixture
def overruled(run_engine, tmp_path, kept_job, in_thread) -> Callable[..., Any]:
    """Run a scan, and `speak` in another thread when `at` projections of it have been taken."""
    beamline = sim_beamline(rows=4, columns=64, directory=tmp_path, instant=True)

    def run(speak: Callable[[], Any], at: int = 10, plan: Any = None, through: Any = None, **kwargs: Any) -> Any:
        given = {"num": 24, "window": 8, "axis": beamline.axis, "flats": 2, "darks": 2, "ranks": 2}
        halfway = Halfway(at + 1 if plan is not None else at + 5)  # flats and darks have checkpoints, too
        if plan is None:
            plan = stream_tomo_plan(
                beamline.detector,
                beamline.stage,
                shutter=beamline.shutter,
                sample_table=beamline.table,
                job=kept_job,
                **{**given, **kwargs},
            )
        else:
            plan = plan(beamline)

        def when_reached() -> None:
            assert halfway.reached.wait(BOUND)
            try:
                speak()
            finally:
                halfway.go_on()

        in_thread(when_reached)
        return run_engine(halfway(plan if through is None else through(plan)))

    return run
