"""``streamrecon orders``: what each angle order would cover, travel and take, before the scan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bluesky_streamrecon.cli._options import Json
from bluesky_streamrecon.cli._output import console, print_json, print_table

__all__ = ["orders"]


def orders(
    num: Annotated[int, typer.Option(min=1, help="Number of angles.")] = 180,
    span: Annotated[tuple[float, float], typer.Option(metavar="START STOP", help="Range [start, stop), degrees.")] = (
        0.0,
        180.0,
    ),
    velocity: Annotated[float, typer.Option(help="Stage velocity, degrees per second.")] = 90.0,
    acceleration_time: Annotated[float, typer.Option(help="Seconds from rest to full velocity.")] = 0.1,
    exposure: Annotated[float, typer.Option(help="Seconds per projection, readout included.")] = 0.1,
    backlash: Annotated[float, typer.Option(help="Overshoot of downward moves, degrees.")] = 0.0,
    order: Annotated[
        list[str] | None, typer.Option(help="An order to list, for instance 'interleaved(7)'; may be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also draw coverage and visiting order into this PNG.")] = None,
    json: Json = False,
) -> None:
    """Compare angle orders before the scan: coverage, stage travel and time.

    *worst gap* is the largest angular gap over the ideal one, at its worst from the 8th projection on.

    Example: `streamrecon orders --num 180 --velocity 45 --exposure 0.5`
    """
    from bluesky_streamrecon.ordering import make_order, order_names

    chosen = [make_order(name, num=num, start=span[0], stop=span[1]) for name in order or order_names()]
    rows = [
        {
            "name": o.name,
            "worst_gap_ratio": o.worst_gap_ratio(),
            "travel": o.travel(backlash=backlash),
            "seconds": o.seconds(
                velocity=velocity, acceleration_time=acceleration_time, exposure=exposure, backlash=backlash
            ),
        }
        for o in chosen
    ]
    if out is not None:
        from bluesky_streamrecon.evaluation.orders import draw_orders
        from bluesky_streamrecon.evaluation.report import save_figure

        save_figure(draw_orders(chosen), out)
        console().print(f"drawn into {out}")
    if json:
        print_json({"orders": rows})
        return
    print_table(
        f"{num} angles of [{span[0]:g}, {span[1]:g}) degrees",
        ["order", "worst gap (x ideal)", "travel (deg)", "time (s)"],
        [(r["name"], r["worst_gap_ratio"], r["travel"], r["seconds"]) for r in rows],
    )
