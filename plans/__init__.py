"""Plans that stream: a tomogram that ends by itself, and a wrapper that does the same for any step scan."""

from bluesky_streamrecon.plans.defaults import current_beamline, current_job, use_beamline
from bluesky_streamrecon.plans.streaming import streaming_wrapper
from bluesky_streamrecon.plans.tomography import stream_tomo_plan, take_frames

__all__ = [
    "current_beamline",
    "current_job",
    "stream_tomo_plan",
    "streaming_wrapper",
    "take_frames",
    "use_beamline",
]
