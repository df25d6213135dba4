"""`stream_tomo_plan`: a tomogram that is reconstructed while it is taken, and ends when the image is good enough.

Angles are degrees. No device is made, and nothing is imported that starts anything, before the plan runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.utils import MsgGenerator

from bluesky_streamrecon.beamline import ReconJob, SuspendMode
from bluesky_streamrecon.config import Option, ReconSettings, SteeringSettings
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.ordering import AngleOrder, make_order
from bluesky_streamrecon.plans.defaults import compose_with_storage, current_beamline, current_job, recorded_angles
from bluesky_streamrecon.plans.parts import (
    TakeFrames,
    about,
    check_count,
    check_frames,
    check_names,
    connected,
    over_recording,
    tomogram,
    within_limits,
)
from bluesky_streamrecon.plans.session import Compose
from bluesky_streamrecon.plans.streaming import streaming_wrapper

__all__ = ["stream_tomo_plan"]

TakeOne = Callable[[float], MsgGenerator[None]]


def stream_tomo_plan(
    detectors: Any | Sequence[Any] | None = None,
    stage: Any | None = None,
    *,
    num: int = 180,
    start: float = 0.0,
    stop: float = 180.0,
    order: str | AngleOrder | Iterable[float] = "optimized-interleaved",
    window: int | None = 24,
    window_policy: str = "spread",
    step: int = 1,
    algorithm: str = "mlem",
    threshold: float | None = None,
    iterations: int = 1,
    axis: float | None = None,
    size: int | None = None,
    disc: bool = False,
    ranks: int | None = None,
    threads: int | None = None,
    share: int = 1,
    coalesce: bool = True,
    stripe_removal: bool = False,
    checkpoint_every: int = 0,
    options: Mapping[str, Option] | None = None,
    policy: str | None = None,
    tolerance: float = 0.02,
    patience: int = 1,
    minimum_projections: int | None = None,
    minimum_coverage: float = 0.0,
    compare_to: int | None = None,
    scales: int = 5,
    preview_rows: Sequence[int] | None = None,
    policy_options: Mapping[str, Option] | None = None,
    advisory: bool = False,
    suspend: SuspendMode = "after-projection",
    flats: int = 10,
    darks: int = 10,
    shutter: Any | None = None,
    sample_table: Any | None = None,
    take_flats: TakeFrames | None = None,
    take_darks: TakeFrames | None = None,
    job: ReconJob | None = None,
    compose: Compose | None = compose_with_storage,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[str | None]:
    """Take a tomogram that is reconstructed while it is taken, and end it when the image is good enough.

    Darks (shutter closed), flats (sample out), then per angle: checkpoint, move, expose, read. Everything that is
    asked for is checked before anything moves and before any process is started.

    Parameters
    ----------
    detectors : device or sequence of devices, optional
        The first one's frames are reconstructed. Without `detectors` and `stage`, those of the beamline in use
        (`use_beamline`), a simulated one by default, with its shutter and table.
    stage : device, optional
        Rotation stage; degrees.
    num : int, optional
        Angles.
    start, stop : float, optional
        Half-open range ``[start, stop)`` of angles, degrees.
    order : str, AngleOrder or iterable of float, optional
        In which order they are visited: a name (`bluesky_streamrecon.ordering.order_names`), an order, or a list of
        degrees. A beamline that replays a recording has its angles visited in the named order.
    window, window_policy, step, iterations, coalesce
        Which projections make the image, and when, see `ReconSettings`.
    algorithm, axis, size, disc, threads, share, stripe_removal, checkpoint_every
        How it is made, see `ReconSettings`. `axis` is a detector column; None finds it.
    options : mapping, optional
        For the algorithm.
    ranks : int, optional
        MPI ranks; the job's own number by default.
    threshold, policy, tolerance, patience, minimum_projections, minimum_coverage, compare_to, scales, preview_rows, \
