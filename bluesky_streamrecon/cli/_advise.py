"""``streamrecon advise``: which settings keep up with a detector."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated

import typer

from bluesky_streamrecon.cli._options import Columns, Json, Ranks, Rows, Window
from bluesky_streamrecon.cli._output import print_json

__all__ = ["advise"]


def advise(
    rows: Rows,
    columns: Columns,
    rate: Annotated[float, typer.Option(help="Projections per second.")],
    ranks: Ranks,
    threads: Annotated[int, typer.Option(min=1, help="Threads (cores) of each rank.")] = 1,
    window: Window = 24,
    gups: Annotated[
        float | None,
        typer.Option(help="1e9 updates per second of a core there, from `bench kernels`; default: measured here."),
    ] = None,
    json: Json = False,
) -> None:
    """Find the shortest step that keeps up with a detector, and how many ranks it takes.

    Without `--gups` a core of this computer is measured for a second, and taken for one of those that will do the work.

    Example: `streamrecon advise --rows 2048 --columns 2048 --rate 100 --ranks 16`
    """
    from bluesky_streamrecon.evaluation.cost import advise as find
    from bluesky_streamrecon.evaluation.cost import kernel_speed

    measured = gups is None
    speed = kernel_speed(columns) if gups is None else gups
    found = find(rows=rows, columns=columns, rate=rate, ranks=ranks, threads=threads, window=window, gups=speed)
    if json:
        print_json(found)
        return
    at = SimpleNamespace(**found)
    source = "measured here" if measured else "as given"
    print(f"{ranks} ranks of {threads} threads, {speed:.3g} GUPS per core ({source})")
    if at.feasible:
        print(f"window {at.window}, step {at.step}: sustains {at.sustained:.4g} projections per second")
        if at.subsets > 1:
            print(f"best with --algorithm osem and {at.subsets} subsets: the same cost, and converges as with step 1")
    else:
        needed = f"{at.ranks_needed} ranks would do" if at.ranks_needed else "no number of ranks would do"
        print(f"can not keep up: {at.sustained:.4g} of {rate:g} projections per second at best; {needed}")
    print(f"detector {at.bytes_per_second / 1e6:.4g} MB/s; {at.memory_per_rank / 2**20:.4g} MiB on each rank")
