"""What the page is sent: its HTML, one JSON object per change, and pictures of projections."""

from __future__ import annotations

import base64
import io
import math
from importlib import resources
from typing import Any, Final

import msgspec
import numpy as np

from bluesky_streamrecon.beamline.run_table import as_minutes
from bluesky_streamrecon.beamline.slices import grey_range
from bluesky_streamrecon.beamline.source import Snapshot
from bluesky_streamrecon.live_view.images import Images
from bluesky_streamrecon.wire import Cuts, RunStatus
from bluesky_streamrecon.wire.cuts import Space

__all__ = ["MEASURED", "change", "draw_measured", "headline", "render"]


SAID_ELSEWHERE = {"run", "verdict", "problem"}
"""Lines of the state that the page has in better places."""

OF_THE_JOB = {"job", "ledger"}
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


def change(snapshot: Snapshot, images: Images, *, run_uid: str | None, known: int) -> dict[str, Any]:
    """Return the changes for a page that has `known` verdicts of `run_uid`."""
    status = snapshot.status
    first = known if run_uid == status.run_uid else 0
    return {
        "link": snapshot.link,
        "run": status.run_uid,
        "headline": headline(status, ended=bool(snapshot.link)),
        "tolerance": status.tolerance,
        "lines": _lines(snapshot),
        "taken": status.taken,
        "total": status.total,
        "newest": images.newest(snapshot),
        "earlier": images.earlier(snapshot),
        "held": status.hold_text,
        "finish": "" if status.finish is None else f"{status.finish.who}: {status.finish.reason}",
        "lag": status.lag,
        "axis": status.axis,
        "pixel_size": status.pixel_size,
        "first": first,
        "judged": [_numbers(msgspec.structs.asdict(judged)) for judged in snapshot.judged[first:]],
        "directions": _circle(images.directions),
    }


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
    what, tone = {
        "": (f"{taken}: no verdict yet", "wait"),
        "invalid": ("The image is not to be relied on", "bad"),
        "enough": (f"{taken}: good enough", "good"),
    }.get(status.verdict, (f"{taken}: not good enough yet", "wait"))
    if status.ended:
        good = "good" if status.ended.startswith("success") and status.verdict != "invalid" else "bad"
        what = f"The run has ended at projection {status.taken}{of}"
        detail = f"{status.ended}; the volume {status.volume}" if status.volume else status.ended
        if status.verdict == "invalid":
            what += ": its image is not to be relied on"
        return {"what": what, "detail": detail, "doubt": status.problem, "tone": good}
    if ended and status.verdict != "invalid":
        what = f"The run has ended, or is out of reach, at projection {status.taken}{of}"
    elif status.finish is not None:
        what, tone = f"{taken}: finishing", "good"
    return {"what": what, "detail": status.text, "doubt": status.problem, "tone": tone}


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
    left, hidden = snapshot.seconds_left, SAID_ELSEWHERE | (OF_THE_JOB if snapshot.link else set())
    lines = [list(line) for line in snapshot.status.lines() if line[0] not in hidden]
    if left is not None:
        lines.insert(1, ["time left", f"{as_minutes(left)} to projection {snapshot.status.total}, if all are taken"])
    return lines


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    """Replace numbers that JSON does not have by None."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
