"""Printing: rich tables for people, one JSON object on the last line for scripts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import cache, wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console", "print_answer", "print_json", "print_table", "prints_report", "show_progress"]

LONGEST_WORD = 24
"""Letters of a text's word that are kept on one line."""


@cache
def console() -> Console:
    """Return what prints on stderr; a rank, which has nothing to print, does not import it."""
    from rich.console import Console

    class OnStderr(Console):
        def on_broken_pipe(self) -> None:
            """Be silent where nobody reads any more; rich would end the thread that prints, a scan's for instance."""
            self.quiet = True

    return OnStderr(stderr=True)


def print_json(value: Any) -> None:
    """Print one JSON object on a line of its own on stdout; NaN and infinity become null, as msgspec has them."""
    print(msgspec.json.encode(value).decode(), flush=True)


def print_answer(value: Any, text: str, *, json: bool) -> None:
    """Print a value as JSON, or what it says to people."""
    if json:
        print_json(value)
    else:
        print(text, flush=True)


def prints_report(module: str, function: str, **names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator: the command calls this function of `evaluation`, and prints the report that it returns.

    Options that were not given are left to the function; `names` are those of its arguments that have another name than
    the option. With the option `out`, tables and figures are written there.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(*, json: bool, out: Path | None = None, **options: Any) -> None:
            study = getattr(import_module(f"bluesky_streamrecon.evaluation.{module}"), function)
            if out is not None:  # before the study, which may take hours
                from bluesky_streamrecon.evaluation.report import new_directory

                new_directory(out)
            report = study(
                **{names.get(name, name): value for name, value in options.items() if value not in (None, [])}
            )
            if out is not None:
                report.write(out)
            if json:
                print_json(report.fields)
                return
            for title, rows in report.tables().items():
                columns = list(dict.fromkeys(name for row in rows for name in row))
                print_table(title, columns, [[row.get(name) for name in columns] for row in rows])
            if out is not None:
                print(f"figures and data: {out}")

        return run

    return decorate


def show_progress() -> None:
    """Show on stderr how far benchmarks, studies, replay and demo are: what `evaluation` logs, word for word."""
    from rich.highlighter import NullHighlighter
    from rich.logging import RichHandler

    logger = logging.getLogger("bluesky_streamrecon.evaluation")
    logger.handlers = [
        RichHandler(
            console=console(), show_time=False, show_level=False, show_path=False, highlighter=NullHighlighter()
        )
    ]
    logger.setLevel(min(logging.INFO, logging.getLogger().level))
    logger.propagate = False


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on stdout; numbers are right-aligned and rounded to four digits.

    Columns that do not fit side by side go into further tables, each with the first column; no name and no number is
    ever cut.
    """
    from rich.console import Console
    from rich.table import Table

    stdout = Console()
    cells = [[_text(cell) for cell in row] for row in rows]
    numeric = [all(_is_number(row[i]) for row in cells) for i in range(len(columns))]
    widths = [_least_width(name, [row[i] for row in cells], numeric[i]) for i, name in enumerate(columns)]
    for part in _parts(widths, stdout.width):
        table = Table(title=title, title_justify="left")
        for i in part:
            table.add_column(
                columns[i], justify="right" if numeric[i] else "left", min_width=widths[i], overflow="fold"
            )
        for row in cells:
            table.add_row(*(row[i] for i in part))
        stdout.print(table)
        title = f"{title} (continued)" if not title.endswith("(continued)") else title


def _least_width(name: str, cells: list[str], numeric: bool) -> int:
    """Return the width of a column in which no word of up to `LONGEST_WORD` letters is broken."""
    words = cells if numeric else [word[:LONGEST_WORD] for cell in cells for word in cell.split()]
    return max(map(len, [name, *words]))


def _parts(widths: list[int], width: int) -> list[list[int]]:
    """Return the columns of each table that is at most `width` wide, the first column in all of them."""
    parts: list[list[int]] = [[0]] if widths else [[]]
    for i in range(1, len(widths)):
        if len(parts[-1]) > 1 and sum(widths[j] + 3 for j in [*parts[-1], i]) + 1 > width:
            parts.append([0])
        parts[-1].append(i)
    return parts


def _text(cell: object) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else "" if cell is None else str(cell)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return not text
    return True
