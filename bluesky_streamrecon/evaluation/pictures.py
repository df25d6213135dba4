"""Pictures of runs and orders, written as PNG. Nothing here needs a display."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bluesky_streamrecon.ordering import AngleOrder

__all__ = ["draw_orders", "draw_run"]

_GREY = "0.45"


def draw_run(
    path: Path,
    *,
    title: str,
    final: NDArray[np.float32],
    snapshots: Sequence[tuple[int, NDArray[np.float32]]],
    scores: Sequence[tuple[int, float]],
    threshold: float | None,
    stopped_at: int | None,
    planned: int,
    gains: Sequence[tuple[int, float, float]] = (),
    tolerance: float = 0.0,
) -> None:
    """Draw what a run gave: the final slice, the image as it grew, and the score.

    Parameters
    ----------
    path : Path
        PNG file to write.
    title : str
        One line above all.
    final : ndarray of float32, shape (N, N)
        Final slice, 1/pixel.
    snapshots : sequence of (int, ndarray of float32, shape (N, N))
        Number of projections, and the slice as it then was.
    scores : sequence of (int, float)
        Number of projections, and the score.
    threshold : float or None
        Score at which the scan ends; None: it is not the score that ends it.
    stopped_at : int or None
        Projections after which the scan was ended by quality, if it was.
    planned : int
        Projections planned.
    gains : sequence of (int, float, float), optional
        Number of projections, the gain predicted from them, and the upper end of its band.
    tolerance : float, optional
        Gain below which the scan ends.
    """
    figure = Figure(figsize=(13, 6.8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(textwrap.fill(title, 150), fontsize=12)
    columns = max(len(snapshots), 1)
    grid = figure.add_gridspec(2, 2, width_ratios=[1.05, 1.2], height_ratios=[1, 1.35])
    low, high = _grey_range(final)
    axes = figure.add_subplot(grid[:, 0])
    picture = axes.imshow(final, cmap="gray", vmin=low, vmax=high)
    axes.set_title(f"final slice, {stopped_at or planned} projections")
    axes.set_axis_off()
    figure.colorbar(picture, ax=axes, shrink=0.75, label="attenuation (1/pixel)")
    row = grid[0, 1].subgridspec(1, columns)
    for i, (projections, image) in enumerate(snapshots):
        axes = figure.add_subplot(row[0, i])
        axes.imshow(image, cmap="gray", vmin=low, vmax=high)
        axes.set_title(f"{projections}", fontsize=10)
        axes.set_axis_off()
    axes = figure.add_subplot(grid[1, 1])
    _draw_scores(axes, scores, threshold, stopped_at, planned)
    if gains:
        _draw_gains(axes.twinx(), gains, tolerance)
    figure.savefig(path, dpi=110)


def _draw_scores(
    axes: Any, scores: Sequence[tuple[int, float]], threshold: float | None, stopped_at: int | None, planned: int
) -> None:
    if scores:
        at, value = zip(*scores, strict=True)
        axes.plot(at, value, ".-", lw=1.2, ms=4, color="C0", label="score (MS-SSIM)")
    if threshold is not None:
        axes.axhline(threshold, color="C3", lw=1, ls="--", label=f"threshold {threshold:g}")
    if stopped_at is not None:
        axes.axvline(stopped_at, color="C2", lw=1.5, label=f"stopped at {stopped_at}")
        axes.axvspan(stopped_at, planned, color=_GREY, alpha=0.15, lw=0, label="not taken")
    axes.set(xlim=(0, planned), xlabel="projections", ylabel="score")
    axes.set_ylim(top=1.005)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right", fontsize=9)


def _draw_gains(axes: Any, gains: Sequence[tuple[int, float, float]], tolerance: float) -> None:
    at, gain, upper = zip(*gains, strict=True)
    axes.plot(at, gain, "s-", lw=1, ms=4, color="C1", label="predicted gain")
    axes.plot(at, upper, "^:", lw=1, ms=4, color="C1", label="upper bound")
    axes.axhline(tolerance, color="C1", lw=1, ls="--", label=f"tolerance {tolerance:g}")
    axes.set(ylabel="gain of what is left, predicted (MS-SSIM)", yscale="log")
    axes.legend(loc="center left", fontsize=8)


def draw_orders(orders: Sequence[AngleOrder], path: Path) -> None:
    """Draw angle orders beside each other: the angle of each projection, and the largest gap left.

    Parameters
    ----------
    orders : sequence of AngleOrder
        The orders to draw, one column each.
    path : Path
        PNG file to write.
    """
    figure = Figure(figsize=(3.4 * len(orders), 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(orders), squeeze=False, sharex=True, sharey="row")
    for (top, bottom), order in zip(axes.T, orders, strict=True):
        number = np.arange(1, len(order) + 1)
        span = order.stop - order.start
        top.plot(number, (np.asarray(order.angles) - order.start) % span + order.start, ".", ms=3)
        top.set_title(f"{order.name}\n{order.travel():.0f} deg of travel", fontsize=10)
        bottom.semilogy(number, order.gap_ratios(), lw=1.2)
        bottom.axhline(1, color=_GREY, lw=0.8)
        bottom.set_xlabel("projections")
        top.grid(alpha=0.3)
        bottom.grid(alpha=0.3)
    axes[0, 0].set_ylabel("angle in the range (deg)")
    axes[1, 0].set_ylabel("largest gap / ideal")
    figure.savefig(path, dpi=110)


def _grey_range(image: NDArray[np.float32]) -> tuple[float, float]:
    """Give a grey scale that a few extreme pixels do not spoil."""
    low, high = np.percentile(image, [0.5, 99.7])
    return float(low), float(high if high > low else low + 1)
