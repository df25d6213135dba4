"""Figures of the evaluation, drawn without a display. Axes carry the quantity and its unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

if TYPE_CHECKING:
    from bluesky_streamrecon.evaluation.orders import OrderRow
    from bluesky_streamrecon.evaluation.rates import RateRow
    from bluesky_streamrecon.evaluation.score import Truth
    from bluesky_streamrecon.evaluation.similarity import SimilarityCurve

__all__ = [
    "draw_first_images",
    "draw_order_curves",
    "draw_rate_map",
    "draw_rates",
    "draw_similarity",
    "new_figure",
    "show",
]

Images = Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]


def new_figure(width: float, height: float) -> Figure:
    """Give an empty figure that draws itself into memory; inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def show(axes: Any, image: NDArray[np.float32], title: str, low: float, high: float) -> None:
    """Show a slice in grey."""
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="antialiased")
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def draw_first_images(samples: Sequence[tuple[str, Images, Truth]]) -> Figure:
    """Draw the live image after 30 projections in each order, a row for each sample, and the truth at the end."""
    columns = len(samples[0][1]) + 1
    figure = new_figure(2.1 * columns, 2.3 * len(samples))
    axes = figure.subplots(len(samples), columns, squeeze=False)
    for row, (sample, images, truth) in zip(axes, samples, strict=True):
        high = float(np.percentile(truth.image[0], 99.8))
        for place, (order, (live, _)) in zip(row, images.items(), strict=False):
            show(place, live[0], f"{order}: {truth.similarity(live):.3f}", 0, high)
        show(row[-1], truth.image[0], f"{sample}: truth", 0, high)
    return figure


def draw_order_curves(rows: Sequence[OrderRow]) -> Figure:
    """Draw similarity and error against projections: live images as lines, finished ones as points."""
    samples = list(dict.fromkeys(row.sample for row in rows))
    orders = list(dict.fromkeys(row.order for row in rows))
    figure = new_figure(4.2 * len(samples), 6.4)
    axes = figure.subplots(2, len(samples), squeeze=False, sharex="col")
    for column, sample in enumerate(samples):
        for color, order in enumerate(orders):
            for kind, style in (("live", "-"), ("finished", ".:")):
                chosen = [r for r in rows if (r.sample, r.order, r.image) == (sample, order, kind)]
                at = [r.projections for r in chosen]
                label = order if kind == "live" else None
                for row, name in enumerate(("ms_ssim", "rmse")):
                    axes[row, column].plot(
                        at, [getattr(r, name) for r in chosen], style, color=f"C{color}", lw=1.2, ms=5, label=label
                    )
        axes[0, column].set_title(f"{sample} (lines: live; points: finished offline)", fontsize=9)
        axes[1, column].set_xlabel("projections")
        for row in (0, 1):
            axes[row, column].grid(alpha=0.3)
        axes[1, column].set_yscale("log")
    axes[0, 0].set_ylabel("MS-SSIM to the truth")
    axes[1, 0].set_ylabel("RMSE / range of the truth")
    axes[0, 0].legend(fontsize=8, loc="lower right")
    return figure


def draw_similarity(curves: Sequence[tuple[str, SimilarityCurve]], threshold: float) -> Figure:
    """Draw each scan: the score and the similarity to the truth, and images on the way."""
    figure = new_figure(4.6 * len(curves), 5.6)
    grid = figure.add_gridspec(2, len(curves), height_ratios=[1.7, 1])
    for column, (title, curve) in enumerate(curves):
        axes = figure.add_subplot(grid[0, column])
        scored = [p for p in curve.points if p.self_similarity is not None]
        values = [float("nan") if p.self_similarity is None else p.self_similarity for p in scored]
        axes.plot([p.projections for p in scored], values, lw=1.3, label="to the image 24 before")
        axes.plot(
            [p.projections for p in curve.points], [p.ms_ssim for p in curve.points], lw=1.3, label="to the truth"
        )
        axes.axhline(threshold, color="C3", lw=0.9, ls="--")
        crossed = curve.crossing(threshold)
        if crossed is not None:
            axes.axvline(crossed, color="C2", lw=1.2, label=f"{threshold:g} reached at {crossed}")
        axes.set(title=title, xlabel="projections", ylabel="MS-SSIM", ylim=(0.3, 1.01))
        axes.title.set_fontsize(10)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="lower right")
        row = grid[1, column].subgridspec(1, max(len(curve.shown), 1))
        high = float(np.percentile(curve.truth.image[0], 99.8))
        for place, (projections, image) in enumerate(curve.shown.items()):
            show(figure.add_subplot(row[0, place]), image, f"{projections}", 0, high)
    return figure


