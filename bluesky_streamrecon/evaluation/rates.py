"""How fast projections are used up: figures 5 and 6 of Bicer et al. 2017 on this machine, and a prediction of them.

*Co-located* is the engine alone, with as many threads as all ranks have: the data are in its memory. *Distributed* is
the whole road: publisher, sockets, MPI ranks, controller. Both are measured in turns. Rates are projections per second.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from bluesky_streamrecon.cores import own_cores
from bluesky_streamrecon.evaluation.bench.kernels import engine_rate
from bluesky_streamrecon.evaluation.bench.pipeline import measure_pipeline
from bluesky_streamrecon.evaluation.figures import Line, draw_lines, line_of, new_figure
from bluesky_streamrecon.evaluation.report import Report, Row, grouped
from bluesky_streamrecon.recon.cost import core_speed, step_seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["evaluate_rates", "predicted"]

ALGORITHMS = ("mlem", "pml-quadratic")
MAP_WINDOWS = (12, 18, 24, 30, 36, 42)
MAP_STEPS = (1, 2, 4, 6, 8, 12)
WINDOW = 24
WIDE = 1024
FEW, MANY = 60, 180
"""Projections of a run through sockets, from `WIDE` columns on and below: a few images in flight must not matter."""

CASE = ("rows", "columns", "window", "threads")
RATIO_STYLE = {"cmap": "RdBu", "vmin": 0.5, "vmax": 1.5}
BOX = {"fc": "white", "alpha": 0.6, "lw": 0, "pad": 1}

logger = logging.getLogger(__name__)


def evaluate_rates(
    *,
    columns: Sequence[int] = (256, 512, 1024, 2048),
    rows: int = 16,
    algorithms: Sequence[str] = ALGORITHMS,
    repeats: int = 3,
    distributed: bool = True,
) -> Report:
    """Measure rates, predict all of them from one point for each algorithm, and compare.

    Parameters
    ----------
    columns : sequence of int, optional
        Detector columns C; the second of them is that of the map over windows and steps.
    rows : int, optional
        Detector rows.
    algorithms : sequence of str, optional
        Registered names.
    repeats : int, optional
        Samples of each rate; their median counts.
    distributed : bool, optional
        Also measure through sockets and MPI.

    Returns
    -------
    Report
        ``rows``: ``figure`` (``"sizes"``, their figure 5, or ``"map"``, figure 6), ``mode`` (``"co-located"`` or
        ``"distributed"``), the case (`threads` of each rank), projections per second ``measured`` and ``predicted``,
        their ``ratio``, and whether it is the ``reference`` that predictions were made from. Also as ``rates.csv``,
        with ``rates_sizes.png`` and ``rates_map.png``.

    Raises
    ------
    ConfigError
        If a number can not work.
    JobError
        If the job can not be started.
    """
    found: list[Row] = []
    for algorithm, c in product(algorithms, columns):
        found += _at_size(algorithm, rows, c, repeats, distributed=distributed)
    cores, c = len(own_cores()), columns[min(1, len(columns) - 1)]
    for window, step in product(MAP_WINDOWS, MAP_STEPS):
        if step <= window:
            logger.info("map: %d columns, window %d, step %d", c, window, step)
            case: dict[str, Any] = {"rows": rows, "columns": c, "window": window, "step": step, "threads": cores}
            rate = engine_rate("mlem", **case, repeats=repeats)
            found.append({"figure": "map", "mode": "co-located", "algorithm": "mlem", "ranks": 1} | case)
            found[-1]["measured"] = rate
    table = predicted(found)
    figures = {
        "rates_sizes": _draw_sizes([row for row in table if row["figure"] == "sizes"]),
        "rates_map": _draw_map([row for row in table if row["figure"] == "map"]),
    }
    return Report({"rows": table}, {"projections per second": table}, {"rates": table}, figures)


def _at_size(algorithm: str, rows: int, columns: int, repeats: int, *, distributed: bool) -> Iterator[Row]:
    """Measure one size with one rank on all cores and with a rank on each, and the engine alone on one and on all."""
    case: dict[str, Any] = {"rows": rows, "columns": columns, "window": WINDOW, "step": 1}

    def row(mode: str, ranks: int, threads: int, rate: float) -> Row:
        logger.info("%s, %d columns, %d ranks of %d threads: %.4g/s", algorithm, columns, ranks, threads, rate)
        how = {"figure": "sizes", "mode": mode, "algorithm": algorithm, "ranks": ranks, "threads": threads}
        return how | case | {"measured": rate}

    cores = len(own_cores())
    alone = {1, cores}
    if distributed:
        for ranks in sorted({1, cores}):
            threads = 1 if ranks == cores else cores
            found = measure_pipeline(
                **case,
                ranks=ranks,
                threads=threads,
                projections=FEW if columns >= WIDE else MANY,
                algorithm=algorithm,
                repeats=repeats,
                latency=False,
            ).fields
            yield row("distributed", ranks, threads, found["projections_per_second"])
            if ranks == 1:
                yield row("co-located", 1, threads, found["kernel_projections_per_second"])
                alone -= {threads}
    for count in sorted(alone):
        yield row("co-located", 1, count, engine_rate(algorithm, **case, threads=count, repeats=repeats))


def predicted(rows: Sequence[Row]) -> list[Row]:
    """Predict every rate from one measured point of the same algorithm: the engine alone at the second size.

    All other sizes, windows, steps, threads, and the road through sockets follow from it by `step_seconds`.
    """
    sizes = sorted({row["columns"] for row in rows if row["figure"] == "sizes"})
    reference = ("sizes", "co-located", 1, sizes[min(1, len(sizes) - 1)])
    alone = grouped(rows, "figure", "mode", "threads", "columns")[reference]
    points = {row["algorithm"]: row for row in alone}
    table = []
    for row in rows:
        point = points[row["algorithm"]]
        gups = core_speed(point["measured"], step=point["step"], **{name: point[name] for name in CASE})
        case = {name: row[name] for name in CASE} | {"rows": math.ceil(row["rows"] / row["ranks"])}
        rate = row["step"] / step_seconds(gups, **case)
        table.append({**row, "predicted": rate, "ratio": rate / row["measured"], "reference": row is point})
    return table


def _draw_sizes(rows: Sequence[Row]) -> Figure:
    """Draw rates against the detector's width, measured and predicted, a panel for each algorithm."""
    algorithms = grouped(rows, "algorithm")
    figure = new_figure(4.6 * len(algorithms), 4.2)
    panels = figure.subplots(1, len(algorithms), squeeze=False, sharey=True)[0]
    for axes, ((algorithm,), mine) in zip(panels, algorithms.items(), strict=True):
        lines: list[Line] = []
        for color, (kind, chosen) in enumerate(grouped(mine, "mode", "ranks", "threads").items()):
            label = "{}, {} x {} threads".format(*kind)
            lines.append(line_of(chosen, "columns", "measured", label, "o-", f"C{color}"))
            lines.append(line_of(chosen, "columns", "predicted", None, ":", f"C{color}"))
        reference = [row for row in mine if row["reference"]]
        lines.append(line_of(reference, "columns", "measured", "predictions (dotted) from here", "*", "black"))
        title = f"{algorithm}, {mine[0]['rows']} rows, l = {WINDOW}, s = 1"
        draw_lines(axes, lines, title=title, xscale="log", yscale="log", xlabel="detector columns")
        sizes = sorted({row["columns"] for row in mine})
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
    panels[0].set_ylabel("projections per second")
    return figure


