"""What the live reconstruction's defaults were chosen by: ``streamrecon evaluate defaults``.

One setting at a time is changed, on the same scans. All is MS-SSIM of live images to the truth. Noise is photons per
pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bluesky_streamrecon.config import Option, ReconSettings
from bluesky_streamrecon.evaluation.groups import ScanGroup, follow, simulated_group
from bluesky_streamrecon.evaluation.tables import new_directory, save_figure, write_csv
from bluesky_streamrecon.recon.window import Spread

__all__ = ["DefaultRow", "evaluate_defaults", "in_short"]

OLDER = {"none": 0.0, "1/8": 1 / 8, "1/4": 1 / 4, "1/2": 1 / 2, "5/8": 5 / 8}
RELAXATIONS = 0.5, 0.7, 0.85, 1.0
ITERATIONS = 1, 2, 3
SUBSETS = 6
START = {"mass of the data": None, "1 per pixel": 1.0, "0.0001 per pixel": 1e-4}

USUAL = "optimized-interleaved"

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DefaultRow:
    """One scan with one choice.

    Parameters
    ----------
    question : str
        What is chosen: ``"older"`` (share of the window), ``"kept"`` (projections to choose older ones from),
        ``"iterations"``, ``"relaxation"`` or ``"initial"`` (image).
    case, choice : str
        How the scan is taken and reconstructed otherwise, and what was chosen.
    sample : str
        Name.
    noise : float
        Photons per pixel.
    mean, end : float
        MS-SSIM to the truth: mean over images from the first full window on, and of the last image.
    """

    question: str
    case: str
    choice: str
    sample: str
    noise: float
    mean: float
    end: float


@dataclass(frozen=True, slots=True)
class _Try:
    question: str
    case: str
    choice: str
    order: str
    num: int
    recon: ReconSettings
    spread: Spread | None = None


def evaluate_defaults(
    out: Path,
    *,
    columns: int = 192,
    seeds: int = 1,
    long: int = 720,
    threads: int = 1,
    tell: Tell | None = None,
) -> list[DefaultRow]:
    """Change one default after the other; write ``defaults.png`` and ``defaults.csv``.

    Parameters
    ----------
    out : Path
        Directory; made if missing.
    columns, seeds : int, optional
        Detector columns of the simulated samples, and how many seeds of each.
    long : int, optional
        Projections of the longer scans, of the same dose; the usual ones have 180.
    threads : int, optional
        That compute.
    tell : callable, optional
        Told how far it is.

    Raises
    ------
    StorageError
        If `out` can not be written.
    """
    from bluesky_streamrecon.evaluation.study_figures import draw_defaults

    new_directory(out)
    groups: dict[tuple[str, int], ScanGroup] = {}
    rows: list[DefaultRow] = []
    for each in _tries(columns, long):
        if tell is not None:
            tell(f"{each.question}: {each.case}, {each.choice}")
        if (each.order, each.num) not in groups:
            groups[each.order, each.num] = simulated_group(columns, seeds, each.num, each.order)
        group = groups[each.order, each.num]
        curve = follow(group, each.recon, spread=each.spread, threads=threads)
        for i, (sample, noise) in enumerate(group.names, 1):
            values = curve[:, i]
            rows.append(
                DefaultRow(
                    question=each.question,
                    case=each.case,
                    choice=each.choice,
                    sample=sample,
                    noise=float(noise or 0),
                    mean=float(values.mean()),
                    end=float(values[-1]),
                )
            )
    write_csv(out / "defaults.csv", [asdict(row) for row in rows])
    save_figure(draw_defaults(in_short(rows)), out / "defaults.png")
    return rows


def in_short(rows: Sequence[DefaultRow]) -> list[tuple[str, str, str, float, float]]:
    """Give question, case, choice, and means over scans; a relaxation's for each light, which decides on it."""
    found: dict[tuple[str, str, str], list[DefaultRow]] = {}
    for row in rows:
        light = f", {row.noise:.0f} photons" if row.question == "relaxation" else ""
        found.setdefault((row.question, row.case + light, row.choice), []).append(row)
    return [
        (*key, float(np.mean([row.mean for row in mine])), float(np.mean([row.end for row in mine])))
        for key, mine in sorted(found.items(), key=lambda item: list(found).index(item[0]))
    ]


def _tries(columns: int, long: int) -> Iterator[_Try]:
    scans = [
        (USUAL, 180, "mlem", 1), (USUAL, 180, "mlem", 2), (USUAL, 180, "mlem", 6), (USUAL, 180, "osem", 6),
        ("fixed", 180, "mlem", 2), ("fixed", 180, "mlem", 6), ("fixed", 180, "osem", 6),
        (USUAL, long, "mlem", 6), ("fixed", long, "mlem", 6),
    ]  # fmt: skip
    for order, num, algorithm, step in scans:
        recon = _recon(algorithm, step)
        for choice, share in OLDER.items():
            spread = Spread(older=share, older_of_steps=share) if share else None
            settings = recon if share else _recon(algorithm, step, window_policy="newest")
            yield _Try("older", _case(order, num, algorithm, step), choice, order, num, settings, spread)
    kept = {"C / 2": columns // 2, "C": columns, "pi C / 2": math.ceil(math.pi / 2 * columns), "all": long}
    for order in (USUAL, "fixed", "golden"):
        case = _case(order, long, "mlem", 1)
        yield _Try("kept", case, "newest", order, long, _recon("mlem", 1, window_policy="newest"))
        for choice, number in kept.items():
            yield _Try("kept", case, choice, order, long, _recon("mlem", 1), Spread(kept=number))
    for step in (1, SUBSETS):
        for times in ITERATIONS:
            recon = ReconSettings(step=step, iterations=times)
            yield _Try("iterations", _case(USUAL, 180, "mlem", step), f"{times}", USUAL, 180, recon)
    yield _Try("iterations", _case(USUAL, 180, "osem", SUBSETS), "1", USUAL, 180, _recon("osem", SUBSETS))
    for value in RELAXATIONS:
        recon = ReconSettings(options={"relaxation": value})
        yield _Try("relaxation", _case(USUAL, 180, "mlem", 1), f"{value:g}", USUAL, 180, recon)
    for choice, start in START.items():
        recon = ReconSettings(options={} if start is None else {"initial": start})
        yield _Try("initial", _case(USUAL, 180, "mlem", 1), choice, USUAL, 180, recon)


def _recon(algorithm: str, step: int, window_policy: Literal["newest", "spread"] = "spread") -> ReconSettings:
    options: dict[str, Option] = {"subsets": SUBSETS} if algorithm == "osem" else {}
    return ReconSettings(algorithm=algorithm, step=step, options=options, window_policy=window_policy)


def _case(order: str, num: int, algorithm: str, step: int) -> str:
    return f"{order} {num}, {algorithm}, s = {step}"
