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
PERMISSIONS = "user_group_permissions.yaml"
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

    With `--devices`, each device is tried, too: it does not move, and a detector takes one exposure. Where the file
    belongs to a profile, the plans are named that a queue server would see.

    Example: `streamrecon check --config beamline.toml --devices devices.py`
    """
    from dataclasses import asdict

    from rich.markup import escape

    from bluesky_streamrecon.diagnosis import check_setup

    items: list[Any] = []
    with console().status("") as status:
        for item in check_setup(config, patience=timeout, on_begin=lambda name: status.update(f"{name} …")):
            items.append(item)
            colour = COLOURS[item.status]
            line = f"[{colour}]{item.status:>7}[/]  {item.name:<13}  {escape(item.hint)}"
            console().print(line, highlight=False, soft_wrap=True)
    if devices is not None:
        items += _check_devices(devices, config)
    if json:
        print_json({"items": [asdict(item) for item in items]})
    bad = [item.name for item in items if item.status != "OK"]
    if bad:
        console().print(f"streamrecon: {len(bad)} of {len(items)} checks failed: {', '.join(bad)}", highlight=False)
        raise typer.Exit(1)


def _check_devices(path: Path, config: Path | None) -> list[Any]:
    """Run a file that makes devices, and try them; of a profile also see which plans a queue has."""
    from functools import partial

    from rich.markup import escape

    from bluesky_streamrecon.config_file import load_config_file
    from bluesky_streamrecon.plans import beamline_of, use_beamline
    from bluesky_streamrecon.plans.device_check import try_devices
    from bluesky_streamrecon.plans.engines import run_engine
    from bluesky_streamrecon.profile import run_startup

    def show(line: str) -> None:
        console().print(escape(line), highlight=False, soft_wrap=True)

    known = {"configuration": load_config_file(config), "tiled_writer": lambda *_: None}
    with run_engine(context_managers=[]) as RE:
        try:
            made = run_startup(path, known | {"RE": RE} | dict.fromkeys(("storage", "catalog", "db")))
            use_beamline(beamline_of(made))
            try_all = partial(try_devices, shutter=None, sample_table=None, angles=(0.0, 180.0), show=show)
            ended: Any = RE(try_all(None, None))
            found: list[Any] = list(ended.plan_result)
        finally:
            use_beamline(None)
    if (permissions := path.parent / PERMISSIONS).parent.name == "startup":
        found.append(_check_queue(made, permissions))
        show(f"{found[-1].status:>7}  {found[-1].name}: {found[-1].hint}")
    return found


def _check_queue(names: dict[str, Any], permissions: Path) -> Any:
    """Find out which plans a queue server would see in a profile."""
    from bluesky_streamrecon.diagnosis import CheckItem
    from bluesky_streamrecon.profile import queue_plans

    plans, faults = queue_plans(names)
    hint = f"a queue server lists the plans {', '.join(plans) or '(none)'}"
    if faults:
        return CheckItem("queue", "ERROR", f"a queue server could not be started with {'; '.join(faults)}")
    if not permissions.exists():
        hint += f"; nobody may run them yet: {permissions} is written by streamrecon profile install NAME --queueserver"
    return CheckItem("queue", "OK", hint)


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
