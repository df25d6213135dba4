"""``streamrecon bench``: what the parts do per second on this computer, next to what it could do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
import typer.core
from rich.markup import escape

from bluesky_streamrecon.cli._output import console, print_json, print_table

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Measure the parts on this computer, each next to a yardstick taken in the same run.",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
Repeats = Annotated[int, typer.Option(min=3, help="Samples of each figure; their median and spread are told.")]
Disc = Annotated[bool, typer.Option("--disc", help="Reconstruct the inscribed disc only.")]


class _ListCommand(typer.core.TyperCommand):
    """Takes ``--columns 256 1024`` as ``--columns 256 --columns 1024``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        many = {name for param in self.params if getattr(param, "multiple", False) for name in param.opts}
        spread: list[str] = []
        option = None
        for word in args:
            if option is not None and not word.startswith("-"):
                spread += [option, word]
                continue
            name, _, value = word.partition("=")
            option = name if name in many else None
            if option is None:
                spread.append(word)
            elif value:
                spread += [option, value]
        rest: list[str] = super().parse_args(ctx, spread)
        return rest


@app.command(cls=_ListCommand)
def kernels(
    columns: Annotated[
        list[int] | None, typer.Option(min=2, metavar="C...", help="Detector columns.  [default: 256 1024]")
    ] = None,
    window: Annotated[
        list[int] | None, typer.Option(min=1, metavar="L...", help="Projections in the window.  [default: 24]")
    ] = None,
    threads: Annotated[list[int] | None, typer.Option(min=1, metavar="T...", help="Threads.  [default: 1]")] = None,
    algorithm: Annotated[
        list[str] | None,
        typer.Option(metavar="A...", help="Algorithms.  [default: mlem pml-quadratic pml-hybrid sirt]"),
    ] = None,
    slices: Annotated[int, typer.Option(min=1, help="Detector rows.")] = 16,
    repeats: Repeats = 5,
    json: Json = False,
) -> None:
    """Measure projection of a window, forward and back, in 1e9 updates per second (GUPS).

    GUPS is slices x window x columns² x 2 / seconds / 1e9; *moving* is with a new projection before each update, as in
    a scan; */ GFMA* is the ratio to this processor's multiply-adds, taken in turns.

    Example: `streamrecon bench kernels --columns 256 1024 --threads 1 2`
    """
    from bluesky_streamrecon.evaluation.bench.kernels import ALGORITHMS, measure_kernels

    result = measure_kernels(
        columns=columns or (256, 1024),
        windows=window or (24,),
        threads=threads or (1,),
        algorithms=algorithm or ALGORITHMS,
        slices=slices,
        repeats=repeats,
        tell=_tell,
    )
    if json:
        print_json(asdict(result))
        return
    print_table(
        f"Multiply-adds of one thread: {result.probe_gfma:.3g} GFMA/s (spread {result.probe_spread:.0%})",
        ["data in", "KiB", "1e9 load-add-multiply-adds/s"],
        [(row.level, row.kibibytes, row.gupdates) for row in result.streams],
    )
    names = ("algorithm", "columns", "window", "slices", "threads", "gups", "spread", "gups_moving", "gups_per_gfma")
    headings = ["algorithm", "C", "l", "slices", "threads", "GUPS", "spread", "moving", "/ GFMA"]
    _table("Kernels: C columns, window l", names, headings, result.rows)


@app.command(cls=_ListCommand)
def peers(
    columns: Annotated[
        list[int] | None, typer.Option(min=8, metavar="C...", help="Detector columns.  [default: 512]")
    ] = None,
    window: Annotated[int, typer.Option(min=1, help="Projections.")] = 24,
    code: Annotated[
        list[str] | None,
        typer.Option(metavar="CODE...", help="astra, svmbir, tomopy.  [default: the first two; tomopy if installed]"),
    ] = None,
    repeats: Repeats = 3,
    json: Json = False,
) -> None:
    """Compare iterations of other codes with ours, on one core, in turns.

    Needs `pip install 'bluesky-streamrecon[bench]'`. *ours / this* compares with our SIRT.

    Example: `streamrecon bench peers --columns 512 1024`
    """
    from bluesky_streamrecon.evaluation.bench.peers import compare_peers, ratio_to

    rows = compare_peers(columns=columns or (512,), window=window, codes=code or None, repeats=repeats, tell=_tell)
    if json:
        ratios = {str(key): value for key, value in ratio_to(rows, "astra").items()}
        print_json({"rows": [asdict(row) for row in rows], "ratio_to_astra": ratios})
        return
    names = ("code", "version", "method", "columns", "threads", "gups", "spread", "ratio")
    headings = ["code", "version", "method", "C", "threads", "GUPS", "spread", "ours / this"]
    _table("The same work on one core, C columns", names, headings, rows)


