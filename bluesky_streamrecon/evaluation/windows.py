"""What the window's policy does to the live image: ``streamrecon evaluate windows``.

The same scans are reconstructed live with the paper's window, which holds the newest projections, and with the spread
one, which fills half of it with older projections from all angles. Both cost the same per step. Noise is photons per
pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.config import WINDOW_POLICIES, ReconSettings
from bluesky_streamrecon.evaluation.finish import best_image
from bluesky_streamrecon.evaluation.groups import ScanGroup, follow, simulated_group
from bluesky_streamrecon.evaluation.scans import measured_scan
from bluesky_streamrecon.evaluation.score import Truth
from bluesky_streamrecon.evaluation.tables import new_directory, save_figure, write_csv

__all__ = ["WindowRow", "compare_windows", "evaluate_windows", "summary"]

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class WindowRow:
    """One scan, one way to reconstruct it live.

    Parameters
    ----------
    sample, order, algorithm : str
        Names.
    noise : float or None
        Photons per pixel; None: as measured.
    projections, window, step : int
        Of the scan, and of the live reconstruction.
    policy : str
        Of the window.
    mean, end : float
        MS-SSIM to the truth: mean over images from the first full window on, and of the last image.
    dip : float
        Largest fall below an earlier image's MS-SSIM.
    """

    sample: str
    order: str
    algorithm: str
    noise: float | None
    projections: int
    window: int
    step: int
    policy: str
    mean: float
    end: float
    dip: float


def compare_windows(
    group: ScanGroup, recon: ReconSettings, *, threads: int = 1
) -> tuple[list[WindowRow], dict[str, NDArray[np.float64]]]:
    """Reconstruct a group of scans live with either policy.

    Returns
    -------
    list of WindowRow
        For each scan and policy.
    dict of str to ndarray of float64, shape (images, 1 + scans)
        For each policy: projections, and MS-SSIM of each scan.
    """
    rows: list[WindowRow] = []
    curves = {}
    window = recon.window or len(group.scan)
    for policy in WINDOW_POLICIES:
        settings = ReconSettings(
            algorithm=recon.algorithm, window=window, step=recon.step, options=recon.options, window_policy=policy
        )
        curves[policy] = follow(group, settings, threads=threads)
        for i, (sample, noise) in enumerate(group.names, 1):
            values = curves[policy][:, i]
            rows.append(
                WindowRow(
                    sample=sample,
                    order=group.order,
                    algorithm=recon.algorithm,
                    noise=noise,
                    projections=len(group.scan),
                    window=window,
                    step=recon.step,
                    policy=policy,
                    mean=float(values.mean()),
                    end=float(values[-1]),
                    dip=float(np.max(np.maximum.accumulate(values) - values)),
                )
            )
    return rows, curves


def evaluate_windows(
    out: Path,
    *,
    data: Path | None = None,
    columns: int = 192,
    seeds: int = 2,
    long: int = 720,
    threads: int = 1,
    tell: Tell | None = None,
) -> list[WindowRow]:
    """Compare the window's policies; write ``windows.png`` and ``windows.csv``.

    Parameters
    ----------
    out : Path
        Directory; made if missing.
    data : Path, optional
        Measured scan (DXfile); left out if not given.
    columns, seeds : int, optional
        Detector columns of the simulated samples, and how many seeds of each.
    long : int, optional
        Projections of the longer scan, of the same dose; the usual one has 180.
    threads : int, optional
        That compute.
    tell : callable, optional
        Told how far it is.

    Raises
    ------
    StorageError, DataError
        If `data` can not be used or `out` can not be written.
    """
    from bluesky_streamrecon.evaluation.study_figures import draw_windows

    new_directory(out)
    tell = tell or (lambda _text: None)
    usual = simulated_group(columns, seeds, 180, "optimized-interleaved")
    tasks: list[tuple[str, ScanGroup, ReconSettings]] = [
        ("180 projections", usual, ReconSettings()),
        (f"{long} projections", simulated_group(columns, seeds, long, "optimized-interleaved"), ReconSettings()),
    ]
    if data is not None:
        measured = measured_scan(data)
        truth = best_image(measured, threads=threads)
        truths = tuple(Truth(truth.image[i : i + 1], truth.value_range) for i in range(measured.rows))
        names = tuple((f"{measured.name}, row {row}", None) for row in range(measured.rows))
        group = ScanGroup(names, measured, truths, "optimized-interleaved")
        tasks.append((f"{measured.name}, measured", group, ReconSettings()))
    shown = len(tasks)
    tasks += [(order, simulated_group(columns, seeds, 180, order), ReconSettings()) for order in ("fixed", "golden")]
    tasks += [
        ("pml", usual, ReconSettings(algorithm="pml-quadratic")),
        ("sirt", usual, ReconSettings(algorithm="sirt")),
        ("step 6", usual, ReconSettings(step=6)),
        ("step 6, subsets", usual, ReconSettings(algorithm="osem", step=6, options={"subsets": 6})),
    ]
    rows, curves = [], []
    for title, group, recon in tasks:
        tell(title)
        found, curve = compare_windows(group, recon, threads=threads)
        rows += found
        curves.append((title, group.names, curve))
    write_csv(out / "windows.csv", [asdict(row) for row in rows])
    save_figure(draw_windows(curves[:shown]), out / "windows.png")
    return rows


def summary(rows: Sequence[WindowRow]) -> list[tuple[str, str, int, int, str, float, float, float]]:
    """Put scans that differ only in sample and noise together: means, and the largest dip."""
    keys = list(dict.fromkeys((_kind(r), r.order, r.algorithm, r.projections, r.step, r.policy) for r in rows))
    found = []
    for kind, order, algorithm, projections, step, policy in keys:
        mine = [
            r
            for r in rows
            if (_kind(r), r.order, r.algorithm, r.projections, r.step, r.policy)
            == (kind, order, algorithm, projections, step, policy)
        ]
        mean, end = float(np.mean([r.mean for r in mine])), float(np.mean([r.end for r in mine]))
        name = f"{kind}, {order}, {algorithm}"
        found.append((name, policy, projections, step, f"{len(mine)}", mean, end, max(r.dip for r in mine)))
    return found


def _kind(row: WindowRow) -> str:
    return "measured" if row.noise is None else "simulated"
