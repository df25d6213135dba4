"""The plans, and what they use when they are called without devices.

Now: ``RE(stream_tomo_plan())``, or ``RE(stream_tomo_fly_plan())`` while the stage turns.
"""

import bluesky.plan_stubs as bps  # noqa: F401
import bluesky.plans as bp  # noqa: F401

from bluesky_streamrecon.plans import (  # noqa: F401
    stream_tomo_fly_plan,
    stream_tomo_plan,
    streaming_wrapper,
    use_beamline,
)

use_beamline(beamline, recon_job)  # noqa: F821 - made in 20-streamrecon-devices.py