@app.command()
def pipeline(
    rows: Annotated[int, typer.Option(min=1, help="Detector rows.")] = 100,
    columns: Annotated[int, typer.Option(min=2, help="Detector columns.")] = 1024,
    window: Annotated[int, typer.Option(min=1, help="Projections in the window.")] = 12,
    step: Annotated[int, typer.Option(min=1, help="New projections between two images.")] = 12,
    ranks: Annotated[int, typer.Option(min=1, help="MPI ranks.")] = 2,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads per rank; default: its share of cores.")] = None,
    num: Annotated[int, typer.Option(min=3, help="Projections of a run.")] = 180,
    algorithm: Annotated[str, typer.Option(help="Reconstruction algorithm.")] = "mlem",
    disc: Disc = False,
    repeats: Repeats = 3,
    json: Json = False,
) -> None:
    """Measure projections per second all the way: publisher, link, MPI ranks, window, previews, score.

    The kernels alone, with as many threads, are measured in turns with it. The defaults are the case of Bicer et al.
    2017.

    Example: `streamrecon bench pipeline --rows 100 --columns 1024 --window 12 --step 12 --ranks 2`
    """
    from bluesky_streamrecon.evaluation.bench.pipeline import measure_pipeline

    result = measure_pipeline(
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
        tell=_tell,
    )
    if json:
        print_json(asdict(result))
        return
    shape = "inscribed disc" if disc else "full square"
    print_table(
        f"{num} projections of {rows} x {columns}, {shape}, {algorithm}, l = {window}, s = {step}, {ranks} ranks of "
        f"{result.threads} threads",
        ["what", "value", "unit"],
        [
            ("sustained", result.projections_per_second, f"projections/s, spread {result.spread:.0%}"),
            ("kernels alone", result.kernel_projections_per_second, "projections/s"),
            ("share of the kernels", result.kernel_share, ""),
            ("the same in processor time", result.processor_share, ""),
            ("projection to image", result.image_latency_median, f"s, 99 %: {result.image_latency_p99:.3g}"),
            ("projection to score", result.latency_median, f"s, 99 %: {result.latency_p99:.3g}"),
            ("images scored", f"{result.scores} of {result.images}", ""),
        ],
    )


@app.command()
def ready(
    rows: Annotated[int, typer.Option(min=1, help="Detector rows.")] = 16,
    columns: Annotated[int, typer.Option(min=2, help="Detector columns.")] = 512,
    ranks: Annotated[int, typer.Option(min=1, help="MPI ranks.")] = 2,
    algorithm: Annotated[str, typer.Option(help="Reconstruction algorithm.")] = "mlem",
    repeats: Repeats = 3,
    json: Json = False,
) -> None:
    """Measure how long a job takes from its start until it waits for projections.

    *Cold* is the first job on a computer, which compiles the kernels; *warm* any job after it.

    Example: `streamrecon bench ready --ranks 2`
    """
    from bluesky_streamrecon.evaluation.bench.ready import measure_ready

    result = measure_ready(rows=rows, columns=columns, ranks=ranks, algorithm=algorithm, repeats=repeats, tell=_tell)
    if json:
        print_json(asdict(result))
        return
    print_table(
        f"{ranks} ranks and a controller, {algorithm}, {rows} x {columns}",
        ["what", "seconds", "spread"],
        [
            ("linked", result.hello_seconds, ""),
            ("ready, warm", result.warm_seconds, f"{result.warm_spread:.0%}"),
            ("ready, cold", result.cold_seconds, f"{result.cold_spread:.0%}"),
        ],
    )


