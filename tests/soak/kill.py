"""kill -9 of a rank, of the whole job, or of the controller, each at a random projection, many times.

What must hold: the scan is a success, the ledger adds up, the final image is that of the undisturbed run (1e-4
relative).

    python tests/soak/kill.py --directory soak-data --runs 20
"""

from __future__ import annotations

import os
import random
import signal

from common import LEAST_ERROR, Scans, Shape, difference, end, image_of, parser, say


def main() -> None:
    given = parser(__doc__)
    given.add_argument("--runs", type=int, default=20, help="of each victim")
    given.add_argument("--victims", nargs="+", default=["rank", "job", "controller"])
    given.add_argument("--projections", type=int, default=60)
    given.add_argument("--exposure", type=float, default=0.05)
    given.add_argument("--checkpoint-every", type=int, default=0)
    given.add_argument("--coalesce", action="store_true", help="the job must then be faster than the detector")
    arguments = given.parse_args()
    chance = random.Random(arguments.seed)
    scans = Scans(arguments.directory, Shape(projections=arguments.projections, exposure=arguments.exposure))
    plan = {"coalesce": arguments.coalesce, "checkpoint_every": arguments.checkpoint_every}
    results = []
    try:
        undisturbed, _ = scans.run(**plan)
        expected = image_of(undisturbed)
        assert expected is not None, undisturbed.reason
        if undisturbed.image_number != arguments.projections:
            raise SystemExit("the job is slower than the detector here: a longer --exposure, or no --coalesce")
        for victim in arguments.victims:
            for number in range(arguments.runs):
                at = chance.randint(1, arguments.projections)
                rank = chance.randrange(undisturbed.ranks)

                def kill(projection: int, victim: str = victim, at: int = at, rank: int = rank) -> None:
                    if projection == at:
                        os.kill(find(scans, victim, rank), signal.SIGKILL)

                record, times = scans.run(kill, **plan)
                error = difference(record, expected)
                good = record.ledger_totals()["balanced"] and error <= LEAST_ERROR and record.used == record.planned
                results.append(bool(good))
                restarts = sum(entry.restarts for entry in record.ledger.values())
                say(victim=victim, run=number, at=at, good=bool(good), error=error, restarts=restarts)
                say(scan_seconds=times[-1] - times[0], seconds=record.seconds)
                if not good:
                    say(reason=record.reason, problems=record.problems, images=record.image_number)
    finally:
        scans.job.close()
    end(results, what="kill -9")


def find(scans: Scans, victim: str, rank: int) -> int:
    job, controller = scans.job.job.launcher._children
    if victim == "rank":
        return next(p.pid for p in scans.job.job.link.endpoint.peers() if p.role == "rank" and p.rank == rank)
    return int((job if victim == "job" else controller).pid)


if __name__ == "__main__":
    main()
