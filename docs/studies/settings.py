"""Settings of the live reconstruction, compared on the same scans: foam and discs at three doses, and a measured one.

``python docs/studies/settings.py --out DIR``, with ``--try "step=6" --try "step=6 algorithm=osem subsets=6"`` for other
settings than the two kinds of windows. Names are those of the plan's settings (window, window_policy, step, iterations,
algorithm, ...), of the spread window (older, older_of_steps, kept), and else options of the algorithm.
"""

from __future__ import annotations

import ast
import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import cycle, product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.figures import Line, draw_lines, new_figure
from bluesky_streamrecon.evaluation.images import live_updates, with_best_image
from bluesky_streamrecon.evaluation.report import Report, Row, grouped
from bluesky_streamrecon.evaluation.scans import ScanStack, measured_scan, simulated_scan
from bluesky_streamrecon.ordering import make_order
from bluesky_streamrecon.recon.window import Spread
from bluesky_streamrecon.settings import ReconSettings, settings_from
from bluesky_streamrecon.sim_devices import Discs, Foam

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Choice", "evaluate_settings", "read_choice"]

DEFAULT_CHOICES = ("window_policy=newest", "window_policy=spread")
PORES = 90
DOSE = 1.8e5, 1.8e6, 1.8e7
"""Photons per pixel of a whole scan: more projections, less light for each."""

POINTS = 60
"""Images of a scan that are compared with the truth, at least."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to reconstruct live.

    Parameters
    ----------
    text : str
        As it was written.
    recon : ReconSettings
        Settings; those not chosen have their defaults.
    spread : Spread or None
        Another window than the settings can have.
    """

    text: str
    recon: ReconSettings
    spread: Spread | None = None


def read_choice(text: str) -> Choice:
    """Return the choice that a text like ``"step=6 algorithm=osem subsets=6"`` stands for.

    Names are those of `ReconSettings`, of `Spread`, and else of the algorithm's options.

    Raises
    ------
    ConfigError
        If a word is not of this form, or settings can not work.

    Examples
    --------
    >>> read_choice("step=6 algorithm=osem subsets=6").recon.options
    {'subsets': 6}
    >>> read_choice("older=0.25").spread.older
    0.25
    """
    recon: dict[str, Any] = {}
    spread: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise ConfigError(f"choice {text!r}: got {word!r}, expected NAME=VALUE, as in 'step=6 algorithm=osem'")
        kinds = ((recon, ReconSettings.__struct_fields__), (spread, [each.name for each in fields(Spread)]))
        chosen = next((values for values, names in kinds if name in names), options)
        try:
            chosen[name] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            chosen[name] = value
    settings = settings_from(ReconSettings, recon | ({"options": options} if options else {}))
    return Choice(text, settings, Spread(**spread) if spread else None)


def evaluate_settings(
    choices: Sequence[str] = DEFAULT_CHOICES,
    *,
    data: Path | None = None,
    order: str = "optimized-interleaved",
    columns: int = 192,
    num: int = 180,
    seeds: int = 1,
    threads: int = 1,
) -> Report:
    """Reconstruct foam and discs at three doses, and a measured scan, once with each choice.

    Parameters
    ----------
    choices : sequence of str, optional
        See `read_choice`.
    data : Path, optional
        Measured scan (DXchange or NXtomo); left out if not given.
    order : str, optional
        Of angles.
    columns, num, seeds : int, optional
        Detector columns and projections of the simulated scans, and how many seeds of each; the dose is that of 180
        projections, however many there are.
    threads : int, optional
        That compute.

    Returns
    -------
    Report
        ``rows``: for each choice and kind of scan ``mean`` (MS-SSIM of images from the first full window on), ``end``
        (of the last image), its ``rmse`` (as a fraction of the truth's range) and ``dip`` (largest fall below an
        earlier image); also as ``settings.csv``, and the curves as ``settings.png``.

    Raises
    ------
    ConfigError
        If a choice can not work.
    StorageError, DataError
        If `data` can not be used.
    """
    read = [read_choice(text) for text in choices]
    stacks = {f"{order}, {num} projections": _simulated(order, columns, num, seeds)}
    if data is not None:
        measured = with_best_image(measured_scan(data, order=order), threads=threads)
        stacks[f"{measured.name}, {order}, {len(measured)} projections"] = ScanStack.of([measured])
    points: list[Row] = []
    for (scans, stack), choice in product(stacks.items(), read):
        logger.info("%s: %s", scans, choice.text)
        points += [{"scans": scans, "choice": choice.text} | row for row in _follow(stack, choice, threads)]
    rows = _summaries(points, ("scans", "choice", "sample", "noise"))
    shown: dict[str, list[Row]] = {title: [] for title in stacks}
    for row in _summaries(points, ("scans", "noise", "choice")):
        shown[row.pop("scans")].append(row)
    return Report({"rows": rows}, shown, {"settings": rows}, {"settings": _draw(points)})