@app.command()
def latency(
    rows: Annotated[int, typer.Option(min=1, help="Detector rows.")] = 16,
    columns: Annotated[int, typer.Option(min=2, help="Detector columns.")] = 512,
    ranks: Annotated[int, typer.Option(min=1, help="MPI ranks.")] = 2,
    num: Annotated[int, typer.Option(min=50, help="Projections of a scan.")] = 120,
    exposure: Annotated[float, typer.Option(min=0.001, max=10, help="Seconds per projection.")] = 0.1,
    algorithm: Annotated[str, typer.Option(help="Reconstruction algorithm.")] = "mlem",
    repeats: Repeats = 3,
    json: Json = False,
) -> None:
    """Measure the time from the end of an exposure to the decision whether to end the scan.

    With default settings otherwise; documents go through publisher, job and controller as in a scan, without a
    RunEngine. *In updates* is the ratio to one update of the image in the same scan.

    Example: `streamrecon bench latency --columns 512 --rows 16 --ranks 2`
    """
    from bluesky_streamrecon.evaluation.bench.latency import measure_latency

    result = measure_latency(
        rows=rows,
        columns=columns,
        ranks=ranks,
        num=num,
        exposure=exposure,
        algorithm=algorithm,
        repeats=repeats,
        tell=_tell,
    )
    if json:
        print_json(asdict(result))
        return
    print_table(
        f"{num} projections of {rows} x {columns}, {exposure:g} s each, {algorithm}, {ranks} ranks",
        ["what", "value", "unit"],
        [
            ("exposure to decision", result.latency_median, f"s, 99 %: {result.latency_p99:.3g}"),
            ("one update of the image", result.update_seconds, "s"),
            ("in updates", result.updates_per_latency, f"spread {result.spread:.0%}"),
            ("images judged", f"{result.judged} of {result.images}", ""),
        ],
    )


@app.command()
def view(
    viewers: Annotated[int, typer.Option(min=1, help="Pages that watch.")] = 3,
    rows: Annotated[int, typer.Option(min=1, help="Detector rows.")] = 16,
    columns: Annotated[int, typer.Option(min=16, help="Detector columns.")] = 256,
    ranks: Annotated[int, typer.Option(min=1, help="MPI ranks.")] = 2,
    num: Annotated[int, typer.Option(min=24, help="Projections of a scan.")] = 360,
    repeats: Repeats = 3,
    json: Json = False,
) -> None:
    """Measure how old the live view's pictures are, and what it costs a scan that is as fast as it can be.

    The page's server and its viewers are processes of this computer, and take of its cores what they need.

    Example: `streamrecon bench view --viewers 3`
    """
    from bluesky_streamrecon.evaluation.bench.view import measure_view

    result = measure_view(
        viewers=viewers, rows=rows, columns=columns, ranks=ranks, num=num, repeats=repeats, tell=_tell
    )
    if json:
        print_json(asdict(result))
        return
    print_table(
        f"{num} projections of {rows} x {columns}, {ranks} ranks, {viewers} viewers",
        ["what", "value", "unit"],
        [
            ("image to viewer", result.median_delay, f"s, 99 %: {result.p99_delay:.3g}, {result.pictures} pictures"),
            ("not watched", result.projections_per_second, "projections/s"),
            ("watched / not watched", result.rate_ratio, f"spread {result.spread:.0%}"),
        ],
    )


@app.command()
def publisher(
    rows: Annotated[int, typer.Option(min=1, help="Detector rows.")] = 2048,
    columns: Annotated[int, typer.Option(min=1, help="Detector columns.")] = 2048,
    num: Annotated[int, typer.Option(min=1, help="Projections for each kind of detector.")] = 200,
    json: Json = False,
) -> None:
    """Measure how long the publisher holds the RunEngine's thread, per projection of 16-bit pixels.

    Example: `streamrecon bench publisher --rows 2048 --columns 2048`
    """
    from bluesky_streamrecon.evaluation.bench.publisher import measure_publisher

    result = measure_publisher(rows=rows, columns=columns, projections=num, tell=_tell)
    if json:
        print_json(asdict(result))
        return
    names = ("detector", "projections", "median_ms", "p99_ms", "maximum_ms")
    headings = ["detector", "projections", "median (ms)", "99 % (ms)", "longest (ms)"]
    _table(f"Publisher, {result.frame_bytes:,} bytes per projection", names, headings, result.rows)


