"""`streaming_wrapper`: any scan of a rotation stage becomes one that is reconstructed while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import bluesky.preprocessors as bpp
from bluesky.utils import FailedStatus, Msg, MsgGenerator

from bluesky_streamrecon.beamline import QualityReached, ReconJob, SuspendMode
from bluesky_streamrecon.config import ReconSettings, SteeringSettings
from bluesky_streamrecon.plans.session import Compose, Steps, StreamSession, settle

__all__ = ["streaming_wrapper"]


def streaming_wrapper(
    plan: MsgGenerator[Any],
    *,
    job: ReconJob,
    detector: Any,
    angle: Any,
    recon: ReconSettings | None = None,
    steering: SteeringSettings | None = None,
    planned: int | None = None,
    suspend: SuspendMode = "after-projection",
    md: Mapping[str, Any] | None = None,
    compose: Compose | None = None,
    lengthens: bool = False,
    signals_in: str = "primary",
) -> MsgGenerator[Any]:
    """Stream the projections of a plan to a reconstruction job, and end the plan when the image is good enough.

    Around the plan the job is staged and unstaged. Each run that the plan opens gets a ``streamrecon`` block, and the
    job's signals are read in each event of its ``primary`` stream (or of `signals_in`); frames of the streams ``flat``
    and ``dark`` that come before are used for correction. Verdicts are events of the stream ``steering``. When the
    image is good enough, `QualityReached` is raised in the plan, at its next checkpoint by default, or where it
    collects what was taken on the fly, so that its own clean-up runs; the run's stop document says ``success`` and why.

    Parameters
    ----------
    plan : generator of messages
        For instance ``bluesky.plans.scan([detector], stage, 0, 179, 180)``. It needs a checkpoint per angle, or, on the
        fly, to collect often.
    job : ReconJob
        The reconstruction job.
    detector : device or str
        Whose frames are projections: a device, its name, or its data key.
    angle : device or str
        The rotation stage, its name, or the data key of its readback.
    recon, steering : ReconSettings, SteeringSettings, optional
        What is wanted; the number of ranks is the job's by default.
    planned : int, optional
        Projections planned; ``num_points`` of the plan's own metadata by default.
    suspend : {"after-projection", "at-once"}, optional
        ``"after-projection"`` loses nothing that was begun; ``"at-once"`` interrupts even a move, and the event
        in flight is lost.
    md : mapping, optional
        Added to the ``streamrecon`` block.
    compose : callable, optional
        Makes the documents of a reconstruction from its `RunRecord`, for `ReconJob.subscribe`.
    lengthens : bool, optional
        The plan asks ``job.runs.more_wanted(taken)`` when it has taken what was planned, and goes on while that is
        true, so that people may extend the run. Any other plan can not be made longer.

    Returns
    -------
    Any
        What the plan returns; the uid of its last run if it was ended.

    Notes
    -----
    An exposure that has begun is never repeated: a pause waits for its frame, which is kept. (Rewound and exposed
    again, a file-writing detector would have two frames for one event, which the RunEngine refuses.)
    """
    session = StreamSession(
        job,
        detector=getattr(detector, "name", detector),
        angle=getattr(angle, "name", angle),
        recon=recon if recon is not None else ReconSettings(ranks=job.wanted_ranks),
        steering=steering if steering is not None else SteeringSettings(),
        planned=planned,
        suspend=suspend,
        md=md or {},
        compose=compose,
        lengthens=lengthens,
        signals_in=signals_in,
    )
    tokens: list[int] = []

    def body() -> Steps:
        job.prepare_run(session.recon, session.steering, "")
        yield from _staged(job)
        tokens.append((yield Msg("subscribe", None, job.publisher, "all")))
        yield Msg("install_suspender", None, session.suspender)
        try:
            return (yield from session.drive(plan))
        except QualityReached:
            return session.run_uid
        except GeneratorExit:
            session.abandon()
            raise

    def cleanup() -> Steps:
        yield from session.release()
        yield Msg("remove_suspender", None, session.suspender)
        for token in tokens:
            yield Msg("unsubscribe", None, token=token)
        status = yield Msg("unstage", job)
        yield from settle([status])

    return (yield from bpp.finalize_wrapper(body(), cleanup))


def _staged(job: ReconJob) -> Steps:
    """Stage the job and wait for it, paused or not; give its own error in place of the RunEngine's."""
    status = yield Msg("stage", job)
    try:
        yield from settle([status])
    except FailedStatus as failed:
        raise status.exception() or failed from None
