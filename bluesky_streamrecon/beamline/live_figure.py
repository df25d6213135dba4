"""A run in one matplotlib figure while it is taken: a slice, the score, and the predicted gain with its tolerance.

For a prompt with a display, and for notebooks; the page of ``streamrecon view`` shows more.
"""

from __future__ import annotations

import io
import logging
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Final, Protocol

from bluesky.callbacks.core import make_class_safe
from bluesky.callbacks.mpl_plotting import QtAwareCallback

from bluesky_streamrecon.beamline.slices import grey_range, slice_of
from bluesky_streamrecon.beamline.source import Snapshot, Source, Volume
from bluesky_streamrecon.cuts import Cut
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.exit_hooks import close_at_end
from bluesky_streamrecon.job_registration import own_name
from bluesky_streamrecon.selection import Region
from bluesky_streamrecon.wire import Cuts, Judged, RunStatus

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bluesky_streamrecon.wire import OperatorEndpoint

__all__ = ["LiveReconstruction", "live_figure"]

logger = logging.getLogger(__name__)

PAUSE_SECONDS: Final = 0.5
"""Between two drawings, so that a quick scan is not slowed down by them."""
FIGURE_SIZE: Final = (9, 5)
"""Inches."""


class Job(Protocol):
    """What of a `ReconJob` is asked."""

    def connect_operator(self) -> OperatorEndpoint:
        """Connect to it as people's programs do."""


_shown: weakref.WeakKeyDictionary[Job, LiveReconstruction] = weakref.WeakKeyDictionary()


def live_figure(job: Job, **options: Any) -> LiveReconstruction:
    """Return a callback that draws the runs of a job of this process: ``RE(plan, live_figure(job))``.

    Parameters
    ----------
    job : ReconJob
        Need not be staged yet.
    **options
        Of `LiveReconstruction`.
    """
    source = Source(job.connect_operator, own_name())
    close_at_end(source)
    return LiveReconstruction(source, **options)


def show_job(job: Job, **options: Any) -> None:
    """Show the runs of a job as they are taken, in a window, or in the output of a notebook's cell.

    Parameters
    ----------
    job, **options
        As for `live_figure`.

    Raises
    ------
    ConfigError
        If there is neither a display nor a notebook.
    """
    from IPython.core.getipython import get_ipython
    from IPython.display import display
    from matplotlib.figure import Figure

    notebook = getattr(get_ipython(), "kernel", None) is not None
    if not notebook and not os.environ.get("DISPLAY"):
        raise ConfigError("show: there is no display here, and this is no notebook; `streamrecon view` shows more")
    if job in _shown:
        _shown.pop(job).close()
    if notebook:
        options["figure"] = Figure(figsize=FIGURE_SIZE, layout="constrained")
    live = _shown[job] = live_figure(job, **options)
    if notebook:
        live.output = display(live, display_id=True)
    live.follow()


