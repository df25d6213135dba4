"""What the page is sent: its HTML, one JSON object per change, and pictures of projections.

Whatever can be decided here is, so that the script only shows it: texts, states of the checks, and curves as SVG.
"""

from __future__ import annotations

import base64
import io
import math
import time
from importlib import resources
from textwrap import shorten
from typing import Any, Final

import numpy as np

from bluesky_streamrecon.beamline.run_table import as_minutes
from bluesky_streamrecon.beamline.slices import grey_range
from bluesky_streamrecon.beamline.source import CLOSED, Snapshot
from bluesky_streamrecon.cuts import Space
from bluesky_streamrecon.live_view.curves import draw_curves
from bluesky_streamrecon.live_view.images import Images
from bluesky_streamrecon.selection import WHOLE_VIEW
from bluesky_streamrecon.wire import CHECKS, Check, Cuts, RunStatus

__all__ = ["MEASURED", "about", "change", "checks", "draw_measured", "expected_stop", "headline", "render", "to_do"]


SAID_ELSEWHERE = {"run", "score", "verdict", "problem", "held", "check", "counts"}
"""Lines of the state that the page has in better places."""

LAG, LAG_SHARE = 10, 0.05
"""Projections, and share of those planned, by which an image may be behind before a person should look."""

MOST_LETTERS = 60
"""Of each thing that a run's metadata say of it."""

AXIS_IS = {"ok": "checked", "look": "in doubt", "wrong": "wrong", "open": "not checked"}

LONG = 90
"""Minutes from which on hours are counted."""

OF_THE_JOB = {"job", "frames"}
"""Those that are of the job, and no more of the run when that is over."""

MEASURED: Final[dict[Space, str]] = {
    "sinogram": "Line integrals so far",
    "projection": "Line integrals of the newest projection",
    "raw": "Counts of the newest projection",
    "residual": "Line integrals of the newest projection less those of the image before it",
}

_FILES = resources.files("bluesky_streamrecon.live_view")


def render(token: str, nonce: str) -> str:
    """Return the page; with `nonce` its own script and style may run, with `token` its requests are accepted."""
    page, script = (_FILES.joinpath(name).read_text(encoding="utf-8") for name in ("page.html", "page.js"))
    return page.replace("@TOKEN@", token).replace("@NONCE@", nonce).replace("@SCRIPT@", script)


def change(snapshot: Snapshot, images: Images) -> dict[str, Any]:
    """Return what a page shows, but for the cuts."""
    status = snapshot.status
    return {
        "link": "ended" if status.ended and snapshot.unlinked == CLOSED else snapshot.unlinked,
        "run": status.run_uid,
        "about": about(status),
        "headline": headline(status, ended=bool(snapshot.unlinked)),
        "expected": expected_stop(snapshot),
        "checks": checks(snapshot),
        "to_do": to_do(status),
        "curves": draw_curves(status, snapshot.counted),
        "lines": _lines(snapshot),
        "taken": status.taken,
        "total": status.total,
        "newest": images.newest(snapshot),
        "earlier": images.earlier(snapshot),
        "held": status.held is not None,
        "finishing": status.finish is not None,
        "boxes": _boxes(status),
        "counts": "" if status.selection == WHOLE_VIEW else f"Green frame, what counts: {status.selection_text}",
        "axis": status.axis,
        "pixel_size": status.pixel_size,
        "directions": _circle(images.directions),
    }


def _boxes(status: RunStatus) -> list[Any]:
    """Return corners (row, y, x) of what counts, voxels, where that is not all; None: the end of the volume."""
    region, rows = status.selection.region, status.selection.rows
    left, top, right, bottom = region or (0, 0, None, None)
    spans = [(row, row + 1) for row in rows] if rows else [(0, status.detector_shape[0])] * (region is not None)
    boxes = [((first, top, left), (end, bottom, right)) for first, end in spans]
    return [[[None if edge is None else edge - 0.5 for edge in corner] for corner in box] for box in boxes]


