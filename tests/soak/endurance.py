"""A very long scan: memory and file descriptors of every process stay what they were.

What must hold: resident memory grows by less than 5 % after the first tenth (2,000 of 20,000), descriptors do not grow.
Memory goes up and down by some percent as heaps are trimmed, so what grows is the straight line through all readings.

    python tests/soak/endurance.py --directory soak-data
"""

from __future__ import annotations

import numpy as np
from common import Scans, Shape, end, job_pids, pace, parser, say, usage


def main() -> None:
    given = parser(__doc__)
    given.add_argument("--projections", type=int, default=20_000)
    given.add_argument("--rows", type=int, default=256)
    given.add_argument("--columns", type=int, default=512)
    given.add_argument("--step", type=int, default=24)
    given.add_argument("--memory-limit", type=int, default=2**28, help="bytes of frames held by the publisher")
    given.add_argument("--window-policy", default="spread", help="'newest': the paper's")
    arguments = given.parse_args()
    shape = Shape(rows=arguments.rows, columns=arguments.columns, projections=arguments.projections, exposure=0)
    scans = Scans(arguments.directory, shape, memory_limit=arguments.memory_limit, finish_timeout=600.0)
    begun = max(1, arguments.projections // 10)
    seen: dict[int, dict[str, tuple[int, int]]] = {}

    def look(projection: int) -> None:
        if projection % max(1, arguments.projections // 40) == 0:
            seen[projection] = usage(job_pids(scans.job))
            say(projection=projection, lag=scans.job.runs.open.lag, **seen[projection])

    try:
        how = {"window": 24, "step": arguments.step, "window_policy": arguments.window_policy}
        record, times = scans.run(look, final="none", **how)  # to finish so many takes hours
    finally:
        scans.job.close()
    later = [projection for projection in seen if projection >= begun]
    names = [name for name in seen[later[0]] if all(name in seen[projection] for projection in later)]
    growth, descriptors = {}, {}
    for name in names:
        memory, files = np.array([seen[projection][name] for projection in later]).T
        slope, start = np.polyfit(np.array(later) - later[0], memory, 1)
        growth[name] = slope * (later[-1] - later[0]) / start
        descriptors[name] = int(files[-1] - files[0])
    say(growth=growth, descriptors=descriptors, ledger=record.ledger_totals(), used=record.used, pace=pace(times))
    good = [share < 0.05 for share in growth.values()] + [more <= 0 for more in descriptors.values()]
    end(
        [*good, record.ledger_totals()["balanced"], record.used == record.planned],
        what="endurance (memory and descriptors of each process, ledger, projections used)",
    )


if __name__ == "__main__":
    main()