def _simulated(order: str, columns: int, num: int, seeds: int) -> ScanStack:
    """Take foam and discs at three doses, the same for any number of projections."""
    visiting = make_order(order, num=num)
    return ScanStack.of(
        [
            simulated_scan(name, sample, columns=columns, order=visiting, counts=dose / num, seed=100 * seed + i)
            for seed in range(seeds)
            for i, dose in enumerate(DOSE)
            for name, sample in (("foam", Foam(pores=PORES, seed=seed)), ("discs", Discs(seed=seed)))
        ]
    )


def _follow(stack: ScanStack, choice: Choice, threads: int) -> list[Row]:
    """Compare live images with the truth, from the first full window on."""
    last = len(stack.whole)
    window, every = choice.recon.window or last, max(choice.recon.step, last // POINTS)
    rows: list[Row] = []
    policy = None if choice.spread is None else {"window_policy": choice.spread}
    for number, engine in live_updates(stack.whole, choice.recon, window=policy, threads=threads):
        if number == last or (number >= window and number % every == 0):
            rows += [{"case": case} | row for case, row in enumerate(stack.compare(number, engine.image()))]
    return rows


def _summaries(points: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """Summarize scans that are alike in these fields: means, and the largest dip."""
    found = []
    for key, alike in grouped(points, *names).items():
        cases = grouped(alike, "case")
        curves = [np.array([point["ms_ssim"] for point in case]) for case in cases.values()]
        found.append(
            {
                **dict(zip(names, key, strict=True)),
                "cases": len(cases),
                "mean": float(np.mean([curve.mean() for curve in curves])),
                "end": float(np.mean([curve[-1] for curve in curves])),
                "rmse": float(np.mean([case[-1]["rmse"] for case in cases.values()])),
                "dip": float(max((np.maximum.accumulate(curve) - curve).max() for curve in curves)),
            }
        )
    return found


def _draw(points: Sequence[Row]) -> Figure:
    """Draw MS-SSIM to the truth against projections: a colour for scans that are alike, a style for each choice."""
    titles = grouped(points, "scans")
    figure = new_figure(5.2 * len(titles), 4.4)
    for axes, ((title,), mine) in zip(figure.subplots(1, len(titles), squeeze=False)[0], titles.items(), strict=True):
        lines: list[Line] = []
        for color, ((sample, noise), alike) in enumerate(grouped(mine, "sample", "noise").items()):
            name = sample if noise is None else f"{sample}, {noise:g} photons"
            for ((text,), chosen), style in zip(grouped(alike, "choice").items(), cycle((":", "-", "--", "-."))):
                label = f"{name}: {text}" if color == 0 else name if style == ":" else None
                curve = grouped(chosen, "projections")
                values = [float(np.mean([point["ms_ssim"] for point in some])) for some in curve.values()]
                lines.append((label, [at for (at,) in curve], values, style, f"C{color}"))
        draw_lines(axes, lines, title=title, xlabel="projections")
    figure.axes[0].set_ylabel("MS-SSIM of the live image to the truth")
    return figure


def main(
    out: Annotated[Path, typer.Option(help="Directory for settings.csv and settings.png.")],
    choices: Annotated[list[str] | None, typer.Option("--try", help="Words NAME=VALUE; may be repeated.")] = None,
    data: Annotated[Path | None, typer.Option(help="Also a measured scan (DXchange or NXtomo).")] = None,
    order: Annotated[str, typer.Option(help="Angle order.")] = "optimized-interleaved",
    columns: Annotated[int, typer.Option(help="Detector columns of the simulated samples.")] = 192,
    num: Annotated[int, typer.Option(help="Projections of the simulated scans.")] = 180,
    seeds: Annotated[int, typer.Option(help="Seeds of each sample and dose.")] = 1,
    threads: Annotated[int, typer.Option(help="Threads that compute.")] = 1,
) -> None:
    """Compare settings of the live reconstruction; without --try, the two kinds of windows."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    evaluate_settings(
        choices or DEFAULT_CHOICES, data=data, order=order, columns=columns, num=num, seeds=seeds, threads=threads
    ).write(out)


if __name__ == "__main__":
    typer.run(main)