def _circle(directions: dict[str, Any]) -> dict[str, Any]:
    """Return the directions that are covered, drawn in a circle of radius 46 around (50, 50), and in words."""
    if not directions:
        return {"run": None}
    covered, start, turn = directions["covered"], directions["start"], directions["turn"]
    width = directions["span"] / len(covered)

    def spot(angle: float) -> str:
        return f"{50 + 46 * math.cos(angle):.2f} {50 - 46 * math.sin(angle):.2f}"

    def filled(by: float) -> str:
        at = (start + by + i * width for i, is_there in enumerate(covered) if is_there)
        return "".join(f"M50 50L{spot(each - width / 2)}L{spot(each + width / 2)}Z" for each in at)

    paths = [("axis", "M4 50A46 46 0 1 1 96 50A46 46 0 1 1 4 50"), ("covered", filled(0))]
    if turn < 4:  # radians: seen from behind they are the same
        paths.append(("again", filled(math.pi)))
    newest = math.degrees(directions["newest"])
    text = f"{sum(covered)} of {len(covered)} directions covered, the newest at {newest:.0f}°; pale: seen from behind"
    return {
        "run": directions["run"],
        "paths": [*paths, ("now", f"M50 50L{spot(directions['newest'])}")],
        "text": text,
    }


def headline(status: RunStatus, *, ended: bool) -> dict[str, str]:
    """Return what a person has to know first.

    Parameters
    ----------
    status : RunStatus
        Of the open run, or of the last one.
    ended : bool
        It is open no more, or not known to be.

    Returns
    -------
    dict
        ``what`` happens, in a few words; the ``detail``; what is in ``doubt``; and the ``tone``, which is ``"wait"``,
        ``"good"`` or ``"bad"``.
    """
    if status.run_uid is None:
        return {
            "what": "No run is open",
            "detail": f"The job is {status.state}.",
            "doubt": status.problem,
            "tone": "wait",
        }
    of = f" of {status.total}" if status.total else ""
    taken = f"Projection {status.taken}{of}"
    judged = "too early to judge" if _unpredicted(status) else "not good enough yet"
    what, tone = {
        "": (f"{taken}: no verdict yet", "wait"),
        "invalid": (f"{taken}: the image is not to be relied on", "bad"),
        "enough": (f"{taken}: good enough", "good"),
    }.get(status.verdict, (f"{taken}: {judged}", "wait"))
    if status.ended:
        good = "good" if status.ended.startswith("success") and status.verdict != "invalid" else "bad"
        what = f"The run has ended at projection {status.taken}{of}"
        detail = status.ended.removeprefix("success: ")
        detail = f"{detail}; the volume {status.volume}" if status.volume else detail
        if status.verdict == "invalid":
            what += ": its image is not to be relied on"
        return {"what": what, "detail": detail, "doubt": status.problem, "tone": good}
    if ended and status.verdict != "invalid":
        what = f"The run has ended, or is out of reach, at projection {status.taken}{of}"
    elif status.finish is not None:
        what, tone = f"{taken}: finishing", "good"
    return {"what": what, "detail": status.text, "doubt": status.problem, "tone": tone}


def _unpredicted(status: RunStatus) -> bool:
    """Return whether the policy predicts, but has not done so yet."""
    return status.tolerance is not None and not status.measured and status.gain is None


def about(status: RunStatus) -> str:
    """Return which run of which sample it is, and since when, in words."""
    if status.run_uid is None:
        return "no run yet"
    details = {name: shorten(text, MOST_LETTERS, placeholder=" …") for name, text in status.about.items()}
    words = [details.pop("sample", "sample without a name"), *(f"{name} {text}" for name, text in details.items())]
    if status.started:
        today = time.strftime("%F") == _local("%F", status.started)
        words.append(_local("started at %H:%M" if today else "started on %F at %H:%M", status.started))
    return " · ".join([*words, f"run {status.run_uid[:8]}"])


def expected_stop(snapshot: Snapshot) -> str:
    """Return when the run will probably stop, and why, in words; empty if there is none to stop."""
    status, total, last = snapshot.status, snapshot.status.total, snapshot.status.last
    if status.run_uid is None or snapshot.unlinked or status.ended:
        return ""
    if status.finish is not None:
        return f"Stops at the next projection, as {status.finish.who} has asked: {status.finish.reason}"
    if status.finalize:
        return "Stops at the next projection: the image is good enough."
    cause = "end" if last == total else "end of its budget"
    end = f"the {cause} (projection {last}{_when(snapshot, last)})" if last else "the plan's end"
    if status.held is not None:
        return f"Not by itself, as it is held {status.hold_text}. The scan goes on, at the latest to {end}."
    if status.verdict == "invalid":
        return f"Not before {end}: no automatic stop while the image is not to be relied on."
    if status.advisory:
        return f"Not before {end}: the policy only reports (advisory)."
    if status.stop_at is None:
        why = "Not known yet" if status.tolerance is not None else f"Not predicted ({status.policy})"
        return f"{why}: when the image is good enough, at the latest at {end}."
    at = max(status.stop_at, status.least)
    if at >= last:
        needed = "all projections are" if at >= total else f"{at} projections are"
        return f"Not before {end}: {needed} predicted to be needed."
    if at <= status.taken:
        return f"Soon: the next prediction decides, near projection {status.taken} of {total}."
    when = _when(snapshot, at)
    return f"When it is good enough, probably{when}, near projection {at} of {total} (predicted from {status.gain_at})."


