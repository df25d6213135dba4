"""``streamrecon evaluate``: the paper's figures and studies of the method, as pictures and tables in a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bluesky_streamrecon.cli._options import Columns, ColumnsList, Json, ListCommand, Num, Repeats, Rows, Threads
from bluesky_streamrecon.cli._output import prints_report, show_progress

__all__ = ["app"]

Out = Annotated[Path, typer.Option(help="Directory for figures and tables.")]
Data = Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Also a measured scan (a file).")]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    callback=show_progress,
    help="Judge the method: figures as PNG and data as CSV in a directory.",
)


@app.command()
@prints_report("orders", "evaluate_orders")
def orders(
    out: Out,
    data: Data = None,
    columns: Columns = 256,
    num: Num = 180,
    counts: Annotated[float, typer.Option(min=1, help="Photons per pixel of the simulated scans.")] = 1e4,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """How good the image is after so many projections, in each angle order (figure 3 of Bicer et al. 2017).

    Example: `streamrecon evaluate orders --out orders --data tooth.h5`, or quickly `--columns 64 --num 40`
    """


@app.command(cls=ListCommand)
@prints_report("steering", "evaluate_steering")
def steering(
    out: Out,
    data: Data = None,
    columns: Annotated[int, typer.Option(min=32, help="Detector columns of the foam that is followed.")] = 1024,
    study_columns: Annotated[int, typer.Option(min=32, help="Detector columns of the cases to stop.")] = 192,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each sample and noise level.")] = 5,
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--kinds", metavar="KIND...", help="Samples: ellipses (default), held-out, interior, texture, grains, ..."
        ),
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Loss of MS-SSIM that is allowed.")] = 0.02,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Where the scan would have stopped, and what that would have cost (figures 7 and 8, and more).

    The default policy and the paper's rule judge scans whose truth is known; the oracle knows it, too.

    Example: `streamrecon evaluate steering --out steering --data tooth.h5`, or with `--kinds held-out texture grains`,
    or quickly `--columns 128 --study-columns 96 --seeds 1`
    """


@app.command(cls=ListCommand)
@prints_report("rates", "evaluate_rates")
def rates(
    out: Out,
    columns: ColumnsList = None,
    rows: Rows = 16,
    repeats: Repeats = 3,
    distributed: Annotated[bool, typer.Option(help="Also through sockets and MPI ranks.")] = True,
    json: Json = False,
) -> None:
    """Projections per second over sizes, windows and steps, predicted from one point (figures 5 and 6).

    Example: `streamrecon evaluate rates --out rates --columns 256 512 --rows 16`, or quickly `--columns 64 128
    --no-distributed`
    """
