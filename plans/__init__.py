"""Plans that stream: tomograms, step by step or on the fly, that end by themselves; and a wrapper for other scans."""

from bluesky_streamrecon.plans.defaults import (
    beamline_of,
    current_beamline,
    current_job,
    use_beamline,
    with_settings,
)
from bluesky_streamrecon.plans.device_check import check_devices_plan
from bluesky_streamrecon.plans.early_stop import stop_early_wrapper
from bluesky_streamrecon.plans.flying import stream_tomo_fly_plan
from bluesky_streamrecon.plans.reference_frames import take_frames
from bluesky_streamrecon.plans.references import take_references_plan
from bluesky_streamrecon.plans.streaming import streaming_wrapper
from bluesky_streamrecon.plans.tomography import stream_tomo_plan

__all__ = [
    "beamline_of",
    "check_devices_plan",
    "current_beamline",
    "current_job",
    "stop_early_wrapper",
    "stream_tomo_fly_plan",
    "stream_tomo_plan",
    "streaming_wrapper",
    "take_frames",
    "take_references_plan",
    "use_beamline",
    "with_settings",
]
