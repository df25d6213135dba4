"""A whole beamline in one call: stage, detector, shutter and sample table around a sample.

Angles are degrees, lengths detector pixels, times seconds.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from bluesky.run_engine import call_in_bluesky_event_loop, in_bluesky_event_loop
from numpy.typing import NDArray
from ophyd_async.core import (
    Device,
    StandardReadableFormat,
    StaticPathProvider,
    UUIDFilenameProvider,
    soft_signal_rw,
    wait_for_connection,
)

from bluesky_streamrecon.acquisition import QUANTITIES
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.sim_devices.camera import Camera, Noise, RecordedCamera, SimulatedCamera
from bluesky_streamrecon.sim_devices.detector import BeamReadings, InlineTomoDetector, Scene, StageAngles, TomoDetector
from bluesky_streamrecon.sim_devices.faults import Faults
from bluesky_streamrecon.sim_devices.samples import SAMPLES, Sample, sample_named
from bluesky_streamrecon.sim_devices.shutter import SampleTable, Shutter
from bluesky_streamrecon.sim_devices.stage import RotaryStage
from bluesky_streamrecon.sim_devices.triggers import PositionTrigger, TriggerLine
from bluesky_streamrecon.storage import read_scan

__all__ = ["SimBeamline", "sim_beamline"]


@dataclass(frozen=True, slots=True)
class SimBeamline:
    """What `sim_beamline` makes; a plan needs nothing else to take a tomogram.

    Parameters
    ----------
    stage : RotaryStage
        Turns the sample; degrees.
    detector : TomoDetector or InlineTomoDetector
        Sees it.
    shutter : Shutter
        ``"open"`` or ``"closed"``; open to begin with.
    table : SampleTable
        Sample ``"in"`` or ``"out"``; in to begin with.
    camera : Camera
        Gives the detector its pixels; for checks against the model.
    directory : Path
        Where the detector's files go.
    axis : float or None
        Detector column of the rotation axis, as built; None for a recorded scan, whose axis is not known.
    angles : tuple of float or None
        Angles of a recorded scan, degrees; None where any angle can be seen.
    trigger : PositionTrigger or None
        Has the detector expose while the stage turns; None for a detector that puts its frames into events.
    encoder : TomoDetector or None
        Records the angles of its pulses: the mean angle of the stage in each exposure, degrees.
    monitor : TomoDetector or InlineTomoDetector or None
        Follows the beam; plans read it that are called without detectors and with ``monitor="monitor"``.
    problems : tuple of str
        What is doubtful about a recorded scan, and what was left out of it.
    """

    stage: RotaryStage
    detector: TomoDetector | InlineTomoDetector
    shutter: Shutter
    table: SampleTable
    camera: Camera
    directory: Path
    axis: float | None = None
    angles: tuple[float, ...] | None = None
    trigger: PositionTrigger | None = None
    encoder: TomoDetector | InlineTomoDetector | None = None
    monitor: TomoDetector | InlineTomoDetector | None = None
    problems: tuple[str, ...] = ()

    @property
    def devices(self) -> tuple[Device, ...]:
        """All devices, for ``ophyd_async.plan_stubs.ensure_connected``."""
        more = [device for device in (self.trigger, self.encoder, self.monitor) if device is not None]
        return self.stage, self.detector, self.shutter, self.table, *more


def sim_beamline(
    sample: str | Path | Sample = "foam",
    *,
    rows: int = 16,
    columns: int = 256,
    directory: str | Path | None = None,
    instant: bool = False,
    exposure: float = 0.05,
    seed: int = 0,
    inline: bool = False,
    counts: float = 1e4,
    noise: Noise | None = None,
    rings: float = 0.0,
    bad_columns: int = 0,
    zingers: float = 0.0,
    phase: Mapping[str, Any] | None = None,
    fading: float = 0.0,
    drift: float | tuple[float, float] = 0.0,
    flat_drift: float = 0.0,
    projections: int = 180,
    axis: float | None = None,
    half_acquisition: bool = False,
    fill: float = 0.92,
    tilt: float = 0.0,
    velocity: float = 180.0,
    acceleration_time: float = 0.1,
    limits: tuple[float, float] = (-36000.0, 36000.0),
    faults: Faults | None = None,
    prefix: str = "",
    angle_units: str | None = None,
) -> SimBeamline:
    """Make a simulated tomography beamline.

    It can be called anywhere: with or without a RunEngine, and in a plan (where the devices are connected by
    ``yield from ensure_connected(*beamline.devices)``, which does no harm elsewhere).

    Parameters
    ----------
    sample : str, Path or Sample, optional
        ``"foam"``, ``"discs"``, ``"shepp-logan"``, one of `KINDS` (``"grains"``, ``"fibres"``, ...), a `Sample`, or the
        path of a recorded scan (DXchange or NXtomo) to replay by angle.
    rows, columns : int, optional
        Detector shape; a recorded scan has its own.
    directory : path, optional
        Where the detector's files go; made if missing. A new temporary directory by default, which is kept.
    instant : bool, optional
        Moves and exposures take no time.
    exposure : float, optional
        Seconds.
    seed : int, optional
        Of sample, beam, sensor and noise.
    inline : bool, optional
        Put frames into events instead of files.
    counts : float, optional
        Photons per pixel and frame in the open beam.
    noise : Noise, optional
        All imperfections; overrides `counts`, `rings`, `bad_columns` and `zingers`.
    rings : float, optional
        Relative spread of the pixels' gains that flats do not show; 0.02 makes clear rings.
    bad_columns : int, optional
        So many columns are stuck, and as many fluctuate; see `Noise`.
    zingers : float, optional
        Probability of each pixel of any frame to be far too bright; 0.001 is much.
    phase : mapping, optional
        Fringes at edges, by the options of the preparation step ``"paganin"``: ``delta_beta``, ``energy`` (keV),
        ``distance`` (mm) and ``pixel_size`` (micrometres); what has ``step`` as well is taken, too. The
        detector's configuration says the last three.
    fading : float, optional
        Share of the beam that is lost in `projections`, in [0, 1). Flats before them are taken in the full beam, flats
        after them in what is left, until the shutter was closed; `SimBeamline.monitor` follows it.
    drift : float or (float, float), optional
        How far the sample creeps on its mount in `projections`: along the row, or (u, v); pixels.
    flat_drift : float, optional
        How far the beam's pattern moves along the row in `projections`, pixels: flats after them differ.
    projections : int, optional
        Number of projections of the scan over which `fading`, `drift` and `flat_drift` are spread.
    axis : float, optional
        Detector column of the rotation axis; by default 3.3 columns right of the detector's middle, and with
        `half_acquisition` an eighth of the width from its left edge.
    half_acquisition : bool, optional
        The sample fills the view on the side of the axis that is farther from the detector's edge, and reaches out of
        it on the other: to be scanned over a full turn, ``stop=360``.
    fill : float, optional
        Radius of the sample over the distance from the axis to the nearer edge of the detector (with
        `half_acquisition`: the farther one). Above 1 the sample reaches out of view all around.
    tilt : float, optional
        Angle of the rotation axis to the detector's columns, degrees; see `SimulatedCamera`.
    velocity, acceleration_time, limits : optional
        Of the stage; degrees and seconds.
    faults : Faults, optional
        What goes wrong.
    prefix : str, optional
        Put before the devices' names ``stage``, ``detector``, ``shutter``, ``table``, ``trigger``, ``encoder`` and
        ``monitor``.
    angle_units : str, optional
        Units of a recorded scan's angles, in place of those that its file states.

    Returns
    -------
    SimBeamline
        Its devices connected, unless this was called in a plan.

    Raises
    ------
    ConfigError
        If an argument can not work, or does not go with a recorded scan.
    DataError
        If the recording is not a scan with flats, darks and angles.
    """
    faults = _with_slow_faults(faults or Faults(), fading, drift, flat_drift, projections)
    camera: Camera
    angles: Sequence[float] | NDArray[np.float64] | None = None
    problems: tuple[str, ...] = ()
    if isinstance(sample, Path) or (isinstance(sample, str) and sample not in SAMPLES):
        if faults.moves_sample:
            raise ConfigError("faults, drift: a recorded scan can not drift or jump; give a simulated sample")
        own = (axis is not None, half_acquisition, tilt, rings, bad_columns, zingers, phase, faults.flat_drift)
        if any(own):
            raise ConfigError(
                "axis, half_acquisition, tilt, rings, bad_columns, zingers, phase, flat_drift: a recorded scan has its "
                "own; give a simulated sample"
            )
        if not Path(sample).is_file():
            raise ConfigError(f"sample: got {str(sample)!r}, expected {', '.join(SAMPLES)}, or the path of a scan")
        scan = read_scan(sample, angle_units=angle_units).frames
        recorded = RecordedCamera(scan)
        camera, angles, problems = recorded, recorded.angles, scan.problems
    else:
        if rows < 1 or columns < 16:
            raise ConfigError(f"detector: got {rows} rows and {columns} columns, expected at least 1 and 16")
        axis = _checked_axis(axis, columns, half_acquisition)
        if not 0.05 <= fill <= 4:
            raise ConfigError(f"fill: got {fill}, expected 0.05 to 4 (above 1 the sample reaches out of view)")
        if not abs(tilt) <= 2:
            raise ConfigError(f"tilt: got {tilt}, expected -2 to 2 degrees")
        edges = axis + 0.5, columns - 0.5 - axis
        radius = fill * (max(edges) if half_acquisition else min(edges))
        if radius < 4:
            raise ConfigError(
                f"axis: got column {axis:g} with fill={fill:g}, which leaves no room for a sample in {columns} "
                "columns; half_acquisition=True lets it reach out of view on the axis' side"
            )
        if isinstance(sample, str):
            sample = sample_named(sample, seed=seed)
        camera = SimulatedCamera(
            sample.body(rows, radius),
            columns,
            axis,
            noise=noise or Noise(counts=counts, rings=rings, bad_columns=bad_columns, zingers=zingers),
            seed=seed,
            truncated=half_acquisition or fill > 1,
            tilt=tilt,
            fringes=_fringes(phase) if phase else 0.0,
        )
    folder = Path(tempfile.mkdtemp(prefix="streamrecon-")) if directory is None else Path(directory).resolve()
    stage = RotaryStage(
        f"{prefix}stage",
        velocity=velocity,
        acceleration_time=acceleration_time,
        limits=limits,
        instant=instant,
        faults=faults,
    )
    shutter, table = Shutter(f"{prefix}shutter"), SampleTable(f"{prefix}table")
    scene = Scene(camera, stage, table, shutter, faults)
    provider, line = StaticPathProvider(UUIDFilenameProvider(), folder), TriggerLine()

    def made(name: str, seen: Camera) -> TomoDetector | InlineTomoDetector:
        about: dict[str, Any] = {"exposure": exposure, "instant": instant, "name": f"{prefix}{name}"}
        scene_of = replace(scene, camera=seen)
        return InlineTomoDetector(scene_of, **about) if inline else TomoDetector(scene_of, provider, line, **about)

    detector, monitor = made("detector", camera), made("monitor", BeamReadings())
    encoder = None if inline else made("encoder", StageAngles())
    trigger = None if inline else PositionTrigger(stage, line, f"{prefix}trigger")
    if phase:
        _configure(detector, phase)
    beamline = SimBeamline(
        stage=stage,
        detector=detector,
        shutter=shutter,
        table=table,
        camera=camera,
        directory=folder,
        axis=axis,
        angles=None if angles is None else tuple(map(float, angles)),
        trigger=trigger,
        encoder=encoder,
        monitor=monitor,
        problems=problems,
    )
    _connect(beamline.devices)
    return beamline


def _with_slow_faults(
    faults: Faults, fading: float, drift: float | tuple[float, float], flat_drift: float, projections: int
) -> Faults:
    """Return the faults, with those that are given for a whole scan spread over its projections."""
    if projections < 2:
        raise ConfigError(f"projections: got {projections}, expected at least 2 over which fading and drift are spread")
    if not 0 <= fading < 1:
        raise ConfigError(f"fading: got {fading}, expected a share of the beam in [0, 1)")
    moved = tuple(each / (projections - 1) for each in (drift if isinstance(drift, tuple) else (drift, 0.0)))
    if len(moved) != 2:
        raise ConfigError(f"drift: got {drift}, expected a number of pixels, or two: (u, v)")
    if (fading and faults.dimming) or (any(moved) and any(faults.drift)) or (flat_drift and faults.flat_drift):
        raise ConfigError(
            "fading, drift, flat_drift: got them in faults, too (dimming, drift, flat_drift); expected one of both"
        )
    if flat_drift:
        faults = replace(faults, flat_drift=flat_drift / (projections - 1))
    if fading:
        faults = replace(faults, dimming=1 - (1 - fading) ** (1 / (projections - 1)))
    return replace(faults, drift=moved) if any(moved) else faults


def _fringes(phase: Mapping[str, Any]) -> float:
    from bluesky_streamrecon.recon.steps.paganin import Paganin

    options = {name: value for name, value in phase.items() if name != "step"}
    try:
        return Paganin(**options).width
    except TypeError:
        raise ConfigError(
            f"phase: got {dict(phase)}, expected delta_beta, energy, distance and pixel_size, as for the preparation "
            "step 'paganin'"
        ) from None
    except ConfigError as error:
        raise ConfigError(f"phase: {error}") from None


def _configure(detector: TomoDetector | InlineTomoDetector, phase: Mapping[str, Any]) -> None:
    """Add energy, distance and size of the pixels to the configuration of the detector, where plans look for them."""
    for option, quantity in QUANTITIES.items():
        if option in phase:
            setattr(detector, option, soft_signal_rw(float, float(phase[option]), units=quantity.unit))
    signals = [getattr(detector, option) for option in QUANTITIES if option in phase]
    if isinstance(detector, InlineTomoDetector):
        detector.add_readables(signals, StandardReadableFormat.CONFIG_SIGNAL)
    else:
        detector.add_config_signals(*signals)
    detector.set_name(detector.name)


def _checked_axis(axis: float | None, columns: int, half_acquisition: bool) -> float:
    if axis is None:
        return float(columns // 8) if half_acquisition else (columns - 1) / 2 + 3.3
    if not 0 <= axis <= columns - 1:
        raise ConfigError(f"axis: got column {axis}, expected one of the detector's, 0 to {columns - 1}")
    return float(axis)


def _connect(devices: Sequence[Device]) -> None:
    """Connect on the RunEngine's loop if there is one, else on a short-lived one; soft signals do not mind."""

    async def connect() -> None:
        await wait_for_connection(**{device.name: device.connect() for device in devices})

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        return
    if in_bluesky_event_loop():
        return
    try:
        call_in_bluesky_event_loop(connect())
    except RuntimeError:
        asyncio.run(connect())