advisory
        When the image is good enough, see `SteeringSettings`. By default the scan ends when all that is left of it
        would make the image better by less than `tolerance` (policy ``"predicted-gain"``); with a `threshold`, when
        the image no longer changes by more than that (policy ``"ms-ssim"``).
    policy_options : mapping, optional
        For the policy.
    suspend : {"after-projection", "at-once"}, optional
        How the scan ends then, see `streaming_wrapper`.
    flats, darks : int, optional
        Frames without sample and without beam; 0 if the detector's frames are corrected already.
    shutter : device, optional
        Takes ``"open"`` and ``"closed"``; closed at the end, whatever happens.
    sample_table : device, optional
        Takes ``"in"`` and ``"out"``.
    take_flats, take_darks : callable, optional
        ``f(detectors, num) -> plan`` in place of our own, for beamlines that do it in another way; it puts the
        frames into the stream ``flat`` or ``dark`` (see `take_frames`).
    job : ReconJob, optional
        The job in use by default.
    compose : callable, optional
        Makes the documents of the reconstruction for `ReconJob.subscribe`.
    md : mapping, optional
        More metadata.

    Returns
    -------
    str
        Uid of the run.

    Raises
    ------
    ConfigError
        If an argument can not work, or an angle is outside the stage's limits.

    Examples
    --------
    At the prompt: ``RE(stream_tomo_plan())``, or
    ``RE(stream_tomo_plan([camera], rotation, num=1500, shutter=shutter, sample_table=table, threshold=0.98))``.
    """
    check_count("flats", flats)
    check_count("darks", darks)
    steering = SteeringSettings(
        policy=policy,
        threshold=threshold,
        tolerance=tolerance,
        patience=patience,
        minimum_projections=minimum_projections,
        minimum_coverage=minimum_coverage,
        compare_to=compare_to,
        scales=scales,
        preview_rows=None if preview_rows is None else tuple(preview_rows),
        advisory=advisory,
        options=dict(policy_options or {}),
    )
    if (detectors is None) != (stage is None):
        raise ConfigError("detectors and stage: got one of them, expected both, or none for the beamline in use")
    beamline = None
    if detectors is None:
        beamline = current_beamline()
        detectors, stage = [beamline.detector], beamline.stage
        shutter = shutter if shutter is not None else beamline.shutter
        sample_table = sample_table if sample_table is not None else beamline.table
        yield from connected(getattr(beamline, "devices", ()))
    devices = list(detectors) if isinstance(detectors, Iterable) else [detectors]
    if not devices:
        raise ConfigError("detectors: got none, expected at least one")
    check_frames((flats, take_flats), (darks, take_darks), shutter, sample_table)
    job = job if job is not None else current_job(beamline)
    recon = ReconSettings(
        algorithm=algorithm,
        window=window,
        window_policy=window_policy,
        step=step,
        iterations=iterations,
        axis=axis,
        size=size,
        disc=disc,
        threads=threads,
        ranks=job.wanted_ranks if ranks is None else ranks,
        share=share,
        coalesce=coalesce,
        stripe_removal=stripe_removal,
        checkpoint_every=checkpoint_every,
        options=dict(options or {}),
    )
    if job.local:
        check_names(recon, steering)
    recorded = recorded_angles(beamline) if beamline is not None and (num, start, stop) == (180, 0.0, 180.0) else None
    if recorded is not None and isinstance(order, str):
        visiting = over_recording(order, recorded)
    else:
        visiting = make_order(order, num=num, start=start, stop=stop)
    steering.check_planned(len(visiting))
    yield from within_limits(stage, visiting)
    block = {
        "order": visiting.name,
        "angles": list(visiting.angles),
        "start": visiting.start,
        "stop": visiting.stop,
        "flats": flats,
        "darks": darks,
    }
    more = _more_between(visiting, stage, job) if recorded is None else _no_more

    def take(angle: float) -> MsgGenerator[None]:
        yield from bps.checkpoint()
        yield from bps.mv(stage, angle)
        yield from bps.trigger_and_read([*devices, stage])

    def projections() -> MsgGenerator[None]:
        for angle in visiting:
            yield from take(angle)
        yield from more(take)

    plan = tomogram(
        devices,
        [*devices, stage],
        projections,
        flats=(flats, take_flats),
        darks=(darks, take_darks),
        shutter=shutter,
        sample_table=sample_table,
        md={
            **about("stream_tomo_plan", devices, stage, visiting, "primary"),
            "plan_args": {
                "detectors": [repr(device) for device in devices],
                "stage": repr(stage),
                "num": len(visiting),
                "start": visiting.start,
                "stop": visiting.stop,
                "order": visiting.name,
                "flats": flats,
                "darks": darks,
                "policy": steering.rule,
                "threshold": steering.least_score,
                "tolerance": tolerance,
                "window": window,
                "window_policy": window_policy,
                "step": step,
                "algorithm": algorithm,
            },
            **(md or {}),
        },
    )
    uid: str | None = yield from streaming_wrapper(
        plan,
        job=job,
        detector=devices[0],
        angle=stage,
        recon=recon,
        steering=steering,
        planned=len(visiting),
        suspend=suspend,
        md=block,
        compose=compose,
        lengthens=recorded is None and len(visiting) > 1,
    )
    return uid


def _no_more(take: TakeOne) -> MsgGenerator[None]:  # noqa: ARG001 - as _more_between
    """Take nothing: a recording has no other angles than its own."""
    yield from ()


def _more_between(order: AngleOrder, stage: Any, job: ReconJob) -> Callable[[TakeOne], MsgGenerator[None]]:
    """Make a plan that takes projections between the planned ones, as long as people want more."""

    def more(take: TakeOne) -> MsgGenerator[None]:
        for number, angle in enumerate(order.between(), len(order)):
            if not job.runs.more_wanted(number):
                return
            try:
                yield from within_limits(stage, (angle,))
            except ConfigError as error:
                job.runs.no_more(f"the run can not be extended any further: {error}")
                return
            yield from take(angle)

    return more
