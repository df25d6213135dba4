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
    from bluesky_streamrecon.evaluation.score import Truth

__all__ = ["draw_first_images", "draw_order_curves", "new_figure"]

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
