"""Printing: rich tables for people, one JSON object on the last line for scripts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler
from rich.table import Table

if TYPE_CHECKING:
    from bluesky_streamrecon.evaluation.report import Report

__all__ = ["console", "print_json", "print_report", "print_table", "show_progress"]

console = Console(stderr=True)


def print_json(value: Any) -> None:
    """Print one JSON object on a line of its own on stdout; NaN and infinity become null, as msgspec has them."""
    print(msgspec.json.encode(value).decode(), flush=True)


def print_report(report: Report, *, json: bool) -> None:
    """Print what a benchmark or a study found: its fields as JSON, or its tables."""
    if json:
        print_json(report.fields)
        return
    for title, rows in report.tables().items():
        columns = list(dict.fromkeys(name for row in rows for name in row))
        print_table(title, columns, [[row.get(name) for name in columns] for row in rows])


def show_progress() -> None:
    """Show on stderr how far benchmarks, studies, replay and demo are: what `evaluation` logs, word for word."""
    logger = logging.getLogger("bluesky_streamrecon.evaluation")
    logger.handlers = [
        RichHandler(console=console, show_time=False, show_level=False, show_path=False, highlighter=NullHighlighter())
    ]
    logger.setLevel(min(logging.INFO, logging.getLogger().level))
    logger.propagate = False


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on stdout; numbers are right-aligned and rounded to four digits."""
    table = Table(title=title, title_justify="left")
    cells = [[_text(cell) for cell in row] for row in rows]
    for i, name in enumerate(columns):
        numeric = all(_is_number(row[i]) for row in cells)
        table.add_column(name, justify="right" if numeric else "left")
    for row in cells:
        table.add_row(*row)
    Console().print(table)


def _text(cell: object) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else "" if cell is None else str(cell)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return not text
    return True
