"""``streamrecon bench``: what the parts do per second on this computer, next to what it could do."""

from __future__ import annotations

from typing import Annotated

import typer

from bluesky_streamrecon.cli._options import (
    Algorithm,
    Algorithms,
    Backend,
    Columns,
    ColumnsList,
    Json,
    ListCommand,
    Num,
    Preparation,
    Ranks,
    Repeats,
    Rows,
    Step,
    Window,
    preparation_from,
)
from bluesky_streamrecon.cli._output import print_report, show_progress

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    callback=show_progress,
    help="Measure the parts on this computer, each next to a yardstick taken in the same run.",
)


@app.command(cls=ListCommand)
def kernels(
    columns: ColumnsList = None,
    window: Annotated[list[int] | None, typer.Option(min=1, metavar="L...", help="Projections in the window.")] = None,
    threads: Annotated[list[int] | None, typer.Option(min=1, metavar="T...", help="Threads.")] = None,
    algorithm: Algorithms = None,
    slices: Rows = 16,
    backend: Backend = "cpu",
    repeats: Repeats = 5,
    json: Json = False,
) -> None:
    """Measure projection of a window, forward and back, in 1e9 updates per second (GUPS).

    Without options: 256 and 1024 columns, a window of 24, one thread, mlem, pml-quadratic, pml-hybrid and sirt.
    GUPS is slices x window x columns² x 2 / seconds / 1e9; *moving* is with a new projection before each update, as in
    a scan; *host* is the time that the host needs for that, milliseconds; */ GFMA* is the
    ratio to this processor's multiply-adds, taken in turns.

    Example: `streamrecon bench kernels --columns 256 1024 --threads 1 2`
    """
    from bluesky_streamrecon.evaluation.bench.kernels import ALGORITHMS, measure_kernels

    report = measure_kernels(
        columns=columns or (256, 1024),
        windows=window or (24,),
        threads=threads or (1,),
        algorithms=algorithm or ALGORITHMS,
        slices=slices,
        repeats=repeats,
        backend=backend,
    )
    print_report(report, json=json)


@app.command()
def volume(
    rows: Rows = 100,
    columns: Columns = 1024,
    num: Num = 180,
    threads: Annotated[int, typer.Option(min=1, help="Threads.")] = 1,
    backend: Backend = "cpu",
    repeats: Repeats = 3,
    json: Json = False,
) -> None:
    """Measure how long a finished volume takes, by the recipe of the default policy and by FBP.

    *per update* is in SIRT updates over all projections, taken in turns.

    Example: `streamrecon bench volume --rows 100 --columns 1024 --threads 2`
    """
    from bluesky_streamrecon.evaluation.bench.volume import measure_volume

    report = measure_volume(rows=rows, columns=columns, num=num, threads=threads, repeats=repeats, backend=backend)
    print_report(report, json=json)


@app.command(cls=ListCommand)
def peers(
    columns: ColumnsList = None,
    window: Window = 24,
    backend: Backend = "cpu",
    repeats: Repeats = 3,
    json: Json = False,
) -> None:
    """Compare iterations of ASTRA's SIRT with ours, on one core or one GPU, in turns; at 512 columns without options.

    Needs `pip install 'bluesky-streamrecon[bench]'`. *ours / this* compares with our SIRT.

    Example: `streamrecon bench peers --columns 512 1024`
    """
    from bluesky_streamrecon.evaluation.bench.peers import compare_peers

    print_report(
        compare_peers(columns=columns or (512,), window=window, repeats=repeats, backend=backend),
        json=json,
    )


@app.command(cls=ListCommand)
def pipeline(
    rows: Rows = 100,
    columns: Columns = 1024,
    window: Window = 12,
    step: Step = 12,
    ranks: Ranks = 2,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads per rank; default: its share of cores.")] = None,
    num: Num = 180,
    algorithm: Algorithm = "mlem",
    disc: Annotated[bool, typer.Option("--disc", help="Reconstruct the inscribed disc only.")] = False,
    backend: Backend = "cpu",
    preparation: Preparation = None,
    repeats: Repeats = 3,
    json: Json = False,
) -> None:
    """Measure projections per second all the way: publisher, link, MPI ranks, window, previews, score.

    The kernels alone, with as many threads, are measured in turns with it. The defaults are the case of Bicer et al.
    2017. `paganin` without options has a kernel of 4.6 pixels.

    Example: `streamrecon bench pipeline --rows 100 --columns 1024 --window 12 --step 12 --ranks 2`
    """
    from bluesky_streamrecon.evaluation.bench.pipeline import measure_pipeline

    report = measure_pipeline(
        rows=rows,
        columns=columns,
        window=window,
        step=step,
        ranks=ranks,
        threads=threads,
        projections=num,
        algorithm=algorithm,
        disc=disc,
        repeats=repeats,
        backend=backend,
        preparation=preparation_from(preparation),
    )
    print_report(report, json=json)


