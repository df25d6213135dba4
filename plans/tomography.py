"""`stream_tomo_plan`: a tomogram that is reconstructed while it is taken, and ends when the image is good enough.

Angles are degrees. No device is made, and nothing is imported that starts anything, before the plan runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.utils import MsgGenerator

from bluesky_streamrecon.beamline import ReconJob, SuspendMode
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.ordering import AngleOrder, make_order
from bluesky_streamrecon.plans.defaults import current_job, devices_in_use, monitor_of, recorded_angles
from bluesky_streamrecon.plans.device_check import judge_detectors
from bluesky_streamrecon.plans.motion import Rotation, rotation_of
from bluesky_streamrecon.plans.parts import about, check_names, connected, over_recording
from bluesky_streamrecon.plans.reference_frames import OWN, Detectors, Positioner, ReferenceFrames, tomogram
from bluesky_streamrecon.plans.signature import chosen_settings, image_settings, with_image_settings
from bluesky_streamrecon.plans.streaming import streaming_wrapper

__all__ = ["stream_tomo_plan"]

TakeOne = Callable[[float], MsgGenerator[None]]


@with_image_settings
def stream_tomo_plan(
    detectors: Detectors = None,
    stage: Positioner = None,
    *,
    num: int = 180,
    start: float = 0.0,
    stop: float = 180.0,
    order: str | Sequence[float] = "optimized-interleaved",
    reconstruct: str | None = None,
    flats: int | None = None,
    darks: int | None = None,
    flats_after: int = 0,
    darks_after: int = 0,
    references: str | None = None,
    shutter: Positioner = None,
    sample_table: Positioner = None,
    shutter_words: Sequence[str | float] | None = None,
    table_words: Sequence[str | float] | None = None,
    take_flats: Any = None,
    take_darks: Any = None,
    suspend: SuspendMode = "after-projection",
    job: ReconJob | None = None,
    md: Mapping[str, Any] | None = None,
    **settings: Any,
) -> MsgGenerator[str | None]:
    """Take a tomogram that is reconstructed while it is taken, and end it when the image is good enough.

    Darks (shutter closed), flats (sample out), then per angle: checkpoint, move, expose, read. Everything that is
    asked for is checked before anything moves and before any process is started. By default the scan ends when all that
    is left of it would make the image better by less than `tolerance`; with a `threshold`, when the image no longer
    changes by more than that.

    With ``turns=20`` it is a time series, in one run: the same angles are visited 20 times in the same order, and each
    time is a volume of its own, of `num` projections.

    Parameters
    ----------
    detectors : device or sequence of devices, optional
        The first one's frames are reconstructed, or those of `reconstruct`; a `monitor` is one of the others. Without
        `detectors` and `stage`, those of the beamline in use (`use_beamline`), a simulated one by default, with its
        shutter and table.
    stage : device, optional
        Rotation stage; angles are converted to the unit that its readback has.
    num : int, optional
        Angles.
    start : float, optional
        First angle of the half-open range ``[start, stop)``, degrees.
    stop : float, optional
        End of the range, degrees.
    order : str, AngleOrder or sequence of float, optional
        In which order they are visited: a name (`bluesky_streamrecon.ordering.order_names`), an order, or a list of
        degrees. A beamline that replays a recording has its angles visited in the named order.
    reconstruct : str, optional
        Name of the detector whose frames are reconstructed.
    suspend : {"after-projection", "at-once"}, optional
        How the scan ends when the image is good enough, see `streaming_wrapper`.
    job : ReconJob, optional
        The job in use by default.
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
    MotionError
        If stage, shutter or table are not where they should be in time.

    Examples
    --------
    At the prompt: ``RE(stream_tomo_plan())``, or
    ``RE(stream_tomo_plan([camera], rotation, num=1500, shutter=shutter, sample_table=table, threshold=0.98))``.
    """
    devices, stage, beamline, around = devices_in_use(detectors, stage, reconstruct)
    yield from connected(getattr(beamline, "devices", ()))
    job = job if job is not None else current_job(beamline)
    recon, steering = image_settings(job.wanted_ranks, settings)
    devices += monitor_of(beamline) if recon.monitor is not None else []
    frames = ReferenceFrames(
        flats=flats,
        darks=darks,
        flats_after=flats_after,
        darks_after=darks_after,
        references=references,
        shutter=shutter if shutter is not None else getattr(around, "shutter", None),
        sample_table=sample_table if sample_table is not None else getattr(around, "table", None),
        shutter_words=shutter_words,
        table_words=table_words,
        take_flats=take_flats,
        take_darks=take_darks,
    ).resolved(recon.pixel_values)
    if job.local:
        check_names(recon, steering)
    recorded = recorded_angles(beamline) if beamline is not None and (num, start, stop) == (180, 0.0, 180.0) else None
    if recorded is not None and isinstance(order, str):
        visiting = over_recording(order, recorded)
    else:
        visiting = make_order(order, num=num, start=start, stop=stop)
    each, visiting = len(visiting), visiting.again(recon.turns)
    steering.check_planned(len(visiting))
    judge = partial(judge_detectors, devices, recon, steering, local=job.local)
    yield from judge()
    rotation = yield from rotation_of(stage)
    yield from rotation.within_limits(visiting)
    frames = yield from frames.with_words()
    lengthens = recorded is None and each > 1 and recon.turns == 1
    more = _more_between(visiting, rotation, job) if lengthens else _no_more

    def take(angle: float) -> MsgGenerator[None]:
        yield from bps.checkpoint()
        yield from rotation.to(angle)
        yield from bps.trigger_and_read([*devices, stage])

    def projections() -> MsgGenerator[None]:
        for angle in visiting:
            yield from take(angle)
        yield from more(take)

    range_of_angles = {"order": visiting.name, "start": visiting.start, "stop": visiting.stop}
    md = {
        **about("stream_tomo_plan", devices, stage, visiting, "primary"),
        "plan_args": {
            "detectors": [repr(device) for device in devices],
            "stage": repr(stage),
            "num": each,
            **range_of_angles,
            **frames.told(),
            **chosen_settings(recon, steering),
        },
        **(md or {}),
    }
    uid: str | None = yield from streaming_wrapper(
        tomogram(devices, frames, md, projections(), [*devices, stage], judge),
        job=job,
        detector=devices[0],
        angle=stage,
        references=OWN if frames.flats else frames.references,
        recon=recon,
        steering=steering,
        planned=len(visiting),
        suspend=suspend,
        md={**range_of_angles, "angles": list(visiting.angles), **frames.told()},
        lengthens=lengthens,
        devices=devices,
    )
    return uid


def _no_more(take: TakeOne) -> MsgGenerator[None]:  # noqa: ARG001 - as _more_between
    """Take nothing: a recording has no other angles than its own, and a time series is as long as it was planned."""
    yield from ()


def _more_between(order: AngleOrder, rotation: Rotation, job: ReconJob) -> Callable[[TakeOne], MsgGenerator[None]]:
    """Make a plan that takes projections between the planned ones, as long as people want more."""

    def more(take: TakeOne) -> MsgGenerator[None]:
        for number, angle in enumerate(order.between(), len(order)):
            if not job.runs.more_wanted(number):
                return
            try:
                yield from rotation.within_limits((angle,))
            except ConfigError as error:
                job.runs.no_more(f"the run can not be extended any further: {error}")
                return
            yield from take(angle)

    return more
