"""TIFF stacks with a table of angles as a recorded scan: a small TOML file says what is what.

    projections = "projections/*.tif"
    flats = "flats/*.tif"
    darks = "darks.tif"
    angles = "angles.csv"

Paths are relative to that file. Each names a file of many pages, or by a pattern files that are taken in the order of
the numbers in their names. The table has an angle per projection, in a column of its own: the only one, the one that
``column`` names, or one that is called ``angle`` or ``theta``. Angles are degrees unless ``units`` says otherwise.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.angle_units import angles_in_degrees
from bluesky_streamrecon.errors import DataError, StorageError
from bluesky_streamrecon.hdf5 import FrameStack
from bluesky_streamrecon.storage.scan import TomoScan, empty_frames
from bluesky_streamrecon.storage.views import assembled

__all__ = ["TiffFrames", "read_tiff_scan"]

KEYS = ("projections", "flats", "darks", "angles", "column", "units")
COLUMNS = ("angle", "angles", "theta", "rotation_angle", "angle_deg")


class TiffFrames(FrameStack):
    """Pages of TIFF files as a stack of frames that stay in their files until they are sliced.

    Parameters
    ----------
    files : sequence of Path
        Each has as many pages as the first, all of one shape and type.

    Raises
    ------
    DataError
        If the first file is no TIFF file, or its pages are no pictures of one channel.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        import tifffile

        self._files = tuple(files)
        try:
            with tifffile.TiffFile(self._files[0]) as first:
                self._pages = len(first.pages)
                page, dtype = first.pages[0].shape, np.dtype(first.pages[0].dtype)
        except (tifffile.TiffFileError, OSError) as error:
            raise DataError(f"{self._files[0]}: can not be read as TIFF ({error})") from error
        if len(page) != 2 or dtype.kind not in "iuf":
            raise DataError(f"{self._files[0]}: got pages of shape {page} and type {dtype}, expected one channel")
        super().__init__((self._pages * len(self._files), *page), dtype, str(self._files[0]))

    def _read(self, numbers: Any, rest: list[Any]) -> NDArray[Any]:
        if np.ndim(numbers) == 0:
            return np.asarray(self._page(int(numbers))[tuple(rest)])
        return np.stack([self._page(number)[tuple(rest)] for number in numbers.tolist()])

    def _page(self, number: int) -> NDArray[Any]:
        import tifffile

        file, page = self._files[number // self._pages], number % self._pages
        try:
            values = np.asarray(tifffile.imread(file, key=page))
        except (tifffile.TiffFileError, OSError, IndexError, ValueError) as error:
            raise DataError(f"{file}: page {page} can not be read ({error}); is the file damaged?") from error
        if values.shape != self.shape[1:] or values.dtype != self.dtype:
            raise DataError(
                f"{file}: page {page}: got {values.shape} pixels of type {values.dtype}, expected {self.shape[1:]} of "
                f"type {self.dtype}, as in {self._files[0].name}"
            )
        return values


def read_tiff_scan(path: str | Path, *, angle_units: str | None = None) -> TomoScan:
    """Read a scan that is described by a TOML file; frames stay in their files until they are sliced.

    Parameters
    ----------
    path : str or Path
        The TOML file.
    angle_units : str, optional
        Units of the angles, in place of those that the file states.

    Raises
    ------
    StorageError
        If there is no such file.
    DataError
        If it, or a file that it names, can not be used.
    """
    path = Path(path)
    try:
        about = tomllib.loads(path.read_text())
    except OSError as error:
        raise StorageError(f"{path}: can not be read ({error})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a TOML file ({error})") from error
    wrong = {key: value for key, value in about.items() if key not in KEYS or not isinstance(value, str)}
    if wrong or not {"projections", "angles"} <= about.keys():
        raise DataError(f"{path}: got {about}, expected texts for projections and angles, and for some of {KEYS[1:]}")
    everything = TiffFrames(_files(path, about, "projections"))
    flats, darks = (
        TiffFrames(_files(path, about, name)) if name in about else empty_frames(everything)
        for name in ("flats", "darks")
    )
    table = path.parent / about["angles"]
    values = _read_angles(table, about.get("column"))
    if len(values) != len(everything):
        raise DataError(f"{table}: got {len(values)} angles, expected one for each of {len(everything)} projections")
    degrees, doubts = angles_in_degrees(values, about.get("units"), str(table), angle_units=angle_units)
    every = np.arange(len(everything))
    return assembled(path, everything, every, degrees, flats, darks, list(doubts))


def _files(path: Path, about: dict[str, str], name: str) -> list[Path]:
    """Return the files of a pattern, 2 before 10."""
    pattern = about[name]
    found = sorted(
        path.parent.glob(pattern) if not Path(pattern).is_absolute() else Path("/").glob(pattern.lstrip("/")),
        key=lambda file: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(file))],
    )
    if not found:
        raise DataError(f"{path}: {name} = {pattern!r}: there is no such file")
    return found


def _read_angles(table: Path, column: str | None) -> NDArray[np.float64]:
    """Read a column of a table whose columns are parted by commas, semicolons or blanks, with or without a title."""
    try:
        lines = [line for line in table.read_text().splitlines() if line.strip() and not line.startswith("#")]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{table}: the angles can not be read ({error})") from error
    rows = [[cell for cell in re.split(r"[,;\s]+", line.strip()) if cell] for line in lines]
    titles: list[str] = []
    if rows and not any(_is_number(cell) for cell in rows[0]):
        titles = rows.pop(0)
    if not rows:
        raise DataError(f"{table}: got no angles")
    if column is not None or len(rows[0]) > 1:
        wanted = COLUMNS if column is None else (column,)
        place = next((titles.index(name) for name in wanted if name in titles), None)
        if place is None:
            got, expected = titles or len(rows[0]), " or ".join(wanted)
            raise DataError(f"{table}: got columns {got}, expected {expected}; `column` names another")
    else:
        place = 0
    try:
        return np.array([float(row[place]) for row in rows])
    except (IndexError, ValueError) as error:
        raise DataError(f"{table}: not a number in each line ({error})") from error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
