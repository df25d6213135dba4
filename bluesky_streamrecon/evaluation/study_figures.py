"""Figures of the policy study: where each case was stopped, and what that cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bluesky_streamrecon.evaluation.figures import new_figure, show

if TYPE_CHECKING:
    from bluesky_streamrecon.config import SteeringSettings
    from bluesky_streamrecon.evaluation.policy_study import CaseResult
    from bluesky_streamrecon.evaluation.replay import ReplayResult

__all__ = ["draw_cases", "draw_defaults", "draw_replay", "draw_windows"]

MARKS = {"policy": ("o", "C0"), "paper": ("x", "C3"), "oracle": ("|", "C2")}
LABELS = {"policy": "predicted gain", "paper": "MS-SSIM 0.95", "oracle": "oracle"}


def draw_cases(cases: Sequence[CaseResult], tolerance: float) -> Figure:
    """Draw a line for each kind of case: where the policy, the paper's rule and the oracle stopped, and their loss."""
    kinds = list(dict.fromkeys((c.sample, c.noise, c.columns) for c in sorted(cases, key=_kind)))
    figure = new_figure(9.6, 1.2 + 0.22 * len(kinds))
    left, right = figure.subplots(1, 2, sharey=True)
    for y, kind in enumerate(kinds):
        for case in cases:
            if (case.sample, case.noise, case.columns) != kind:
                continue
            found = {
                "oracle": (case.oracle_stop, case.oracle_loss),
                "paper": (case.paper_stop, case.paper_loss),
                "policy": (case.stopped_at, case.quality_loss),
            }
            for name, (at, loss) in found.items():
                mark, color = MARKS[name]
                left.plot(at / case.planned, y, mark, color=color, ms=6)
                right.plot(loss, y, mark, color=color, ms=6)
    several = len({c.columns for c in cases if c.noise is not None}) > 1
    labels = [
        name + (f", {columns} px" if several else "") + (f", {noise:g} photons" if noise else ", measured")
        for name, noise, columns in kinds
    ]
    left.set_yticks(range(len(kinds)), labels, fontsize=8)
    left.set(xlim=(0, 1.02), xlabel="stopped at (share of the plan)")
    right.axvline(tolerance, color="0.3", lw=1, ls="--")
    right.set(xlabel="what the rest would have added (MS-SSIM)")
    right.set_xlim(left=0)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    for name, (mark, color) in MARKS.items():
        left.plot([], [], mark, color=color, label=LABELS[name])
    left.plot([], [], color="0.3", lw=1, ls="--", label=f"tolerance {tolerance:g}")
    figure.legend(loc="outside upper center", ncols=4, fontsize=8)
    return figure


