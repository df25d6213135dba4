"""A beamline without a beam: sample, stage, detector, shutter, all simulated or replayed from a recording."""

from bluesky_streamrecon.sim_devices.camera import (
    Camera,
    Exposure,
    FrameKind,
    Noise,
    RecordedCamera,
    SimulatedCamera,
)
from bluesky_streamrecon.sim_devices.detector import BeamReadings, InlineTomoDetector, StageAngles, TomoDetector
from bluesky_streamrecon.sim_devices.ellipses import Ellipses
from bluesky_streamrecon.sim_devices.faults import Faults
from bluesky_streamrecon.sim_devices.kinds import HELD_OUT_KINDS, KINDS, Kind
from bluesky_streamrecon.sim_devices.samples import Body, Discs, Foam, Sample, SheppLogan, sample_named
from bluesky_streamrecon.sim_devices.shutter import SampleTable, Shutter
from bluesky_streamrecon.sim_devices.simulated import SimBeamline, sim_beamline
from bluesky_streamrecon.sim_devices.stage import RotaryStage
from bluesky_streamrecon.sim_devices.triggers import PositionTrigger, TriggerLine

__all__ = [
    "HELD_OUT_KINDS",
    "KINDS",
    "BeamReadings",
    "Body",
    "Camera",
    "Discs",
    "Ellipses",
    "Exposure",
    "Faults",
    "Foam",
    "FrameKind",
    "InlineTomoDetector",
    "Kind",
    "Noise",
    "PositionTrigger",
    "RecordedCamera",
    "RotaryStage",
    "Sample",
    "SampleTable",
    "SheppLogan",
    "Shutter",
    "SimBeamline",
    "SimulatedCamera",
    "StageAngles",
    "TomoDetector",
    "TriggerLine",
    "sample_named",
    "sim_beamline",
]
