"""What the window's policy does to the live image: ``streamrecon evaluate windows``.

The same scans are reconstructed live with the paper's window, which holds the newest projections, and with the spread
one, which fills half of it with older projections from all angles. Both cost the same per step. Noise is photons per
pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.config import WINDOW_POLICIES, ReconSettings
from bluesky_streamrecon.evaluation.finish import best_image
from bluesky_streamrecon.evaluation.live import live_images
from bluesky_streamrecon.evaluation.scans import LineScan, measured_scan, simulated_scan
from bluesky_streamrecon.evaluation.score import Truth
from bluesky_streamrecon.evaluation.tables import new_directory, save_figure, write_csv
from bluesky_streamrecon.ordering import make_order
from bluesky_streamrecon.sim_devices import Discs, Foam

__all__ = ["WindowRow", "compare_windows", "evaluate_windows", "summary"]

PORES = 90
DOSE = 1.8e5, 1.8e6, 1.8e7
"""Photons per pixel of a whole scan: more projections, less light for each."""

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


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Scans that are taken alike, as the rows of one."""

    names: tuple[tuple[str, float | None], ...]
    scan: LineScan
    truths: tuple[Truth, ...]
    order: str


def compare_windows(
    group: _Group, recon: ReconSettings, *, threads: int = 1
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
        points = []
        for number, image in live_images(group.scan, settings, threads=threads):
            if number >= window and (number % max(recon.step, len(group.scan) // 60) == 0 or number == len(group.scan)):
                points.append([number, *(t.similarity(image[i : i + 1]) for i, t in enumerate(group.truths))])
        curves[policy] = np.array(points)
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
    usual = _simulated(columns, seeds, 180, "optimized-interleaved")
    tasks: list[tuple[str, _Group, ReconSettings]] = [
        ("180 projections", usual, ReconSettings()),
        (f"{long} projections", _simulated(columns, seeds, long, "optimized-interleaved"), ReconSettings()),
    ]
    if data is not None:
        measured = measured_scan(data)
        truth = best_image(measured, threads=threads)
        truths = tuple(Truth(truth.image[i : i + 1], truth.value_range) for i in range(measured.rows))
        names = tuple((f"{measured.name}, row {row}", None) for row in range(measured.rows))
        group = _Group(names, measured, truths, "optimized-interleaved")
        tasks.append((f"{measured.name}, measured", group, ReconSettings()))
    shown = len(tasks)
    tasks += [(order, _simulated(columns, seeds, 180, order), ReconSettings()) for order in ("fixed", "golden")]
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


def _simulated(columns: int, seeds: int, num: int, order: str) -> _Group:
    taken, names = [], []
    for seed in range(seeds):
        for i, dose in enumerate(DOSE):
            for name, sample in (("foam", Foam(pores=PORES, seed=seed)), ("discs", Discs(seed=seed))):
                visiting = make_order(order, num=num)
                noise = dose / num
                taken.append(
                    simulated_scan(name, sample, columns=columns, order=visiting, counts=noise, seed=100 * seed + i)
                )
                names.append((name, noise))
    together = np.concatenate([scan.integrals for scan in taken], axis=1)
    truths = tuple(Truth.known(scan.truth) for scan in taken if scan.truth is not None)
    return _Group(tuple(names), replace(taken[0], integrals=together, truth=None), truths, order)


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
