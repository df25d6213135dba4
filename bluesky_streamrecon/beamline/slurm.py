"""Submits a reconstruction job to Slurm, and follows it: ``sbatch``, ``squeue``, ``scancel``.

Ranks and controller run in the batch job and connect to the beamline, which therefore listens on an address that the
cluster can reach. A job that the scheduler ends at its time limit, or to make room, is submitted again. Times are
seconds.
"""

from __future__ import annotations

import logging
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bluesky_streamrecon.beamline.processes import ProcessExit, log_tail
from bluesky_streamrecon.errors import ConfigError, JobError

__all__ = ["SlurmLauncher"]

logger = logging.getLogger(__name__)

ALIVE: Final = frozenset(
    {
        "PENDING",
        "CONFIGURING",
        "RUNNING",
        "COMPLETING",
        "SUSPENDED",
        "REQUEUED",
        "REQUEUE_HOLD",
        "RESIZING",
        "STAGE_OUT",
    }
)
"""States of a job that has not ended."""

EXPECTED: Final = frozenset({"TIMEOUT", "PREEMPTED", "DEADLINE", "NODE_FAIL", "BOOT_FAIL"})
"""Ends that are not the job's own fault."""

COMMAND_SECONDS: Final = 30.0
CANCEL_SECONDS: Final = 5.0  # a plan waits for this, so a slurmctld that hangs must not hold it for long
MISSES: Final = 3  # failed looks at the queue, one after the other, before a job is taken for gone


