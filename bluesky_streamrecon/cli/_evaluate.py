"""``streamrecon evaluate``: the paper's figures and the study of stopping policies, as pictures and tables."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from bluesky_streamrecon.cli._bench import _ListCommand
from bluesky_streamrecon.cli._output import console, print_json, print_table

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Judge the method: figures as PNG and data as CSV in a directory.",
)

Out = Annotated[Path, typer.Option(help="Directory for figures and tables.")]
Data = Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Also a measured scan (DXfile).")]
Quick = Annotated[bool, typer.Option("--quick", help="Small images and few cases: to see that it works.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads that compute.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]


@app.command()
def orders(
    out: Out,
    data: Data = None,
    columns: Annotated[int, typer.Option(min=32, help="Detector columns of the simulated samples.")] = 256,
    counts: Annotated[float, typer.Option(min=1, help="Photons per pixel of the simulated scans.")] = 1e4,
    quick: Quick = False,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """How good the image is after so many projections, in each angle order (figure 3 of Bicer et al. 2017).

    Example: `streamrecon evaluate orders --out orders --data tooth.h5`
    """
    from bluesky_streamrecon.evaluation.orders import SHOWN_AT, evaluate_orders

    rows = evaluate_orders(
        out, columns=min(columns, 64) if quick else columns, data=data, num=40 if quick else 180, counts=counts,
        threads=threads, tell=_tell,
    )  # fmt: skip
    if json:
        print_json({"rows": [asdict(row) for row in rows]})
        return
    print_table(
        f"After {SHOWN_AT} projections (all figures: {out})",
        ["sample", "order", "image", "MS-SSIM to truth", "RMSE / range"],
        [(r.sample, r.order, r.image, r.ms_ssim, r.rmse) for r in rows if r.projections == SHOWN_AT],
    )


@app.command()
def steering(
    out: Out,
    data: Data = None,
    columns: Annotated[int, typer.Option(min=32, help="Detector columns of the foam that is followed.")] = 1024,
    study_columns: Annotated[int, typer.Option(min=32, help="Detector columns of the cases to stop.")] = 192,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each sample and noise level.")] = 5,
    held_out: Annotated[bool, typer.Option("--held-out", help="Also cases that nothing was tuned on.")] = False,
    tolerance: Annotated[float, typer.Option(help="Loss of MS-SSIM that is allowed.")] = 0.02,
    quick: Quick = False,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Where the scan would have stopped, and what that would have cost (figures 7 and 8, and more).

    The default policy and the paper's rule judge scans whose truth is known; the oracle knows it, too.

    Example: `streamrecon evaluate steering --out steering --data tooth.h5`
    """
    from bluesky_streamrecon.evaluation.steering import evaluate_steering

    found = evaluate_steering(
        out, data=data, columns=min(columns, 128) if quick else columns,
        study_columns=min(study_columns, 96) if quick else study_columns, seeds=1 if quick else seeds,
        held_out=held_out, tolerance=tolerance, threads=threads, tell=_tell,
    )  # fmt: skip
    if json:
        print_json(found.as_json())
        return
    print_table(
        f"MS-SSIM between live images (all figures: {out})",
        ["scan", "0.95 first reached at", "stays there from"],
        [(name, at["crossed"], at["stays"]) for name, at in found.curves.items()],
    )
    print_table(
        "Stopped at, and MS-SSIM lost",
        ["sample", "photons", "seed", "planned", "policy", "lost", "oracle", "paper", "lost"],
        [
            (
                c.sample,
                c.noise,
                c.seed,
                c.planned,
                c.stopped_at,
                c.quality_loss,
                c.oracle_stop,
                c.paper_stop,
                c.paper_loss,
            )
            for c in (*found.cases, *found.held_out)
        ],
    )
    summaries = [("all", found.summary)] + ([("held out", found.held_out_summary)] if found.held_out_summary else [])
    print_table(
        "Shares of 1",
        [
            "cases",
            "number",
            "median saving",
            "of the oracle's",
            "false stops",
            "worst loss",
            "in 95 % band",
            "paper: false",
        ],
        [
            (
                name,
                s.cases,
                s.median_saving,
                s.oracle_share,
                s.false_stops,
                s.worst_loss,
                s.calibrated_share,
                s.paper_false_stops,
            )
            for name, s in summaries
        ],
    )


