"""How fast projections are used up: figures 5 and 6 of Bicer et al. 2017 on this machine, and a prediction of them.

*Co-located* is the engine alone, with as many threads as all ranks have: the data are in its memory. *Distributed* is
the whole road: publisher, sockets, MPI ranks, controller. Both are measured in turns. Rates are projections per second.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bluesky_streamrecon.cores import own_cores
from bluesky_streamrecon.evaluation.bench.pipeline import measure_pipeline
from bluesky_streamrecon.evaluation.bench.sample import disc_projections, scan_angles
from bluesky_streamrecon.evaluation.cost import CostModel
from bluesky_streamrecon.evaluation.tables import new_directory, save_figure, write_csv
from bluesky_streamrecon.geometry import TomoGeometry

__all__ = ["RateRow", "evaluate_rates", "predicted"]

ALGORITHMS = ("mlem", "pml-quadratic")
MAP_WINDOWS = (12, 18, 24, 30, 36, 42)
MAP_STEPS = (1, 2, 4, 6, 8, 12)
WINDOW = 24
TIMED = 24
"""Projections that are timed of the engine alone, at least."""

WIDE = 1024
FEW, MANY = 60, 180
"""Projections of a run through sockets, from `WIDE` columns on and below: a few images in flight must not matter."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RateRow:
    """One measurement beside its prediction.

    Parameters
    ----------
    figure : str
        ``"sizes"`` (figure 5) or ``"map"`` (figure 6).
    mode : str
        ``"co-located"`` or ``"distributed"``.
    algorithm : str
        Registered name.
    rows, columns, window, step, ranks, threads : int
        Of the case; `threads` of each rank.
    measured, predicted : float
        Projections per second.
    ratio : float
        Predicted over measured.
    reference : bool
        The point that predictions were made from.
    """

    figure: str
    mode: str
    algorithm: str
    rows: int
    columns: int
    window: int
    step: int
    ranks: int
    threads: int
    measured: float
    predicted: float = float("nan")
    ratio: float = float("nan")
    reference: bool = False


def evaluate_rates(
    out: Path,
    *,
    columns: Sequence[int] = (256, 512, 1024, 2048),
    rows: int = 16,
    algorithms: Sequence[str] = ALGORITHMS,
    map_columns: int | None = None,
    repeats: int = 3,
    distributed: bool = True,
    tell: Tell | None = None,
) -> list[RateRow]:
    """Measure, predict from one point for each algorithm, compare; write ``rates*.png`` and ``rates.csv``.

    Parameters
    ----------
    out : Path
        Directory; made if missing.
    columns : sequence of int, optional
        Detector columns C.
    rows : int, optional
        Detector rows.
    algorithms : sequence of str, optional
        Registered names.
    map_columns : int, optional
        C of the map over windows and steps; the second of `columns` by default.
    repeats : int, optional
        Samples of each rate; their median counts.
    distributed : bool, optional
        Also measure through sockets and MPI.
    tell : callable, optional
        Told how far it is.

    Raises
    ------
    ConfigError
        If a number can not work.
    JobError
        If the job can not be started.
    """
    from bluesky_streamrecon.evaluation.figures import draw_rate_map, draw_rates

    new_directory(out)
    tell = tell or (lambda _text: None)
    cores = len(own_cores())
    found: list[RateRow] = []

    def note(row: RateRow) -> None:
        tell(f"{row.mode}: {row.measured:.4g} projections per second")
        found.append(row)

    for algorithm in algorithms:
        for c in columns:
            for ranks in sorted({1, cores}):
                threads = 1 if ranks == cores else cores
                if distributed:
                    tell(f"{algorithm}, {c} columns, {ranks} ranks of {threads} threads, through sockets")
                    result = measure_pipeline(
                        rows=rows,
                        columns=c,
                        window=WINDOW,
                        step=1,
                        ranks=ranks,
                        threads=threads,
                        projections=FEW if c >= WIDE else MANY,
                        algorithm=algorithm,
                        repeats=repeats,
                        latency=False,
                    )
                    rate = result.projections_per_second
                    note(RateRow("sizes", "distributed", algorithm, rows, c, WINDOW, 1, ranks, threads, rate))
                    if ranks == 1:
                        rate = result.kernel_projections_per_second
                        note(RateRow("sizes", "co-located", algorithm, rows, c, WINDOW, 1, 1, threads, rate))
            for count in sorted({1, cores} - ({cores} if distributed else set())):
                tell(f"{algorithm}, {c} columns, engine alone on {count}")
                rate = engine_rate(algorithm, rows, c, WINDOW, 1, count, repeats)
                note(RateRow("sizes", "co-located", algorithm, rows, c, WINDOW, 1, 1, count, rate))
    c = map_columns or columns[min(1, len(columns) - 1)]
    for window in MAP_WINDOWS:
        for step in MAP_STEPS:
            if step <= window:
                tell(f"map: {c} columns, window {window}, step {step}")
                rate = engine_rate("mlem", rows, c, window, step, cores, repeats)
                note(RateRow("map", "co-located", "mlem", rows, c, window, step, 1, cores, rate))
    table = predicted(found)
    write_csv(out / "rates.csv", [asdict(row) for row in table])
    save_figure(draw_rates(table), out / "rates_sizes.png")
    save_figure(draw_rate_map([row for row in table if row.figure == "map"]), out / "rates_map.png")
    return table


def engine_rate(
    algorithm: str, rows: int, columns: int, window: int, step: int, threads: int, repeats: int = 3
) -> float:
    """Measure the engine alone, its window full and moving on; projections per second, median."""
    from bluesky_streamrecon.recon import Engine

    geometry = TomoGeometry(columns)
    angles = scan_angles(180)
    projections = disc_projections(geometry, angles[:window], rows)
    with Engine(geometry, rows, algorithm=algorithm, window=window, planned=len(angles), threads=threads) as engine:

        def append(count: int) -> None:
            for _ in range(count):
                number = engine.projections
                engine.append(projections[number % window], float(angles[number % len(angles)]))

        append(window)
        engine.update()
        rates = []
        for _ in range(repeats):
            start, steps = time.perf_counter(), 0
            while steps < 3 or (steps * step < TIMED and time.perf_counter() - start < 1.0):
                append(step)
                engine.update()
                steps += 1
            rates.append(steps * step / (time.perf_counter() - start))
    return sorted(rates)[len(rates) // 2]


def predicted(rows: Sequence[RateRow]) -> list[RateRow]:
    """Predict every rate from one measured point of the same algorithm: the engine alone at the second size.

    All other sizes, windows, steps, threads, and the road through sockets follow from it by `CostModel`.
    """
    from dataclasses import replace

    references = {}
    for row in rows:
        if (row.figure, row.mode, row.threads) == ("sizes", "co-located", 1):
            sizes = sorted({r.columns for r in rows if r.figure == "sizes"})
            if row.columns == sizes[min(1, len(sizes) - 1)]:
                references[row.algorithm] = row
    table = []
    for row in rows:
        point = references[row.algorithm]
        model = CostModel.from_rate(
            point.measured, rows=point.rows, columns=point.columns, window=point.window, step=point.step
        )
        block = math.ceil(row.rows / row.ranks)
        rate = model.rate(rows=block, columns=row.columns, window=row.window, step=row.step, threads=row.threads)
        table.append(replace(row, predicted=rate, ratio=rate / row.measured, reference=row is point))
    return table
