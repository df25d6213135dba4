"""The table of a streamed run at the prompt: what will be done, a few rows, and how it ended.

It is a document callback, for stepping and flying plans alike. Times are seconds, angles those of the stage.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from bluesky.callbacks.core import make_class_safe
from event_model import DocumentRouter

from bluesky_streamrecon.beamline.documents import BLOCK
from bluesky_streamrecon.beamline.steering import BUDGET
from bluesky_streamrecon.selection import Selection
from bluesky_streamrecon.settings import CHANGE, TOMOGRAPHY, SteeringSettings

__all__ = ["RunTable", "as_minutes"]

logger = logging.getLogger(__name__)

ROWS = 24
"""Rows of a run that takes all of its projections; orders of people have lines of their own."""

WIDTH = 80
"""Characters of the longest line."""

COLUMNS = {"projections": 12, "angle": 8, "image": 6, "score": 7, "predicted gain": 16, "lag": 5, "time": 8, "left": 8}
"""Their widths; what is left is the time to the last projection that is planned, at the pace of the run so far."""


def print_line(line: str) -> None:
    """Print a line with the signs that the terminal has, and '?' for those that it has not."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(line.encode(encoding, "replace").decode(encoding))


@make_class_safe(logger=logger)  # a terminal that is gone must not end a scan
class RunTable(DocumentRouter):
    """Print how a streamed run goes, in at most 80 columns.

    For one run; ``RunRouter`` makes one for each. A run without reconstruction is passed over.

    Parameters
    ----------
    out : callable, optional
        Called with each line.
    steer : str, optional
        What the heading says to steer the run with.

    Examples
    --------
    Every streamed run has a table, and every other run what it had before:

    >>> from event_model import RunRouter
    >>> def table_or_plots(name, start):
    ...     return [RunTable() if "streamrecon" in start else bec], []
    >>> RE.subscribe(RunRouter([table_or_plots]))  # doctest: +SKIP
    """

    def __init__(
        self, out: Callable[[str], object] = print_line, steer: str = 'status(), finish_now("why"), hold()'
    ) -> None:
        super().__init__()
        self._out, self._steer = out, steer
        self._streams: dict[str, str] = {}
        self._job = ""  # what names of the job's signals begin with
        self._angles: list[str] = []  # names under which an angle may be
        self._scan: str = ""
        self._planned = 0
        self._begun = 0.0
        self._first = (0, 0.0)  # projections, and when they were taken
        self._taken = self._shown = 0
        self._gain = ""
        self._turns = self._volume = 1
        self._change = ""

    def start(self, doc: Any) -> None:
        """Print what will be done, and how to look at it."""
        block: Mapping[str, Any] | None = doc.get(BLOCK)
        if block is None:
            return
        recon, steering = block.get("recon", {}), block.get("steering", {})
        self._scan = f"Scan {doc.get('scan_id', '?')} ({doc['uid'][:8]})"
        self._planned, self._begun = int(block.get("projections") or 0), doc["time"]
        self._angles = [str(block.get("angle")), *map(str, doc.get("motors", ()))]
        order = f" in {block['order']} order" if "order" in block else ""
        analysis = recon.get("analysis", TOMOGRAPHY)
        how = f"{recon.get('algorithm') if analysis == TOMOGRAPHY else analysis}, {block.get('job_ranks', '?')} ranks"
        rules = SteeringSettings(policy=steering.get("policy"), threshold=steering.get("threshold"))
        rule, limit = rules.rule, ""
        if "ms-ssim" in rule:
            limit += f", threshold {rules.least_score:g}"
        if "predicted-gain" in rule and "tolerance" in steering:
            limit += f", tolerance {steering['tolerance']:g}"
        if steering.get("region"):
            limit += f", in {Selection(tuple(steering['region']))}"
        self._turns = int(recon.get("turns", 1))
        if "budget" in block:
            order += f" ({block['budget']})"
        if self._turns > 1 and rule == CHANGE:
            until = steering.get("options", {}).get("until", "end")
            ends = {"end": "Reports changes of the sample", "change": "Ends when the sample changes"}
            self._say(
                f"{self._scan}: {self._turns} volumes of {self._planned // self._turns} projections{order}; {how}. "
                f"{ends.get(until, 'Ends when a change of the sample is over')} ({rule}). Look: streamrecon view. "
                f"Steer: {self._steer}."
            )
            return
        verb = "Reports" if steering.get("advisory") else "Ends"
        self._say(
            f"{self._scan}: {self._planned or 'any number of'} projections{order}; {how}. {verb} when the image is "
            f"good enough ({rule}{limit}). Look: streamrecon view. Steer: {self._steer}."
        )

    def descriptor(self, doc: Any) -> None:
        """Find the job's signals."""
        self._streams[doc["uid"]] = doc.get("name", "primary")
        for name, keys in doc.get("object_keys", {}).items():
            if f"{name}-image_number" in keys and f"{name}-lag" in keys:
                self._job = name

    def event(self, doc: Any) -> Any:
        """Print a row where the run is a good piece further."""
        stream, data = self._streams.get(doc["descriptor"]), doc["data"]
        if not self._scan:
            return doc
        if stream == "steering":
            self._take_verdict(data)
        elif self._job and f"{self._job}-lag" in data:
            used, lag = data[f"{self._job}-projections"], data[f"{self._job}-lag"]
            self._taken = doc["seq_num"] if stream == "primary" else used + lag
            if not self._first[0]:
                self._first = (self._taken, doc["time"])
            if self._turns > 1 and self._planned:
                self._tell_volume()
            if self._taken >= self._shown + max(1, self._planned // ROWS):
                self._row(data, doc["time"])
        return doc

    def stop(self, doc: Any) -> None:
        """Print how the run ended, and what can be done now."""
        if not self._scan:
            return
        took = as_minutes(doc["time"] - self._begun)
        reason = f": {doc['reason']}" if doc.get("reason") else ""
        self._say(f"{self._scan} ended after {took}, {doc['exit_status']}{reason}")
        if doc["exit_status"] == "success":
            self._say("Next: show_last(); in a shell: streamrecon replay -1, streamrecon export -1 FILE.nxs")

    def _take_verdict(self, data: Mapping[str, Any]) -> None:
        values = {name.rpartition("-")[2]: value for name, value in data.items()}
        metrics = json.loads(values.get("metrics") or "{}")
        gain, upper = metrics.get("predicted-gain"), metrics.get("predicted-gain-high")
        if gain is not None and upper is not None:
            self._gain = f"{gain:.3f} (≤ {upper:.3f})"
        began, over = metrics.get("change-began"), metrics.get("change-over")
        if began is not None and (change := f"{began:.0f} {over}") != self._change:
            self._change = change
            self._say(values.get("text") or "the sample changes")
        if values.get("policy") == BUDGET:
            self._say(values["text"])
        if values.get("who"):
            self._say(f"{values['verdict']} by {values['who']} ({values['place']}): {values['text']}")

    def _tell_volume(self) -> None:
        volume = max(self._taken - 1, 0) * self._turns // self._planned + 1
        if volume > self._volume and volume <= self._turns:
            self._say(f"volume {volume} of {self._turns}")
        self._volume = max(volume, self._volume)

    def _say(self, text: str) -> None:
        for line in textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False):
            self._out(line)

    def _row(self, data: Mapping[str, Any], now: float) -> None:
        if not self._shown:
            self._out(" ".join(title.rjust(width) for title, width in COLUMNS.items()))
        self._shown = self._taken
        score = data[f"{self._job}-score"]
        angle = next((data[name] for name in self._angles if name in data), None)
        cells = (
            f"{self._taken} of {self._planned}" if self._planned else str(self._taken),
            f"{angle:.3f}" if isinstance(angle, int | float) else "",
            str(data[f"{self._job}-image_number"]),
            "" if score is None or math.isnan(score) else f"{score:.4f}",
            self._gain,
            str(data[f"{self._job}-lag"]),
            as_minutes(now - self._begun),
            self._left(now),
        )
        self._out(" ".join(cell.rjust(width) for cell, width in zip(cells, COLUMNS.values(), strict=True)))

    def _left(self, now: float) -> str:
        taken, began = self._first
        if not self._planned or self._taken <= taken:
            return ""
        return as_minutes(max(self._planned - self._taken, 0) * (now - began) / (self._taken - taken))


def as_minutes(seconds: float) -> str:
    """Return a duration as ``0:31`` or ``1:02:03``."""
    minutes, rest = divmod(max(round(seconds), 0), 60)  # a clock that is put back makes no time negative
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
