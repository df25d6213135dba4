"""Documents of reconstructions on their way to those who store them, each when its run, or its volume, is done."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from bluesky_streamrecon.beamline.job_runs import JobRuns
from bluesky_streamrecon.beamline.run_record import RunRecord

__all__ = ["Compose", "DocumentCallback", "ReconstructionDocuments"]

logger = logging.getLogger(__name__)

DocumentCallback = Callable[[str, dict[str, Any]], object]
Compose = Callable[[RunRecord], Iterable[tuple[str, dict[str, Any]]]]
"""Makes the documents of a run's reconstruction."""


class ReconstructionDocuments:
    """Calls subscribers with the documents of each reconstruction, in a thread.

    Parameters
    ----------
    runs : JobRuns
        Knows which volumes are still to come, and takes what goes wrong.
    """

    def __init__(self, runs: JobRuns) -> None:
        self._runs = runs
        self._subscribers: dict[int, DocumentCallback] = {}
        self._tokens = itertools.count()
        self._waiting: dict[str, Compose] = {}  # by run, until its volume is there
        self._tasks: set[asyncio.Task[None]] = set()

    def subscribe(self, callback: DocumentCallback) -> int:
        """Call `callback` from now on; return a token."""
        token = next(self._tokens)
        self._subscribers[token] = callback
        return token

    def unsubscribe(self, token: int) -> None:
        """Undo `subscribe`; a token that is not known does nothing."""
        self._subscribers.pop(token, None)

    async def publish(self, record: RunRecord, compose: Compose) -> bool:
        """Call the subscribers now or, where the job is finishing the volume, when it is there; never raises."""
        if record.run_uid in self._runs.volumes:
            self._waiting[record.run_uid] = compose
            return True
        last = self._runs.last
        return await self._publish(last if last is not None and last.run_uid == record.run_uid else record, compose)

    def volume_done(self, record: RunRecord, then: Callable[[], Awaitable[None]]) -> None:
        """Call the subscribers for a run whose volume is there, or will never be, and `then` do something more."""
        compose = self._waiting.pop(record.run_uid, None)

        async def store() -> None:
            if compose is not None:
                await self._publish(record, compose)
            await then()

        try:
            task = asyncio.get_running_loop().create_task(store())
        except RuntimeError:  # the RunEngine's loop is gone
            asyncio.run(store())
        else:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    @property
    def busy(self) -> bool:
        """Documents are on their way."""
        return bool(self._tasks)

    async def settle(self) -> None:
        """Wait until none are on their way."""
        await asyncio.gather(*self._tasks)

    def settle_from_outside(self, seconds: float) -> None:
        """Do what `settle` does in another thread, for at most so many seconds."""
        deadline = time.monotonic() + seconds
        while self.busy and time.monotonic() < deadline:
            time.sleep(0.05)

    async def _publish(self, record: RunRecord, compose: Compose) -> bool:
        callbacks = list(self._subscribers.values())
        if record.result is None or not callbacks:
            return False

        def publish() -> None:
            for name, doc in compose(record):
                for callback in callbacks:
                    callback(name, doc)

        try:
            await asyncio.to_thread(publish)
        except Exception as error:
            logger.error("run %s: the reconstruction could not be stored", record.run_uid, exc_info=error)
            why = f"{type(error).__name__}: {error}"
            self._runs.amend(record, f"reconstruction {record.recon_uid} was not stored: {why}")
            return False
        return True
