"""The page's two curves over projections as SVG: score, and what the policy predicts. Pure functions.

Points that coincide on the page are left out, so that it is sent a few kilobytes whatever a run's length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from bluesky_streamrecon.wire import Judged, RunStatus

__all__ = ["draw_curves"]

MOST_POINTS: Final = 200
LEFT, RIGHT, TOP, DEEP = 50, 410, 38, 102
"""Place of the axes, in the curve's own units of 420 x 180."""


@dataclass(frozen=True, slots=True)
class _Curve:
    """What is drawn: points, their band, a limit, and ticks, of which the first and the last are the axis's ends."""

    title: str
    axis: str
    kind: str
    ticks: Sequence[tuple[float, str]]
    points: Sequence[tuple[int, float]]
    band: Sequence[tuple[int, float, float]] = ()
    limit: tuple[float, str] | None = None
    digits: str = ".4f"
    height: Callable[[float], float] = float


def draw_curves(status: RunStatus, judged: Sequence[Judged]) -> list[str]:
    """Return the contents of both SVG elements.

    Parameters
    ----------
    status : RunStatus
        Of the run, with what its policy predicts and wants.
    judged : sequence of Judged
        All verdicts.
    """
    total = max(status.total, judged[-1].projections if judged else 0, 1)
    shown = _thinned(judged)
    second = _measured(status, shown) if status.measured else _gain(status, shown)
    return [_draw(_score(shown), total, status.stop_at), _draw(second, total, status.stop_at)]


def _thinned(judged: Sequence[Judged]) -> list[Judged]:
    step = math.ceil(len(judged) / MOST_POINTS)
    return [each for i, each in enumerate(judged) if (len(judged) - 1 - i) % step == 0] if judged else []


def _score(judged: Sequence[Judged]) -> _Curve:
    """Return the score's curve, read by what is missing to 1: each line of its axis is ten times nearer."""
    points = [(each.projections, each.score) for each in judged if each.score is not None]
    best = max((_nines(score) for _, score in points), default=0.0)
    ticks = [(0.0, "0"), (0.9, "0.9"), (0.99, "0.99"), (0.999, "0.999"), (0.9999, "0.9999")]
    ticks = ticks[: max(3, math.ceil(best) + 1)]
    return _Curve("Likeness to an earlier image", "MS-SSIM, 1: the same", "score", ticks, points, height=_nines)


def _nines(score: float) -> float:
    return -math.log10(min(max(1e-4, 1 - score), 1.0))


def _gain(status: RunStatus, judged: Sequence[Judged]) -> _Curve:
    known = [(each.gain_at or each.projections, each) for each in judged if each.gain is not None]
    points = [(at, each.gain) for at, each in known if each.gain is not None]
    band = [
        (at, each.gain_low, each.gain_high)
        for at, each in known
        if each.gain_low is not None and each.gain_high is not None
    ]
    tolerance = status.tolerance
    most = max(2 * (tolerance or 0.02), *(gain for _, gain in points), *(high for _, _, high in band), 0.0)
    ticks = _ticks(0.0, most)
    limit = None if tolerance is None else (tolerance, f"tolerance {tolerance:g}: stops once all of the band is below")
    title = "What the rest of the scan would still improve"
    return _Curve(title, "MS-SSIM, predicted, 95 % band", "gain", ticks, points, band, limit)


def _measured(status: RunStatus, judged: Sequence[Judged]) -> _Curve:
    points = [(each.projections, each.value) for each in judged if each.value is not None]
    band = [
        (each.projections, each.value_low, each.value_high)
        for each in judged
        if each.value_low is not None and each.value_high is not None
    ]
    values = [value for _, value in points] + [end for _, *ends in band for end in ends]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    beyond = 0.05 * (high - low) or abs(high) or 1.0
    ticks = _ticks(low - beyond, high + beyond)
    return _Curve(f"{status.measured} in the image", "band: at the end, 95 %", "gain", ticks, points, band, None, ".4g")


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    digits = max(0, 1 - math.floor(math.log10(max(high - low, 1e-12))))
    return [(value, f"{value:.{digits}f}") for value in (low, (low + high) / 2, high)]


def _draw(curve: _Curve, total: int, stop_at: int | None) -> str:
    low, high = curve.height(curve.ticks[0][0]), curve.height(curve.ticks[-1][0])

    def x(projections: float) -> float:
        return LEFT + (RIGHT - LEFT) * min(projections / total, 1.0)

    def y(value: float) -> float:
        return TOP + DEEP * (1 - (min(high, max(low, curve.height(value))) - low) / (high - low))

    def path(kind: str, points: Sequence[tuple[float, float]], end: str = "") -> str:
        return f'<path class="{kind}" d="M{"L".join(f"{x(n):.1f} {y(v):.1f}" for n, v in points)}{end}"/>'

    def text(kind: str, across: float, down: float, words: str, anchor: str = "start") -> str:
        return f'<text class="{kind}" x="{across:.1f}" y="{down:.1f}" text-anchor="{anchor}">{escape(words)}</text>'

    parts = [text("title", 4, 13, curve.title), text("", 4, 26, curve.axis)]
    for value, words in curve.ticks:
        parts += [path("axis", [(0, value), (total, value)]), text("", LEFT - 6, y(value) + 4, words, "end")]
    bottom = TOP + DEEP + 15
    for i in range(5) if total > 1 else ():
        parts.append(text("", x(total * i / 4), bottom, str(round(total * i / 4)), "end" if i == 4 else "middle"))
    parts.append(text("", (LEFT + RIGHT) / 2, bottom + 15, "projections", "middle"))
    if stop_at is not None and stop_at < total:
        parts.append(f'<path class="axis ahead" d="M{x(stop_at):.1f} {TOP}V{TOP + DEEP}"/>')
    if len(curve.band) > 1:
        upper = [(n, end) for n, _, end in curve.band]
        parts.append(path("band", [*upper, *((n, end) for n, end, _ in reversed(curve.band))], "Z"))
    if curve.limit is not None:
        at, words = curve.limit
        parts += [path("limit", [(0, at), (total, at)]), text("of-limit", LEFT + 4, y(at) - 4, words)]
    if curve.points:
        n, value = curve.points[-1]
        parts += [path(curve.kind, curve.points)]
        parts.append(f'<circle class="{curve.kind} newest" cx="{x(n):.1f}" cy="{y(value):.1f}" r="3.5"/>')
        most = f", at most {curve.band[-1][2]:{curve.digits}}" if curve.limit is not None and curve.band else ""
        parts.append(text("title", RIGHT, 26 if most else 13, f"{value:{curve.digits}}{most} at {n}", "end"))
    else:
        parts.append(text("", (LEFT + RIGHT) / 2, TOP + DEEP / 4, "nothing yet", "middle"))
    return "".join(parts)