def draw_rates(rows: Sequence[RateRow]) -> Figure:
    """Draw rates against the detector's width, measured and predicted, a panel for each algorithm."""
    sizes = [row for row in rows if row.figure == "sizes"]
    algorithms = list(dict.fromkeys(row.algorithm for row in sizes))
    figure = new_figure(4.6 * len(algorithms), 4.2)
    panels = figure.subplots(1, len(algorithms), squeeze=False, sharey=True)[0]
    for axes, algorithm in zip(panels, algorithms, strict=True):
        mine = [row for row in sizes if row.algorithm == algorithm]
        kinds = list(dict.fromkeys((row.mode, row.ranks, row.threads) for row in mine))
        for color, (mode, ranks, threads) in enumerate(kinds):
            chosen = [row for row in mine if (row.mode, row.ranks, row.threads) == (mode, ranks, threads)]
            at = [row.columns for row in chosen]
            label = f"{mode}, {ranks} x {threads} thread{'s' if threads > 1 else ''}"
            axes.plot(at, [row.measured for row in chosen], "o-", color=f"C{color}", ms=4, lw=1.2, label=label)
            axes.plot(at, [row.predicted for row in chosen], ":", color=f"C{color}", lw=1.2)
        for row in mine:
            if row.reference:
                axes.plot(row.columns, row.measured, "*", color="black", ms=11, label="predictions (dotted) from here")
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="detector columns",
            title=f"{algorithm}, {mine[0].rows} rows, l = 24, s = 1",
        )
        axes.set_xticks(sorted({row.columns for row in mine}), [str(c) for c in sorted({row.columns for row in mine})])
        axes.minorticks_off()
        axes.title.set_fontsize(10)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    panels[0].set_ylabel("projections per second")
    return figure


def draw_rate_map(rows: Sequence[RateRow]) -> Figure:
    """Draw rates over step and window: measured, and the prediction's error."""
    windows, steps = sorted({row.window for row in rows}), sorted({row.step for row in rows})
    measured = np.full((len(windows), len(steps)), np.nan)
    ratio = measured.copy()
    for row in rows:
        place = windows.index(row.window), steps.index(row.step)
        measured[place], ratio[place] = row.measured, row.ratio
    figure = new_figure(9.2, 3.9)
    styles: tuple[dict[str, Any], ...] = ({"cmap": "viridis"}, {"cmap": "RdBu", "vmin": 0.5, "vmax": 1.5})
    box = {"fc": "white", "alpha": 0.6, "lw": 0, "pad": 1}
    titles = (f"measured, C = {rows[0].columns}, {rows[0].rows} rows (projections/s)", "predicted / measured")
    for axes, values, title, style in zip(figure.subplots(1, 2), (measured, ratio), titles, styles, strict=True):
        axes.imshow(values, origin="lower", aspect="auto", **style)
        axes.set(xlabel="step s", ylabel="window l", title=title)
        axes.set_xticks(range(len(steps)), [str(s) for s in steps])
        axes.set_yticks(range(len(windows)), [str(w) for w in windows])
        axes.title.set_fontsize(10)
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                axes.text(j, i, f"{value:.3g}", ha="center", va="center", fontsize=8, bbox=box)
    return figure
