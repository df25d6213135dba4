"""A very long scan: memory and file descriptors of every process stay what they were.

What must hold: resident memory grows by less than 5 % after the first tenth (2,000 of 20,000), descriptors do not grow.

    python tests/soak/endurance.py --directory soak-data
"""

from __future__ import annotations

from common import Scans, Shape, end, job_pids, pace, parser, say, usage


def main() -> None:
    given = parser(__doc__)
    given.add_argument("--projections", type=int, default=20_000)
    given.add_argument("--rows", type=int, default=256)
    given.add_argument("--columns", type=int, default=512)
    given.add_argument("--step", type=int, default=24)
    given.add_argument("--memory-limit", type=int, default=2**28, help="bytes of frames held by the publisher")
    given.add_argument("--window-policy", default="newest", help="'spread' keeps all projections, and grows with them")
    arguments = given.parse_args()
    shape = Shape(rows=arguments.rows, columns=arguments.columns, projections=arguments.projections, exposure=0)
    scans = Scans(arguments.directory, shape, memory_limit=arguments.memory_limit, finish_timeout=600.0)
    begun = max(1, arguments.projections // 10)
    seen: dict[int, dict[str, tuple[int, int]]] = {}

    def look(projection: int) -> None:
        if projection % max(1, arguments.projections // 40) == 0:
            seen[projection] = usage(job_pids(scans.job))
            say(projection=projection, lag=scans.job.progress.lag, **seen[projection])

    try:
        record, times = scans.run(look, window=24, step=arguments.step, window_policy=arguments.window_policy)
    finally:
        scans.job.close()
    first = next(counts for projection, counts in seen.items() if projection >= begun)
    last = seen[max(seen)]
    growth = {name: last[name][0] / first[name][0] - 1 for name in first if name in last}
    descriptors = {name: last[name][1] - first[name][1] for name in first if name in last}
    say(growth=growth, descriptors=descriptors, ledger=record.ledger_totals(), used=record.used, pace=pace(times))
    good = [share < 0.05 for share in growth.values()] + [more <= 0 for more in descriptors.values()]
    end([*good, record.ledger_totals()["balanced"], record.used == record.planned], what="endurance")


if __name__ == "__main__":
    main()
