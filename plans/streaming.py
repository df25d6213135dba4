"""`streaming_wrapper`: any scan of a rotation stage becomes one that is reconstructed while it runs."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import bluesky.preprocessors as bpp
import msgspec
from bluesky.utils import FailedStatus, Msg, MsgGenerator

from bluesky_streamrecon.beamline import ReconJob, SuspendMode
from bluesky_streamrecon.geometry import check_range
from bluesky_streamrecon.plans.budget import Budget, with_deadline
from bluesky_streamrecon.plans.defaults import compose_with_storage, current_job
from bluesky_streamrecon.plans.early_stop import Steps
from bluesky_streamrecon.plans.parts import check_analysis, check_metadata, check_turns, checked_series
from bluesky_streamrecon.plans.reference_frames import check_source
from bluesky_streamrecon.plans.session import Compose, Streaming, StreamSession, settle
from bluesky_streamrecon.settings import TOMOGRAPHY, PixelValues, ReconSettings, SteeringSettings

__all__ = ["streaming_wrapper"]


# No generator function, and not annotated as a plan: it takes a plan, which no queue server and no blueapi can send.
def streaming_wrapper(
    plan: MsgGenerator[Any],
    *,
    detector: Any = None,
    angle: Any = None,
    references: str | None = None,
    pixel_values: PixelValues | None = None,
    job: ReconJob | None = None,
    recon: ReconSettings | None = None,
    steering: SteeringSettings | None = None,
    planned: int | None = None,
    suspend: SuspendMode = "after-projection",
    md: Mapping[str, Any] | None = None,
    compose: Compose = compose_with_storage,
    lengthens: bool = False,
    signals_in: str = "primary",
    devices: Sequence[Any] = (),
    limits: Budget | None = None,
) -> Generator[Any, Any, Any]:
    """Stream the projections of a plan to a reconstruction job, and end the plan when the image is good enough.

    Around the plan the job is staged and unstaged. Each run that the plan opens gets a ``streamrecon`` block, and the
    job's signals are read in each event of its ``primary`` stream (or of `signals_in`); frames of the streams ``flat``
    and ``dark``, or those of an earlier run, are used for correction. Verdicts are events of the stream ``steering``.
    When the image is good enough, `QualityReached` is raised in the plan, at its next checkpoint by default, or where
    it collects what was taken on the fly, so that its own clean-up runs; the run's stop document says ``success`` and
    why.

    Parameters
    ----------
    plan : generator of messages
        For instance ``bluesky.plans.scan([detector], stage, 0, 179, 180)``. It needs a checkpoint per angle, or, on the
        fly, to collect often.
    detector : device or str, optional
        Whose frames are projections: a device, its name, or its data key; the plan's only detector by default.
    angle : device or str, optional
        The rotation stage, its name, or the data key of its readback; the plan's only motor by default. An `analysis`
        other than tomography needs none, and gets no angle unless it is named here.
    references : str, optional
        Where flats and darks come from: ``"own"``: the plan takes them itself, in the streams ``flat`` and ``dark``;
        ``"last"``: the newest run in the catalogue that has some of this detector; or the uid of a run.
    pixel_values : {"counts", "transmission", "line-integrals"}, optional
        What pixels stand for; that of `recon` by default. Only counts need `references`, and only for tomography.
    job : ReconJob, optional
        The job in use by default.
    recon, steering : ReconSettings, SteeringSettings, optional
        What is wanted; the number of ranks is the job's by default.
    planned : int, optional
        Projections planned; ``num_points`` of the plan's own metadata by default.
    suspend : {"after-projection", "at-once"}, optional
        ``"after-projection"`` loses nothing that was begun; ``"at-once"`` interrupts even a move, and the event
        in flight is lost.
    md : mapping, optional
        Added to the ``streamrecon`` block. ``start`` and ``stop`` are the range of angles that the plan is going to
        visit, degrees, in whatever order; without them it is taken for a half turn.
    compose : callable, optional
        Makes the documents of a reconstruction from its `RunRecord`, for those who `ReconJob.subscribe`.
    lengthens : bool, optional
        The plan asks ``job.runs.more_wanted(taken)`` when it has taken what was planned, and goes on while that is
        true, so that people may extend the run. Any other plan can not be made longer.
    signals_in : str, optional
        Stream in whose events the job's signals are read.
    devices : sequence of devices, optional
        More devices whose configuration may say energy, distance or size of the pixels, for steps of the preparation
        that have to know them; those that are staged before the run is opened, detector and stage are looked at anyhow.
    limits : Budget, optional
        Found by a plan that knows its own pace; by default from ``steering`` and what `detector` says.

    Returns
    -------
    generator of messages
        For the RunEngine. It returns what the plan returns; the uid of its last run if it was ended.

    Raises
    ------
    ConfigError
        If there is no flat field from anywhere, or no such analysis or algorithm, or a time series is asked for with a
        number of projections that is not known, before anything moves.

    Notes
    -----
    An exposure that has begun is never repeated: a pause waits for its frame, which is kept. (Rewound and exposed
    again, a file-writing detector would have two frames for one event, which the RunEngine refuses.)
    """
    job = job if job is not None else current_job()
    recon = recon if recon is not None else ReconSettings(ranks=job.wanted_ranks)
    if pixel_values is not None:
        # Made anew, since older versions of msgspec do not check what they replace.
        recon = ReconSettings(**{**msgspec.structs.asdict(recon), "pixel_values": pixel_values})
    if recon.analysis == TOMOGRAPHY:
        check_source(recon.pixel_values, references, "references='own' if the plan takes flats into its stream 'flat'")
    check_metadata(md)
    check_range((md or {}).get("start"), (md or {}).get("stop"), "md")
    check_analysis(recon)
    steering = checked_series(recon, steering if steering is not None else SteeringSettings())
    steering = with_deadline(steering)
    check_turns(recon, planned)
    asked = Streaming(
        job=job, recon=recon, steering=steering, detector=detector, angle=angle, references=references, planned=planned,
        suspend=suspend, md=md, compose=compose, lengthens=lengthens, signals_in=signals_in, devices=devices,
        limits=limits,
    )  # fmt: skip
    return _streamed(plan, StreamSession(asked))


def _streamed(plan: MsgGenerator[Any], session: StreamSession) -> MsgGenerator[Any]:
    job = session.job
    tokens: list[int] = []

    def body() -> Steps:
        yield from session.begin()
        yield from session.find_limits()
        job.prepare_run(session.asked.recon, session.asked.steering, "")
        yield from _staged(job)
        tokens.append((yield Msg("subscribe", None, job.publisher, "all")))
        return (yield from session.run(plan))

    def cleanup() -> Steps:
        yield from session.clean_up()
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
