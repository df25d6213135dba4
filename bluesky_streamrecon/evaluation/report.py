"""What a benchmark or a study found: fields for programs, tables and pictures for people.

Rows are mappings of plain values. Nothing here measures, and nothing is printed.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bluesky_streamrecon.errors import StorageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Report", "Row", "Table", "new_directory", "save_figure"]

DPI = 100

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows as people read them.

    Parameters
    ----------
    title : str
        One line above the table.
    columns : mapping of str to str
        Heading of each field that is shown, in order.
    rows : sequence of Row
        They may have more fields.
    """

    title: str
    columns: Mapping[str, str]
    rows: Sequence[Row]

    @classmethod
    def of_values(cls, title: str, values: Sequence[tuple[str, Any, str]]) -> Table:
        """Return a table of single values: what each is, the value, and its unit with what else is to be said."""
        names = "what", "value", "unit"
        return cls(title, dict(zip(names, names, strict=True)), [dict(zip(names, row, strict=True)) for row in values])

    def cells(self) -> list[list[Any]]:
        """Return the shown values row by row; a spread as per cent.

        Examples
        --------
        >>> Table("", {"gups": "GUPS", "spread": "spread"}, [{"gups": 2.5, "spread": 0.04, "window": 24}]).cells()
        [[2.5, '4%']]
        """
        return [[f"{row[name]:.0%}" if name == "spread" else row[name] for name in self.columns] for row in self.rows]


@dataclass(frozen=True, slots=True)
class Report:
    """All of a benchmark or a study.

    Parameters
    ----------
    fields : dict
        What ``--json`` prints.
    tables : tuple of Table, optional
        What is printed otherwise.
    data : mapping of str to sequence of Row, optional
        Rows by the name of their CSV file.
    figures : mapping of str to Figure, optional
        Pictures by the name of their PNG file.
    """

    fields: dict[str, Any]
    tables: tuple[Table, ...] = ()
    data: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)

    def write(self, out: Path) -> None:
        """Write data and figures into a directory, which is made if it is missing.

        Raises
        ------
        StorageError
            If they can not be written.
        """
        new_directory(out)
        for name, rows in self.data.items():
            _write_csv(out / f"{name}.csv", rows)
        for name, figure in self.figures.items():
            save_figure(figure, out / f"{name}.png")


def new_directory(out: Path) -> Path:
    """Make a directory for results if it is missing, and return it.

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


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG with a palette: a third of the size, and to the eye the same.

    Raises
    ------
    StorageError
        If the file can not be written.
    """
    from io import BytesIO

    from PIL import Image

    held = BytesIO()
    figure.savefig(held, format="png", dpi=DPI)
    held.seek(0)
    try:
        with Image.open(held) as picture:
            picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    except OSError as error:
        raise StorageError(f"{path}: can not be written ({error})") from error


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write rows with their keys as heading; what a row lacks stays empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    try:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, names, lineterminator="\n")
            writer.writeheader()
            for row in rows:
                writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    except OSError as error:
        raise StorageError(f"{path}: can not be written ({error})") from error
