"""Starts a reconstruction job on this computer: the ranks under mpiexec, and the controller beside them.

Both are processes of their own, started at the same time, supervised, and gone when they are no longer wanted: after
`stop`, after `close`, or when this interpreter ends, however it ends.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bluesky_streamrecon.beamline.processes import Child, ProcessExit, log_tail
from bluesky_streamrecon.cores import own_cores
from bluesky_streamrecon.errors import ConfigError, JobError

__all__ = ["MpiLauncher", "find_mpiexec"]

logger = logging.getLogger(__name__)

_RANKS_PER_CORE = 4
_ALWAYS_ALLOWED_RANKS = 16


def find_mpiexec(given: str | Path | None = None) -> str:
    """Find the program that starts MPI ranks.

    Parameters
    ----------
    given : str or path, optional
        What the user wants; else the one beside this Python (where the ``mpich`` package puts it), else the first
        on the PATH.

    Raises
    ------
    JobError
        If there is none.
    """
    if given is not None:
        found = shutil.which(str(given))
        if found is None:
            raise JobError(f"mpiexec: {str(given)!r} is not a program that can be started")
        return found
    beside = Path(sys.executable).parent / "mpiexec"
    found = shutil.which(str(beside)) or shutil.which("mpiexec")
    if found is None:
        raise JobError(
            f"mpiexec: found neither beside {sys.executable} nor on the PATH; `pip install mpich`, load your site's "
            "MPI module, or name it: MpiLauncher(mpiexec=...)"
        )
    return found


@dataclass(kw_only=True, eq=False)
class MpiLauncher:
    """Starts and ends the processes of a local job.

    Parameters
    ----------
    mpiexec : str or path, optional
        See `find_mpiexec`; may be ``srun`` or the like.
    arguments : sequence of str, optional
        More arguments for it, for instance ``("-bind-to", "core")``.
    threads : int, optional
        Threads per rank; by default this computer's cores are shared by the ranks.
    log_directory : path, optional
        Where the processes' output goes; a new temporary directory by default, which is removed if all went
        well and nothing had to be started again.
    environment : mapping, optional
        More variables for the processes.
    security_options : sequence of str, optional
        ``("--key", …, "--server-key", …)`` for a beamline that wants keys.
    checkpoints : path, optional
        Where ranks keep their checkpoints, if a run asks for some (``checkpoint_every``), so that a job that is started
        again goes on from there; a directory beside the logs by default, which goes with the job.
    most_ranks : int, optional
        More are refused; by default 4 for each core of this computer, and at least 16. Ranks that only wait for each
        other are of no use, and a number with a zero too many would take all memory there is.

    Raises
    ------
    ConfigError
        If `threads` or `most_ranks` is not positive.
    """

    mpiexec: str | Path | None = None
    arguments: Sequence[str] = ()
    threads: int | None = None
    log_directory: str | Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    security_options: Sequence[str] = ()
    checkpoints: str | Path | None = None
    most_ranks: int | None = None

    def __post_init__(self) -> None:
        for name, number in (("threads per rank", self.threads), ("most_ranks", self.most_ranks)):
            if number is not None and number < 1:
                raise ConfigError(f"{name}: got {number}, expected at least 1")
        self._own_checkpoints: Path | None = None
        self._on_exit: Callable[[ProcessExit], None] | None = None
        self._lock = threading.Lock()
        self._children: list[Child] = []
        self._temporary: Path | None = None
        self._end: weakref.finalize[..., MpiLauncher] | None = None

    @property
    def running(self) -> bool:
        """All processes of the job are there."""
        return bool(self._children) and all(child.running for child in self._children)

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of mpiexec and of the controller, in this order."""
        return tuple(child.pid for child in self._children)

    def check_ranks(self, ranks: int) -> None:
        """Refuse more ranks than this computer can carry.

        Raises
        ------
        ConfigError
            If there are more than `most_ranks`.
        """
        cores = len(own_cores())
        most = self.most_ranks or max(_ALWAYS_ALLOWED_RANKS, _RANKS_PER_CORE * cores)
        if ranks > most:
            raise ConfigError(
                f"ranks: got {ranks}, expected at most {most} on this computer with {cores} cores; start the job on a "
                "cluster, or allow more with MpiLauncher(most_ranks=...)"
            )

    def start(self, address: str, job_id: str, ranks: int, on_exit: Callable[[ProcessExit], None]) -> None:
        """Start ranks and controller; see `Launcher.start`."""
        self.check_ranks(ranks)
        with self._lock:
            if self._children:
                raise JobError("reconstruction job: got start, but it has been started already; stop it first")
            mpiexec = find_mpiexec(self.mpiexec)
            if self.log_directory is None:
                directory = self._temporary = Path(tempfile.mkdtemp(prefix="streamrecon-job-"))
            else:
                directory = Path(self.log_directory)
            directory.mkdir(parents=True, exist_ok=True)
            checkpoints = self.checkpoints
            if checkpoints is None:
                checkpoints = self._own_checkpoints = directory / "checkpoints"
            threads = self.threads or max(1, len(own_cores()) // ranks)
            us = (sys.executable, "-m", "bluesky_streamrecon", "--log-level", "info")
            common = ("--address", address, "--job-id", job_id, "--watch-parent", *self.security_options)
            job = (mpiexec, "-n", str(ranks), *self.arguments, *us, "job", *common)
            kept = ("--checkpoints", str(checkpoints))
            self._on_exit = on_exit
            children: list[Child] = []
            try:
                for role, command, count in (
                    (f"job of {ranks} ranks", (*job, "--threads", str(threads), *kept), threads),
                    ("controller", (*us, "control", *common), 1),
                ):
                    log = directory / f"{role.partition(' ')[0]}.log"
                    variables = {**_thread_variables(count), **self.environment}
                    children.append(Child(role, command, log, environment=variables, on_exit=on_exit))
            except JobError:
                _end(children, 0.0)
                raise
            self._children = children
            self._end = weakref.finalize(self, _end, children, 1.0)
            logger.info("job %s: started, logs in %s", job_id, directory)

    def restart(self, exited: ProcessExit) -> None:
        """Start a process that has ended once more, with the same command; its log goes on. See `Launcher.restart`."""
        with self._lock:
            self._temporary = None  # stays: the run's stop document names the log
            for i, old in enumerate(self._children):
                if old.role == exited.role and not old.running:
                    old.stop(0.0)  # and whatever it has left behind
                    # In place: the list is what is ended with the interpreter.
                    self._children[i] = Child(
                        old.role, old.command, old.log, environment=old.environment, on_exit=self._on_exit, append=True
                    )

    def stop(self, grace: float = 5.0) -> None:
        """End all processes; they have `grace` seconds to go by themselves, before signals are sent."""
        with self._lock:
            children, self._children = self._children, []
            if self._end is not None:
                self._end.detach()
                self._end = None
            for child in children:
                child.expect_exit()
            if children and children[0].wait(grace):
                children[1].wait(1.0)
            _end(children, 0.5)
            if self._own_checkpoints is not None:
                shutil.rmtree(self._own_checkpoints, ignore_errors=True)
                self._own_checkpoints = None
            if self._temporary is not None and all(child.code == 0 for child in children):
                with contextlib.suppress(OSError):
                    shutil.rmtree(self._temporary)
            self._temporary = None

    def logs(self) -> str:
        """Return where the processes' output is, and its last lines."""
        lines = []
        for child in self._children:
            tail = log_tail(child.log)
            lines.append(f"log of the {child.role}: {child.log}" + (f", last lines:\n{tail}" if tail else " (empty)"))
        return "\n".join(lines)


def _end(children: Sequence[Child], grace: float) -> None:
    """End processes together: each is let go before any is waited for."""
    for child in children:
        child.release()
    for child in children:
        child.stop(grace)


def _thread_variables(threads: int) -> dict[str, str]:
    """One pool of threads per rank, of one size, whoever makes it."""
    names = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return dict.fromkeys(names, str(threads))
