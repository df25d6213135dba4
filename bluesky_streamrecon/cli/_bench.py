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
    MeasuredBackend,
    Num,
    Preparation,
    Ranks,
    Repeats,
    Rows,
    Step,
    Window,
)
from bluesky_streamrecon.cli._output import prints_report, show_progress

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    callback=show_progress,
    help="Measure the parts on this computer, each next to a yardstick taken in the same run.",
)


@app.command(cls=ListCommand)
@prints_report("bench.kernels", "measure_kernels", window="windows", algorithm="algorithms")
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


@app.command(cls=ListCommand)
@prints_report("bench.peers", "compare_peers")
def peers(
    columns: ColumnsList = None,
    window: Window = 24,
    backend: MeasuredBackend = "cpu",
    repeats: Repeats = 3,
    json: Json = False,
) -> None:
    """Compare iterations of ASTRA's SIRT with ours, on one core or one GPU, in turns; at 512 columns without options.

    Needs `pip install 'bluesky-streamrecon[bench]'`. *ours / this* compares with our SIRT.

    Example: `streamrecon bench peers --columns 512 1024`
    """


@app.command(cls=ListCommand)
@prints_report("bench.pipeline", "measure_pipeline", num="projections")
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
    exposure: Annotated[
        float | None,
        typer.Option(min=0.001, max=10, help="Seconds per projection, for latency; default: 1.25 x what it takes."),
    ] = None,
    policy: Annotated[str, typer.Option(help="Stopping policy that judges the images.")] = "ms-ssim",
    backend: Backend = "cpu",
    preparation: Preparation = None,
    repeats: Repeats = 3,
    json: Json = False,
) -> None:
    """Measure projections per second all the way: publisher, link, MPI ranks, window, previews, score.

    The kernels alone, with as many threads, are measured in turns with it, and then the time from the end of an
    exposure to its score, the decision whether to end the scan. The defaults are the case of Bicer et al. 2017.
    `paganin` without options has a kernel of 4.6 pixels.

    Example: `streamrecon bench pipeline --rows 100 --columns 1024 --window 12 --step 12 --ranks 2`, and with default
    settings of a scan `--rows 16 --columns 512 --window 24 --step 1 --exposure 0.1 --policy predicted-gain`
    """


@app.command(cls=ListCommand)
@prints_report("bench.view", "measure_view")
def view(
    viewers: Annotated[list[int] | None, typer.Option(min=1, metavar="N...", help="Pages that watch.")] = None,
    rows: Rows = 2,
    columns: Columns = 2048,
    ranks: Ranks = 1,
    num: Num = 150,
    exposure: Annotated[float, typer.Option(min=0.001, max=10, help="Seconds per projection.")] = 0.1,
    repeats: Repeats = 3,
    json: Json = False,
) -> None:
    """Measure how old the live view's pictures are, and what watching costs a scan, without viewers and with 1 and 5.

    The detector sets the pace, ten projections a second; each makes an image, by an update that is quick: of 2 slices,
    by one projection. So there is room on this computer for what would be others': the page's server, and the viewers,
    a process each. Of five viewers one is then killed and one stopped. *processor* is the time of
    beamline, job and controller alone, per image.

    Example: `streamrecon bench view --viewers 1 5`
    """


@app.command()
@prints_report("bench.publisher", "measure_publisher", num="projections")
def publisher(rows: Rows = 2048, columns: Columns = 2048, num: Num = 200, json: Json = False) -> None:
    """Measure how long the publisher holds the RunEngine's thread, per projection of 16-bit pixels.

    Example: `streamrecon bench publisher --rows 2048 --columns 2048`
    """


@app.command()
@prints_report("bench.wire", "measure_wire", num="frames")
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


@app.command(cls=ListCommand)
@prints_report("bench.memory", "measure_memory", algorithm="algorithms")
def memory(
    columns: Columns = 512,
    window: Window = 24,
    algorithm: Algorithms = None,
    backend: MeasuredBackend = "cpu",
    json: Json = False,
) -> None:
    """Measure peak memory per voxel and per thread, beside what is documented (without margins).

    Without --algorithm: mlem, osem, pml-quadratic, pml-hybrid, sirt and art. With `--backend cuda`: a GPU's memory.

    Example: `streamrecon bench memory --columns 1024 --algorithm mlem pml-quadratic`
    """
