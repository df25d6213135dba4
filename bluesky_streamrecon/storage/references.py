"""Flats and darks of an earlier run, found in the catalogue for a scan that takes none itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import StorageError
from bluesky_streamrecon.storage.listing import newest_runs
from bluesky_streamrecon.storage.run_streams import RunStreams
from bluesky_streamrecon.storage.runs import stored_frames, stored_readings

__all__ = ["LAST", "StoredReferences", "load_references"]

LAST = "last"
"""Instead of a uid: the newest run that has flats of the detector."""

SEARCHED = 500  # newest runs that are looked at for the last flats


@dataclass(frozen=True)
class StoredReferences:
    """Flats and darks of a run.

    Parameters
    ----------
    uid : str
        Of the run.
    time : float
        When it began, seconds since the epoch.
    data_key : str
        Of the detector's frames.
    flats, darks : ndarray, shape (frames, rows, columns)
        As they came from the detector.
    configuration : mapping of str to object
        The detector's, as it was.
    problems : tuple of str
        What was doubtful about the frames.
    readings : mapping of str to ndarray, shape (frames,)
        Of the monitor that was asked for, with each flat.
    """

    uid: str
    time: float
    data_key: str
    flats: NDArray[Any]
    darks: NDArray[Any]
    configuration: Mapping[str, Any]
    problems: tuple[str, ...] = ()
    readings: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def changed(self, configuration: Mapping[str, Any]) -> list[str]:
        """Return what is different in a detector's configuration now, a text per value."""
        return [
            f"{name} was {old!r}, is {configuration[name]!r}"
            for name, old in self.configuration.items()
            if name in configuration and not _same(old, configuration[name])
        ]

    def describe(self, now: float) -> str:
        """Return which they are, and how old."""
        seconds = max(0.0, now - self.time)
        unit, size = next(
            (unit for unit in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)) if seconds >= 2 * unit[1]), ("s", 1.0)
        )
        count = f"{len(self.flats)} flats and {len(self.darks)} darks"
        age = f"{seconds / size:.{0 if unit == 's' else 1}f} {unit} old"
        return "; ".join([f"{count} of run {self.uid[:8]}, {age}", *self.problems])


def load_references(catalog: Any, wanted: str, detector: str, *, monitor: str | None = None) -> StoredReferences:
    """Find flats and darks of a detector.

    Parameters
    ----------
    catalog : CatalogOfBlueskyRuns
        From `open_catalog`.
    wanted : str
        Uid of the run, its first characters, or ``"last"``.
    detector : str
        Name of the detector, or data key of its frames.
    monitor : str, optional
        Name of the beam's monitor, or data key of its readings.

    Raises
    ------
    StorageError
        If there is no such run, it has no flats of this detector, or without the monitor, or they can not be read.
    """
    if wanted == LAST:
        found = next(_newest(catalog, detector), None)
        if found is None:
            raise StorageError(
                f"references='last': none of the newest {SEARCHED} runs in the catalogue has flats of {detector!r}; "
                "take some with RE(take_references_plan())"
            )
        run, key = RunStreams(found[0]), found[1]
    else:
        try:
            run = RunStreams(catalog[wanted])
        except (KeyError, ValueError) as error:
            raise StorageError(f"references={wanted!r}: no such run in the catalogue ({error})") from error
        maybe = _data_key(run, detector) if "flat" in run else None
        if maybe is None:
            had = f"its stream 'flat' is not of {detector!r}" if "flat" in run else f"only streams {sorted(run)}"
            raise StorageError(f"references={wanted!r}: the run has no flats of {detector!r}: {had}")
        key = maybe
    uid = str(run.metadata["start"]["uid"])
    problems: list[str] = []
    frames, numbers = stored_frames(run, "flat", key, uid, problems)
    flats = np.asarray(frames)
    if not len(flats):
        raise StorageError(f"references: run {uid} has a stream 'flat' without frames; {'; '.join(problems)}")
    has_darks = "dark" in run and key in run["dark"]
    darks = np.asarray(stored_frames(run, "dark", key, uid, problems)[0]) if has_darks else flats[:0]
    readings = {}
    if monitor is not None:
        found_readings = stored_readings(run, "flat", monitor, uid, numbers)
        if found_readings is None:
            raise StorageError(
                f"references: run {uid} has flats without readings of the monitor {monitor!r}; take new ones with "
                "RE(take_references_plan([camera, i0]))"
            )
        readings[monitor] = found_readings
    metadata = run["flat"].metadata
    owner = metadata["data_keys"][key].get("object_name", detector)
    configuration = metadata.get("configuration", {}).get(owner, {}).get("data", {})
    return StoredReferences(
        uid, float(run.metadata["start"]["time"]), key, flats, darks, dict(configuration), tuple(problems), readings
    )


def _newest(catalog: Any, detector: str) -> Iterator[tuple[Any, str]]:
    """Yield runs with flats of a detector, and their data key, newest first; runs that failed are left out."""
    for run in islice(newest_runs(catalog), SEARCHED):
        stop = run.metadata.get("stop") or {}
        counts = stop.get("num_events") or {}
        good = stop.get("exit_status") == "success" or counts.get("primary")
        if good and counts.get("flat") and (key := _data_key(run, detector)) is not None:
            yield run, key


def _data_key(run: Any, detector: str) -> str | None:
    for name, key in run["flat"].metadata["data_keys"].items():
        if len(key.get("shape") or []) >= 2 and detector in (name, key.get("object_name")):
            return str(name)
    return None


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, float | int) and isinstance(new, float | int):
        return math.isclose(old, new, rel_tol=1e-6)
    return bool(np.array_equal(np.asarray(old), np.asarray(new)))
