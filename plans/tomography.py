"""`stream_tomo_plan`: a tomogram that is reconstructed while it is taken, and ends when the image is good enough.

Angles are degrees. No device is made, and nothing is imported that starts anything, before the plan runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.utils import MsgGenerator

from bluesky_streamrecon.beamline import ReconJob, SuspendMode
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.plans.motion import rotation_of
from bluesky_streamrecon.plans.reference_frames import Detectors, Positioner
from bluesky_streamrecon.plans.scan import scan_of
from bluesky_streamrecon.plans.signature import with_image_settings

__all__ = ["stream_tomo_plan"]


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
    scan = yield from scan_of(
        detectors, stage, order, angles=(num, start, stop), reconstruct=reconstruct, job=job, settings=settings
    )
    order_of_one, recon = scan.order, scan.recon
    visiting = order_of_one.again(recon.turns)
    rotation = yield from rotation_of(scan.stage)
    yield from rotation.within_limits(visiting)
    limits = yield from scan.limits(len(visiting))
    # A recording has no other angles than its own, and a time series is as long as it was planned.
    lengthens = not scan.recorded and len(order_of_one) > 1 and recon.turns == 1

    def take(angle: float) -> MsgGenerator[None]:
        yield from bps.checkpoint()
        yield from rotation.to(angle)
        yield from bps.trigger_and_read([*scan.devices, scan.stage])

    def projections() -> MsgGenerator[None]:
        for angle in visiting:
            yield from take(angle)
        for number, angle in enumerate(visiting.between(), len(visiting)) if lengthens else ():
            if not scan.job.runs.more_wanted(number):
                return
            try:
                yield from rotation.within_limits((angle,))
            except ConfigError as error:
                scan.job.runs.no_more(f"the run can not be extended any further: {error}")
                return
            yield from take(angle)

    staged = [*scan.devices, scan.stage]
    return (
        yield from scan.run(
            "stream_tomo_plan", projections(), visiting,
            staged=staged, angle=scan.stage, lengthens=lengthens, suspend=suspend, limits=limits, md=md,
        )
    )  # fmt: skip
