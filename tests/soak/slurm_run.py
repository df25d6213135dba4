"""Scans with a job that Slurm runs; started by ``slurm.sh``, or where there is a Slurm.

What must hold: the scan is a success, all projections are used and the ledger adds up,

- of a job that nobody disturbs;
- with ``--cancel``, of one that somebody takes out of the queue (``scancel``) in the middle: it is submitted again;
- with ``--walltime``, of one that Slurm ends in the middle, at its limit of one minute: it is submitted again, as often
  as that happens.

At the end nothing is left in the queue, and a job that does not end by itself is cancelled.
"""

from __future__ import annotations

import queue
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from common import Scans, Shape, end, parser, say

from bluesky_streamrecon.beamline import SlurmLauncher, find_mpiexec

MPIEXEC = shlex.join([find_mpiexec(), "-launcher", "fork"])  # on one host, whatever PMI this Slurm has
BOUND = 60.0


def main() -> None:
    given = parser(__doc__)
    given.add_argument("--cancel", action="store_true")
    given.add_argument("--walltime", action="store_true")
    given.add_argument("--run", default=MPIEXEC, help="what starts the ranks in the job")
    arguments = given.parse_args()
    options: dict[str, Any] = {
        "options": ["--time=1", "--overcommit"],
        "run": shlex.split(arguments.run),
        "python": sys.executable,
        "directory": arguments.directory / "shared",
        "poll": 1.0,
        "threads": 1,
    }
    launcher = SlurmLauncher(**options)
    # With the limit: long enough that Slurm looks at the time (every half a minute) in the middle of it.
    shape = Shape(projections=240, exposure=0.5) if arguments.walltime else Shape(projections=60, exposure=0.05)
    scans = Scans(arguments.directory, shape, launcher=launcher, start_timeout=120.0)
    ids = []

    def note(projection: int) -> None:
        if launcher.job_number not in ids:
            ids.append(launcher.job_number)
        if arguments.cancel and projection == shape.projections // 2:
            slurm("scancel", str(launcher.job_number))

    try:
        record, _ = scans.run(note, coalesce=False)
        ids.append(launcher.job_number)
    finally:
        scans.job.close()
    cancelled = stopped_in_the_middle(SlurmLauncher(**options))
    left = slurm("squeue", "--noheader", "--states=PENDING,RUNNING")
    restarts = sum(entry.restarts for entry in record.ledger.values())
    states = {number: state_of(number) for number in dict.fromkeys(ids)}
    say(jobs=states, restarts=restarts, used=record.used, reason=record.reason, ledger=record.ledger_totals())
    say(cancelled=cancelled, queue=left)
    good = [record.used == record.planned, bool(record.ledger_totals()["balanced"]), not left, cancelled == "CANCELLED"]
    if arguments.walltime or arguments.cancel:
        ending = "TIMEOUT" if arguments.walltime else "CANCELLED"
        good += [restarts >= 2, ending in states.values()]
    end(good, what="slurm")


def stopped_in_the_middle(launcher: SlurmLauncher) -> str:
    """Let a job run that finds no beamline, end it before it ends by itself, and give what Slurm says of it."""
    exits: queue.Queue[object] = queue.Queue()
    launcher.start("tcp://127.0.0.1:9", "nobody", 2, exits.put)
    number = str(launcher.job_number)
    until(lambda: state_of(number) == "RUNNING")
    launcher.stop(0.0)
    until(lambda: state_of(number) not in ("RUNNING", "COMPLETING"))
    return state_of(number)


def until(holds: Callable[[], bool]) -> None:
    """Wait for what Slurm does not tell by itself."""
    pause = threading.Event()
    for _ in range(int(BOUND / 0.2)):
        if holds():
            return
        pause.wait(0.2)
    raise SystemExit(f"Slurm: not what was waited for in {BOUND:g} s")


def state_of(number: str | None) -> str:
    """Return what Slurm says of a job."""
    return slurm("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={number}")


def slurm(*words: str) -> str:
    """Run one of Slurm's commands, and give what it says."""
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
