"""``streamrecon demo``: the main job, headless, from the first exposure to the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bluesky_streamrecon.cli._options import (
    Algorithm,
    AngleUnits,
    Backend,
    Columns,
    Json,
    Order,
    Preparation,
    Ranks,
    Rows,
    Step,
    Window,
    options_from,
)
from bluesky_streamrecon.cli._output import console, print_answer, show_progress

__all__ = ["demo"]

SIMULATED = (
    "rows", "columns", "axis", "half_acquisition", "fill", "tilt", "rings", "bad_columns", "zingers", "phase", "fading",
    "drift", "flat_drift", "counts",
)  # fmt: skip
"""Options that are arguments of `sim_beamline`."""


def demo(
    data: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A recorded scan to replay by angle.")
    ] = None,
    sample: Annotated[
        str, typer.Option(help="Simulated sample, without --data: foam, discs, shepp-logan, grains, fibres, ...")
    ] = "foam",
    num: Annotated[int, typer.Option(min=2, help="Projections planned (--data: those recorded).")] = 180,
    order: Order = "optimized-interleaved",
    algorithm: Algorithm = "mlem",
    ranks: Ranks = 2,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Score (MS-SSIM to an earlier image) at which the scan ends; 1 takes all. Default: by --tolerance."
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="Gain in MS-SSIM, of all projections that are left, below which the scan ends.")
    ] = 0.02,
    policy: Annotated[str | None, typer.Option(help="Stopping policy; 'a+b': both, 'a|b': one of them.")] = None,
    until: Annotated[str | None, typer.Option(help="When the scan ends at the latest: '18:30', or seconds.")] = None,
    dose: Annotated[float | None, typer.Option(help="Seconds of exposure after which it ends at the latest.")] = None,
    window: Window = 24,
    window_policy: Annotated[
        str, typer.Option(help="'spread': the newest, and older ones from all angles; 'newest' only, as in the paper.")
    ] = "spread",
    step: Step = 1,
    backend: Backend = "auto",
    bin: Annotated[int, typer.Option(min=1, help="Side of the blocks of pixels that are averaged.")] = 1,  # noqa: A002
    seed: Annotated[int, typer.Option(help="Seed of the simulated noise.")] = 0,
    rows: Rows = 16,
    columns: Columns = 256,
    axis: Annotated[float | None, typer.Option(help="Detector column of the simulated rotation axis.")] = None,
    half_acquisition: Annotated[
        bool, typer.Option("--half-acquisition", help="Axis near the detector's edge, scan over a full turn.")
    ] = False,
    fill: Annotated[
        float, typer.Option(help="Radius of the simulated sample over that of the view; above 1 it reaches out of it.")
    ] = 0.92,
    tilt: Annotated[float, typer.Option(help="Angle of the simulated axis to the detector's columns, degrees.")] = 0.0,
    rings: Annotated[
        float, typer.Option(help="Spread of the simulated pixels' gains that flats do not show: 0.02 makes rings.")
    ] = 0.0,
    bad_columns: Annotated[
        int, typer.Option(min=0, help="Simulated columns that are stuck, and as many that fluctuate.")
    ] = 0,
    zingers: Annotated[
        float, typer.Option(help="Simulated share of pixels that are far too bright; 0.001 is much.")
    ] = 0.0,
    phase: Annotated[
        str | None,
        typer.Option(
            help="Simulated fringes: delta_beta=200,energy=25,distance=60,pixel_size=1.5 (keV, mm, um).",
            callback=lambda text: options_from(text, "--phase") if text else None,
        ),
    ] = None,
    fading: Annotated[float, typer.Option(help="Share of the simulated beam that is lost during the scan.")] = 0.0,
    drift: Annotated[float, typer.Option(help="Pixels by which the simulated sample creeps along the row.")] = 0.0,
    flat_drift: Annotated[float, typer.Option(help="Pixels by which the beam's stripes move along the row.")] = 0.0,
    monitor: Annotated[bool, typer.Option(help="Normalise each frame by a simulated monitor of the beam.")] = False,
    preparation: Preparation = None,
    counts: Annotated[float, typer.Option(help="Simulated photons per pixel and frame in the open beam.")] = 1e4,
    out: Annotated[Path, typer.Option(help="Where the picture and all data go.")] = Path("streamrecon-demo"),
    angle_units: AngleUnits = None,
    json: Json = False,
) -> None:
    """Scan a sample, see it grow, stop when it is good enough: the whole loop on this computer.

    Leaves in --out a picture (demo.png), one of the finished volume (finished.png), the raw data, the reconstruction,
    and the catalogue of both.

    Example: `streamrecon demo --data tooth.h5 --ranks 2 --out /data/tooth`.
    Rehearse a scan with the axis near the detector's edge: `streamrecon demo --half-acquisition --num 360`; one with
    zingers and rings: `streamrecon demo --zingers 0.001 --rings 0.02 --preparation zingers rings`
    """
    options = locals() | {
        "until": float(until) if until and until.replace(".", "", 1).isdigit() else until,
        "preparation": preparation or (),
        "monitor": "monitor" if monitor else None,
    }
    from bluesky_streamrecon.evaluation.demo import run_demo

    show_progress()
    del options["json"]
    simulated = {name: options.pop(name) for name in SIMULATED}
    result = run_demo(**options, simulated=simulated | {"projections": num})
    console().print(f"{result['exit_status']}: {result['reason']}", markup=False, highlight=False)
    pictures = f"picture: {result['picture']}"
    if "finished" in result:
        pictures += f"\nfinished volume, beside the live image: {result['finished']['picture']}"
    print_answer(result, pictures, json=json)
    if result["exit_status"] != "success":
        raise typer.Exit(1)