def draw_replay(
    name: str,
    result: ReplayResult,
    steering: SteeringSettings,
    early: NDArray[np.float32] | None,
    whole: NDArray[np.float32],
) -> Figure:
    """Draw what a policy went by, where it would have ended the run, and the image finished from then and from all.

    Parameters
    ----------
    name : str
        Of the run.
    result : ReplayResult
        What it would have done.
    steering : SteeringSettings
        With which thresholds.
    early, whole : ndarray of float32, shape (rows, N, N)
        Finished from the projections until the stop (None: there was none) and from all, 1/pixel.
    """
    figure = new_figure(12, 4.2)
    grid = figure.add_gridspec(1, 4, width_ratios=[1.6, 1, 1, 1])
    axes = figure.add_subplot(grid[0, 0])
    scored = [(v.projections, v.metrics["ms-ssim"]) for v in result.verdicts if v.metrics.get("ms-ssim") is not None]
    if scored:
        axes.plot(*zip(*scored, strict=True), lw=1.2, color="C0", label="MS-SSIM to an earlier image")
        axes.axhline(steering.least_score, color="C0", lw=0.8, ls="--")
    axes.set(xlabel="projections", ylabel="MS-SSIM", xlim=(0, result.planned))
    gains = {v.metrics.get("predicted-gain-at"): v.metrics for v in result.verdicts}
    found = [
        (at, *(m[f"predicted-gain{end}"] for end in ("", "-low", "-high"))) for at, m in gains.items() if at is not None
    ]
    if found:
        at, gain, low, high = zip(*found, strict=True)
        twin = axes.twinx()
        twin.plot(at, gain, ".-", color="C1", lw=1.2)
        twin.fill_between(at, low, high, color="C1", alpha=0.25, lw=0)
        twin.axhline(steering.tolerance, color="C1", lw=0.8, ls="--")
        twin.set_ylim(0, max(4 * steering.tolerance, 1.2 * min(max(high), 0.2)))
        twin.set_ylabel("predicted gain of the rest")
        axes.plot([], [], ".-", color="C1", label="predicted gain, 95 % band")
    if result.stopped_at is not None:
        axes.axvline(result.stopped_at, color="C2", lw=1.5, label=f"would have ended at {result.stopped_at}")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="center right")
    axes.set_title(f"{name}: {result.policy}", fontsize=10)
    middle = len(whole) // 2
    high_grey = float(np.percentile(whole[middle], 99.8))
    panels = [figure.add_subplot(grid[0, i]) for i in (1, 2, 3)]
    show(panels[1], whole[middle], f"finished from all {result.taken}", 0, high_grey)
    if early is None:
        panels[0].set_axis_off()
        panels[2].set_axis_off()
        panels[0].set_title("would not have ended it", fontsize=9)
    else:
        show(panels[0], early[middle], f"finished from {result.stopped_at}", 0, high_grey)
        show(
            panels[2],
            early[middle] - whole[middle],
            f"difference (1 - MS-SSIM = {result.lost:.3f})",
            -high_grey / 4,
            high_grey / 4,
        )
    return figure


def draw_windows(
    groups: Sequence[tuple[str, Sequence[tuple[str, float | None]], Mapping[str, NDArray[np.float64]]]],
) -> Figure:
    """Draw MS-SSIM to the truth against projections, for either policy of the window; scans alike share a colour."""
    figure = new_figure(4.4 * len(groups), 4.2)
    for axes, (title, names, curves) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        kinds = list(dict.fromkeys(names))
        for color, kind in enumerate(kinds):
            columns = [i for i, name in enumerate(names, 1) if name == kind]
            for policy, style in (("newest", ":"), ("spread", "-")):
                curve = curves[policy]
                light = "" if kind[1] is None else f", {kind[1]:g} photons"
                label = f"{kind[0]}{light}" if policy == "spread" else None
                axes.plot(curve[:, 0], curve[:, columns].mean(axis=1), style, color=f"C{color}", lw=1.2, label=label)
        axes.set(xlabel="projections", title=f"{title}: newest (dotted), spread (line)")
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, loc="lower right")
    figure.axes[0].set_ylabel("MS-SSIM of the live image to the truth")
    return figure


def draw_defaults(found: Sequence[tuple[str, str, str, float, float]]) -> Figure:
    """Draw MS-SSIM over what was chosen, from question, case, choice, mean over the scan, and last image."""
    questions = list(dict.fromkeys(row[0] for row in found))
    figure = new_figure(4.2 * len(questions), 4.6)
    for axes, question in zip(figure.subplots(1, len(questions), squeeze=False)[0], questions, strict=True):
        mine = [row for row in found if row[0] == question]
        choices = list(dict.fromkeys(row[2] for row in mine))
        for color, case in enumerate(dict.fromkeys(row[1] for row in mine)):
            points = [(choices.index(choice), mean, end) for _, of, choice, mean, end in mine if of == case]
            at, mean, end = zip(*points, strict=True)
            axes.plot(at, mean, ".-", color=f"C{color}", lw=1.2, label=case)
            axes.plot(at, end, ".:", color=f"C{color}", lw=1.2)
        axes.set_xticks(range(len(choices)), choices, fontsize=8, rotation=20 if len(choices[0]) > 8 else 0)
        axes.set(title=f"{question}: mean over the scan (line), last image (dotted)")
        axes.title.set_fontsize(8)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6, loc="best")
    figure.axes[0].set_ylabel("MS-SSIM of the live image to the truth")
    return figure


def _kind(case: CaseResult) -> tuple[str, float, int]:
    return case.sample, -(case.noise or 0.0), case.columns
