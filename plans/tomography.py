"""`stream_tomo_plan`: a tomogram that is reconstructed while it is taken, and ends when the image is good enough.

Angles are degrees. No device is made, and nothing is imported that starts anything, before the plan runs.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import Msg, MsgGenerator

from bluesky_streamrecon.beamline import ReconJob, SuspendMode
from bluesky_streamrecon.config import Option, ReconSettings, SteeringSettings
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.ordering import AngleOrder, make_order
from bluesky_streamrecon.plans.defaults import compose_with_storage, current_beamline, current_job, recorded_angles
from bluesky_streamrecon.plans.session import Compose
from bluesky_streamrecon.plans.streaming import streaming_wrapper

__all__ = ["stream_tomo_plan", "take_frames"]

TakeFrames = Callable[[Sequence[Any], int], MsgGenerator[Any]]
TakeOne = Callable[[float], MsgGenerator[None]]


def take_frames(detectors: Sequence[Any], stream: str, num: int) -> MsgGenerator[None]:
    """Plan stub: stage the detectors afresh, and take `num` frames into a stream of their own.

    Parameters
    ----------
    detectors : sequence of devices
        Staged here, so that each stream has a file of its own.
    stream : str
        ``"flat"`` or ``"dark"``.
    num : int
        Frames.
    """

    def frames() -> MsgGenerator[None]:
        for _ in range(num):
            yield from bps.checkpoint()
            yield from bps.trigger_and_read(list(detectors), name=stream)

    yield from bpp.stage_wrapper(frames(), detectors)


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
    _check_count("flats", flats)
    _check_count("darks", darks)
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
        yield from _connected(getattr(beamline, "devices", ()))
    devices = list(detectors) if isinstance(detectors, Iterable) else [detectors]
    if not devices:
        raise ConfigError("detectors: got none, expected at least one")
    if flats and take_flats is None and (sample_table is None or shutter is None):
        raise ConfigError(f"flats={flats}: need shutter= and sample_table=, or take_flats=; flats=0 if none are wanted")
    if darks and take_darks is None and shutter is None:
        raise ConfigError(f"darks={darks}: need shutter=, or take_darks=; darks=0 if none are wanted")
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
        _check_names(recon, steering)
    recorded = recorded_angles(beamline) if beamline is not None and (num, start, stop) == (180, 0.0, 180.0) else None
    if recorded is not None and isinstance(order, str):
        visiting = _over_recording(order, recorded)
    else:
        visiting = make_order(order, num=num, start=start, stop=stop)
    yield from _within_limits(stage, visiting)
    block = {
        "order": visiting.name,
        "angles": list(visiting.angles),
        "start": visiting.start,
        "stop": visiting.stop,
        "flats": flats,
        "darks": darks,
    }
    plan = _tomogram(
        devices,
        stage,
        visiting,
        flats=(flats, take_flats),
        darks=(darks, take_darks),
        shutter=shutter,
        sample_table=sample_table,
        more=_more_between(visiting, stage, job) if recorded is None else _no_more,
        md={
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


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"{name}: got {value!r}, expected an integer of 0 or more")


def _check_names(recon: ReconSettings, steering: SteeringSettings) -> None:
    """Refuse what a job with our own installation could only refuse once it has been started."""
    from bluesky_streamrecon.quality import get_policy
    from bluesky_streamrecon.recon import algorithm_names

    if recon.algorithm not in algorithm_names():
        raise ConfigError(f"algorithm: got {recon.algorithm!r}, expected one of {', '.join(algorithm_names())}")
    get_policy(steering.rule)(steering)


def _tomogram(
    devices: list[Any],
    stage: Any,
    order: AngleOrder,
    *,
    flats: tuple[int, TakeFrames | None],
    darks: tuple[int, TakeFrames | None],
    shutter: Any | None,
    sample_table: Any | None,
    more: Callable[[TakeOne], MsgGenerator[None]],
    md: Mapping[str, Any],
) -> MsgGenerator[str | None]:
    """One run: darks, flats, projections, and more of them if asked for; knows nothing of streaming."""
    fields = getattr(stage, "hints", {}).get("fields") or [stage.name]
    metadata = {
        "detectors": [device.name for device in devices],
        "motors": [stage.name],
        "num_points": len(order),
        "num_intervals": len(order) - 1,
        "plan_name": "stream_tomo_plan",
        "hints": {"dimensions": [(fields, "primary")]},
        **md,
    }

    def take(angle: float) -> MsgGenerator[None]:
        yield from bps.checkpoint()
        yield from bps.mv(stage, angle)
        yield from bps.trigger_and_read([*devices, stage])

    def run() -> MsgGenerator[None]:
        if darks[0]:
            if darks[1] is None:
                yield from bps.mv(shutter, "closed")
                yield from take_frames(devices, "dark", darks[0])
            else:
                yield from darks[1](devices, darks[0])
        if flats[0]:
            if flats[1] is None:
                yield from bps.mv(sample_table, "out", shutter, "open")
                yield from take_frames(devices, "flat", flats[0])
            else:
                yield from flats[1](devices, flats[0])
        yield from sample_in()
        yield from bpp.stage_wrapper(projections(), [*devices, stage])

    def sample_in() -> MsgGenerator[None]:
        moves = [*((sample_table, "in") if sample_table is not None else ())]
        moves += [*((shutter, "open") if shutter is not None else ())]
        if moves:
            yield from bps.mv(*moves)

    def projections() -> MsgGenerator[None]:
        for angle in order:
            yield from take(angle)
        yield from more(take)

    def cleanup() -> MsgGenerator[None]:
        if shutter is not None:
            yield from bps.mv(shutter, "closed")
        if sample_table is not None:
            yield from bps.mv(sample_table, "in")

    uid: str | None = yield from bpp.finalize_wrapper(bpp.run_wrapper(run(), md=metadata), cleanup)
    return uid


def _over_recording(order: str, recorded: tuple[float, ...]) -> AngleOrder:
    """Visit the angles of a recording in a named order."""
    if len(recorded) < 2:
        raise ConfigError(f"recorded scan: got {len(recorded)} angles, expected at least 2")
    angles = sorted(recorded)
    places = make_order(order, num=len(angles), start=0.0, stop=float(len(angles)))
    if any(place != int(place) or not 0 <= place < len(angles) for place in places):
        raise ConfigError(
            f"order: {order!r} is not on a grid, and a recorded scan has only its own {len(angles)} angles"
        )
    spacing = (angles[-1] - angles[0]) / (len(angles) - 1)
    return AngleOrder(places.name, tuple(angles[int(place)] for place in places), angles[0], angles[-1] + spacing)


def _within_limits(stage: Any, order: AngleOrder) -> MsgGenerator[None]:
    """Have the stage refuse now what it would refuse in the middle of the scan."""
    check = getattr(stage, "check_value", None)
    if check is None:
        return
    for angle in (min(order), max(order)):
        failed: list[Exception] = []

        async def ask(angle: float = angle, failed: list[Exception] = failed) -> None:
            try:
                answer = check(angle)
                if inspect.isawaitable(answer):
                    await answer
            except Exception as error:  # noqa: BLE001 - the stage's own kind of error
                failed.append(error)

        yield Msg("wait_for", None, [ask])
        if failed or not math.isfinite(angle):
            why = failed[0] if failed else "it is not a finite angle"
            raise ConfigError(f"angle {angle:g} degrees: {stage.name} can not go there: {why}")


def _no_more(take: TakeOne) -> MsgGenerator[None]:  # noqa: ARG001 - as _more_between
    """Take nothing: a recording has no other angles than its own."""
    yield from ()


def _more_between(order: AngleOrder, stage: Any, job: ReconJob) -> Callable[[TakeOne], MsgGenerator[None]]:
    """Make a plan that takes projections between the planned ones, as long as people want more."""

    def more(take: TakeOne) -> MsgGenerator[None]:
        for number, angle in enumerate(order.between(), len(order)):
            if not job.more_wanted(number):
                return
            try:
                yield from _within_limits(stage, AngleOrder(order.name, (angle,), order.start, order.stop))
            except ConfigError as error:
                job.no_more(f"the run can not be extended any further: {error}")
                return
            yield from take(angle)

    return more


def _connected(devices: Iterable[Any]) -> MsgGenerator[None]:
    """Connect devices that were made in this plan; does no harm to others."""

    async def connect() -> None:
        for device in devices:
            await device.connect()

    if devices:
        yield Msg("wait_for", None, [connect])
