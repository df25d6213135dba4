"""The paper's figures 7 and 8, and how well the stopping policies do: ``streamrecon evaluate steering``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from bluesky_streamrecon.config import ReconSettings
from bluesky_streamrecon.evaluation.finish import best_image
from bluesky_streamrecon.evaluation.policy_study import (
    CaseResult,
    Summary,
    held_out_cases,
    required_cases,
    study,
    summarize,
)
from bluesky_streamrecon.evaluation.scans import measured_scan, simulated_scan
from bluesky_streamrecon.evaluation.score import Truth
from bluesky_streamrecon.evaluation.similarity import SimilarityCurve, follow
from bluesky_streamrecon.evaluation.tables import new_directory, save_figure, write_csv
from bluesky_streamrecon.ordering import make_order
from bluesky_streamrecon.sim_devices import Foam

__all__ = ["SteeringEvaluation", "evaluate_steering"]

THRESHOLD = 0.95
COMPARE_TO = 24
SHOWN_AT = (30, 60, 90, 135)
PORES = 300

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SteeringEvaluation:
    """All that was found out.

    Parameters
    ----------
    curves : dict
        For each scan that was followed: projections where the score first reached 0.95 (``crossed``), and from which on
        it stayed there (``stays``).
    cases, held_out : list of CaseResult
        Policies on the cases that they were tuned on, and on others.
    summary, held_out_summary : Summary or None
        Of these.
    """

    curves: dict[str, dict[str, int | None]]
    cases: list[CaseResult]
    summary: Summary
    held_out: list[CaseResult]
    held_out_summary: Summary | None

    def as_json(self) -> dict[str, Any]:
        """Give the fields that the command line promises, and the rest below them."""
        told = asdict(self.summary)
        return {
            **{name: told[name] for name in ("median_saving", "oracle_share", "false_stops", "calibrated_share")},
            "cases": [asdict(case) for case in self.cases],
            "summary": told,
            "held_out": None if self.held_out_summary is None else asdict(self.held_out_summary),
            "held_out_cases": [asdict(case) for case in self.held_out],
            "curves": self.curves,
        }


def evaluate_steering(
    out: Path,
    *,
    data: Path | None = None,
    columns: int = 1024,
    study_columns: int = 192,
    seeds: int = 5,
    held_out: bool = False,
    tolerance: float = 0.02,
    recon: ReconSettings | None = None,
    threads: int = 1,
    tell: Tell | None = None,
) -> SteeringEvaluation:
    """Follow scans and study policies; write ``steering*.png`` and ``steering*.csv``.

    Parameters
    ----------
    out : Path
        Directory; made if missing.
    data : Path, optional
        Measured scan (DXfile); left out if not given.
    columns : int, optional
        Detector columns of the foam that is followed; the paper's is 1024.
    study_columns, seeds : int, optional
        Detector columns of the cases that policies are tried on, and how many seeds of each.
    held_out : bool, optional
        Also try the policies on cases that nothing was tuned on.
    tolerance : float, optional
        Loss of MS-SSIM that is allowed.
    recon : ReconSettings, optional
        Of the live image; MLEM, l = 24, s = 1 by default. The curves are of the paper's window all the same.
    threads : int, optional
        That compute.
    tell : callable, optional
        Told how far it is.

    Raises
    ------
    StorageError, DataError
        If `data` can not be used or `out` can not be written.
    """
    from bluesky_streamrecon.evaluation.figures import draw_similarity
    from bluesky_streamrecon.evaluation.study_figures import draw_cases

    new_directory(out)
    recon = recon or ReconSettings()
    papers = msgspec.structs.replace(recon, window_policy="newest")
    curves = _curves(data, columns, papers, threads, tell)
    write_csv(out / "steering_curves.csv", [{"scan": name} | asdict(p) for name, curve in curves for p in curve.points])
    save_figure(draw_similarity(curves, THRESHOLD), out / "steering_curves.png")

    cases = study(
        required_cases(columns=study_columns, seeds=range(seeds), data=data),
        tolerance=tolerance,
        recon=recon,
        threads=threads,
        tell=tell,
    )
    others = study(held_out_cases(), tolerance=tolerance, recon=recon, threads=threads, tell=tell) if held_out else []
    write_csv(out / "steering_cases.csv", [asdict(case) for case in cases])
    save_figure(draw_cases(cases, tolerance), out / "steering_cases.png")
    if others:
        write_csv(out / "steering_held_out.csv", [asdict(case) for case in others])
        save_figure(draw_cases(others, tolerance), out / "steering_held_out.png")
    return SteeringEvaluation(
        curves={
            name: {"crossed": curve.crossing(THRESHOLD), "stays": curve.stays(THRESHOLD)} for name, curve in curves
        },
        cases=cases,
        summary=summarize(cases, tolerance=tolerance),
        held_out=others,
        held_out_summary=summarize(others, tolerance=tolerance) if others else None,
    )


def _curves(
    data: Path | None, columns: int, recon: ReconSettings, threads: int, tell: Tell | None
) -> Sequence[tuple[str, SimilarityCurve]]:
    order = make_order("optimized-interleaved", num=180)
    found = []
    for noise in (None, 1e3):
        scan = simulated_scan("foam", Foam(pores=PORES), columns=columns, order=order, counts=noise)
        assert scan.truth is not None  # noqa: S101 - simulated
        curve = follow(
            scan, Truth.known(scan.truth), recon, compare_to=COMPARE_TO, show_at=SHOWN_AT, threads=threads, tell=tell
        )
        light = "without noise" if noise is None else f"{noise:g} photons"
        found.append((f"foam (180, 1, {columns}), {light}", curve))
    if data is not None:
        scan = measured_scan(data)
        curve = follow(
            scan,
            best_image(scan, threads=threads),
            recon,
            compare_to=COMPARE_TO,
            show_at=SHOWN_AT,
            threads=threads,
            tell=tell,
        )
        found.append((f"{scan.name} ({len(scan)}, {scan.rows}, {scan.integrals.shape[2]}), measured", curve))
    return found
