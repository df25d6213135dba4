"""Fixtures for all rooms: a RunEngine that leaves nothing behind, and a job that lives in this process."""

from __future__ import annotations

import asyncio
import atexit
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import bluesky.plan_stubs as bps
import pytest
from bluesky import RunEngine
from bluesky import utils as bluesky_utils
from hypothesis import HealthCheck, settings
from pretended_job import BOUND, Script, pretended_job
from tiled_tables import tables_once

from bluesky_streamrecon.plans.engines import run_engine as own_run_engine

if TYPE_CHECKING:
    from bluesky_streamrecon.beamline import ReconJob

collect_ignore_glob = ["soak/*"]  # scripts that take minutes to hours

# Else each program that a test starts compiles all of this package anew, which takes longer than to run it.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# For the workers and the programs that tests start: on small matrices, threads of BLAS mostly wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background jobs, and whatever they start, ignore it
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says nothing: the computer has other work.
settings.register_profile("short", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))

# First the kernels are compiled, by one worker while another one is in catalogues; then come the modules that take
# longest, and many short ones are left for the end, where one worker would else wait for the others.
FIRST = [
    f"test_{name}.py"
    for name in (
        *("algorithms", "portable", "ipython", "demo", "lost_gpu", "simulated_gpu", "real_job", "mpi"),
        *("server_that_dies", "references", "follow", "finished_volume", "catalog", "live_images", "data_checks"),
        *("studies", "axis", "kernel_cache"),
    )
]

# What opens catalogues goes to one worker: Tiled's server takes a process five seconds of CPU before its first request.
CATALOGUES = (
    "tests/storage/",
    "tests/cli/test_check.py",
    "tests/evaluation/test_demo_ends.py",
    *(f"tests/integration/test_{name}.py" for name in ("demo", "follow", "live_images")),
    *(f"tests/plans/test_{name}.py" for name in ("references", "stream_tomo_fly_plan")),
)


# What is imported and collected stays: looking through it takes seconds. Not `gc.disable`, which Dask would keep.
THRESHOLDS = gc.get_threshold()
gc.set_threshold(0)
atexit.register(gc.freeze)  # in the end, too

# In case a part of a plan is never iterated, Bluesky writes down the whole stack of each: a quarter of a scan's time.
bluesky_utils.traceback = SimpleNamespace(format_stack=partial(traceback.format_stack, limit=4))  # type: ignore[attr-defined]


class OnlyExamples:
    """Leaves modules without an example out of the search for doctests, which imports each and looks through it."""

    @pytest.hookimpl(wrapper=True)
    def pytest_collect_file(self, file_path: Path) -> Iterator[Any]:
        found: list[pytest.Collector] = yield
        if found and file_path.suffix == ".py" and ">>>" not in file_path.read_text(encoding="utf-8"):
            return [each for each in found if type(each).__name__ != "DoctestModule"]
        return found


def pytest_configure(config: pytest.Config) -> None:
    """Look for doctests everywhere below, also beside this folder."""
    config.pluginmanager.register(OnlyExamples())


def pytest_collection_finish() -> None:
    """Keep what has been imported and collected out of each search for garbage that the tests cause."""
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out tests of protocols before they are imported, with all their libraries, where none of them will run."""
    return True if collection_path.name == "epics" and "not epics" in config.option.markexpr else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the modules of `FIRST`."""
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give whole files to workers, and all of `CATALOGUES` to one."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "catalogues" if nodeid.startswith(CATALOGUES) else super()._split_scope(nodeid)

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session", autouse=True)
def _tables_of_tiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have the tables of catalogues made once: Tiled starts an interpreter for them, which imports all of it again."""
    tables = tmp_path_factory.mktemp("tables")
    if "PYTEST_XDIST_WORKER" in os.environ:
        tables = tables.parents[1]  # of all workers
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMRECON_TEST_TABLES", str(tables / "catalog.db"))
        patch.setattr(subprocess, "run", subprocess.run)  # to be undone
        tables_once()
        yield


@pytest.fixture
def run_engine() -> Iterator[RunEngine]:
    """Yield a RunEngine on a loop of its own, and fail the test that leaves a task running."""

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
    """Return the processes that descend from this one, and those that were adopted from it and name this package."""
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


@pytest.fixture
def script() -> Script:
    """What the job of `pretend_job` does."""
    return Script()


@pytest.fixture
def pretend_job(script: Script) -> Iterator[Any]:
    """Yield a ReconJob whose ranks and controller are a thread of this process; closed at the end."""
    job = pretended_job(script)
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
