"""What the page is sent: its HTML, one JSON object per change, and sinograms as PNG."""

from __future__ import annotations

import io
import math
from functools import lru_cache
from importlib import resources
from typing import Any

import msgspec

from bluesky_streamrecon.beamline.run_table import as_minutes
from bluesky_streamrecon.beamline.source import Snapshot
from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.live_view.images import Images
from bluesky_streamrecon.wire import Picture, RunStatus, Sinogram

__all__ = ["change", "draw_sinogram_png", "headline", "render"]


SAID_ELSEWHERE = {"run", "verdict", "problem"}
"""Lines of the state that the page has in better places."""

OF_THE_JOB = {"job", "ledger"}
"""Those that are of the job, and no more of the run when that is over."""

_FILES = resources.files("bluesky_streamrecon.live_view")


def render(token: str, nonce: str) -> str:
    """Return the page; with `nonce` its own script and style may run, with `token` its requests are accepted."""
    page, script = (_FILES.joinpath(name).read_text(encoding="utf-8") for name in ("page.html", "page.js"))
    return page.replace("@TOKEN@", token).replace("@NONCE@", nonce).replace("@SCRIPT@", script)


def change(snapshot: Snapshot, images: Images, *, run_uid: str | None, known: int) -> dict[str, Any]:
    """Return the changes for a page that has `known` verdicts of `run_uid`."""
    status = snapshot.status
    first = known if run_uid == status.run_uid else 0
    picture = snapshot.picture
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
        "picture": None
        if picture is None
        else {
            "image": picture.image_number,
            "run": picture.run_uid,
            "rows": list(picture.rows),
            "sinogram": None if picture.sinogram is None else _about(picture.sinogram),
        },
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


@lru_cache(maxsize=16)
def draw_sinogram_png(picture: Picture, index: int) -> bytes:
    """Return the sinogram of one of a picture's rows as PNG; transparent where there is no projection.

    Raises
    ------
    DataError
        If it has no such row, or no sinogram.
    """
    from PIL import Image

    shown = picture.sinogram
    if shown is None or not 0 <= index < len(picture.rows):
        raise DataError(f"sinogram {index}: the picture has none")
    size = (shown.columns, len(shown.counts))
    one = shown.pixels[index * size[0] * size[1] :][: size[0] * size[1]]
    file = io.BytesIO()
    Image.frombytes("L", size, one).save(file, format="PNG", compress_level=3, transparency=0)
    return file.getvalue()


def _lines(snapshot: Snapshot) -> list[list[str]]:
    """Return the state, name and text of each line."""
    left, hidden = snapshot.seconds_left, SAID_ELSEWHERE | (OF_THE_JOB if snapshot.link else set())
    lines = [list(line) for line in snapshot.status.lines() if line[0] not in hidden]
    if left is not None:
        lines.insert(1, ["time left", f"{as_minutes(left)} to projection {snapshot.status.total}, if all are taken"])
    return lines


def _about(sinogram: Sinogram) -> dict[str, Any]:
    told = msgspec.structs.asdict(sinogram)
    return {name: value for name, value in told.items() if name != "pixels"} | {"counts": list(sinogram.counts)}


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    """Replace numbers that JSON does not have by None."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
