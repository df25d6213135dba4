"""Scans with a job that Slurm runs; started by ``slurm.sh``, or where there is a Slurm.

What must hold: the scan is a success and the ledger adds up; with ``--walltime`` Slurm ends the job in the middle, at
its limit of one minute, and it is submitted again; at the end nothing is left in the queue.
"""

from __future__ import annotations

import subprocess
import sys

from common import Scans, Shape, end, parser, say

from bluesky_streamrecon.beamline import SlurmLauncher, find_mpiexec

MPIEXEC = [find_mpiexec(), "-launcher", "fork"]  # on one host, whatever PMI this Slurm has


def main() -> None:
    given = parser(__doc__)
    given.add_argument("--walltime", action="store_true")
    given.add_argument("--run", nargs="+", default=MPIEXEC, help="what starts the ranks in the job")
    arguments = given.parse_args()
    shared = arguments.directory / "shared"
    launcher = SlurmLauncher(
        options=["--time=1", "--overcommit"],
        run=arguments.run,
        python=sys.executable,
        directory=shared,
        poll=1.0,
        threads=1,
    )
    # With the limit: long enough that Slurm looks at the time (every half a minute) in the middle of it.
    shape = Shape(projections=240, exposure=0.5) if arguments.walltime else Shape(projections=60, exposure=0.05)
    scans = Scans(arguments.directory, shape, launcher=launcher, start_timeout=120.0)
    try:
        record, _ = scans.run(coalesce=False)
        first = launcher.job_number
    finally:
        scans.job.close()
    queue = subprocess.run(
        ["squeue", "--noheader", "--states=PENDING,RUNNING"], capture_output=True, text=True, check=True
    ).stdout.strip()
    restarts = sum(entry.restarts for entry in record.ledger.values())
    say(
        job=first, restarts=restarts, used=record.used, reason=record.reason, ledger=record.ledger_totals(), queue=queue
    )
    good = [record.used == record.planned, record.ledger_totals()["balanced"], not queue]
    end([*good, restarts >= 2] if arguments.walltime else good, what="slurm")


if __name__ == "__main__":
    main()
