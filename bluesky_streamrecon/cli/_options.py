"""Options that several commands have, each written once."""

from __future__ import annotations

from ast import literal_eval
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import typer.core

from bluesky_streamrecon.errors import ConfigError

__all__ = [
    "RUN",
    "Algorithm",
    "Algorithms",
    "AngleUnits",
    "Backend",
    "Columns",
    "ColumnsList",
    "Directory",
    "Json",
    "ListCommand",
    "MeasuredBackend",
    "Num",
    "Order",
    "Preparation",
    "Ranks",
    "Readable",
    "Repeats",
    "Rows",
    "Run",
    "Step",
    "Threads",
    "Uri",
    "Window",
    "option_from",
    "options_from",
]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]

Rows = Annotated[int, typer.Option(min=1, help="Detector rows.")]
Columns = Annotated[int, typer.Option(min=2, help="Detector columns.")]
ColumnsList = Annotated[list[int] | None, typer.Option(min=2, metavar="C...", help="Detector columns.")]
Num = Annotated[int, typer.Option(min=1, help="Projections of a scan.")]
Window = Annotated[int, typer.Option(min=1, help="Projections in the sliding window.")]
Step = Annotated[int, typer.Option(min=1, help="New projections between two images.")]
Ranks = Annotated[int, typer.Option(min=1, help="MPI ranks.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads that compute.")]
Algorithm = Annotated[str, typer.Option(help="Reconstruction algorithm.")]
Algorithms = Annotated[list[str] | None, typer.Option(metavar="A...", help="Reconstruction algorithms.")]
Order = Annotated[str, typer.Option(help="Angle order; see `streamrecon orders`.")]
Repeats = Annotated[int, typer.Option(min=3, help="Samples of each figure; their median counts.")]

RUN = "A stored run: the beginning of its uid, its scan_id, or -1 for the last scan"
Run = Annotated[str, typer.Argument(metavar="RUN", help=f"{RUN}.")]
Directory = Annotated[Path | None, typer.Option(help="Of an embedded catalogue; default: your own.")]
Uri = Annotated[str | None, typer.Option(help="Of a Tiled server with the catalogue.")]
AngleUnits = Annotated[
    str | None, typer.Option(help="Units of the angles: degrees, radians, turns, ...; default: as the data state.")
]
Readable = Annotated[
    list[Path] | None, typer.Option(help="A directory of the run's files, for --directory; may be repeated.")
]


def option_from(word: str, where: str) -> tuple[str, float | str]:
    """Return name and value of ``name=value``; numbers, True and False are such, all else is a string.

    Raises
    ------
    ConfigError
        If it is no ``name=value``.

    Examples
    --------
    >>> option_from("within=1%", "--option"), option_from("least_share=0.05", "--option")
    (('within', '1%'), ('least_share', 0.05))
    """
    name, equals, value = word.partition("=")
    if not (name and equals and value):
        raise ConfigError(f"{where}: got {word!r}, expected name=value")
    with suppress(ValueError, SyntaxError):
        read = literal_eval(value)
        if isinstance(read, int | float):
            return name, read
    return name, value


def options_from(text: str, where: str) -> dict[str, float | str]:
    """Return the options in ``name=value,name=value``; see `option_from`."""
    return dict(option_from(part, where) for part in text.split(","))


def preparation_from(words: list[str] | None) -> list[str | dict[str, float | str]]:
    """Return the setting ``preparation`` of steps like ``zingers`` and ``beam:left=12,right=12``."""
    steps: list[str | dict[str, float | str]] = []
    for word in words or ():
        name, colon, options = word.partition(":")
        steps.append({"step": name, **options_from(options, f"--preparation {word}")} if colon else name)
    return steps


Preparation = Annotated[
    list[str] | None,
    typer.Option(
        metavar="STEP...",
        help="Steps of the preparation: zingers, or beam:left=12,right=12, ...",
        callback=preparation_from,
    ),
]


Backend = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="What computes: auto (a GPU if one works), cpu or cuda.")
]
MeasuredBackend = Annotated[Literal["cpu", "cuda"], typer.Option(help="What is measured.")]


class ListCommand(typer.core.TyperCommand):
    """Command that takes ``--columns 256 1024`` as ``--columns 256 --columns 1024``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments; each value that follows an option of several is given to that option."""
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
