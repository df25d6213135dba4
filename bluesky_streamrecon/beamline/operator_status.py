"""What operators are shown of a run: how it is, and the verdict of each image in numbers. Pure functions.

Counts are projections.
"""

from __future__ import annotations

import math

from bluesky_streamrecon.beamline.run_state import RunState
from bluesky_streamrecon.run_record import RunRecord, ledger_totals
from bluesky_streamrecon.wire.messages import OpenRunSpec, Score
from bluesky_streamrecon.wire.operator_messages import MOST_JUDGED, Judged, RunStatus
from bluesky_streamrecon.wire.run import Ledger

__all__ = ["as_judged", "judged_after", "run_status"]


def run_status(
    run: RunState | None,
    ledger: dict[int, Ledger],
    *,
    state: str,
    problem: str,
    ranks: int,
    last: RunRecord | None = None,
    volume: str = "",
) -> RunStatus:
    """Return how a run is.

    Parameters
    ----------
    run : RunState or None
        None: none is open.
    ledger : dict of int to Ledger
        Per rank, what became of its items.
    state, problem : str
        What the job's signals show.
    ranks : int
        MPI ranks that are linked.
    last : RunRecord, optional
        Of the run before.
    volume : str, optional
        How the newest volume is, in words.
    """
    problem, volume = problem[:4096], volume[:4096]
    if run is None and last is not None:
        ended = f"{last.exit_status or 'ended'}: {last.reason or 'no reason given'}"[:4096]
        return RunStatus(
            state=state,
            taken=last.taken,
            planned=last.planned,
            image_number=last.image_number,
            used=last.used,
            score=_finite(last.score),
            tolerance=_tolerance(last.spec),
            axis=last.axis,
            pixel_size=_pixel_size(last.spec),
            problem=problem,
            last_run=last.run_uid,
            ended=ended,
            volume=volume,
            result=last.volume or last.result or "",
        )
    if run is None:
        return RunStatus(state=state, problem=problem)
    newest, override = run.newest, run.override
    numbers = Judged(image_number=0, projections=0) if newest is None else as_judged(newest)
    return RunStatus(
        state=state,
        run_uid=run.spec.run_uid,
        taken=run.taken["projection"],
        planned=run.spec.planned,
        added=override.added,
        image_number=run.image_number,
        used=run.used,
        lag=run.lag,
        score=_finite(run.score),
        gain=numbers.gain,
        gain_low=numbers.gain_low,
        gain_high=numbers.gain_high,
        gain_at=numbers.gain_at,
        verdict="" if newest is None else newest.verdict,
        policy=run.spec.steering.rule,
        text="" if newest is None else newest.text,
        tolerance=_tolerance(run.spec),
        advisory=run.spec.steering.advisory,
        finalize=run.finalize_requested,
        can_extend=override.lengthens and not override.complete,
        held=override.held,
        finish=override.finish,
        least=override.least,
        axis=run.axis,
        pixel_size=_pixel_size(run.spec),
        ranks=ranks,
        ledger=ledger_totals(ledger) if ledger else {},
        problem=("; ".join(dict.fromkeys(run.problems)) or problem)[:4096],
    )


def judged_after(run: RunState | RunRecord | None, run_uid: str | None, after: int) -> tuple[Judged, ...]:
    """Return the verdicts of a run's images after number `after` of run `run_uid`, oldest first."""
    if run is None:
        return ()
    if run_uid is not None and run_uid != run.spec.run_uid:
        after = 0
    later = [verdict for verdict in run.verdicts if verdict.image_number > after]
    return tuple(as_judged(verdict) for verdict in later[:MOST_JUDGED])


def as_judged(score: Score) -> Judged:
    """Return a verdict in numbers."""
    metrics = score.metrics
    at = _finite(metrics.get("predicted-gain-at"))
    return Judged(
        image_number=score.image_number,
        projections=score.projections,
        score=_finite(score.score),
        gain=_finite(metrics.get("predicted-gain")),
        gain_low=_finite(metrics.get("predicted-gain-low")),
        gain_high=_finite(metrics.get("predicted-gain-high")),
        gain_at=None if at is None else int(at),
        verdict=score.verdict,
    )


def _pixel_size(spec: OpenRunSpec) -> float | None:
    """Return the side of a voxel, micrometres, where the run says what that of a pixel is, or the policy's options."""
    told = spec.metadata.get("pixel_size", spec.steering.options.get("pixel_size"))
    try:
        size = float(told)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return size * spec.recon.bin if 0 < size < math.inf else None


def _tolerance(spec: OpenRunSpec) -> float | None:
    return spec.steering.tolerance if "predicted-gain" in spec.steering.rule else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
