"""What operators are shown of a run: how it is, and the verdict of each image in numbers. Pure functions.

Counts are projections.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from bluesky_streamrecon.beamline.run_state import RunState
from bluesky_streamrecon.coverage import AngularRange
from bluesky_streamrecon.run_record import Ledger, RunRecord, how_it_ended, ledger_totals, newest_checks
from bluesky_streamrecon.wire.messages import OpenRunSpec, Score
from bluesky_streamrecon.wire.operator_messages import MOST_JUDGED, Judged, RunStatus

__all__ = ["as_judged", "described", "judged_after", "run_status"]

ABOUT = {
    "sample": ("sample_name", "sample"),
    "scan": ("scan_id",),
    "plan": ("plan_name",),
    "by": ("operator", "user", "experimenter"),
    "proposal": ("proposal_id", "proposal"),
}
"""What people know a run by, and the metadata that say it."""


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
    shown = run or last
    if shown is None:
        return RunStatus(state=state, problem=problem[:4096])
    status = RunStatus(
        state=state,
        taken=shown.taken,
        planned=shown.planned,
        image_number=shown.image_number,
        used=shown.used,
        score=_finite(shown.score),
        verdict=shown.verdicts[-1].verdict if shown.verdicts else "",
        checks=newest_checks(shown.verdicts),
        axis=shown.axis,
        problem=problem[:4096],
        **_of_spec(shown.spec, shown.axis),
    )
    if isinstance(shown, RunRecord):
        return msgspec.structs.replace(
            status,
            last_run=shown.run_uid,
            selection=shown.selection,
            selected_by=shown.selected_by,
            ended=how_it_ended(shown.exit_status, shown.reason)[:4096],
            volume=volume[:4096],
            result=shown.volume or shown.result or "",
        )
    newest, override = shown.newest, shown.override
    numbers = Judged(image_number=0, projections=0) if newest is None else as_judged(newest)
    return msgspec.structs.replace(
        status,
        run_uid=shown.spec.run_uid,
        added=override.added,
        lag=shown.lag,
        gain=numbers.gain,
        gain_low=numbers.gain_low,
        gain_high=numbers.gain_high,
        gain_at=numbers.gain_at,
        policy=shown.spec.steering.rule,
        text="" if newest is None else newest.text,
        stop_at=None if newest is None else _count(newest.metrics.get("predicted-stop")),
        advisory=shown.spec.steering.advisory,
        finalize=shown.finalize_requested,
        can_extend=override.lengthens and not override.complete,
        held=override.held,
        selection=override.selection,
        selected_by=override.selected_by,
        finish=override.finish,
        least=override.least,
        allowed=override.allowed,
        ranks=ranks,
        ledger=ledger_totals(ledger) if ledger else {},
        problem=("; ".join(dict.fromkeys(shown.problems)) or problem)[:4096],
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
    value = next((name.removesuffix("-final") for name in metrics if re.fullmatch("measurement.*-final", name)), "")
    return Judged(
        image_number=score.image_number,
        projections=score.projections,
        score=_finite(score.score),
        gain=_finite(metrics.get("predicted-gain")),
        gain_low=_finite(metrics.get("predicted-gain-low")),
        gain_high=_finite(metrics.get("predicted-gain-high")),
        gain_at=_count(metrics.get("predicted-gain-at")),
        verdict=score.verdict,
        value=_finite(metrics.get(value)),
        value_low=_finite(metrics.get(f"{value}-low")),
        value_high=_finite(metrics.get(f"{value}-high")),
        selection=score.selection,
    )


def _of_spec(spec: OpenRunSpec, axis: float | None) -> dict[str, Any]:
    """Return what is known of a run from its beginning, and by its axis."""
    columns = spec.detector_shape[1]
    over = AngularRange.from_metadata(spec.metadata).around((columns - 1) / 2 if axis is None else axis, columns)
    return {
        "tolerance": spec.steering.tolerance if "predicted-gain" in spec.steering.rule else None,
        "pixel_size": _pixel_size(spec),
        "detector_shape": spec.detector_shape,
        "preview_rows": spec.preview_rows,
        "angles": (over.start, over.stop, over.turn),
        "measured": _measured(spec),
        **described(spec.metadata),
    }


def _pixel_size(spec: OpenRunSpec) -> float | None:
    """Return the side of a voxel, micrometres, where the run says what that of a pixel is, or the policy's options."""
    given = spec.metadata.get("pixel_size", spec.steering.options.get("pixel_size"))
    try:
        size = float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return size * spec.recon.bin if 0 < size < math.inf else None


def _measured(spec: OpenRunSpec) -> str:
    return str(spec.steering.options.get("measure", ""))[:256] if "measurement" in spec.steering.rule else ""


def described(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return what a run's metadata say of it, as the fields ``about`` and ``started`` of its status."""
    about = {}
    for name, keys in ABOUT.items():
        if found := next((metadata[key] for key in keys if metadata.get(key)), ""):
            about[name] = found
    try:
        started = float(metadata.get("time", ""))
    except ValueError:
        started = 0.0
    return {"about": about, "started": started if 0 < started < math.inf else 0.0}


def _count(value: float | None) -> int | None:
    return None if (known := _finite(value)) is None else int(known)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
