"""A detector that is ten times as fast as the job.

What must hold: the plan's pace is what it is with an idle job, memory stays under its setting, the lag is reported,
steps are taken together, and every projection is in the final image.

    python tests/soak/slow_job.py --directory soak-data
"""

from __future__ import annotations

from common import Scans, Shape, end, pace, parser, say, step_back


def main() -> None:
    given = parser(__doc__)
    given.add_argument("--projections", type=int, default=400)
    given.add_argument("--rows", type=int, default=64)
    given.add_argument("--columns", type=int, default=256)
    given.add_argument("--ratio", type=float, default=10.0, help="job's time per projection over the detector's")
    given.add_argument(
        "--iterations", type=int, default=16, help="of the job, so many that exposures are not too short"
    )
    given.add_argument("--runs", type=int, default=1)
    given.add_argument(
        "--ranks", type=int, default=1, help="leave a core to the plan, or its pace is that of the cores"
    )
    given.add_argument("--memory-limit", type=int, default=2**22, help="bytes")
    arguments = given.parse_args()
    sizes = {"rows": arguments.rows, "columns": arguments.columns}
    trial = Scans(arguments.directory / "trial", Shape(**sizes, projections=60, exposure=0), ranks=arguments.ranks)
    try:
        slow = {"window": 24, "iterations": arguments.iterations, "ranks": arguments.ranks}
        record, _ = trial.run(**slow, coalesce=False)  # compiles, too
        statuses: list[float] = []
        trial.engine.subscribe(lambda name, doc: statuses.extend(steps(trial)), "event")
        trial.run(**slow, coalesce=False)
    finally:
        trial.job.close()
    statuses.sort()
    step = statuses[len(statuses) // 2]
    exposure = step / arguments.ratio
    say(step_seconds=step, exposure=exposure, detector_hertz=1 / exposure)
    shape = Shape(**sizes, projections=arguments.projections, exposure=exposure)
    results = []
    for number in range(arguments.runs):
        job = {"memory_limit": arguments.memory_limit, "ranks": arguments.ranks}
        scans = Scans(arguments.directory / f"run-{number}", shape, **job)
        lags, memory = [], []

        def look(projection: int, scans: Scans = scans, lags: list = lags, memory: list = memory) -> None:
            if projection == 1:
                step_back(scans.job)
            lags.append(scans.job.runs.open.lag)
            memory.append(scans.job.job.link.endpoint.memory())

        try:
            record, times = scans.run(look, **slow, coalesce=True)
            _, alone = scans.run(window=1, step=1, iterations=1, size=16, disc=True, ranks=arguments.ranks)
        finally:
            scans.job.close()
        ratio = pace(times) / pace(alone)
        good = record.used == record.taken == arguments.projections and record.ledger_totals()["balanced"]
        good = good and max(memory) <= arguments.memory_limit and 0.8 < ratio < 1.25 and max(lags) > 24
        good = good and record.counts.get("coalesced_steps", 0) > 0
        results.append(bool(good))
        say(
            run=number, good=bool(good), pace_ratio=ratio, memory=max(memory), lag=max(lags), images=record.image_number
        )
        say(coalesced=record.counts.get("coalesced_steps", 0), used=record.used, seconds=record.seconds)
    end(results, what="detector faster than the job")


def steps(scans: Scans) -> list[float]:
    """Return the job's times per step, as far as they are known."""
    run = scans.job.runs.open
    return [status.step_seconds for status in run.statuses.values() if status.step_seconds] if run else []


if __name__ == "__main__":
    main()
