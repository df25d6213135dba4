"""The image of a run as an HDF5 file that all ranks write, one after another.

``/exchange/data`` holds float32 (rows, N, N), attenuation per detector pixel; ``/exchange/theta`` the angles used,
degrees, in the order in which they were used. The rest is attributes of the file. Parallel HDF5 is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import StorageError
from bluesky_streamrecon.partition import RowBlock
from bluesky_streamrecon.recon.communicator import Communicator

__all__ = ["DATASET", "ResultFile", "result_path"]

DATASET = "/exchange/data"

_SLICES_AT_ONCE = 16

Attribute = str | int | float


def result_path(directory: str | Path, recon_uid: str) -> Path:
    """Return the path of a reconstruction's file.

    Examples
    --------
    >>> result_path("/data", "6b7c").name
    'recon_6b7c.h5'
    """
    safe = "".join(character if character.isalnum() or character in "-_." else "_" for character in recon_uid)
    return Path(directory) / f"recon_{safe}.h5"


class ResultFile:
    """One rank's view of the file; `write_together` does all, by `create`, `write` rank after rank, and `finish`.

    Parameters
    ----------
    path : Path
        Where the finished file stands. Until then it has ``.part`` at its end, so a reader never sees half of it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_name(path.name + ".part")

    def write_together(
        self,
        communicator: Communicator,
        block: RowBlock,
        slices: Callable[[Sequence[int]], NDArray[np.float32]],
        *,
        rows: int,
        size: int,
        angles: Sequence[float],
        attributes: Mapping[str, Attribute],
    ) -> tuple[bool, str]:
        """Write the file with all ranks.

        Parameters
        ----------
        communicator : Communicator
            To the other ranks, which call this too.
        block : RowBlock
            Rows of this rank; of ranks that share rows the first one writes.
        slices, rows, size, angles, attributes
            As for `write` and `create`.

        Returns
        -------
        (bool, str)
            Whether the file is complete, and if not, what went wrong on this rank (empty if it was another's fault).
        """
        problem = ""

        def turn(mine: bool, action: Callable[[], None]) -> bool:
            nonlocal problem
            if mine:
                try:
                    action()
                except StorageError as error:
                    problem = str(error)
            return communicator.minimum([0 if problem else 1])[0] == 1

        def write() -> None:
            if block.member == 0:
                self.write(block.first, block.rows, slices)

        rank = communicator.rank
        good = turn(rank == 0, lambda: self.create(rows=rows, size=size, angles=angles, attributes=attributes))
        for other in range(communicator.size):
            good = good and turn(rank == other, write)
        return good and turn(rank == 0, self.finish), problem

    def create(
        self,
        *,
        rows: int,
        size: int,
        angles: Sequence[float],
        attributes: Mapping[str, Attribute],
    ) -> None:
        """Make the file with room for all rows. One rank does this.

        Parameters
        ----------
        rows, size : int
            Detector rows, and side of the image N.
        angles : sequence of float
            Radians, in the order used.
        attributes : mapping
            Kept on the file's root.

        Raises
        ------
        StorageError
            If the file can not be made.
        """
        with self._explained("make"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(self._part, "w") as file:
                data = file.create_dataset(DATASET, shape=(rows, size, size), dtype="<f4")
                data.attrs["units"] = "1/pixel"
                data.attrs["axes"] = "row:y:x"
                theta = file.create_dataset("/exchange/theta", data=np.rad2deg(np.asarray(angles, dtype=np.float64)))
                theta.attrs["units"] = "degrees"
                for name, value in attributes.items():
                    file.attrs[name] = value

    def write(self, first: int, rows: int, slices: Callable[[Sequence[int]], NDArray[np.float32]]) -> None:
        """Write a rank's rows.

        Parameters
        ----------
        first : int
            Detector row of the rank's first slice.
        rows : int
            How many it has.
        slices : callable
            Gives slices (k, N, N) by number, 0 for the rank's first; asked for a few at a time.

        Raises
        ------
        StorageError
            If they can not be written.
        """
        with self._explained("write"), h5py.File(self._part, "r+") as file:
            data = file[DATASET]
            for start in range(0, rows, _SLICES_AT_ONCE):
                stop = min(start + _SLICES_AT_ONCE, rows)
                data[first + start : first + stop] = slices(range(start, stop))

    def finish(self) -> None:
        """Name the file. One rank does this, after all have written.

        Raises
        ------
        StorageError
            If it can not be renamed.
        """
        with self._explained("name"):
            self._part.replace(self.path)

    def _explained(self, doing: str) -> _Explained:
        return _Explained(doing, self.path)


class _Explained:
    """Turn what the system says about a file into an error that names the file and what to look at."""

    def __init__(self, doing: str, path: Path) -> None:
        self._doing = doing
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError | KeyError):
            raise StorageError(
                f"could not {self._doing} the result {self._path}: {error}; is the directory there, writable and "
                "shared by all hosts of the job, and the disk not full?"
            ) from error