def _draw_map(rows: Sequence[Row]) -> Figure:
    """Draw rates over step and window: measured, and the prediction's error."""
    windows, steps = (sorted({row[name] for row in rows}) for name in ("window", "step"))
    figure = new_figure(9.2, 3.9)
    title = f"measured, C = {rows[0]['columns']}, {rows[0]['rows']} rows (projections/s)"
    styles: tuple[tuple[str, str, dict[str, Any]], ...]
    styles = (("measured", title, {"cmap": "viridis"}), ("ratio", "predicted / measured", RATIO_STYLE))
    for axes, (name, title, style) in zip(figure.subplots(1, 2), styles, strict=True):
        values = np.full((len(windows), len(steps)), np.nan)
        for row in rows:
            i, j = windows.index(row["window"]), steps.index(row["step"])
            values[i, j] = row[name]
            axes.text(j, i, f"{row[name]:.3g}", ha="center", va="center", fontsize=8, bbox=BOX)
        axes.imshow(values, origin="lower", aspect="auto", **style)
        axes.set(xlabel="step s", ylabel="window l")
        axes.set_title(title, fontsize=10)
        axes.set_xticks(range(len(steps)), [str(s) for s in steps])
        axes.set_yticks(range(len(windows)), [str(w) for w in windows])
    return figure
