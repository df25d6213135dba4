"""Where the paper's score stops (figures 7 and 8 of Bicer et al. 2017), and how well the stopping policies do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.beamline.slices import grey_range
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.cases import held_out_cases, interior_cases, kind_cases, required_cases
from bluesky_streamrecon.evaluation.figures import draw_lines, line_of, new_figure, show_slice
from bluesky_streamrecon.evaluation.images import PAPERS, live_updates, with_best_image
from bluesky_streamrecon.evaluation.policies import draw_cases, judge_cases, summarize
from bluesky_streamrecon.evaluation.report import Report, Row
from bluesky_streamrecon.evaluation.scans import LineScan, measured_scan, simulated_scan
from bluesky_streamrecon.ordering import make_order
from bluesky_streamrecon.quality import ImageHistory, MsSsimMetric, PreviewImage
from bluesky_streamrecon.sim_devices import KINDS, Foam

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["crossing", "evaluate_steering", "follow", "stays"]

ELLIPSES = "ellipses"
THRESHOLD = 0.95
COMPARE_TO = 24
SHOWN_AT = (30, 60, 90, 135)
PORES = 300
SHOWN = (
    "sample", "noise", "seed", "planned", "stopped_at", "quality_loss", "oracle_stop", "paper_stop", "paper_loss",
)  # fmt: skip
"""Columns of the table of cases."""

logger = logging.getLogger(__name__)


def follow(
    scan: LineScan, *, show_at: Sequence[int] = SHOWN_AT, threads: int = 1
) -> tuple[list[Row], dict[int, NDArray[np.float32]]]:
    """Reconstruct live with the paper's window, and compare every image with an earlier one and with the truth.

    Returns
    -------
    list of Row
        See `LineScan.compare`, with ``self_similarity``: MS-SSIM to the image `COMPARE_TO` projections earlier (None
        before there is one).
    dict of int to ndarray
        Slices to show, by projections.
    """
    metric = MsSsimMetric(COMPARE_TO, 5)
    history = ImageHistory()
    rows, shown = [], {}
    for number, (projections, engine) in enumerate(live_updates(scan, PAPERS, threads=threads), 1):
        image = engine.image()
        history = history.appended(PreviewImage(number, projections, tuple(range(scan.rows)), image))
        history = history.trimmed(projections - COMPARE_TO, most=2 * COMPARE_TO + 2)
        rows.append({"self_similarity": metric(history)} | scan.compare(projections, image))
        if projections in show_at:
            shown[projections] = image[0]
        if projections % 30 == 0:
            logger.info("%s: %d of %d", scan.name, projections, len(scan))
    return rows, shown


def crossing(rows: Sequence[Row], threshold: float) -> int | None:
    """Return the projections at which the score first reaches `threshold`; None: never."""
    return next((row["projections"] for row in rows if _reaches(row, threshold)), None)


def stays(rows: Sequence[Row], threshold: float) -> int | None:
    """Return the projections from which on the score is never below `threshold` again; None: never."""
    after = list(takewhile(lambda row: _reaches(row, threshold), reversed(rows)))
    return after[-1]["projections"] if after else None


def evaluate_steering(
    *,
    data: Path | None = None,
    columns: int = 1024,
    study_columns: int = 192,
    seeds: int = 5,
    kinds: Sequence[str] = (ELLIPSES,),
    tolerance: float = 0.02,
    threads: int = 1,
) -> Report:
    """Follow scans with the paper's score, and try the stopping policies on cases whose truth is known.

    Parameters
    ----------
    data : Path, optional
        Measured scan (DXchange or NXtomo); left out if not given.
    columns : int, optional
        Detector columns of the foam that is followed; the paper's is 1024.
    study_columns, seeds : int, optional
        Detector columns of the cases that policies are tried on, and how many seeds of each; of kinds in `KINDS`, those
        with at most three times as many columns, of one seed.
    kinds : sequence of str, optional
        Cases that policies are tried on: ``"ellipses"`` (foam, discs and Shepp-Logan, and `data`; only with these are
        scans followed), ``"held-out"``, others of ellipses, that nothing was tuned on, ``"interior"``, samples that
        reach out of view, with rings, and keys of `KINDS`.
    tolerance : float, optional
        Loss of MS-SSIM that is allowed.
    threads : int, optional
        That compute.

    Returns
    -------
    Report
        ``cases`` (see `judge_cases`), their ``summary`` (see `summarize`; its most important fields also by
        themselves), ``kinds``, a summary of each kind, and ``curves``: for each scan that was followed the projections
        where the score first reached 0.95 (``crossed``) and from which on it ``stays`` there. Also as
        ``steering_*.csv`` and ``steering_*.png``.

    Raises
    ------
    StorageError, DataError
        If `data` can not be used.
    ConfigError
        If there is no kind of a name.
    """
    makers: dict[str, Callable[[], list[LineScan]]] = {
        ELLIPSES: partial(required_cases, columns=study_columns, seeds=range(seeds), data=data),
        "held-out": held_out_cases,
        "interior": partial(interior_cases, columns=study_columns),
        **{kind: partial(kind_cases, kind, columns=3 * study_columns) for kind in KINDS},
    }
    if not kinds or not makers.keys() >= {*kinds}:
        raise ConfigError(f"kinds: got {', '.join(kinds) or 'none'}, expected some of {', '.join(makers)}")
    scans = _followed(data, columns, threads) if ELLIPSES in kinds else {}
    curves = {title: follow(scan, threads=threads) for title, scan in scans.items()}
    crossings = [
        {"scan": title, "crossed": crossing(points, THRESHOLD), "stays": stays(points, THRESHOLD)}
        for title, (points, _) in curves.items()
    ]
    rows: dict[str, list[Row]] = {}
    figures = {}
    if curves:
        rows["steering_curves"] = [{"scan": title} | row for title, (points, _) in curves.items() for row in points]
        figures["steering_curves"] = _draw(scans, curves)
    cases, summaries = [], {}
    for kind in kinds:
        rows[f"steering_{kind}"] = results = judge_cases(makers[kind](), tolerance=tolerance, threads=threads)
        figures[f"steering_{kind}"] = draw_cases(results, tolerance)
        summaries[kind] = summarize(results, tolerance=tolerance)
        cases += results
    summary = summarize(cases, tolerance=tolerance)
    fields = {
        **{name: summary[name] for name in ("median_saving", "oracle_share", "false_stops", "calibrated_share")},
        "cases": cases,
        "summary": summary,
        "kinds": [{"kind": kind} | found for kind, found in summaries.items()],
        "curves": {row["scan"]: {"crossed": row["crossed"], "stays": row["stays"]} for row in crossings},
    }
    shown = {
        **({"MS-SSIM between live images reaches 0.95": crossings} if crossings else {}),
        "stops, and MS-SSIM lost": [{name: case[name] for name in SHOWN} for case in cases],
        "all cases; shares of 1": [*fields["kinds"], {"kind": "all"} | summary],
    }
    return Report(fields, shown, rows, figures)


def _followed(data: Path | None, columns: int, threads: int) -> dict[str, LineScan]:
    order = make_order("optimized-interleaved", num=180)
    scans = {}
    for noise, light in ((None, "without noise"), (1e3, "1000 photons")):
        scan = simulated_scan("foam", Foam(pores=PORES), columns=columns, order=order, counts=noise)
        scans[f"foam (180, 1, {columns}), {light}"] = scan
    if data is not None:
        scan = with_best_image(measured_scan(data), threads=threads)
        scans[f"{scan.name} ({len(scan)}, {scan.rows}, {scan.columns}), measured"] = scan
    return scans


def _draw(
    scans: Mapping[str, LineScan], curves: Mapping[str, tuple[list[Row], dict[int, NDArray[np.float32]]]]
) -> Figure:
    """Draw each scan: the score and the similarity to the truth, and images on the way."""
    figure = new_figure(4.6 * len(curves), 5.6)
    grid = figure.add_gridspec(2, len(curves), height_ratios=[1.7, 1])
    for column, (title, (rows, shown)) in enumerate(curves.items()):
        axes = figure.add_subplot(grid[0, column])
        axes.axhline(THRESHOLD, color="C3", lw=0.9, ls="--")
        crossed = crossing(rows, THRESHOLD)
        if crossed is not None:
            axes.axvline(crossed, color="C2", lw=1.2, label=f"{THRESHOLD:g} reached at {crossed}")
        lines = [
            line_of(rows, "projections", "self_similarity", f"to the image {COMPARE_TO} before", "-", "C0"),
            line_of(rows, "projections", "ms_ssim", "to the truth", "-", "C1"),
        ]
        draw_lines(axes, lines, title=title, xlabel="projections", ylabel="MS-SSIM", ylim=(0.3, 1.01))
        row = grid[1, column].subgridspec(1, max(len(shown), 1))
        _, high = grey_range(scans[title].known.image[0])
        for place, (projections, image) in enumerate(shown.items()):
            show_slice(figure.add_subplot(row[0, place]), image, f"{projections}", 0, high)
    return figure


def _reaches(row: Row, threshold: float) -> bool:
    return row["self_similarity"] is not None and row["self_similarity"] >= threshold
