"""All prepared projections of a run on one rank, in a scratch file: what the volume is made from, and images anew.

Line integrals are unitless, angles radians. What was not measured is NaN.
"""

from __future__ import annotations

import contextlib
import tempfile
import weakref
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

__all__ = ["Archive", "Archived"]

Archived = tuple[NDArray[np.float32], float]
"""A projection, shape (rows, C), and its angle."""


class Archive:
    """Projections in the order in which images took them in.

    A file that can not be written (a full disk) ends the archive, never the run: `problem` then says why, and nothing
    more is kept.

    Parameters
    ----------
    rows, columns : int
        Of this rank's part of a projection.

    Attributes
    ----------
    problem : str
        Why the archive is not complete; empty while it is.
    """

    def __init__(self, rows: int, columns: int) -> None:
        pixels = ("pixels", "<f4", (rows, columns))
        self._record = np.zeros((), np.dtype([("angle", "<f8"), ("step", "<i8"), pixels]))
        self._path: Path | None = None
        self._file: BinaryIO | None = None
        self._count = 0
        self.problem = ""

    def open(self, path: Path | None = None, *, keep: int = 0) -> None:
        """Make the file, or go on with it.

        Parameters
        ----------
        path : Path, optional
            It outlives this process until `remove`; None: one without a name in the directory for temporary files.
        keep : int, optional
            Projections at the beginning of the file that are those of this run; the rest of it is dropped.
        """
        self._path = path
        try:
            self._file = self._opened(keep)
            weakref.finalize(self, self._file.close)  # where a job ends in the middle of a run
            size = self._file.seek(0, 2)
            self._count = min(keep, size // self._record.nbytes)
            if size > self._count * self._record.nbytes:
                self._file.truncate(self._count * self._record.nbytes)
        except OSError as error:
            self._give_up(error)
        if not self.problem and self._count < keep:
            self._give_up(f"{path} has {self._count} of {keep} projections of before the job was started again")

    def _opened(self, keep: int) -> BinaryIO:
        if self._path is None:
            return cast(BinaryIO, tempfile.TemporaryFile(prefix="streamrecon-"))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return self._path.open("r+b" if keep and self._path.exists() else "w+b")

    def __len__(self) -> int:
        return self._count

    def append(self, pixels: NDArray[np.float32] | None, angle: float, step: int) -> None:
        """Keep a projection, shape (rows, C), that image number `step` has taken in; None: it was lost."""
        if self._file is None:
            return
        self._record["angle"], self._record["step"] = angle, step
        self._record["pixels"] = np.nan if pixels is None else pixels
        try:
            self._file.seek(self._count * self._record.nbytes)
            self._file.write(self._record.data)
            self._file.flush()  # what was written survives the process
        except OSError as error:
            self._give_up(error)
        else:
            self._count += 1

    def steps(self) -> Iterator[list[Archived]]:
        """Yield the projections of each image."""
        for _, records in groupby(self._records(), key=lambda record: int(record["step"])):
            yield [(np.array(record["pixels"]), float(record["angle"])) for record in records]

    @property
    def angles(self) -> NDArray[np.float64]:
        """Angles of all projections, shape (n,)."""
        return np.array(self._mapped()["angle"])

    def projection(self, number: int, first: int, stop: int) -> NDArray[np.float32]:
        """Return rows ``[first, stop)`` of a projection."""
        return np.array(self._mapped()["pixels"][number, first:stop])

    def values(
        self, numbers: NDArray[np.intp], rows: NDArray[np.intp], columns: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        """Return single values of projections, NaN where the archive was given up."""
        if not self._count or self.problem:
            return np.full(len(numbers), np.nan, np.float32)
        return np.asarray(self._mapped()["pixels"][numbers, rows, columns])

    def _records(self) -> Iterator[np.void]:
        yield from self._mapped()

    def _mapped(self) -> NDArray[np.void]:
        if self._file is None or not self._count:
            return np.zeros(0, self._record.dtype)
        return np.memmap(self._file, self._record.dtype, "r", shape=(self._count,))

    def _give_up(self, why: object) -> None:
        self.problem = (
            f"scratch file: projections are not kept any more: {why}; is the disk full? Images go on, the finished "
            "volume can not be made"
        )
        self.remove()

    def close(self) -> None:
        """Close the file, and leave it where it is."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()

    def remove(self) -> None:
        """Close and remove the file."""
        self.close()
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