@app.command()
def latency(
    rows: Rows = 16,
    columns: Columns = 512,
    ranks: Ranks = 2,
    num: Num = 120,
    exposure: Annotated[float, typer.Option(min=0.001, max=10, help="Seconds per projection.")] = 0.1,
    algorithm: Algorithm = "mlem",
    repeats: Repeats = 3,
    json: Json = False,
) -> None:
    """Measure the time from the end of an exposure to the decision whether to end the scan.

    With default settings otherwise; documents go through publisher, job and controller as in a scan, without a
    RunEngine. *In updates* is the ratio to one update of the image in the same scan.

    Example: `streamrecon bench latency --columns 512 --rows 16 --ranks 2`
    """
    from bluesky_streamrecon.evaluation.bench.latency import measure_latency

    report = measure_latency(
        rows=rows, columns=columns, ranks=ranks, num=num, exposure=exposure, algorithm=algorithm, repeats=repeats
    )
    print_report(report, json=json)


@app.command()
def view(
    viewers: Annotated[int, typer.Option(min=1, help="Pages that watch.")] = 3,
    rows: Rows = 16,
    columns: Columns = 256,
    ranks: Ranks = 2,
    num: Num = 360,
    repeats: Repeats = 3,
    json: Json = False,
) -> None:
    """Measure how old the live view's pictures are, and what it costs a scan that is as fast as it can be.

    The page's server and its viewers are processes of this computer, and take of its cores what they need.

    Example: `streamrecon bench view --viewers 3`
    """
    from bluesky_streamrecon.evaluation.bench.view import measure_view

    report = measure_view(viewers=viewers, rows=rows, columns=columns, ranks=ranks, num=num, repeats=repeats)
    print_report(report, json=json)


@app.command()
def publisher(rows: Rows = 2048, columns: Columns = 2048, num: Num = 200, json: Json = False) -> None:
    """Measure how long the publisher holds the RunEngine's thread, per projection of 16-bit pixels.

    Example: `streamrecon bench publisher --rows 2048 --columns 2048`
    """
    from bluesky_streamrecon.evaluation.bench.publisher import measure_publisher

    print_report(measure_publisher(rows=rows, columns=columns, projections=num), json=json)


@app.command()
def wire(
    rows: Rows = 2048,
    columns: Columns = 2048,
    num: Annotated[int, typer.Option(min=1, help="Frames per sample.")] = 100,
    receivers: Annotated[int, typer.Option(min=1, help="Receiving processes.")] = 2,
    repeats: Repeats = 3,
    json: Json = False,
) -> None:
    """Compare the link, to ranks that compute nothing, with plain ZeroMQ sockets and the same frames.

    Example: `streamrecon bench wire --num 100 --receivers 2`
    """
    from bluesky_streamrecon.evaluation.bench.wire import measure_wire

    report = measure_wire(rows=rows, columns=columns, frames=num, receivers=receivers, repeats=repeats)
    print_report(report, json=json)


@app.command(cls=ListCommand)
def memory(
    columns: Columns = 512,
    window: Window = 24,
    algorithm: Algorithms = None,
    backend: Backend = "cpu",
    json: Json = False,
) -> None:
    """Measure peak memory per voxel and per thread, beside what is documented (without margins).

    Without --algorithm: mlem, osem, pml-quadratic, pml-hybrid, sirt and art. With `--backend cuda`: a GPU's memory.

    Example: `streamrecon bench memory --columns 1024 --algorithm mlem pml-quadratic`
    """
    from bluesky_streamrecon.evaluation.bench.memory import ALGORITHMS, measure_memory

    report = measure_memory(columns=columns, window=window, algorithms=algorithm or ALGORITHMS, backend=backend)
    print_report(report, json=json)


@app.command()
def metrics(rows: Rows = 16, columns: Columns = 512, num: Num = 180, repeats: Repeats = 5, json: Json = False) -> None:
    """Measure what each metric of the image costs, against the projections that come meanwhile.

    *share* is the time of one measurement, on one core, per time of the updates between two: 1 keeps up just so
    with projections that come as fast as the default window can be updated on all cores.

    Example: `streamrecon bench metrics --rows 16 --columns 512`
    """
    from bluesky_streamrecon.evaluation.bench.metrics import measure_metrics

    print_report(measure_metrics(rows=rows, columns=columns, num=num, repeats=repeats), json=json)
