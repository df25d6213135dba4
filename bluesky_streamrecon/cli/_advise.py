"""``streamrecon advise``: which settings keep up with a detector."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated

import typer

from bluesky_streamrecon.cli._options import Backend, Columns, Json, Ranks, Rows, Window
from bluesky_streamrecon.cli._output import print_json

__all__ = ["advise"]


def advise(
    rows: Rows,
    columns: Columns,
    rate: Annotated[float, typer.Option(help="Projections per second.")],
    ranks: Ranks,
    threads: Annotated[int, typer.Option(min=1, help="Threads (cores) of each rank.")] = 1,
    window: Window = 24,
    backend: Backend = "cpu",
    gups: Annotated[
        float | None,
        typer.Option(
            help="1e9 updates per second of a core, or GPU, there, from `bench kernels`; default: measured here."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Find the shortest step that keeps up with a detector, and how many ranks it takes.

    Without `--gups` a core of this computer is measured for a second, and taken for one of those that will do the work;
    with `--backend cuda` a GPU, of which each rank has one.

    Example: `streamrecon advise --rows 2048 --columns 2048 --rate 100 --ranks 16`
    """
    from bluesky_streamrecon.errors import DeviceError
    from bluesky_streamrecon.evaluation.bench.kernels import kernel_speed
    from bluesky_streamrecon.recon.cost import advise as find
    from bluesky_streamrecon.recon.cuda.device import CudaDevice, find_device

    card: CudaDevice | None = None
    if backend != "cpu":
        try:
            card = find_device()
        except DeviceError:
            if backend == "cuda" and gups is None:
                raise
    gpu = backend == "cuda" or card is not None
    source = "measured here" if gups is None else "as given"
    speed = kernel_speed(columns, gpu=gpu) if gups is None else gups
    found = find(
        rows=rows, columns=columns, rate=rate, ranks=ranks, threads=threads, window=window, gups=speed, gpu=gpu,
        memory=None if card is None else card.total,
    )  # fmt: skip
    if json:
        print_json(found)
        return
    at = SimpleNamespace(**found)
    if gpu:
        where = f"{card.name}, {card.total / 2**30:.0f} GiB" if card is not None else "of unknown memory"
        print(f"{ranks} ranks of one GPU each ({where}), {speed:.3g} GUPS per GPU ({source})")
    else:
        print(f"{ranks} ranks of {threads} threads, {speed:.3g} GUPS per core ({source})")
    if at.feasible:
        print(f"window {at.window}, step {at.step}: sustains {at.sustained:.4g} projections per second")
        if at.subsets > 1:
            print(f"best with --algorithm osem and {at.subsets} subsets: the same cost, and converges as with step 1")
    else:
        needed = f"{at.ranks_needed} ranks would do" if at.ranks_needed else "no number of ranks would do"
        if card is not None and at.memory_per_rank > card.total:
            print(f"does not fit: {at.memory_per_rank:,.0f} bytes on each GPU, which has {card.total:,}; {needed}")
        else:
            print(f"can not keep up: {at.sustained:.4g} of {rate:g} projections per second at best; {needed}")
    print(f"detector {at.bytes_per_second / 1e6:.4g} MB/s; {at.memory_per_rank / 2**20:.4g} MiB on each rank")