@make_class_safe(logger=logger)  # a window that was closed must not end a scan
class LiveReconstruction(QtAwareCallback):
    """A callback in the manner of bluesky's ``LivePlot``: one figure, updated in place, for one run after the other.

    It may be subscribed to any RunEngine; what it shows comes from `source`, and it is drawn anew when documents come.

    Parameters
    ----------
    source : Source
        Of the job; see `live_figure`. Closed by the caller.
    slice_number : int, optional
        Which of the rows that the score is taken from; the middle one by default.
    figure : Figure, optional
        A new one, of pyplot, by default; it is made when the first run begins.

    Attributes
    ----------
    figure : Figure or None
        That is drawn into.
    output : DisplayHandle or None
        Where a notebook shows it.
    """

    def __init__(self, source: Source, *, slice_number: int | None = None, figure: Figure | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.figure = figure
        self.output: Any = None
        self._source = source
        self._slice_number = slice_number
        self._panels: Any = None
        self._cuts: Cuts | None = None
        self._run_uid = ""
        self._shown: Any = None
        self._next = 0.0
        self._drawing = threading.RLock()
        source.watch(self._wished, self._take)

    def follow(self) -> None:
        """Draw the runs of the source from now on as they are taken, with or without documents."""
        self._source.listen(lambda: self("follow_source", {}))
        self("follow_source", {})

    def close(self) -> None:
        """Stop following the run, and close the connection."""
        self._source.close()

    def follow_source(self, doc: Any) -> Any:
        """Begin the source's newest run if it is another one, and draw what is new."""
        with self._drawing:
            status = self._source.snapshot.status
            if status.run_uid not in (None, self._run_uid):
                self.start({"uid": status.run_uid})
            return self.event(doc)

    def start(self, doc: Any) -> None:
        """Make the figure, or clear it."""
        if self.figure is None:
            from matplotlib import pyplot as plt

            self.figure = plt.figure(figsize=FIGURE_SIZE, layout="constrained")
        self.figure.clear()
        grid = self.figure.add_gridspec(2, 2, width_ratios=(1.2, 1))
        self._panels = [self.figure.add_subplot(place) for place in (grid[:, 0], grid[0, 1], grid[1, 1])]
        self._run_uid, self._shown, self._next = doc["uid"], None, 0.0
        self.figure.suptitle(f"Scan {doc.get('scan_id', '?')} ({doc['uid'][:8]})")
        self._draw()

    def event(self, doc: Any) -> Any:
        """Draw what is new, unless that was done a moment ago and there is more to come."""
        if time.monotonic() >= self._next or self._source.snapshot.unlinked:
            self._draw()
        return doc

    def stop(self, doc: Any) -> None:
        """Draw the last that is known, with the end of the run."""
        self._draw()
        if self.figure is not None:
            self.figure.suptitle(f"{self.figure.get_suptitle()} ended: {doc['exit_status']}")
            self.figure.canvas.draw_idle()

    def _wished(self, status: RunStatus, volume: Volume) -> list[Cut]:
        rows = status.selection.rows or status.preview_rows or (volume[0] // 2,)
        number = len(rows) // 2 if self._slice_number is None else min(self._slice_number, len(rows) - 1)
        return [slice_of(min(rows[number], volume[0] - 1), volume)]

    def _take(self, cuts: Cuts) -> None:
        self._cuts = cuts
        self("event", {})

    def _draw(self) -> None:
        with self._drawing:  # documents and images come in different threads
            now, cuts = self._source.snapshot, self._cuts
            if self.figure is None or self._panels is None or (now, cuts) == self._shown:
                return
            self._shown, self._next = (now, cuts), time.monotonic() + PAUSE_SECONDS
            picture, score, gain = self._panels
            if cuts is not None and cuts.run_uid == self._run_uid:
                _draw_slice(picture, cuts, now.status.selection.region)
            if now.status.run_uid == self._run_uid:
                _draw_score(score, now)
                _draw_gain(gain, now)
            self.figure.canvas.draw_idle()
            if self.output is not None:
                self.output.update(self)

    def _repr_png_(self) -> bytes | None:
        if self.figure is None:
            return None
        with self._drawing:
            file = io.BytesIO()
            self.figure.savefig(file, format="png")
            return file.getvalue()


def _draw_slice(panel: Any, cuts: Cuts, region: Region | None) -> None:
    (cut,), (values,) = cuts.cuts, cuts.values()
    low, high = grey_range(values)
    panel.clear()
    panel.imshow(values, cmap="gray", vmin=low, vmax=high, extent=(0, cut.across[2], cut.down[1], 0))
    if region is not None:
        from matplotlib.patches import Rectangle

        left, top, right, bottom = region
        corner, width, height = (left, top), right - left, bottom - top
        panel.add_patch(Rectangle(corner, width, height, edgecolor="tab:green", linestyle="--", fill=False))
    panel.set(
        title=f"row {cut.corner[0]:g} from {cuts.projections} projections",
        xlabel=f"x (pixels); {low:.3g} to {high:.3g} per pixel",
        ylabel="y (pixels)",
    )


def _draw_score(panel: Any, now: Snapshot) -> None:
    panel.clear()
    scores = [(each.projections, each.score) for each in now.counted if each.score is not None]
    panel.plot([at for at, _ in scores], [score for _, score in scores], marker=".")
    panel.set(ylabel="score", xlim=(0, now.status.total or None))


def _draw_gain(panel: Any, now: Snapshot) -> None:
    panel.clear()
    predicted = [each for each in now.counted if each.gain is not None]
    if predicted:
        at = [_made_at(each) for each in predicted]
        panel.plot(at, [each.gain for each in predicted], marker=".", color="tab:orange")
        band = [each for each in predicted if each.gain_low is not None and each.gain_high is not None]
        panel.fill_between(
            [_made_at(each) for each in band],
            [each.gain_low for each in band],
            [each.gain_high for each in band],
            color="tab:orange",
            alpha=0.3,
        )
    if now.status.tolerance is not None:
        panel.axhline(now.status.tolerance, color="tab:green", linestyle="--", label="tolerance")
        panel.legend(loc="upper right")
    panel.set(xlabel="projections", ylabel="predicted gain", xlim=(0, now.status.total or None))


def _made_at(each: Judged) -> int:
    return each.projections if each.gain_at is None else each.gain_at
