"""A reconstruction job that is a thread of the test's process, and does what a script says."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BOUND = 20.0  # seconds that anything in a test may take


class Script:
    """What the pretended job does. `score` gives the score after so many projections; events wait for `gate`."""

    def __init__(self) -> None:
        self.score: Callable[[int], float | None] = lambda projections: None
        self.text = ""  # of every verdict
        self.lost_at: int | None = None
        self.refuse_start = False
        self.silent = False  # starts, but never says hello
        self.gate = threading.Event()
        self.gate.set()
        self.dropped: set[int] = set()
        self.score_uid: str | None = None
        self.never_done = False
        self.frames: list[tuple[str, int, float, np.ndarray]] = []
        self.monitors: list[float] = []  # readings with these
        self.specs: list[Any] = []
        self.closed: list[tuple[str, str]] = []
        self.axes: list[float] = []  # that people have set
        self.abandoned: list[str] = []
        self.launched: list[int] = []
        self.restarted: list[str] = []
        self.stopped = 0
        self.endpoints = 0
        self.result: str | None = None
        self.before_verdict: Callable[[int], None] = lambda projections: None
        self.on_frame: Callable[[int], None] = lambda projections: None


class PretendEndpoint:
    """Stands for the wire and the job behind it: takes frames in a thread, and answers as a job of two ranks would."""

    address = "tcp://127.0.0.1:1"
    job_id = "pretended"

    def __init__(self, script: Script, on_event: Callable[[Any], None]) -> None:
        self._script, self._on_event = script, on_event
        self._queue: queue.Queue[Any] = queue.Queue()
        self._linked = False
        self._items = self._applied = self._dropped = 0
        self._spec: Any = None
        self._state: str | None = None
        self.on_exit: Callable[[Any], None] = lambda exited: None
        script.endpoints += 1
        self._thread = threading.Thread(target=self._work, name="pretended-job")
        self._thread.start()

    def join(self, ranks: int) -> None:
        from bluesky_streamrecon.beamline.serving import AllRanksReady, PeerJoined
        from bluesky_streamrecon.wire.events import PeerInfo

        self._linked = True
        self._peers = tuple(
            PeerInfo(
                job_id="job",
                role=role,
                rank=rank,
                size=ranks,
                host="here",
                pid=1,
                software="",
                instance=f"{role}{rank}",
                linked=True,
            )
            for role, rank in [*(("rank", r) for r in range(ranks)), ("controller", 0)]
        )
        for peer in self._peers:
            self._on_event(PeerJoined(peer))
        self._on_event(AllRanksReady(ranks))

    def peers(self) -> tuple[Any, ...]:
        return self._peers if self._linked else ()

    def open_run(self, spec: Any) -> None:
        assert self._state != "open", "the earlier run was not closed"
        self._spec, self._state = spec, "open"
        self._items = self._applied = self._dropped = 0
        self._script.specs.append(spec)

    def append(self, frame: Any) -> None:
        assert self._state == "open"
        self._items += 1
        self._queue.put(("item", frame))

    def close_run(self, exit_status: str = "success", reason: str = "") -> None:
        assert self._state == "open"
        self._state = "closed"
        self._script.closed.append((exit_status, reason))
        self._queue.put(("close",))

    def change_run(self, change: Any) -> None:
        """Keep the axis for the test; nobody behind this wire predicts anything."""
        if change.axis is not None:
            self._script.axes.append(change.axis)

    def abandon_run(self, reason: str = "") -> None:
        self._state = None
        self._script.abandoned.append(reason)

    def shutdown_peers(self, reason: str = "") -> None:
        self._linked = False

    def ledger(self) -> dict[int, Any]:
        from bluesky_streamrecon.run_record import Ledger

        if not self._linked or self._spec is None:
            return {}
        sent = self._items - self._dropped
        entry = Ledger(
            items=self._items, sent=sent, acknowledged=sent, applied=self._applied, dropped=self._dropped, why="a test"
        )
        return {0: entry, 1: entry}

    def close(self, linger_s: float = 1.0) -> None:
        self._linked = False
        self._script.gate.set()
        self._queue.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(BOUND)

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            self._script.gate.wait(BOUND)
            (self._take if work[0] == "item" else self._finish)(*work[1:])

    def _take(self, frame: Any) -> None:
        from bluesky_streamrecon.beamline.processes import ProcessExit
        from bluesky_streamrecon.beamline.serving import Acked
        from bluesky_streamrecon.wire.messages import Problem, Score, Status

        script, uid, kind, index = self._script, self._spec.run_uid, frame.kind, frame.index
        if kind == "projection" and script.lost_at is not None and index > script.lost_at:
            if index == script.lost_at + 1:
                self.on_exit(ProcessExit("job of 2 ranks", -9, Path("/nowhere/job.log"), "MPI said nothing"))
            return
        try:
            pixels = frame.read() if frame.pixels is None else frame.pixels
        except Exception as error:  # noqa: BLE001
            self._dropped += 1
            self._on_event(Problem(fault="local", where="streaming", text=str(error), run_uid=uid))
            return
        if kind == "projection" and index in script.dropped:
            self._dropped += 1
            return
        script.frames.append((kind, index, frame.angle, pixels))
        script.monitors.append(frame.monitor)
        self._applied += 1
        count = index if kind == "projection" else 0
        for rank in (0, 1):
            self._on_event(Acked(uid, rank, self._items, count))
        if kind != "projection":
            return
        for rank in (0, 1):
            self._on_event(Status(run_uid=uid, rank=rank, state="running", projections=index, image_number=index))
        script.before_verdict(index)
        score = script.score(index)
        threshold = self._spec.steering.least_score
        enough = score is not None and score >= threshold and threshold < 1
        text = f"MS-SSIM {score:.3f} >= {threshold:g} at {index} of {self._spec.planned} projections" if enough else ""
        self._on_event(
            Score(
                run_uid=script.score_uid or uid,
                image_number=index,
                projections=index,
                score=score,
                verdict="enough" if enough else "continue",
                policy="ms-ssim",
                text=script.text or text,
            )
        )
        script.on_frame(index)

    def _finish(self) -> None:
        from bluesky_streamrecon.beamline.serving import RunFinished
        from bluesky_streamrecon.wire.messages import RunDone

        if self._script.never_done or self._state != "closed":
            return
        images = max((index for kind, index, _, _ in self._script.frames if kind == "projection"), default=0)
        done = tuple(
            RunDone(
                run_uid=self._spec.run_uid,
                rank=rank,
                image_number=images,
                axis=7.5,
                result=self._script.result,
            )
            for rank in (0, 1)
        )
        self._on_event(RunFinished(self._spec.run_uid, done))


class PretendLauncher:
    """Starts nothing, and ends it."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.endpoint: PretendEndpoint | None = None
        self._running = False

    @property
    def running(self) -> bool:
        return self._running

    def check_ranks(self, ranks: int) -> None:
        """Refuse what no computer has."""
        from bluesky_streamrecon.errors import ConfigError

        if ranks > 1000:
            raise ConfigError(f"ranks: got {ranks}, expected at most 1000")

    def start(self, address: str, job_id: str, ranks: int, on_exit: Callable[[Any], None]) -> None:
        from bluesky_streamrecon.beamline.processes import ProcessExit

        self._running = True
        self._script.launched.append(ranks)
        assert self.endpoint is not None
        self.endpoint.on_exit = on_exit
        if self._script.refuse_start:
            on_exit(ProcessExit("job of 2 ranks", 1, Path("/nowhere/job.log"), "no such program"))
        elif not self._script.silent:
            self.endpoint.join(ranks)

    def restart(self, exited: Any) -> None:
        assert self.endpoint is not None
        self._script.restarted.append(exited.role)

    def stop(self, grace: float = 5.0) -> None:
        if self._running:
            self._script.stopped += 1
        self._running = False

    def logs(self) -> str:
        return "log of the job: /nowhere/job.log"


def pretended_job(script: Script) -> Any:
    """Return a ReconJob whose ranks and controller are a thread of this process."""
    from bluesky_streamrecon.beamline import ReconJob

    class PretendJob(ReconJob):
        def _make_endpoint(self, on_event: Any) -> Any:
            launcher: Any = self._launcher
            launcher.endpoint = PretendEndpoint(script, on_event)
            return launcher.endpoint

    return PretendJob(name="job", launcher=PretendLauncher(script), start_timeout=5.0, finish_timeout=BOUND, restarts=0)
