"""What the angle order does to the image while the scan runs: figure 3 of Bicer et al. 2017, and more.

Every sample is scanned in every order, reconstructed live (the paper's window) and, at some points, finished offline
from the projections so far. Both are compared with the truth. Of a measured scan the truth is taken to be a
reconstruction from all projections by many updates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.config import ReconSettings
from bluesky_streamrecon.evaluation.finish import best_image, finish
from bluesky_streamrecon.evaluation.live import live_images
from bluesky_streamrecon.evaluation.scans import LineScan, measured_scan, simulated_scan
from bluesky_streamrecon.evaluation.score import Truth
from bluesky_streamrecon.evaluation.tables import new_directory, save_figure, write_csv
from bluesky_streamrecon.ordering import make_order
from bluesky_streamrecon.sim_devices import Foam, SheppLogan

__all__ = ["ORDERS", "OrderRow", "compare_orders", "evaluate_orders"]

ORDERS = ("fixed", "interleaved(5)", "optimized-interleaved", "golden")
SHOWN_AT = 30

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class OrderRow:
    """How good the image is after some projections.

    Parameters
    ----------
    sample, order : str
        Names.
    image : str
        ``"live"`` or ``"finished"`` (offline, from the projections so far).
    projections : int
        So far.
    ms_ssim, rmse : float
        To the truth; RMSE as a fraction of the truth's range.
    """

    sample: str
    order: str
    image: str
    projections: int
    ms_ssim: float
    rmse: float


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """One sample in all orders: the numbers, and images after `SHOWN_AT` projections by order, beside the truth."""

    rows: list[OrderRow]
    images: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
    truth: Truth


def compare_orders(
    scan_in: Callable[[str], LineScan],
    recon: ReconSettings,
    *,
    finished_every: int = 10,
    threads: int = 1,
    tell: Tell | None = None,
) -> Comparison:
    """Scan one sample in each of `ORDERS`.

    Parameters
    ----------
    scan_in : callable
        Gives the scan in an order of this name.
    recon : ReconSettings
        Of the live image.
    finished_every : int, optional
        Projections between two images that are finished offline.
    threads : int, optional
        That compute.
    tell : callable, optional
        Told how far it is.
    """
    rows: list[OrderRow] = []
    images = {}
    truth: Truth | None = None
    for name in ORDERS:
        scan = scan_in(name)
        if tell is not None:
            tell(f"{scan.name}: {name}")
        if truth is None:
            truth = best_image(scan, threads=threads) if scan.truth is None else Truth.known(scan.truth)
        live: dict[int, NDArray[np.float32]] = {}
        for number, image in live_images(scan, recon, threads=threads):
            rows.append(OrderRow(scan.name, name, "live", number, truth.similarity(image), truth.rmse(image)))
            if number == SHOWN_AT:
                live[number] = image
        for number in sorted({*range(finished_every, len(scan) + 1, finished_every), SHOWN_AT, len(scan)}):
            image = finish(scan.first(number), threads=threads)
            rows.append(OrderRow(scan.name, name, "finished", number, truth.similarity(image), truth.rmse(image)))
            if number == SHOWN_AT:
                images[name] = (live[number], image)
    assert truth is not None  # noqa: S101 - there are orders
    return Comparison(rows, images, truth)


def evaluate_orders(
    out: Path,
    *,
    columns: int = 256,
    data: Path | None = None,
    num: int = 180,
    counts: float = 1e4,
    recon: ReconSettings | None = None,
    threads: int = 1,
    tell: Tell | None = None,
) -> list[OrderRow]:
    """Compare the orders on foam, Shepp-Logan and a measured scan; write ``orders*.png`` and ``orders.csv``.

    Parameters
    ----------
    out : Path
        Directory; made if missing.
    columns : int, optional
        Detector columns of the simulated samples.
    data : Path, optional
        Measured scan (DXfile); left out if not given.
    num : int, optional
        Projections of the simulated scans.
    counts : float, optional
        Photons per pixel of the simulated scans.
    recon : ReconSettings, optional
        Of the live image; the paper's by default: MLEM, l = 24, s = 1, newest projections.
    threads, tell
        See `compare_orders`.

    Returns
    -------
    list of OrderRow
        All that the figures show.

    Raises
    ------
    StorageError, DataError
        If `data` can not be used or `out` can not be written.
    """
    from bluesky_streamrecon.evaluation.figures import draw_first_images, draw_order_curves

    new_directory(out)
    recon = recon or ReconSettings(window_policy="newest")

    def simulated(kind: str) -> Callable[[str], LineScan]:
        sample = Foam(pores=90) if kind == "foam" else SheppLogan()
        return lambda name: simulated_scan(
            kind, sample, columns=columns, order=make_order(name, num=num), counts=counts
        )

    sources: list[Callable[[str], LineScan]] = [simulated("foam"), simulated("shepp-logan")]
    if data is not None:
        sources.append(_recorded(data))
    compared = [compare_orders(source, recon, threads=threads, tell=tell) for source in sources]
    rows = [row for one in compared for row in one.rows]
    write_csv(out / "orders.csv", [asdict(row) for row in rows])
    save_figure(
        draw_first_images([(one.rows[0].sample, one.images, one.truth) for one in compared]), out / "orders_images.png"
    )
    save_figure(draw_order_curves(rows), out / "orders_curves.png")
    return rows


def _recorded(data: Path) -> Callable[[str], LineScan]:
    """Give a recorded scan in any order; of orders off the grid, the nearest projection that is left is taken."""

    def scan_in(name: str) -> LineScan:
        ascending = measured_scan(data, order="fixed")
        total = len(ascending)
        wanted = np.asarray(make_order(name, num=total, start=0, stop=total).angles)
        return ascending.in_order(_nearest_left(wanted, total))

    return scan_in


def _nearest_left(wanted: NDArray[np.float64], total: int) -> Sequence[int]:
    left = list(range(total))
    return [left.pop(int(np.argmin(np.abs(np.asarray(left) - place)))) for place in wanted]
