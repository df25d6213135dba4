"""Rows of results as CSV files, and figures small enough for a page."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bluesky_streamrecon.errors import StorageError

__all__ = ["new_directory", "save_figure", "write_csv"]

DPI = 100


def new_directory(out: Path) -> Path:
    """Make the directory for results, if it is missing.

    Raises
    ------
    StorageError
        If it can not be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{out}: can not be made ({error})") from error
    return out


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with their keys as heading; what a row lacks stays empty.

    Raises
    ------
    StorageError
        If the file can not be written.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    try:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows({name: _short(value) for name, value in row.items()} for row in rows)
    except OSError as error:
        raise StorageError(f"{path}: can not be written ({error})") from error


def save_figure(figure: Any, path: Path, *, dpi: int = DPI) -> None:
    """Write a figure as PNG with a palette, a third of the size and to the eye the same."""
    from io import BytesIO

    from PIL import Image

    held = BytesIO()
    figure.savefig(held, format="png", dpi=dpi)
    held.seek(0)
    try:
        with Image.open(held) as picture:
            picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    except OSError as error:
        raise StorageError(f"{path}: can not be written ({error})") from error


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
