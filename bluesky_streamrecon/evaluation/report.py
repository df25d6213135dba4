"""Results of a benchmark or a study: fields for programs, tables and figures for people.

Rows are mappings of plain values. Nothing here measures or prints.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bluesky_streamrecon.errors import StorageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Report", "Row", "grouped", "new_directory", "save_figure"]

DPI = 100

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """All results of a benchmark or a study. Tables have the same names as the fields for programs.

    Parameters
    ----------
    fields : dict
        What ``--json`` prints: single values, and lists of rows.
    shown : mapping of str to sequence of Row, optional
        Rows of the tables, by title; by default all that are in `fields`.
    data : mapping of str to sequence of Row, optional
        Rows by the name of their CSV file.
    figures : mapping of str to Figure, optional
        Pictures by the name of their PNG file.
    """

    fields: dict[str, Any]
    shown: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    data: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)

    def tables(self) -> dict[str, Sequence[Row]]:
        """Return the rows of each table by its title: single values first.

        Examples
        --------
        >>> Report({"probe_gfma": 62.0, "rows": [{"gups": 2.5}]}).tables()
        {'values': [{'field': 'probe_gfma', 'value': 62.0}], 'rows': [{'gups': 2.5}]}
        """
        single = [{"field": k, "value": v} for k, v in self.fields.items() if not isinstance(v, list | dict)]
        rows = self.shown or {name: value for name, value in self.fields.items() if isinstance(value, list)}
        return ({"values": single} if single else {}) | dict(rows)

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


def grouped(rows: Iterable[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
    """Return the rows that have the same values of these fields, by these values, in the order in which they came.

    Examples
    --------
    >>> grouped([{"noise": 1e3, "at": 1}, {"noise": None, "at": 1}, {"noise": 1e3, "at": 2}], "noise")
    {(1000.0,): [{'noise': 1000.0, 'at': 1}, {'noise': 1000.0, 'at': 2}], (None,): [{'noise': None, 'at': 1}]}
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


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
    """Write a figure as PNG.

    Raises
    ------
    StorageError
        If the file can not be written.
    """
    try:
        figure.savefig(path, format="png", dpi=DPI)
    except OSError as error:
        raise StorageError(f"{path}: can not be written ({error})") from error


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write rows with their keys as heading; missing values stay empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    try:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, names, lineterminator="\n")
            writer.writeheader()
            for row in rows:
                writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    except OSError as error:
        raise StorageError(f"{path}: can not be written ({error})") from error
