"""`stream_tomo_fly_plan`: a tomogram that is taken while the stage turns, and ends when the image is good enough.

Angles are degrees, times seconds. No device is made, and nothing is imported that starts anything, before the plan
runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.protocols import Flyable, Preparable, Stoppable, WritesStreamAssets
from bluesky.utils import MsgGenerator
from ophyd_async.core import DetectorTrigger

from bluesky_streamrecon.beamline import ReconJob
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.ordering import Sweep
from bluesky_streamrecon.plans.budget import exposure_of
from bluesky_streamrecon.plans.flight import PROGRESS, Flyers, Pace, come_to_rest, fly_sweeps, repeated, set_exposure
from bluesky_streamrecon.plans.motion import move, rotation_of
from bluesky_streamrecon.plans.parts import answer
from bluesky_streamrecon.plans.reference_frames import Detectors, Positioner
from bluesky_streamrecon.plans.scan import scan_of
from bluesky_streamrecon.plans.signature import with_image_settings

__all__ = ["stream_tomo_fly_plan"]

UNKNOWN_EXPOSURE = 0.1  # seconds, where the plan is only looked at


@with_image_settings
def stream_tomo_fly_plan(
    detectors: Detectors = None,
    stage: Positioner = None,
    *,
    trigger: Flyable | None = None,
    encoder: Flyable | None = None,
    angle: str | None = None,
    num: int = 180,
    start: float = 0.0,
    stop: float = 180.0,
    order: str | Sequence[float] | None = None,
    velocity: float | None = None,
    exposure: float | None = None,
    deadtime: float | None = None,
    flush_period: float = 0.2,
    reconstruct: str | None = None,
    job: ReconJob | None = None,
    md: Mapping[str, Any] | None = None,
    **settings: Any,
) -> MsgGenerator[str | None]:
    """Take a tomogram while the stage turns, reconstruct it meanwhile, and end it when the image is good enough.

    Darks, flats, then sweep by sweep: the stage turns at even speed, `trigger` has the detectors expose at equal steps,
    and `encoder` records the mean angle of each exposure, which is the angle that is reconstructed. When the image is
    good enough the sweep is cut short: what was begun to be exposed is still used. Everything that is asked for is
    checked before anything moves and before any process is started.

    With ``turns=20`` it is a time series, in one run: each half turn is a volume of its own, of `num` projections. An
    order of one sweep goes on turning without a stop, any other flies the same sweeps again.

    Parameters
    ----------
    detectors : device or sequence of devices, optional
        Detectors of ophyd-async that expose at external edges; the first one's frames are reconstructed, or those of
        `reconstruct`; a `monitor` is one of the others. Without `detectors` and `stage`, those of the beamline in use
        (`use_beamline`), with what belongs to them.
    stage : device, optional
        Rotation stage that can be prepared with a `FlyMotorInfo`, as the `Motor` of ophyd-async; degrees.
    trigger : device, optional
        Fires at angles of the stage: can be prepared with a `Sweep` and kicked off, is complete when it has fired at
        all of its angles, and stops firing when it is unstaged.
    encoder : device, optional
        Records an angle per pulse in a file (degrees): a detector whose exposure is the time to average over.
    angle : str, optional
        Data key of the angle, where the encoder records several numbers (as a PandABox does).
    num : int, optional
        Angles.
    start : float, optional
        First angle of the half-open range ``[start, stop)``, degrees.
    stop : float, optional
        End of the range, degrees.
    order : str, AngleOrder or sequence of float, optional
        Name, order or list of degrees that sweeps at equal steps can visit: ``"fixed"`` is one sweep;
        ``"interleaved(k)"`` and ``"interlaced(k)"`` are k of them, between each other's angles, so that the range is
        covered early; ``"golden-continuous"`` turns on and on. None: ``"interlaced(4)"``, or of a time series
        ``"fixed"``.
    velocity : float, optional
        Degrees per second. By default the highest at which exposures do not overlap, the sample turns by no more than
        one `num`-th of the range in an exposure, and that the stage has (its ``max_velocity``).
    exposure : float, optional
        Seconds; the detector's own by default (its ``exposure_time``, or ``driver.acquire_time``). Flats and darks are
        exposed as long, and it stays set.
    deadtime : float, optional
        Seconds that the detector needs from the end of an exposure to the next; what it says itself by default.
    flush_period : float, optional
        Seconds between two looks at what there is.
    reconstruct : str, optional
        Name of the detector whose frames are reconstructed.
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
        If an argument or a device can not work, exposures would overlap, or a sweep does not fit into the stage's
        limits with its run-up.
    DataError
        If a detector misses a pulse: the run is then a failure, since the angle of no frame is known any more.

    Notes
    -----
    A sweep goes on while the plan is paused; its frames are collected when the plan goes on. Frames are in the stream
    ``primary``, which has no events; the job's signals are read with the stage's in events of ``progress``.

    Examples
    --------
    At the prompt: ``RE(stream_tomo_fly_plan())``, or ``RE(stream_tomo_fly_plan([camera], rotation, trigger=pcomp,
    encoder=panda, num=1500, order="interlaced(6)", velocity=20, shutter=shutter, sample_table=table))``.
    """
    scan = yield from scan_of(
        detectors, stage, order, angles=(num, start, stop), reconstruct=reconstruct, job=job, settings=settings
    )
    recon, job, stage = scan.recon, scan.job, scan.stage
    trigger = trigger if trigger is not None else getattr(scan.beamline, "trigger", None)
    encoder = encoder if encoder is not None else getattr(scan.beamline, "encoder", None)
    flyers = Flyers(stage, trigger, encoder, scan.devices)
    _check_flyers(flyers)
    grid = (scan.order.stop - scan.order.start) / len(scan.order)
    visiting, sweeps = repeated(scan.order, recon.turns)
    rotation = yield from rotation_of(stage)
    if rotation.degrees != 1.0:
        raise ConfigError(
            f"stage {rotation.stage.name}: a unit of it is {rotation.degrees:g} degrees, expected 1: trigger and "
            "encoder have its angles, too; set its units (EGU), or use stream_tomo_plan"
        )
    pace = yield from _pace(flyers, sweeps, grid, (velocity, exposure, deadtime), flush_period)
    ends = [end for sweep in sweeps for end in pace.ends(sweep)]
    try:
        yield from rotation.within_limits(ends)
    except ConfigError as error:
        if recon.turns == 1:
            raise
        raise ConfigError(
            f"turns={recon.turns}: {error}; order='interlaced(2)' flies the same angles in each half turn, and "
            "stream_tomo_plan visits them step by step"
        ) from None
    seconds = sum(map(pace.seconds, sweeps))
    limits = yield from scan.limits(len(visiting), exposure=pace.exposure, seconds=seconds)
    lengthens = not scan.recorded and recon.turns == 1
    if lengthens:
        try:
            yield from rotation.within_limits([max(ends) + grid])
        except ConfigError:
            lengthens = False
    yield from set_exposure(scan.devices, pace.exposure)

    def flown() -> Iterator[Sweep]:
        yield from sweeps
        taken = len(visiting)
        for sweep in _between(sweeps, grid) if lengthens else ():
            if not job.runs.more_wanted(taken):
                return
            taken += len(sweep)
            yield sweep

    def projections() -> MsgGenerator[None]:
        velocity_of_stage = getattr(stage, "velocity", None)
        usual = None if velocity_of_stage is None else (yield from bps.rd(velocity_of_stage))

        def at_rest() -> MsgGenerator[None]:
            yield from come_to_rest(flyers)
            if usual is not None:
                yield from move(velocity_of_stage, usual)

        yield from bpp.finalize_wrapper(fly_sweeps(limits.cut(flown()), flyers, pace), at_rest)

    arguments = {"trigger": repr(trigger), "encoder": repr(encoder), "angle": angle, "velocity": pace.velocity}
    return (
        yield from scan.run(
            "stream_tomo_fly_plan", projections(), visiting,
            staged=flyers.all, angle=angle or encoder, lengthens=lengthens, limits=limits,
            arguments=arguments | {"exposure": pace.exposure},
            block={"velocity": pace.velocity, "sweeps": len(sweeps)}, signals_in=PROGRESS, md=md,
        )
    )  # fmt: skip


def _check_flyers(flyers: Flyers) -> None:
    """Refuse devices that can not fly."""
    needed: list[tuple[str, Any, tuple[type, ...], str]] = [
        ("stage", flyers.stage, (Preparable, Flyable, Stoppable), "a rotation stage as ophyd-async's Motor"),
        ("trigger", flyers.trigger, (Preparable, Flyable), "a position-compare unit that is prepared with a Sweep"),
        ("encoder", flyers.encoder, (Preparable, Flyable, WritesStreamAssets), "a detector that records the angles"),
    ]
    needed += [
        ("detectors", detector, (Preparable, Flyable, WritesStreamAssets), "a StandardDetector of ophyd-async")
        for detector in flyers.detectors
    ]
    for role, device, protocols, expected in needed:
        lacking = [kind.__name__ for kind in protocols if not isinstance(device, kind)]
        if lacking:
            got = (
                "none"
                if device is None
                else f"{getattr(device, 'name', device)!r}, which is not {' and '.join(lacking)}"
            )
            raise ConfigError(f"{role}: got {got}, expected {expected}; stream_tomo_plan takes the scan step by step")


def _pace(
    flyers: Flyers,
    sweeps: Sequence[Sweep],
    grid: float,
    wanted: tuple[float | None, float | None, float | None],
    flush_period: float,
) -> MsgGenerator[Pace]:
    """Choose how fast to go, or refuse what was chosen; `wanted` are velocity, exposure and dead time."""
    velocity, exposure, deadtime = wanted
    _check_number("flush_period", flush_period)
    camera = flyers.detectors[0]
    if exposure is None:
        exposure = yield from exposure_of(camera, unanswered=UNKNOWN_EXPOSURE)
        if exposure is None:
            raise ConfigError(f"exposure: {camera.name} has no exposure_time and no driver.acquire_time; give seconds")
    _check_number("exposure", exposure)
    edge, level = DetectorTrigger.EXTERNAL_EDGE, DetectorTrigger.EXTERNAL_LEVEL
    chosen: list[DetectorTrigger] = []
    for writer in flyers.writers:
        known, needs = {edge}, None
        if getattr(writer, "get_trigger_deadtime", None) is not None:
            known, needs = yield from answer(writer.get_trigger_deadtime, unanswered=({edge}, 0.0))
        if edge not in known and not (writer is flyers.encoder and level in known):
            listed = ", ".join(sorted(kind.name for kind in known))
            raise ConfigError(f"{writer.name}: can not expose at external edges, only {listed}")
        chosen.append(edge if edge in known else level)  # the mean over the pulse, as a PandABox captures it
        if writer is camera and deadtime is None:
            if needs is None:
                raise ConfigError(
                    f"deadtime: {camera.name} does not say how long it needs between exposures; give seconds"
                )
            deadtime = needs
    _check_number("deadtime", deadtime, least=0.0)
    frame = exposure + (deadtime or 0.0)
    closest = min((sweep.step for sweep in sweeps if len(sweep) > 1), default=grid)
    fastest = closest / frame
    limit = getattr(flyers.stage, "max_velocity", None)
    stage_limit = math.inf if limit is None else (yield from answer(limit.get_value, unanswered=None)) or math.inf
    if velocity is None:
        velocity = min(fastest, grid / exposure, stage_limit)
    _check_number("velocity", velocity)
    if velocity > fastest * (1 + 1e-9):
        raise ConfigError(
            f"velocity: got {velocity:g} degrees per second, expected at most {fastest:g}: an exposure takes "
            f"{frame:g} s with its dead time, and the next begins {closest:g} degrees later"
        )
    if velocity > stage_limit * (1 + 1e-9):
        raise ConfigError(
            f"velocity: got {velocity:g} degrees per second, expected at most {stage_limit:g}, the stage's"
        )
    ramp_signal = getattr(flyers.stage, "acceleration_time", None)
    ramp = 0.0 if ramp_signal is None else (yield from answer(ramp_signal.get_value, unanswered=0.0))
    return Pace(velocity, exposure, min(grid, closest), ramp, flush_period, chosen)


def _check_number(name: str, value: object, *, least: float | None = None) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or (value <= 0 if least is None else value < least):  # type: ignore[operator]
        expected = "a positive number" if least is None else f"a number of at least {least:g}"
        raise ConfigError(f"{name}: got {value!r}, expected {expected}")


def _between(sweeps: Sequence[Sweep], grid: float) -> Iterator[Sweep]:
    """Return further sweeps without end, between the planned angles and then between those."""
    parts = 2
    while True:
        for odd in range(1, parts, 2):
            for sweep in sweeps:
                yield Sweep(sweep.first + grid * odd / parts, sweep.step, sweep.num)
        parts *= 2
