"""How the angle order affects the image while the scan runs: figure 3 of Bicer et al. 2017, and more.

Every sample is scanned in every order, reconstructed live (the paper's window) and, at some points, finished offline
from the projections so far. Both are compared with the truth. Of a measured scan the truth is taken to be a
reconstruction from all projections by many updates.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.beamline.slices import grey_range
from bluesky_streamrecon.evaluation.figures import draw_lines, line_of, new_figure, show_slice
from bluesky_streamrecon.evaluation.images import PAPERS, finish, live_updates, with_best_image
from bluesky_streamrecon.evaluation.report import Report, Row, grouped
from bluesky_streamrecon.evaluation.scans import LineScan, measured_scan, simulated_scan
from bluesky_streamrecon.ordering import AngleOrder, make_order, places_in_order
from bluesky_streamrecon.sim_devices import Foam, Sample, SheppLogan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ORDERS", "draw_orders", "evaluate_orders"]

ORDERS = ("fixed", "interleaved(5)", "optimized-interleaved", "golden")
FINISHED_EVERY = 10
SHOWN_AT = 30

logger = logging.getLogger(__name__)


def evaluate_orders(
    *, data: Path | None = None, columns: int = 256, num: int = 180, counts: float = 1e4, threads: int = 1
) -> Report:
    """Compare the orders on foam, Shepp-Logan and a measured scan.

    Parameters
    ----------
    data : Path, optional
        Measured scan (DXchange or NXtomo); left out if not given.
    columns, num : int, optional
        Detector columns and projections of the simulated scans.
    counts : float, optional
        Photons per pixel of the simulated scans.
    threads : int, optional
        That compute.

    Returns
    -------
    Report
        ``rows``: ``sample``, ``order``, ``image`` (``"live"``, or ``"finished"`` offline from the projections so far),
        ``projections`` so far, ``ms_ssim`` and ``rmse`` to the truth, the latter as a fraction of its range; also as
        ``orders.csv``, with ``orders_curves.png`` and ``orders_images.png``.

    Raises
    ------
    StorageError, DataError
        If `data` can not be used.
    """
    samples: tuple[tuple[str, Sample], ...] = (("foam", Foam(pores=90)), ("shepp-logan", SheppLogan()))
    angles = [make_order(name, num=num) for name in ORDERS]
    scans = [
        [simulated_scan(*each, columns=columns, order=order, counts=counts) for order in angles] for each in samples
    ]
    if data is not None:
        whole = with_best_image(measured_scan(data, order="fixed"), threads=threads)
        scans.append([whole.in_order(places_in_order(name, whole.angles)) for name in ORDERS])
    rows: list[Row] = []
    shown: list[tuple[LineScan, dict[str, NDArray[np.float32]]]] = []
    for in_orders in scans:
        images = {}
        for order, scan in zip(ORDERS, in_orders, strict=True):
            logger.info("%s: %s", scan.name, order)
            for number, engine in live_updates(scan, PAPERS, threads=threads):
                image = engine.image()
                rows.append({"order": order, "image": "live"} | scan.compare(number, image))
                if number == SHOWN_AT:
                    images[order] = image
            for number in sorted({*range(FINISHED_EVERY, len(scan) + 1, FINISHED_EVERY), SHOWN_AT, len(scan)}):
                image = finish(scan.first(number), threads=threads)
                rows.append({"order": order, "image": "finished"} | scan.compare(number, image))
        shown.append((scan, images))
    early = [row for row in rows if row["projections"] == SHOWN_AT]
    figures = {"orders_images": _draw_images(shown), "orders_curves": _draw_curves(rows)}
    return Report({"rows": rows}, {f"after {SHOWN_AT} projections": early}, {"orders": rows}, figures)


def draw_orders(orders: Sequence[AngleOrder]) -> Figure:
    """Draw angle orders beside each other: the angle of each projection, and the largest gap left."""
    figure = new_figure(3.4 * len(orders), 6)
    axes = figure.subplots(2, len(orders), squeeze=False, sharex=True, sharey="row")
    for (top, bottom), order in zip(axes.T, orders, strict=True):
        number = range(1, len(order) + 1)
        angles = (np.asarray(order.angles) - order.start) % (order.stop - order.start) + order.start
        title = f"{order.name}\n{order.travel():.0f} deg of travel"
        draw_lines(top, [(None, number, angles, ".", "C0")], title=title)
        draw_lines(bottom, [(None, number, order.gap_ratios(), "-", "C0")], xlabel="projections", yscale="log")
        bottom.axhline(1, color="0.45", lw=0.8)
    axes[0, 0].set_ylabel("angle in the range (deg)")
    axes[1, 0].set_ylabel("largest gap / ideal")
    return figure


def _draw_images(samples: Sequence[tuple[LineScan, dict[str, NDArray[np.float32]]]]) -> Figure:
    """Draw the live image after 30 projections in each order, a row for each sample, and the truth at the end."""
    columns = len(ORDERS) + 1
    figure = new_figure(2.1 * columns, 2.3 * len(samples))
    for row, (scan, images) in zip(figure.subplots(len(samples), columns, squeeze=False), samples, strict=True):
        truth = scan.known
        _, high = grey_range(truth.image[0])
        for axes, (order, live) in zip(row, images.items(), strict=False):
            show_slice(axes, live[0], f"{order}: {truth.similarity(live):.3f}", 0, high)
        show_slice(row[-1], truth.image[0], f"{scan.name}: truth", 0, high)
    return figure


def _draw_curves(rows: Sequence[Row]) -> Figure:
    """Draw similarity and error against projections: live images as lines, finished ones as points."""
    samples = grouped(rows, "sample")
    figure = new_figure(4.2 * len(samples), 6.4)
    panels = figure.subplots(2, len(samples), squeeze=False, sharex="col")
    for (top, bottom), ((sample,), mine) in zip(panels.T, samples.items(), strict=True):
        for axes, name in ((top, "ms_ssim"), (bottom, "rmse")):
            lines = []
            for (order, image), line in grouped(mine, "order", "image").items():
                label = order if (image, axes) == ("live", top) else None
                style = "-" if image == "live" else ".:"
                lines.append(line_of(line, "projections", name, label, style, f"C{ORDERS.index(order)}"))
            draw_lines(axes, lines)
        top.set_title(f"{sample} (lines: live; points: finished offline)", fontsize=9)
        top.set_ylabel("MS-SSIM to the truth")
        bottom.set(xlabel="projections", yscale="log", ylabel="RMSE / range of the truth")
    return figure
