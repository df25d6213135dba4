"""The images of a run as an HDF5 file that all ranks write, one after another.

``/exchange/data`` holds float32 (rows, height, width), for tomography (rows, N, N), attenuation per detector pixel.
The analysis may add datasets beside it, as ``/exchange/theta``: the angles used, degrees, in the order in which they
were used. ``/exchange/volume``, of the same shape, is what was finished from all projections when the run was over, and
NaN until then. The rest is attributes of the file. Parallel HDF5 is not needed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import StorageError
from bluesky_streamrecon.partition import RowBlock
from bluesky_streamrecon.recon.communicator import Communicator
from bluesky_streamrecon.wire import CloseRun, OpenRun

__all__ = ["DATASET", "VOLUME", "Attribute", "result_path", "run_attributes", "write_result"]

DATASET, VOLUME = "/exchange/data", "/exchange/volume"
"""The live images, and the finished ones."""

_IMAGES_AT_ONCE = 16

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


def run_attributes(
    run: OpenRun, closed: CloseRun | None, image_number: int, counts: Mapping[str, int], communicator: Communicator
) -> dict[str, Attribute]:
    """Return the attributes that every file has: of which run it is, how that was closed, and what came of it.

    All ranks call it: counts of pixels are added up over all rows.
    """
    from bluesky_streamrecon import __version__

    pixels = [name for name in counts if name.endswith(("_pixels", "_values"))]
    share = 1.0 if run.block.member == 0 else 0.0
    total = np.array([counts[name] * share for name in pixels], dtype=np.float64)
    communicator.sum(total)
    counts = {**counts, **{name: int(value) for name, value in zip(pixels, total, strict=True)}}
    return {
        "raw_run_uid": run.run_uid,
        "recon_uid": run.recon_uid,
        "analysis": run.recon.analysis,
        "projections": counts["projections"],
        "image_number": image_number,
        "settings": msgspec.json.encode(run.recon).decode(),
        "metadata": msgspec.json.encode(run.metadata).decode(),
        "counts": msgspec.json.encode(counts).decode(),
        "exit_status": "" if closed is None else closed.exit_status,
        "reason": "" if closed is None else closed.reason,
        "software": f"bluesky-streamrecon {__version__}",
    }


def write_result(
    path: Path,
    communicator: Communicator,
    block: RowBlock,
    images: Callable[[Sequence[int]], NDArray[np.float32]],
    *,
    shape: tuple[int, int, int],
    attributes: Mapping[str, Attribute],
    datasets: Mapping[str, tuple[NDArray[np.generic], str]] | None = None,
    dataset: str = DATASET,
    more_to_come: bool = False,
) -> tuple[bool, str]:
    """Write the file with all ranks.

    Parameters
    ----------
    path : Path
        Where the finished file stands. Until then it has ``.part`` at its end, so a reader never sees half of it.
    communicator : Communicator
        To the other ranks, which call this too.
    block : RowBlock
        Rows of this rank; of ranks that share rows the first one writes.
    images : callable
        Returns images (k, height, width) by number, 0 for the rank's first; asked for a few at a time.
    shape : (int, int, int)
        Detector rows, and height and width of an image.
    attributes, datasets
        See `Analysis`; those of rank 0 are written.
    dataset : str, optional
        Where the images go. `VOLUME` is added to a file that is there; the attributes are its own.
    more_to_come : bool, optional
        Make an empty `VOLUME` as well.

    Returns
    -------
    (bool, str)
        Whether the file is complete, and if not, what went wrong on this rank (empty if it was another's fault).
    """
    part = path.with_name(path.name + ".part")
    problem = ""

    def turn(mine: bool, action: Callable[[], None]) -> bool:
        nonlocal problem
        if mine:
            try:
                action()
            except StorageError as error:
                problem = str(error)
        return communicator.minimum([0 if problem else 1])[0] == 1

    def create() -> None:
        with _explained("make", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            adds = dataset != DATASET
            if adds:  # to a copy: who reads the file has one that is whole
                shutil.copyfile(path, part)
            with h5py.File(part, "r+" if adds else "w") as file:
                if adds:
                    del file[dataset]
                data = file.create_dataset(dataset, shape=shape, dtype="<f4")
                data.attrs["units"] = "1/pixel"
                data.attrs["axes"] = "row:y:x"
                if more_to_come:  # takes no space, and can be named already
                    file.create_dataset(VOLUME, shape=shape, dtype="<f4", fillvalue=np.nan).attrs["units"] = "1/pixel"
                for name, (array, units) in (datasets or {}).items():
                    file.create_dataset(f"/exchange/{name}", data=array).attrs["units"] = units
                for name, value in attributes.items():
                    (data if adds else file).attrs[name] = value

    def write() -> None:
        with _explained("write", path), h5py.File(part, "r+") as file:
            for start in range(0, block.rows, _IMAGES_AT_ONCE):
                stop = min(start + _IMAGES_AT_ONCE, block.rows)
                file[dataset][block.first + start : block.first + stop] = images(range(start, stop))

    def finish() -> None:
        with _explained("name", path):
            part.replace(path)

    rank = communicator.rank
    good = turn(rank == 0, create)
    for writer in range(communicator.size):
        good = good and turn(rank == writer and block.member == 0, write)
    good = good and turn(rank == 0, finish)
    if not good and rank == 0:
        with suppress(OSError):  # a disk that is full has to get room again
            part.unlink(missing_ok=True)
    return good, problem


@contextmanager
def _explained(doing: str, path: Path) -> Iterator[None]:
    """Turn what the system says about a file into an error that names the file and what to look at."""
    try:
        yield
    except (OSError, KeyError) as error:
        raise StorageError(
            f"could not {doing} the result {path}: {error}; is the directory there, writable and "
            "shared by all hosts of the job, and the disk not full?"
        ) from error
