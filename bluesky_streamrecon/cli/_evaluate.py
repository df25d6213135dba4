"""``streamrecon evaluate``: the paper's figures and studies of the method, as pictures and tables in a directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bluesky_streamrecon.cli._options import (
    Columns,
    ColumnsList,
    Data,
    Json,
    ListCommand,
    Out,
    Quick,
    Repeats,
    Rows,
    Seeds,
    Threads,
)
from bluesky_streamrecon.cli._output import print_report, show_progress

if TYPE_CHECKING:
    from bluesky_streamrecon.evaluation.report import Report

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    callback=show_progress,
    help="Judge the method: figures as PNG and data as CSV in a directory.",
)


@app.command()
def orders(
    out: Out,
    data: Data = None,
    columns: Columns = 256,
    counts: Annotated[float, typer.Option(min=1, help="Photons per pixel of the simulated scans.")] = 1e4,
    quick: Quick = False,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """How good the image is after so many projections, in each angle order (figure 3 of Bicer et al. 2017).

    Example: `streamrecon evaluate orders --out orders --data tooth.h5`
    """
    from bluesky_streamrecon.evaluation.orders import evaluate_orders

    small = {"columns": min(columns, 64), "num": 40} if quick else {"columns": columns}
    _run(out, json, lambda: evaluate_orders(data=data, counts=counts, threads=threads, **small))


@app.command(cls=ListCommand)
def steering(
    out: Out,
    data: Data = None,
    columns: Annotated[int, typer.Option(min=32, help="Detector columns of the foam that is followed.")] = 1024,
    study_columns: Annotated[int, typer.Option(min=32, help="Detector columns of the cases to stop.")] = 192,
    seeds: Seeds = 5,
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--kinds", metavar="KIND...", help="Samples: ellipses (default), held-out, interior, texture, grains, ..."
        ),
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Loss of MS-SSIM that is allowed.")] = 0.02,
    quick: Quick = False,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Where the scan would have stopped, and what that would have cost (figures 7 and 8, and more).

    The default policy and the paper's rule judge scans whose truth is known; the oracle knows it, too.

    Example: `streamrecon evaluate steering --out steering --data tooth.h5`, or with `--kinds held-out texture grains`
    """
    from bluesky_streamrecon.evaluation.steering import evaluate_steering

    if quick:
        columns, study_columns, seeds = min(columns, 128), min(study_columns, 96), 1  # of kinds, all but the widest
    _run(
        out,
        json,
        lambda: evaluate_steering(
            data=data,
            columns=columns,
            study_columns=study_columns,
            seeds=seeds,
            tolerance=tolerance,
            threads=threads,
            **({"kinds": kinds} if kinds else {}),
        ),
    )


@app.command(cls=ListCommand)
def rates(
    out: Out,
    columns: ColumnsList = None,
    rows: Rows = 16,
    repeats: Repeats = 3,
    distributed: Annotated[bool, typer.Option(help="Also through sockets and MPI ranks.")] = True,
    quick: Quick = False,
    json: Json = False,
) -> None:
    """Projections per second over sizes, windows and steps, predicted from one point (figures 5 and 6).

    Example: `streamrecon evaluate rates --out rates --columns 256 512 --rows 16`
    """
    from bluesky_streamrecon.evaluation.rates import evaluate_rates

    chosen = columns or ((64, 128) if quick else (256, 512, 1024, 2048))
    _run(
        out,
        json,
        lambda: evaluate_rates(columns=chosen, rows=rows, repeats=repeats, distributed=distributed and not quick),
    )


def _run(out: Path, json: bool, study: Callable[[], Report]) -> None:
    """Make the directory, then the study, which may take hours; write and print what it found."""
    from bluesky_streamrecon.evaluation.report import new_directory

    new_directory(out)
    report = study()
    report.write(out)
    print_report(report, json=json)
    if not json:
        print(f"figures and data: {out}")
