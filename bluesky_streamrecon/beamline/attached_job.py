"""The reconstruction job while a device is staged: it is started or waited for, and ended.

Everything happens in the RunEngine's loop, where other threads only post events; what waits is done in threads.
Times are seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TypeVar

from bluesky_streamrecon.beamline.event_loop import call_in_loop
from bluesky_streamrecon.beamline.job_link import JobLink, Launcher, OnEvent
from bluesky_streamrecon.beamline.processes import ProcessExit
from bluesky_streamrecon.beamline.run_state import JobEvent
from bluesky_streamrecon.beamline.serving.endpoint import BeamlineEndpoint
from bluesky_streamrecon.errors import JobError, SteeringError
from bluesky_streamrecon.job_registration import register_job, unregister_job
from bluesky_streamrecon.wire.events import PeerInfo

__all__ = ["AttachedJob"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOOP_SECONDS = 5.0


@dataclass(eq=False)
class AttachedJob:
    """A reconstruction job that the beamline starts, or that somebody else starts and the beamline waits for.

    Parameters
    ----------
    make_endpoint : callable
        Makes the endpoint that the job connects to, given what to call with its events.
    launcher : Launcher or None
        None: somebody else starts the job.
    on_event : callable
        Called in the loop with what is reported.
    clock : callable
        Monotonic seconds.
    server_key : str or None
        The beamline's public key.
    """

    make_endpoint: Callable[[OnEvent], BeamlineEndpoint]
    launcher: Launcher | None
    on_event: OnEvent
    _: KW_ONLY
    clock: Callable[[], float]
    server_key: str | None = None

    def __post_init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.link: JobLink | None = None
        self._last_link: JobLink | None = None
        self._registration: Path | None = None
        self.died: list[ProcessExit] = []  # while no run was open
        self._news = asyncio.Event()
        self.turn = asyncio.Lock()  # of who begins with the job, or ends it

    @property
    def ranks(self) -> int:
        """MPI ranks of the job, as they say themselves; 0 before the first has connected."""
        return 0 if self.link is None else self.link.ranks

    @property
    def controller_linked(self) -> bool:
        """The controller is linked."""
        return self.link is not None and self.link.linked("controller") > 0

    @property
    def usable(self) -> bool:
        """The job is there and can take another run."""
        return self.link is not None and self.link.usable

    @property
    def endpoint(self) -> BeamlineEndpoint:
        """Where frames go.

        Raises
        ------
        JobError
            If there is no job.
        """
        if self.link is None:
            raise JobError(
                "reconstruction job: not staged, so there is no job to send to; stage it, or use streaming_wrapper"
            )
        return self.link.endpoint

    def enter_loop(self) -> None:
        """Report to the running loop from now on: a kept job may be staged by a RunEngine with a loop of its own."""
        loop = asyncio.get_running_loop()
        if loop is not self.loop:
            self.loop, self._news, self.turn = loop, asyncio.Event(), asyncio.Lock()

    async def start(self, ranks: int, *, wait: bool, timeout: float, given_up: Callable[[], bool]) -> None:
        """Start the job, or open the endpoint for one that somebody else starts, and `wait` until everyone is linked.

        Once it is `given_up`, nothing is waited for any more, and who has given it up stops what there is.

        Raises
        ------
        JobError
            If it can not be started, ends, or is not linked after `timeout` seconds.
        """
        self.enter_loop()
        self.died = []
        try:
            link = await asyncio.to_thread(JobLink, self.make_endpoint, self.launcher, self._post)
            self.link = self._last_link = link
            self._registration = register_job(link.endpoint.address, link.endpoint.job_id, self.server_key)
            await asyncio.to_thread(link.launch, ranks)
            if wait and not await self.wait(lambda: link.complete or self.died or given_up(), lambda: timeout):
                raise JobError(
                    f"reconstruction job: not all of its processes have connected after {timeout:g} s: "
                    f"{link.peers_in_words()}"
                )
            if self.died and not given_up():
                raise JobError(f"reconstruction job: {self.died[0]}")
        except BaseException:
            await self.stop()
            raise

    async def wait(
        self, done: Callable[[], object], limit: Callable[[], float], progress: Callable[[], object] = lambda: None
    ) -> bool:
        """Wait until `done`, as long as the job gets on; return whether it is.

        Parameters
        ----------
        done : callable
            Returns whether there is nothing to wait for any more.
        limit : callable
            Returns the longest time without progress.
        progress : callable, optional
            Returns another value whenever the job has got on.
        """
        reached, since = progress(), self.clock()
        while not done():
            if (now_reached := progress()) != reached:
                reached, since = now_reached, self.clock()
            left = since + limit() - self.clock()
            if left <= 0:
                return False
            await self.wait_for_news(min(left, 1.0))
        return True

    async def wait_for_news(self, seconds: float) -> None:
        """Wait until something is reported, but not longer than `seconds`."""
        self._news.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), seconds)

    def in_loop(self, work: Callable[[], T]) -> T:
        """Call this in the RunEngine's loop, from whatever thread, and return what it returns; errors are raised here.

        The loop also turns while the RunEngine is paused.
        """
        try:
            return work() if self.loop is None else call_in_loop(self.loop, work, LOOP_SECONDS)
        except TimeoutError:
            raise SteeringError(f"the RunEngine's loop has not answered for {LOOP_SECONDS:g} s; is it busy?") from None

    async def stop(self) -> None:
        """End the job, or the connection to one that somebody else has started."""
        link, self.link = self.link, None
        unregister_job(self._registration)
        if link is not None:
            await asyncio.to_thread(link.close)

    def close(self) -> None:
        """End it from any thread but the loop's; idempotent."""
        link, self.link = self.link or self._last_link, None
        unregister_job(self._registration)
        if link is not None:
            link.close()  # waits for whoever is closing it already

    def _post(self, event: JobEvent, sender: PeerInfo | None = None) -> None:
        """Bring an event from another thread to the loop; when that is gone, nobody is interested."""
        loop = self.loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(self._take, event, sender)
            except RuntimeError:
                logger.debug("after the event loop was closed: %s", event)

    def _take(self, event: JobEvent, sender: PeerInfo | None) -> None:
        self.on_event(event, sender)
        self._news.set()
