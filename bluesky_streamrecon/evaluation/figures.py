"""Parts that all figures of the evaluation share: they are drawn without a display, and axes have quantity and unit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bluesky_streamrecon.evaluation.report import Row
from bluesky_streamrecon.settings import SteeringSettings
from bluesky_streamrecon.wire import Score

__all__ = ["Line", "draw_lines", "draw_verdicts", "line_of", "new_figure", "predictions", "show_slice"]

Line = tuple[str | None, Any, Any, str, str]
"""Label, where, value, matplotlib's style, colour."""


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure that draws itself into memory; inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def show_slice(axes: Any, image: NDArray[np.float32], title: str, low: float, high: float) -> Any:
    """Draw a slice in grey."""
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()
    return axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="antialiased")


def draw_lines(axes: Any, lines: Iterable[Line], *, title: str = "", **labels: Any) -> None:
    """Draw lines over a grid, with a legend of those that have a label; `labels` are those of the axes."""
    for label, at, values, style, color in lines:
        axes.plot(at, values, style, color=color, lw=1.2, ms=5, label=label)
    axes.set(**labels)
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, loc="lower right")


def line_of(rows: Iterable[Row], x: str, y: str, label: str | None, style: str, color: str) -> Line:
    """Return a line through two fields of rows; those without a value are left out."""
    found = [row for row in rows if row[y] is not None]
    return label, [row[x] for row in found], [row[y] for row in found], style, color


def predictions(scores: Sequence[Score]) -> dict[int, tuple[float, float, float]]:
    """Return each prediction of the remaining gain: gain and 95 % band, by the projections that it was made from."""
    made: dict[int, tuple[float, float, float]] = {}
    for score in scores:
        at, *found = (score.metrics.get(f"predicted-gain{end}") for end in ("-at", "", "-low", "-high"))
        gain, low, high = found
        if at is not None and gain is not None and low is not None and high is not None:
            made.setdefault(int(at), (gain, low, high))
    return made


def draw_verdicts(
    axes: Any, scores: Sequence[Score], steering: SteeringSettings, *, planned: int, stopped_at: int | None, stop: str
) -> None:
    """Draw the numbers that a policy decided by, and where it ended a run.

    Parameters
    ----------
    axes : Axes
        For MS-SSIM; predicted gains get an axis of their own at the right.
    scores : sequence of Score
        A verdict for each image.
    steering : SteeringSettings
        Policy and thresholds.
    planned : int
        Projections planned.
    stopped_at : int or None
        Projections after which it ended the run, if it did.
    stop : str
        Label of the line there.
    """
    similar = [(s.projections, s.metrics["ms-ssim"]) for s in scores if s.metrics.get("ms-ssim") is not None]
    if similar:
        axes.plot(*zip(*similar, strict=True), lw=1.2, color="C0", label="MS-SSIM to an earlier image")
        if "ms-ssim" in steering.rule:
            axes.axhline(steering.least_score, color="C0", lw=0.8, ls="--", label=f"threshold {steering.least_score:g}")
    axes.set(xlabel="projections", ylabel="MS-SSIM", xlim=(0, planned))
    axes.grid(alpha=0.3)
    if made := predictions(scores):
        gain, low, high = zip(*made.values(), strict=True)
        twin = axes.twinx()
        twin.plot(list(made), gain, ".-", color="C1", lw=1.2)
        twin.fill_between(list(made), low, high, color="C1", alpha=0.25, lw=0)
        twin.axhline(steering.tolerance, color="C1", lw=0.8, ls="--")
        twin.set_ylim(0, max(4 * steering.tolerance, 1.2 * min(max(high), 0.2)))
        twin.set_ylabel("predicted gain of the rest (MS-SSIM)")
        axes.plot([], [], ".-", color="C1", label="predicted gain, 95 % band")
        axes.plot([], [], "--", color="C1", lw=0.8, label=f"tolerance {steering.tolerance:g}")
    if stopped_at is not None:
        axes.axvline(stopped_at, color="C2", lw=1.5, label=f"{stop} {stopped_at}")
        axes.axvspan(stopped_at, planned, color="0.45", alpha=0.15, lw=0)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="center right")
