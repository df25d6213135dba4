"""What a rank saves now and then, so that a job that is started again need not begin from the first projection.

A checkpoint holds what the analysis of a rank's rows goes on from right after an image. Ranks save at the same images.
The last two are kept, because a job may die while some ranks have saved and others have not; the newest that all ranks
have is the one to go on from. Beside them lies the scratch file of a run's analysis; a checkpoint from before whose end
that file was lost is not gone on from.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import StorageError
from bluesky_streamrecon.recon.communicator import Communicator
from bluesky_streamrecon.wire import OpenRun

__all__ = ["Checkpoint", "CheckpointStore", "run_key"]

_KEPT = 2

NO_RUN = 2**62


def run_key(run_uid: str) -> int:
    """Return a number that stands for a run, above 0 and small enough for MPI's integers."""
    return int.from_bytes(hashlib.blake2b(run_uid.encode(), digest_size=7).digest(), "little") + 1


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A rank's part of a run, right after an image.

    Parameters
    ----------
    run_uid : str
        Which run.
    seq : int
        Last item that is in the image.
    image_number, projections : int
        Images made, and projections in the last of them.
    lost : int
        Items until then that could not be had.
    arrays : mapping of str to ndarray
        What `Analysis.save` returned.
    """

    run_uid: str
    seq: int
    image_number: int
    projections: int
    lost: int = 0
    arrays: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)


class CheckpointStore:
    """A rank's checkpoints in a directory; those of other ranks and jobs there are not touched.

    Parameters
    ----------
    directory : Path
        Where; made when needed.
    job_id : str
        The beamline's name for the job, the same after it was started again.
    rank, size : int
        Whose they are. A job of another size does not see them: its ranks have other rows.
    """

    def __init__(self, directory: Path, job_id: str, rank: int, size: int) -> None:
        job = "".join(character if character.isalnum() or character in "-_" else "_" for character in job_id)
        self._directory = directory
        self._stem = f"checkpoint_{job}_{rank}of{size}_"

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, and remove all but the last two.

        Raises
        ------
        StorageError
            If it can not be written.
        """
        self._write(self._directory / f"{self._stem}{checkpoint.seq:012d}.h5", checkpoint)
        for old in self._saved()[:-_KEPT]:
            old.unlink(missing_ok=True)

    def _write(self, path: Path, checkpoint: Checkpoint, run: OpenRun | None = None) -> None:
        part = path.with_suffix(".part")
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with h5py.File(part, "w") as file:
                for name in ("run_uid", "seq", "image_number", "projections", "lost"):
                    file.attrs[name] = getattr(checkpoint, name)
                file.attrs["scratch_bytes"] = _bytes(self.scratch(checkpoint.run_uid))
                if run is not None:
                    file.attrs["run"] = np.void(msgspec.json.encode(run))
                for name, array in checkpoint.arrays.items():
                    file[name] = array
            part.replace(path)
        except OSError as error:
            raise StorageError(f"could not write the checkpoint {path}: {error}; is the disk full?") from error

    def newest_common(self, communicator: Communicator) -> Checkpoint | None:
        """Load the newest checkpoint that every rank has; all ranks call this together."""
        mine = {self._seq(path): path for path in self._saved()}
        newest = max(mine, default=0)
        seq = communicator.minimum([newest])[0]
        found = self._load(mine[seq]) if seq in mine else None
        key = 0 if found is None else run_key(found.run_uid)
        lowest, minus_highest = communicator.minimum([key, -key])
        return found if lowest == -minus_highest and lowest > 0 else None

    def scratch(self, run_uid: str) -> Path:
        """Return the path of the scratch file of a run's analysis."""
        return self._directory / f"{self._stem}scratch-{run_key(run_uid):015x}"

    def clear(self) -> None:
        """Remove this rank's checkpoints."""
        for path in self._saved():
            with contextlib.suppress(OSError):
                path.unlink()

    # ------------------------------------------------------------------ of runs that are over and to be finished

    def save_last(self, run: OpenRun, checkpoint: Checkpoint) -> None:
        """Write what a run is finished from, beside its scratch file, until `forget`.

        Raises
        ------
        StorageError
            If it can not be written.
        """
        self._write(self._last(run.run_uid), checkpoint, run)

    def forget(self, run_uid: str) -> None:
        """Remove what `save_last` has written, and the scratch file of a run that was not begun to be finished."""
        for path in self._files_of(run_uid):
            path.unlink(missing_ok=True)

    def unfinished(self, communicator: Communicator) -> list[tuple[OpenRun, Checkpoint | None]]:
        """Load what every rank has of runs that are still to be finished, and remove the rest of runs before.

        All ranks call this together. What belongs to the run that a checkpoint is of stays.

        Returns
        -------
        list of (OpenRun, Checkpoint or None)
            None where a rank has lost its part: the run can not be finished. A rank that can not even read which run
            it was leaves it out.
        """
        mine = {int(path.stem.rpartition("-")[2], 16): path for path in self._directory.glob(f"{self._stem}last-*.h5")}
        found: list[tuple[OpenRun, Checkpoint | None]] = []
        keys = sorted(mine)
        while True:
            lowest = communicator.minimum([keys[0] if keys else NO_RUN])[0]
            if lowest == NO_RUN:
                break
            path = mine[keys.pop(0)] if keys and keys[0] == lowest else None
            last = None if path is None else self._load(path)
            complete = communicator.minimum([int(last is not None)])[0]
            if path is not None and (run := _run_of(path)) is not None:
                found.append((run, last if complete else None))
        stays = {path for run, last in found if last is not None for path in self._files_of(run.run_uid)}
        for path in self._saved():
            stays |= {path, self.scratch(_uid_of(path))}
        for path in self._directory.glob(f"{self._stem}*"):
            if path not in stays:
                path.unlink(missing_ok=True)
        return found

    def _files_of(self, run_uid: str) -> tuple[Path, Path]:
        return self._last(run_uid), self.scratch(run_uid)

    def _last(self, run_uid: str) -> Path:
        return self._directory / f"{self._stem}last-{run_key(run_uid):015x}.h5"

    def _saved(self) -> Sequence[Path]:
        return sorted(self._directory.glob(f"{self._stem}[0-9]*.h5")) if self._directory.is_dir() else []

    def _seq(self, path: Path) -> int:
        return int(path.stem.removeprefix(self._stem))

    def _load(self, path: Path) -> Checkpoint | None:
        """Read a checkpoint; None if it or its scratch file is damaged, for then the run is just done again."""
        try:
            with h5py.File(path) as file:
                if _bytes(self.scratch(str(file.attrs["run_uid"]))) < file.attrs["scratch_bytes"]:
                    return None
                return Checkpoint(
                    run_uid=str(file.attrs["run_uid"]),
                    seq=int(file.attrs["seq"]),
                    image_number=int(file.attrs["image_number"]),
                    projections=int(file.attrs["projections"]),
                    lost=int(file.attrs["lost"]),
                    arrays={name: value[()] for name, value in file.items()},
                )
        except (OSError, KeyError, ValueError):
            return None


def _run_of(path: Path) -> OpenRun | None:
    try:
        with h5py.File(path) as file:
            return msgspec.json.decode(file.attrs["run"].tobytes(), type=OpenRun)
    except (OSError, KeyError, msgspec.DecodeError):
        return None


def _uid_of(path: Path) -> str:
    try:
        with h5py.File(path) as file:
            return str(file.attrs["run_uid"])
    except (OSError, KeyError):
        return ""


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