@app.command()
def windows(
    out: Out,
    data: Data = None,
    columns: Annotated[int, typer.Option(min=32, help="Detector columns of the simulated samples.")] = 192,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each sample and noise level.")] = 2,
    quick: Quick = False,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Compare the window of newest projections with one that is spread over all angles so far, at the same cost.

    Example: `streamrecon evaluate windows --out windows --data tooth.h5`
    """
    from bluesky_streamrecon.evaluation.windows import evaluate_windows, summary

    rows = evaluate_windows(
        out, data=data, columns=min(columns, 64) if quick else columns, seeds=1 if quick else seeds,
        long=240 if quick else 720, threads=threads, tell=_tell,
    )  # fmt: skip
    if json:
        print_json({"rows": [asdict(row) for row in rows]})
        return
    print_table(
        f"MS-SSIM of the live image to the truth (all figures: {out})",
        ["scans", "window", "n", "s", "cases", "mean over the scan", "last image", "largest dip"],
        summary(rows),
    )


@app.command()
def defaults(
    out: Out,
    columns: Annotated[int, typer.Option(min=32, help="Detector columns of the simulated samples.")] = 192,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each sample and noise level.")] = 1,
    quick: Quick = False,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Change the live reconstruction's defaults one after the other: what a window holds and keeps, iterations, ...

    Example: `streamrecon evaluate defaults --out defaults`
    """
    from bluesky_streamrecon.evaluation.defaults import evaluate_defaults, in_short

    rows = evaluate_defaults(
        out, columns=min(columns, 48) if quick else columns, seeds=1 if quick else seeds,
        long=190 if quick else 720, threads=threads, tell=_tell,
    )  # fmt: skip
    if json:
        print_json({"rows": [asdict(row) for row in rows]})
        return
    found = in_short(rows)
    for question in dict.fromkeys(line[0] for line in found):
        mine = {(case, choice): f"{mean:.3f}, {end:.3f}" for of, case, choice, mean, end in found if of == question}
        cases, choices = (list(dict.fromkeys(key[k] for key in mine)) for k in (0, 1))
        print_table(
            f"{question}: MS-SSIM to the truth, mean over the scan and last image (as data: {out})",
            ["scans", *choices],
            [(case, *(mine.get((case, choice), "") for choice in choices)) for case in cases],
        )


@app.command()
def projector(
    out: Out,
    data: Data = None,
    columns: Annotated[int, typer.Option(min=32, help="Detector columns of the simulated samples.")] = 256,
    num: Annotated[int, typer.Option(min=2, help="Projections of the simulated scans.")] = 180,
    quick: Quick = False,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Compare the fast projector with exact line integrals, in all algorithms, after 20 iterations.

    *averaged* line integrals are the mean of three rays in each column. Line integrals are slow: minutes.

    Example: `streamrecon evaluate projector --out projector --data tooth.h5`
    """
    from bluesky_streamrecon.evaluation.projector import evaluate_projector

    rows = evaluate_projector(
        out, data=data, columns=min(columns, 48) if quick else columns, projections=min(num, 40) if quick else num,
        threads=threads, tell=_tell,
    )  # fmt: skip
    if json:
        print_json({"rows": [asdict(row) for row in rows]})
        return
    print_table(
        f"Error over the truth's size (as data: {out})",
        ["sample", "photons", "algorithm", "fast", "lines", "averaged", "fast / lines - 1"],
        [(r.sample, r.noise, r.algorithm, r.fast, r.lines, r.averaged, f"{r.excess:+.1%}") for r in rows],
    )


@app.command(cls=_ListCommand)
def rates(
    out: Out,
    columns: Annotated[
        list[int] | None, typer.Option(min=16, metavar="C...", help="Detector columns.  [default: 256 512 1024 2048]")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Detector rows.")] = 16,
    repeats: Annotated[int, typer.Option(min=3, help="Samples of each rate; their median counts.")] = 3,
    distributed: Annotated[bool, typer.Option(help="Also through sockets and MPI ranks.")] = True,
    quick: Quick = False,
    json: Json = False,
) -> None:
    """Projections per second over sizes, windows and steps, predicted from one point (figures 5 and 6).

    Example: `streamrecon evaluate rates --out rates --columns 256 512 --rows 16`
    """
    from bluesky_streamrecon.evaluation.rates import evaluate_rates

    found = evaluate_rates(
        out, columns=columns or ((64, 128) if quick else (256, 512, 1024, 2048)), rows=rows,
        repeats=repeats, distributed=distributed and not quick, tell=_tell,
    )  # fmt: skip
    if json:
        print_json({"rows": [asdict(row) for row in found]})
        return
    print_table(
        f"Projections per second (all figures: {out})",
        [
            "mode",
            "algorithm",
            "rows",
            "C",
            "l",
            "s",
            "ranks",
            "threads",
            "measured",
            "predicted",
            "predicted / measured",
        ],
        [
            (
                r.mode,
                r.algorithm,
                r.rows,
                r.columns,
                r.window,
                r.step,
                r.ranks,
                r.threads,
                r.measured,
                r.predicted,
                r.ratio,
            )
            for r in found
        ],
    )


def _tell(text: str) -> None:
    console.print(escape(text), highlight=False)
