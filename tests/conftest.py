"""Fixtures for all rooms: a RunEngine that leaves nothing behind, and a job that lives in this process."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bluesky.plan_stubs as bps
import numpy as np
import pytest
from bluesky import RunEngine

from bluesky_streamrecon.evaluation.engines import run_engine as own_run_engine

if TYPE_CHECKING:
    from bluesky_streamrecon.beamline import ReconJob

BOUND = 20.0  # seconds that anything in a test may take

collect_ignore_glob = ["soak/*"]  # scripts that take minutes to hours

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background jobs, and whatever they start, ignore it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _tables_of_tiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have the tables of catalogues made once: Tiled starts an interpreter for them, which imports all of it again."""
    start, made = subprocess.run, tmp_path_factory.mktemp("tables") / "catalog.db"

    def run(command: Any, *arguments: Any, **options: Any) -> Any:
        if not isinstance(command, list) or command[1:6] != ["-m", "tiled", "catalog", "init", "--if-not-exists"]:
            return start(command, *arguments, **options)
        path = Path(command[6].partition(":///")[2])
        if not made.exists():
            done = start(command, *arguments, **options)
            shutil.copyfile(path, made)
            return done
        if not path.exists():
            shutil.copyfile(made, path)
        return subprocess.CompletedProcess(command, 0, b"", b"")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "run", run)
        yield


@pytest.fixture
def run_engine() -> Iterator[RunEngine]:
    """Give a RunEngine on a loop of its own, and fail the test that leaves a task running."""

    async def unfinished() -> list[str]:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if tasks:
            await asyncio.wait(tasks, timeout=BOUND)
        return [repr(task) for task in tasks if not task.done()]

    with own_run_engine(context_managers=[]) as engine:
        yield engine
        if engine.state not in ("idle", "panicked"):
            engine.halt()
        left = asyncio.run_coroutine_threadsafe(unfinished(), engine.loop).result(2 * BOUND)
    assert not left, f"still running after the test: {left}"


@pytest.fixture
def installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a package that offers one entry point, as far as `importlib.metadata` can tell."""

    def install(group: str, name: str, module: str, source: str, attribute: str) -> None:
        (tmp_path / f"{module}.py").write_text(source)
        folder = tmp_path / f"{module}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:{attribute}\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return install


@dataclass(frozen=True)
class Done:
    """What a program that has ended left behind; named as by `subprocess`."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run ``streamrecon`` by its entry point in this process: starting one takes longer than most commands do."""
    from bluesky_streamrecon.cli import main

    def run(*arguments: object) -> Done:
        loggers = [logging.getLogger(name) for name in (None, "bluesky")]
        levels, handlers = [logger.level for logger in loggers], logging.root.handlers[:]
        logging.root.handlers.clear()  # `main` closes those that it finds
        monkeypatch.setattr(sys, "argv", ["streamrecon", *map(str, arguments)])
        capfd.readouterr()
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            logging.root.handlers[:] = handlers
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
        return Done(int(ended.value.code or 0), *capfd.readouterr())

    return run


@contextmanager
def nothing_left() -> Iterator[None]:
    """Fail if a process is left running; processes that are on their way out have a moment."""
    before = descendants()
    yield
    pause = threading.Event()
    for _ in range(1500):
        left = descendants() - before
        if not left:
            return
        pause.wait(0.02)
    raise AssertionError(f"processes left behind: {[command_of(pid) for pid in left]}")


@pytest.fixture
def no_orphans() -> Iterator[None]:
    """Fail the test that leaves a process running."""
    with nothing_left():
        yield


@pytest.fixture(scope="session")
def _kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ReconJob, Path]]:
    """A real job of two ranks, and where it is announced."""
    from bluesky_streamrecon.beamline import ReconJob

    state = tmp_path_factory.mktemp("state")
    with nothing_left():
        job = ReconJob("job", ranks=2, keep_alive=True)
        with pytest.MonkeyPatch.context() as patch, own_run_engine(context_managers=[]) as engine:
            patch.setenv("XDG_STATE_HOME", str(state))
            patch.setenv("STREAMRECON_TEST", str(os.getpid()))
            engine(_stage_and_unstage(job))
        yield job, state
        job.close()


def _stage_and_unstage(device: Any) -> Iterator[Any]:
    yield from bps.stage(device, wait=True)
    yield from bps.unstage(device, wait=True)