@app.command()
def wire(
    rows: Annotated[int, typer.Option(min=1, help="Detector rows.")] = 2048,
    columns: Annotated[int, typer.Option(min=1, help="Detector columns.")] = 2048,
    num: Annotated[int, typer.Option(min=1, help="Frames per sample.")] = 100,
    receivers: Annotated[int, typer.Option(min=1, help="Receiving processes.")] = 2,
    repeats: Repeats = 3,
    json: Json = False,
) -> None:
    """Compare the link, to ranks that compute nothing, with plain ZeroMQ sockets and the same frames.

    Example: `streamrecon bench wire --num 100 --receivers 2`
    """
    from bluesky_streamrecon.evaluation.bench.wire import measure_wire

    result = measure_wire(rows=rows, columns=columns, frames=num, receivers=receivers, repeats=repeats, tell=_tell)
    if json:
        print_json(asdict(result))
        return
    plain = (result.gigabytes_per_second_bare, result.share_of_bare)
    curve = (result.gigabytes_per_second_bare_curve, result.share_of_bare_curve)
    print_table(
        f"{num} frames of {result.frame_bytes:,} bytes to {receivers} processes",
        ["", "link (GB/s)", "plain sockets (GB/s)", "share"],
        [("open", result.gigabytes_per_second, *plain), ("CURVE", result.gigabytes_per_second_curve, *curve)],
    )


@app.command(cls=_ListCommand)
def memory(
    columns: Annotated[int, typer.Option(min=2, help="Detector columns.")] = 512,
    window: Annotated[int, typer.Option(min=2, help="Projections in the window.")] = 24,
    algorithm: Annotated[
        list[str] | None, typer.Option(metavar="A...", help="Algorithms.  [default: six of them]")
    ] = None,
    json: Json = False,
) -> None:
    """Measure peak memory per voxel and per thread, beside what is documented (without margins).

    Example: `streamrecon bench memory --columns 1024 --algorithm mlem pml-quadratic`
    """
    from bluesky_streamrecon.evaluation.bench.memory import ALGORITHMS, measure_memory

    rows = measure_memory(columns=columns, window=window, algorithms=algorithm or ALGORITHMS, tell=_tell)
    if json:
        print_json({"rows": [asdict(row) for row in rows]})
        return
    names = ("algorithm", "bytes_per_voxel", "documented_per_voxel", "bytes_per_thread", "documented_per_thread")
    headings = ["algorithm", "bytes/voxel", "documented", "bytes/thread", "documented"]
    _table(f"{columns} columns, window {window}, window's projections included", names, headings, rows)


@app.command()
def metrics(
    rows: Annotated[int, typer.Option(min=1, help="Detector rows.")] = 16,
    columns: Annotated[int, typer.Option(min=64, help="Detector columns.")] = 512,
    num: Annotated[int, typer.Option(min=96, help="Projections planned.")] = 180,
    repeats: Repeats = 5,
    json: Json = False,
) -> None:
    """Measure what each metric of the image costs, against the projections that come meanwhile.

    *share* is the time of one measurement, on one core, per time of the updates between two: 1 keeps up just so
    with projections that come as fast as the default window can be updated on all cores.

    Example: `streamrecon bench metrics --rows 16 --columns 512`
    """
    from bluesky_streamrecon.evaluation.bench.metrics import measure_metrics

    result = measure_metrics(rows=rows, columns=columns, num=num, repeats=repeats, tell=_tell)
    if json:
        print_json(asdict(result))
        return
    names = ("metric", "seconds", "spread", "every", "share")
    _table(
        f"{rows} x {columns} pixels; an update takes {result.update_seconds * 1e3:.3g} ms on {result.cores} cores",
        names,
        ["metric", "s", "spread", "projections between", "share"],
        result.metrics,
    )


def _table(title: str, names: Sequence[str], headings: Sequence[str], rows: Sequence[object]) -> None:
    def cell(row: object, name: str) -> object:
        value = getattr(row, name)
        return f"{value:.0%}" if name == "spread" else value

    print_table(title, headings, [[cell(row, name) for name in names] for row in rows])


def _tell(text: str) -> None:
    console.print(escape(text), highlight=False)
