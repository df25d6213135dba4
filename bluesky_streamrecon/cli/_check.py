"""``streamrecon check`` and ``streamrecon config``: what is set, and whether it works."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bluesky_streamrecon.cli._options import Json
from bluesky_streamrecon.cli._output import console, print_json, print_table

__all__ = ["app", "check"]

app = typer.Typer(no_args_is_help=True, help="Look at the configuration.")

Config = Annotated[
    Path | None,
    typer.Option(
        "--config", help="Configuration; default: $STREAMRECON_CONFIG, then ~/.config/bluesky-streamrecon/config.toml."
    ),
]
COLOURS = {"OK": "green", "TIMEOUT": "yellow", "ERROR": "red"}


def check(
    config: Config = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for any one thing.")] = 60.0,
    devices: Annotated[
        Path | None,
        typer.Option(
            "--devices",
            metavar="FILE",
            help="Python file that makes stage, detector, shutter and sample_table, as the profile's 20-…-devices.py.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Try every piece that a scan needs: packages, keys, ports, MPI, the job, its link and clock, disk, Tiled.

    Each is OK, TIMEOUT or ERROR, with what to do. Exit status 1 if anything is not OK.

    With `--devices`, each device is tried, too: it does not move, and a detector takes one exposure.

    Example: `streamrecon check --config beamline.toml --devices devices.py`
    """
    from dataclasses import asdict

    from rich.markup import escape

    from bluesky_streamrecon.diagnosis import check_setup

    items: list[Any] = []
    with console.status("") as status:
        for item in check_setup(config, patience=timeout, on_begin=lambda name: status.update(f"{name} …")):
            items.append(item)
            colour = COLOURS[item.status]
            line = f"[{colour}]{item.status:>7}[/]  {item.name:<13}  {escape(item.hint)}"
            console.print(line, highlight=False, soft_wrap=True)
    if devices is not None:
        items += _check_devices(devices, config)
    if json:
        print_json({"items": [asdict(item) for item in items]})
    bad = [item.name for item in items if item.status != "OK"]
    if bad:
        console.print(f"streamrecon: {len(bad)} of {len(items)} checks failed: {', '.join(bad)}", highlight=False)
        raise typer.Exit(1)


def _check_devices(path: Path, config: Path | None) -> list[Any]:
    """Run a file that makes devices, and try them."""
    import runpy

    from rich.markup import escape

    from bluesky_streamrecon.config_file import load_config_file
    from bluesky_streamrecon.errors import ConfigError
    from bluesky_streamrecon.evaluation.engines import run_engine
    from bluesky_streamrecon.plans import check_devices_plan

    known = {"configuration": load_config_file(config), "tiled_writer": lambda *_: None}
    with run_engine(context_managers=[]) as RE:
        made = runpy.run_path(str(path), init_globals=known | {"RE": RE})
        detectors = made.get("detectors") or made.get("detector")
        if detectors is None or made.get("stage") is None:
            raise ConfigError(f"{path}: makes no stage, or no detector; expected both, under these names")
        plan = check_devices_plan(
            detectors if isinstance(detectors, list | tuple) else [detectors],
            made["stage"],
            shutter=made.get("shutter"),
            sample_table=made.get("sample_table"),
            show=lambda line: console.print(escape(line), highlight=False, soft_wrap=True),
        )
        found: Any = RE(plan)
    return list(found.plan_result)


@app.command("show")
def show(config: Config = None, json: Json = False) -> None:
    """Show every setting, and where its value comes from.

    Example: `streamrecon config show --config beamline.toml`
    """
    from bluesky_streamrecon.config_file import load_config_file

    configuration = load_config_file(config)
    rows = list(configuration.rows())
    if json:
        settings = [{"name": name, "value": value, "origin": origin} for name, value, origin in rows]
        print_json({"path": str(configuration.path) if configuration.path else None, "settings": settings})
    else:
        print_table(
            f"configuration: {configuration.path or 'no file'}",
            ("setting", "value", "from"),
            ((name, "" if value is None else str(value), origin) for name, value, origin in rows),
        )
