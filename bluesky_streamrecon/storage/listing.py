"""Which runs a catalogue has, and which one a person means. Times are seconds since the epoch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from bluesky_streamrecon.errors import StorageError

__all__ = ["find_run", "last_scan_id", "list_runs", "newest_runs"]

FEWEST_CHARACTERS = 5  # of the beginning of a uid


def find_run(catalog: Any, run: str | int) -> Any:
    """Find the run that a person means.

    Parameters
    ----------
    catalog : CatalogOfBlueskyRuns
        From `open_catalog`.
    run : str or int
        Uid of a scan or a reconstruction, or its beginning; a ``scan_id`` (the newest that has it); or ``-1`` for the
        last scan, ``-2`` for the one before. Reconstructions are not counted.

    Returns
    -------
    BlueskyRun
        Client of the run.

    Raises
    ------
    StorageError
        If there is none, or there are several.
    """
    text = str(run)
    if re.fullmatch(r"-\d+", text):
        for back, found in enumerate(_scans(catalog), 1):
            if back == -int(text):
                return found
        raise StorageError(f"run {run}: the catalogue {catalog.uri} has fewer scans")
    # Digits alone are a scan_id if they are few; if they are many, rather the beginning of a uid.
    numbers = [int(text)] if re.fullmatch(r"[1-9]\d*", text) else []
    keys = [*numbers, text] if len(text) < FEWEST_CHARACTERS else [text, *numbers]
    errors = []
    for key in keys:
        try:
            return catalog[key]
        except (KeyError, ValueError) as error:
            errors.append(error)
    raise StorageError(
        f"run {run}: not in the catalogue {catalog.uri} ({errors[0]}); `streamrecon runs` lists its scans"
    ) from errors[0]


def list_runs(catalog: Any, count: int = 20) -> list[dict[str, Any]]:
    """List the newest scans.

    Parameters
    ----------
    catalog : CatalogOfBlueskyRuns
        From `open_catalog`.
    count : int, optional
        How many at most.

    Returns
    -------
    list of dict
        Newest first: ``uid``, ``scan_id``, ``plan``, ``sample``, ``projections`` (events taken), ``exit_status`` (None:
        not ended), ``reason``, ``recon_uid`` (None: not reconstructed) and ``time``.
    """
    runs: list[dict[str, Any]] = []
    for run in _scans(catalog):
        if len(runs) == count:
            break
        start, stop = run.metadata["start"], run.metadata.get("stop") or {}
        sample = start.get("sample_name", start.get("sample"))
        runs.append(
            {
                "uid": start["uid"],
                "scan_id": start.get("scan_id"),
                "plan": start.get("plan_name"),
                "sample": sample.get("name") if isinstance(sample, dict) else sample,
                "projections": (stop.get("num_events") or {}).get("primary"),
                "exit_status": stop.get("exit_status"),
                "reason": stop.get("reason") or "",
                "recon_uid": start.get("streamrecon", {}).get("recon_uid"),
                "time": start["time"],
            }
        )
    return runs


def last_scan_id(catalog: Any) -> int:
    """Return the ``scan_id`` of the newest scan, so that the next session can count on; 0 if there is none."""
    for run in _scans(catalog):
        number = run.metadata["start"].get("scan_id")
        return number if isinstance(number, int) else 0
    return 0


def newest_runs(catalog: Any) -> Iterator[Any]:
    """Yield all runs, newest first; some at a time, as the server sends them."""
    held, page = len(catalog), 50
    for stop in range(held, 0, -page):
        yield from reversed(catalog.values()[max(0, stop - page) : stop])


def _scans(catalog: Any) -> Iterator[Any]:
    """Yield runs that are no reconstructions, newest first."""
    return (run for run in newest_runs(catalog) if "raw_run_uid" not in run.metadata["start"])
