"""The beamline's link to a job: the endpoint that the job connects to and, if it is ours, what starts its processes.

Opened and closed as one. No method belongs in the RunEngine's thread: they wait for processes and threads.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from bluesky_streamrecon.beamline.processes import ProcessExit
from bluesky_streamrecon.beamline.run_state import JobEvent
from bluesky_streamrecon.beamline.serving.endpoint import BeamlineEndpoint
from bluesky_streamrecon.beamline.supervision import RestartFailed, RestartProcess
from bluesky_streamrecon.errors import JobError
from bluesky_streamrecon.exit_hooks import close_at_end
from bluesky_streamrecon.wire.events import PeerInfo

__all__ = ["JobLink", "Launcher", "OnEvent"]

logger = logging.getLogger(__name__)

OnEvent = Callable[[JobEvent, PeerInfo | None], None]
"""Takes what a job reports, in any thread, and the peer that it is from, if any."""


class Launcher(Protocol):
    """Starts and ends the processes of a job; `MpiLauncher` is one."""

    def check_ranks(self, ranks: int) -> None:
        """Raise `ConfigError` for a number of ranks that can not be started, before anything is."""
        ...

    def start(self, address: str, job_id: str, ranks: int, on_exit: Callable[[ProcessExit], None]) -> None:
        """Start ranks and a controller, which say hello at `address` when they are ready.

        Parameters
        ----------
        address, job_id : str
            The beamline's.
        ranks : int
            MPI ranks.
        on_exit : callable
            Called, in a thread of the launcher's, with each process that ends unasked.

        Raises
        ------
        JobError
            If a process can not be started; nothing is left running then.
        ConfigError
            See `check_ranks`.
        """
        ...

    def restart(self, exited: ProcessExit) -> None:
        """Start once more what `on_exit` reported, unless it runs or the job was stopped; errors as `start`."""
        ...

    def stop(self, grace: float = 5.0) -> None:
        """End all of them, whatever they are doing; idempotent."""
        ...

    @property
    def running(self) -> bool:
        """All processes are there."""
        ...

    def logs(self) -> str:
        """Return where the processes' output is, and its last lines."""
        ...


class JobLink:
    """An endpoint, and perhaps a launcher.

    Parameters
    ----------
    make_endpoint : callable
        Makes the endpoint, given what to call with its events.
    launcher : Launcher or None
        None: somebody else starts the job.
    on_event : callable
        Called, in other threads, with what happens.

    Attributes
    ----------
    launched_ranks : int
        MPI ranks that the launcher was asked for; 0: none.
    """

    def __init__(
        self,
        make_endpoint: Callable[[OnEvent], BeamlineEndpoint],
        launcher: Launcher | None,
        on_event: OnEvent,
    ) -> None:
        self._launcher = launcher
        self._on_event = on_event
        self._lock = threading.Lock()
        self._closed = False
        self._closing = threading.Event()
        self.launched_ranks = 0
        self.endpoint = make_endpoint(on_event)
        close_at_end(self)

    def launch(self, ranks: int) -> None:
        """Start the job's processes, if they are ours to start.

        Raises
        ------
        JobError
            If they can not be started.
        """
        with self._lock:
            if self._launcher is not None and not self._closed:
                self.launched_ranks = ranks
                self._launcher.start(
                    self.endpoint.address, self.endpoint.job_id, ranks, lambda exited: self._on_event(exited, None)
                )

    def restart(self, order: RestartProcess) -> None:
        """Start a process that has died once more, after a delay, without waiting for it.

        Peers that join show that it worked; `RestartFailed` is reported if not, unless the link was closed before.
        """
        name = f"streamrecon-restart-{order.exited.role.partition(' ')[0]}"
        threading.Thread(target=self._restart, args=(order.exited, order.delay), name=name, daemon=True).start()

    def _restart(self, exited: ProcessExit, delay: float) -> None:
        if self._launcher is None or self._closing.wait(delay):
            return
        try:
            self._launcher.restart(exited)
            logger.info("%s started again", exited.role)
        except (JobError, OSError) as error:
            self._on_event(RestartFailed(exited, str(error)), None)

    @property
    def local(self) -> bool:
        """The job's processes are ours."""
        return self._launcher is not None

    @property
    def usable(self) -> bool:
        """The job can take another run."""
        return not self._closed and (self._launcher is None or self._launcher.running)

    @property
    def ranks(self) -> int:
        """MPI ranks of the job, as they say themselves; 0 before the first has connected."""
        return next((peer.size for peer in self.endpoint.peers() if peer.role == "rank"), 0)

    @property
    def complete(self) -> bool:
        """All ranks, as many as were launched, and the controller are connected."""
        return self.linked("controller") > 0 and 0 < (self.launched_ranks or self.ranks) == self.linked("rank")

    def linked(self, role: str) -> int:
        """Return how many ranks (or controllers) are connected now."""
        return sum(peer.linked for peer in self.endpoint.peers() if peer.role == role)

    def peers_in_words(self) -> str:
        """Return in words which processes are connected and, of those that we have launched, which are not."""
        here = [peer for peer in self.endpoint.peers() if peer.linked]
        connected = ", ".join(_name(peer) for peer in here) or "no process"
        text = f"connected to {self.endpoint.address} (job id {self.endpoint.job_id}): {connected}"
        there, launched = {peer.rank for peer in here if peer.role == "rank"}, self.launched_ranks
        missing = [f"rank {rank} of {launched}" for rank in range(launched) if rank not in there]
        if not any(peer.role == "controller" for peer in here):
            missing.append("the controller")
        text += f"; missing: {', '.join(missing)}" if missing else ""
        logs = self._launcher.logs() if self._launcher is not None else ""
        return f"{text}\n{logs}".rstrip()

    def close(self, reason: str = "the beamline has no further runs", grace: float = 5.0) -> None:
        """Ask the job to end, see that it does, and close the endpoint; idempotent."""
        self._closing.set()
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                if self._launcher is not None:
                    self.endpoint.shutdown_peers(reason)
                    self._launcher.stop(grace)
            finally:
                self.endpoint.close(0.5)


def _name(peer: PeerInfo) -> str:
    who = "the controller" if peer.role == "controller" else f"rank {peer.rank} of {peer.size}"
    return f"{who} ({peer.host}, pid {peer.pid})"
