"""``streamrecon runs`` and ``streamrecon last``: which runs are stored, and how the last one ended."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from bluesky_streamrecon.cli._options import Directory, Json, Uri
from bluesky_streamrecon.cli._output import print_answer, print_json, print_table
from bluesky_streamrecon.run_record import how_it_ended

__all__ = ["last", "runs"]


def runs(
    count: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    directory: Directory = None,
    uri: Uri = None,
    json: Json = False,
) -> None:
    """List the newest stored scans, and how each ended.

    Commands that take a RUN take the beginning of its uid, its scan_id, or -1 for the last scan.

    Example: `streamrecon runs --count 5`
    """
    found = _newest(count, directory, uri)
    if json:
        print_json({"runs": found})
        return
    columns = ["scan", "uid", "time", "plan", "taken", "ended"]
    print_table("Scans, newest first", columns, [_short(run) for run in found])


def last(directory: Directory = None, uri: Uri = None, json: Json = False) -> None:
    """Show the last stored scan: how it ended, and why.

    Example: `streamrecon last`
    """
    found = _newest(1, directory, uri)
    lines = []
    for run in found:
        lines += [f"scan {run['scan_id']}, run {run['uid']}, {run['plan']}, {_when(run)}"]
        lines += [how_it_ended(run["exit_status"], run["reason"])]
        lines += [f"reconstruction {run['recon_uid']}"] if run["recon_uid"] else []
    print_answer({"runs": found}, "\n".join(lines) or "no scan is stored", json=json)


def _newest(count: int, directory: Any, uri: str | None) -> list[dict[str, Any]]:
    from bluesky_streamrecon.storage import list_runs, open_storage

    with open_storage(uri, directory=directory) as storage:
        return list_runs(storage.catalog, count)


def _short(run: dict[str, Any]) -> list[object]:
    """Return what fits into a table of 80 columns with its names uncut."""
    ended = run["exit_status"] or "not ended"
    return [run["scan_id"], run["uid"][:8], _when(run)[5:], run["plan"], run["projections"], ended]


def _when(run: dict[str, Any]) -> str:
    return f"{datetime.fromtimestamp(run['time']).astimezone():%Y-%m-%d %H:%M}"