@dataclass(kw_only=True, eq=False)
class SlurmLauncher:
    """Starts and ends a job by a batch system.

    Parameters
    ----------
    options : sequence of str, optional
        For ``sbatch``, as ``("--partition=short", "--time=02:00:00")``; the number of ranks is added.
    setup : sequence of str, optional
        Lines of shell before anything is started, as ``("module load mpi",)``.
    run : sequence of str, optional
        What starts the ranks in the job, as ``("mpiexec",)``. It has to end all of them when one dies, which ``srun``
        does only with ``--kill-on-bad-exit``.
    python : str, optional
        Interpreter on the cluster that has this package.
    threads : int, optional
        Threads per rank; else what Slurm gives to a task.
    directory : path, optional
        For scripts and logs; beamline and cluster must both see it.
    security_options : sequence of str, optional
        ``("--key", …, "--server-key", …)`` as the cluster sees the files.
    control_options : sequence of str, optional
        More for the controller, as ``("--preview-bind", "tcp://*:*", …)`` where ranks are on several hosts.
    checkpoints : path, optional
        Where ranks keep checkpoints, as the cluster sees it; by default in `directory`.
    poll : float, optional
        Between two looks at the queue.

    Raises
    ------
    ConfigError
        If a number can not work.
    """

    options: Sequence[str] = ()
    setup: Sequence[str] = ()
    run: Sequence[str] = ("srun", "--kill-on-bad-exit=1")
    python: str = "python3"
    threads: int | None = None
    directory: str | Path = "."
    security_options: Sequence[str] = ()
    control_options: Sequence[str] = ()
    checkpoints: str | Path | None = None
    poll: float = 5.0

    def __post_init__(self) -> None:
        if self.poll <= 0 or (self.threads is not None and self.threads < 1):
            raise ConfigError(f"slurm: got poll={self.poll} s and threads={self.threads}, expected positive ones")
        self._directory = Path(self.directory)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._ended.set()
        self._id: str | None = None
        self._role = "job"
        self._script: Path | None = None
        self._on_exit: Callable[[ProcessExit], None] | None = None

    @property
    def running(self) -> bool:
        """The job is in the queue, waiting or running."""
        return self._id is not None and not self._ended.is_set()

    @property
    def job_number(self) -> str | None:
        """Slurm's number of the job that was submitted last."""
        return self._id

    def check_ranks(self, ranks: int) -> None:
        """Accept any number: Slurm itself refuses what the cluster does not have."""

    def start(self, address: str, job_id: str, ranks: int, on_exit: Callable[[ProcessExit], None]) -> None:
        """Submit the job; ranks and controller say hello when Slurm has started them. See `Launcher.start`."""
        with self._lock:
            if self._script is not None:
                raise JobError("reconstruction job: got start, but it has been submitted already; stop it first")
            self._directory.mkdir(parents=True, exist_ok=True)
            safe = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in job_id)
            script = self._directory.resolve() / f"streamrecon-{safe}.sh"
            script.write_text(self._text(address, job_id, ranks, script.with_suffix("")))
            self._role, self._on_exit = f"job of {ranks} ranks", on_exit
            self._stopping.clear()
            self._submit(script)
            self._script = script

    def restart(self, exited: ProcessExit) -> None:  # noqa: ARG002 - there is only one job
        """Submit the job once more, if it is not in the queue; see `Launcher.restart`."""
        with self._lock:
            if self._script is not None and self._ended.is_set():
                self._submit(self._script)

    def stop(self, grace: float = 5.0) -> None:
        """Take the job out of the queue, after `grace` seconds to end by itself; idempotent.

        Returns within `grace` and a few seconds, also where Slurm does not answer: then the job is left in the queue,
        which is logged with its number.
        """
        with self._lock:
            script, self._script = self._script, None
            self._stopping.set()
            if script is None or self._id is None:
                return
            if not self._gone_within(grace):
                try:
                    _command("scancel", self._id, seconds=CANCEL_SECONDS)
                except JobError as error:
                    logger.error("job %s is left in the queue: %s; end it by 'scancel %s'", self._id, error, self._id)
            self._ended.set()

    def logs(self) -> str:
        """Return where the job's output is, and its last lines."""
        if self._id is None:
            return ""
        tail = log_tail(self._log)
        state = "" if self._ended.is_set() else f", state {self._state(CANCEL_SECONDS) or 'unknown'}"
        text = f"Slurm job {self._id}{state}; log: {self._log}"
        return text + (f", last lines:\n{tail}" if tail else " (empty)")

    @property
    def _log(self) -> Path:
        return self._directory.resolve() / f"streamrecon-{self._id}.log"

    def _text(self, address: str, job_id: str, ranks: int, stem: Path) -> str:
        """Return the batch script: the controller in the background, the ranks in front of it."""
        us = (self.python, "-m", "bluesky_streamrecon")
        common = ("--address", address, "--job-id", job_id, *self.security_options)
        threads = str(self.threads) if self.threads is not None else '"${SLURM_CPUS_PER_TASK:-1}"'
        kept = str(self.checkpoints) if self.checkpoints is not None else f"{stem}-checkpoints"
        job = shlex.join((*self.run, "-n", str(ranks), *us, "job", *common, "--checkpoints", kept))
        lines = [
            "#!/bin/bash",
            f"#SBATCH --ntasks={ranks}",
            "#SBATCH --job-name=streamrecon",
            *(f"#SBATCH {option}" for option in self.options),
            *self.setup,
            f"{shlex.join((*us, 'control', *common, *self.control_options))} &",
            f"{job} --threads {threads}",
            "code=$?",
            "kill %1 2>/dev/null",
            "exit $code",
        ]
        return "\n".join(lines) + "\n"

    def _submit(self, script: Path) -> None:
        log = self._directory.resolve() / "streamrecon-%j.log"
        output = _command(
            "sbatch", "--parsable", f"--output={log}", f"--chdir={self._directory.resolve()}", str(script)
        )
        number = output.strip().partition(";")[0]
        if not number.isdigit():
            raise JobError(f"sbatch: got {output.strip()!r}, expected the number of a job")
        self._id = number
        self._ended.clear()
        logger.info("job submitted to Slurm as %s: %s", number, script)
        threading.Thread(target=self._follow, args=(number,), name=f"streamrecon-slurm-{number}", daemon=True).start()

    def _follow(self, number: str) -> None:
        """Look at the queue until the job has ended, and report how, unless `stop` has ended it."""
        misses = 0
        state = "UNKNOWN"
        while not self._stopping.wait(self.poll):
            try:
                found = _state_of(number)
            except JobError as error:
                misses += 1
                logger.warning("job %s: the queue can not be seen (%d of %d): %s", number, misses, MISSES, error)
                if misses < MISSES:
                    continue
                found = None
            if found in ALIVE:
                misses = 0
                continue
            state = found or state
            break
        if self._stopping.is_set() or number != self._id:
            return
        self._ended.set()
        log = self._log
        tail = log_tail(log)
        text = f"Slurm says {state}" + (f"\n{tail}" if tail else "")
        logger.warning("job %s ended: Slurm says %s", number, state)
        if self._on_exit is not None:
            self._on_exit(ProcessExit(self._role, 1, log, text, expected=state in EXPECTED))

    def _gone_within(self, seconds: float) -> bool:
        """Wait until the job has left the queue by itself, as it does when the beamline asks its ranks to end."""
        deadline = time.monotonic() + seconds
        while not self._ended.is_set():
            left = deadline - time.monotonic()
            if self._state(max(left, CANCEL_SECONDS / 10)) not in ALIVE:
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._ended.wait(min(self.poll, 0.5, left))
        return True

    def _state(self, seconds: float = COMMAND_SECONDS) -> str | None:
        try:
            return _state_of(self._id or "", seconds)
        except JobError:
            return "RUNNING"  # not known: it has to be taken for alive


def _state_of(number: str, seconds: float = COMMAND_SECONDS) -> str | None:
    """Return the state of a job, None if Slurm does not know it any more.

    Raises
    ------
    JobError
        If the queue can not be seen.
    """
    try:
        words = ("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={number}")
        states = _command(*words, seconds=seconds).split()
    except JobError as error:
        if "Invalid job id" in str(error):
            return None
        raise
    return states[0] if states else None


def _command(*words: str, seconds: float = COMMAND_SECONDS) -> str:
    """Run one of Slurm's commands and return what it says.

    Raises
    ------
    JobError
        If it is not there, fails, or takes too long.
    """
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)
    except OSError as error:
        raise JobError(f"{words[0]}: can not be started: {error}; is Slurm installed on this computer?") from error
    except subprocess.TimeoutExpired as error:
        raise JobError(f"{words[0]}: no answer for {seconds:.3g} s; is slurmctld up?") from error
    if done.returncode != 0:
        output = done.stderr.strip() or "no output"
        raise JobError(f"{shlex.join(words)}: exit status {done.returncode}: {output}")
    return done.stdout