@pytest.fixture
def kept_job(_kept: tuple[ReconJob, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReconJob:
    """A real job of two ranks that goes from test to test: for what is not about how a job starts or ends."""
    job, state = _kept
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    monkeypatch.setattr(job.options, "output", tmp_path / "recon")
    return job


def descendants() -> set[int]:
    """Give the processes that descend from this one, and those that were adopted from it and name this package."""
    parents: dict[int, int] = {}
    ours: set[int] = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if fields[0] in ("Z", "X"):
            continue
        parents[int(entry.name)] = int(fields[1])
        if f"STREAMRECON_TEST={os.getpid()}".encode() in environment:
            ours.add(int(entry.name))
    found = ours - {os.getpid()}
    frontier = {os.getpid()}
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier} - found
        found |= frontier
    return found


def command_of(pid: int) -> str:
    try:
        return f"{pid}: {Path(f'/proc/{pid}/cmdline').read_bytes().replace(bytes(1), b' ').decode()}"
    except OSError:
        return f"{pid}: gone"


@pytest.fixture(autouse=True)
def _mark_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mark what is started from here, so that it is found even when it was adopted by another process."""
    monkeypatch.setenv("STREAMRECON_TEST", str(os.getpid()))


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
        self.specs: list[Any] = []
        self.closed: list[tuple[str, str]] = []
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
        from bluesky_streamrecon.wire.events import AllRanksReady, PeerInfo, PeerJoined

        self._linked = True
        self._peers = tuple(
            PeerInfo(
                role=role, rank=rank, size=ranks, host="here", pid=1, software="", instance=f"{role}{rank}", linked=True
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

    def append(self, kind: str, index: int, angle: Any, source: Any) -> int:
        assert self._state == "open"
        self._items += 1
        self._queue.put(("item", kind, index, angle, source))
        return self._items

    def close_run(self, exit_status: str = "success", reason: str = "") -> None:
        assert self._state == "open"
        self._state = "closed"
        self._script.closed.append((exit_status, reason))
        self._queue.put(("close",))

    def lengthen_run(self, planned: int) -> None:
        """Nobody behind this wire predicts anything."""

    def abandon_run(self, reason: str = "") -> None:
        self._state = None
        self._script.abandoned.append(reason)

    def shutdown_peers(self, reason: str = "") -> None:
        self._linked = False

    def ledger(self) -> dict[int, Any]:
        from bluesky_streamrecon.wire.run import Ledger

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

    def _take(self, kind: str, index: int, angle: Any, source: Any) -> None:
        from bluesky_streamrecon.beamline.processes import ProcessExit
        from bluesky_streamrecon.wire.events import Acked
        from bluesky_streamrecon.wire.messages import Problem, Score, Status

        script, uid = self._script, self._spec.run_uid
        if kind == "projection" and script.lost_at is not None and index > script.lost_at:
            if index == script.lost_at + 1:
                self.on_exit(ProcessExit("job of 2 ranks", -9, Path("/nowhere/job.log"), "MPI said nothing"))
            return
        try:
            pixels = source if isinstance(source, np.ndarray) else source.read()
        except Exception as error:  # noqa: BLE001
            self._dropped += 1
            self._on_event(Problem(fault="local", where="streaming", text=str(error), run_uid=uid))
            return
        if kind == "projection" and index in script.dropped:
            self._dropped += 1
            return
        script.frames.append((kind, index, angle() if callable(angle) else angle, pixels))
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
                threshold=threshold,
                verdict="enough" if enough else "continue",
                policy="ms-ssim",
                text=script.text or text,
            )
        )
        script.on_frame(index)

    def _finish(self) -> None:
        from bluesky_streamrecon.wire.events import RunFinished
        from bluesky_streamrecon.wire.messages import RunDone

        if self._script.never_done or self._state != "closed":
            return
        images = max((index for kind, index, _, _ in self._script.frames if kind == "projection"), default=0)
        done = tuple(
            RunDone(
                run_uid=self._spec.run_uid,
                rank=rank,
                applied=self._applied,
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


@pytest.fixture
def script() -> Script:
    """What the job of `pretend_job` does."""
    return Script()


@pytest.fixture
def pretend_job(script: Script) -> Iterator[Any]:
    """Give a ReconJob whose ranks and controller are a thread of this process; closed at the end."""
    from bluesky_streamrecon.beamline import ReconJob

    class PretendJob(ReconJob):
        def _make_endpoint(self, on_event: Any) -> Any:
            launcher: Any = self._launcher
            launcher.endpoint = PretendEndpoint(script, on_event)
            return launcher.endpoint

    job = PretendJob(name="job", launcher=PretendLauncher(script), start_timeout=5.0, finish_timeout=BOUND, restarts=0)
    yield job
    job.close()


@pytest.fixture
def documents(run_engine: RunEngine) -> list[tuple[str, dict[str, Any]]]:
    """Everything that the RunEngine emits."""
    kept: list[tuple[str, dict[str, Any]]] = []
    run_engine.subscribe(lambda name, doc: kept.append((name, doc)))
    return kept


class Caught(list[BaseException]):
    """What threads raised."""


@pytest.fixture
def in_thread() -> Iterator[Callable[[Callable[[], Any]], threading.Thread]]:
    """Run things in threads that the test waits for, and whose errors are its own."""
    threads: list[threading.Thread] = []
    caught = Caught()

    def start(work: Callable[[], Any]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001
                caught.append(error)

        thread = threading.Thread(target=run)
        threads.append(thread)
        thread.start()
        return thread

    yield start
    for thread in threads:
        thread.join(BOUND)
        assert not thread.is_alive()
    if caught:
        raise caught[0]