def _when(snapshot: Snapshot, projection: int) -> str:
    """Return how long it will take to a projection, in words, with the time of day; empty if that is not known."""
    left, status = snapshot.seconds_left, snapshot.status
    if left is None or status.last <= status.taken:
        return ""
    seconds = left * (projection - status.taken) / (status.last - status.taken)
    minutes = round(seconds / 60)
    far = f"about {minutes} min" if minutes else "less than 1 min"
    if minutes >= LONG:
        far = f"about {minutes // 60} h {minutes % 60} min"
    return f" in {far} at {_local('%H:%M', time.time() + seconds)}"


def checks(snapshot: Snapshot) -> list[Check]:
    """Return the checks of the data, and the lag; before there are any, that they are not made yet."""
    status = snapshot.status
    if status.run_uid is None or (status.state == "stored" and not status.checks):
        return []
    number = "not checked" if snapshot.unlinked else "not yet"
    unchecked = [Check(name=name, state="open", number=number, text="not checked yet") for name in CHECKS]
    found = list(status.checks) or unchecked
    if snapshot.unlinked:
        return found
    judged = snapshot.judged[-1].projections if snapshot.judged else 0
    most, of_verdict = max(LAG, LAG_SHARE * status.total), max(status.used - judged, 0)
    lag = max(status.lag, of_verdict)
    text = f"{status.lag} projections are not in the image yet, {of_verdict} more are not judged"
    text += f"; more than {most:.0f}: the scan goes on and nothing is lost, but a stop comes late" if lag > most else ""
    return [*found, Check(name="lag", state="look" if lag > most else "ok", number=f"{lag} behind", text=text)]


def to_do(status: RunStatus) -> list[tuple[str, str]]:
    """Return state and words of each check that a person should look at, where these are not on the page already."""
    shown = status.problem + status.text + status.ended
    wanted = [check for check in status.checks if check.state in ("look", "wrong") and check.text not in shown]
    return [(check.state, f"{check.name}: {check.text}") for check in wanted]


def _local(style: str, seconds: float) -> str:
    return time.strftime(style, time.localtime(seconds))


def draw_measured(cuts: Cuts) -> dict[str, str]:
    """Return one cut among the projections as a picture and in words: transparent where there is nothing.

    Returns
    -------
    dict
        ``image``, a ``data:`` URL, and ``text``; both empty if there is nothing.
    """
    from PIL import Image

    (cut,), (values,) = cuts.cuts, cuts.values()
    if not np.isfinite(values).any():
        return {"image": "", "text": "Not there yet: it comes with one of the next images."}
    low, high = grey_range(values)
    grey = 1 + np.clip(np.nan_to_num((values - low) * (254 / (high - low)), nan=-1), -1, 254)
    file = io.BytesIO()
    Image.fromarray(grey.astype(np.uint8)).save(file, format="PNG", compress_level=3, transparency=0)
    where = "columns across, rows downwards"
    if cut.space == "sinogram":
        first = cut.corner[1] + cut.down[1] / cut.shape[0] / 2
        first, last = (math.degrees(angle) for angle in (first, first + cut.down[1]))
        where = f"detector row {cut.corner[0]:g}, columns across, {first:.0f}° to {last:.0f}° downwards"
    elif cuts.angle is not None:
        where += f", at {math.degrees(cuts.angle):.1f}°"
    text = f"{MEASURED[cut.space]}: {where}; from {low:.3g} to {high:.3g}."
    return {"image": "data:image/png;base64," + base64.b64encode(file.getvalue()).decode(), "text": text}


def _lines(snapshot: Snapshot) -> list[list[str]]:
    """Return the state, name and text of each line."""
    left, hidden = snapshot.seconds_left, SAID_ELSEWHERE | (OF_THE_JOB if snapshot.unlinked else set())
    lines = [list(line) for line in snapshot.status.lines() if line[0] not in hidden]
    known = {each.name: each.state for each in snapshot.status.checks}.get("axis", "open")
    lines = [[name, f"{text}, {AXIS_IS[known]}" if name == "axis" else text] for name, text in lines]
    if left is not None:
        lines.insert(1, ["time left", f"{as_minutes(left)} to projection {snapshot.status.last}, if all are taken"])
    return lines
