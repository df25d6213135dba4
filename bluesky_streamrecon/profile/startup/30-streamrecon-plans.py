"""The plans, and what they use when they are called without devices.

Now: ``RE(stream_tomo_plan())``, or ``RE(stream_tomo_fly_plan())`` while the stage turns. What the configuration says in
``[recon]`` and ``[steering]`` are their defaults. Flats and darks for the whole day: ``RE(take_references_plan())``,
then ``references="last"`` in any of them. Whether the devices work: ``RE(check_devices_plan())``. The last
reconstruction: ``show_last()``.
"""

from functools import partial

import bluesky.plan_stubs as bps  # noqa: F401
import bluesky.plans as bp  # noqa: F401

from bluesky_streamrecon.plans import (  # noqa: F401
    beamline_of,
    check_devices_plan,
    stream_tomo_fly_plan,
    stream_tomo_plan,
    streaming_wrapper,
    take_references_plan,
    use_beamline,
    with_settings,
)
from bluesky_streamrecon.profile import show_reconstruction

settings = configuration.plan_settings()  # noqa: F821 - read in 10-streamrecon-storage.py
stream_tomo_plan = with_settings(stream_tomo_plan, settings)
stream_tomo_fly_plan = with_settings(stream_tomo_fly_plan, settings)

use_beamline(beamline_of(globals()), recon_job, storage=storage)  # noqa: F821 - made in 10- and 25-streamrecon-….py

show_last = partial(show_reconstruction, catalog, directory=configuration.data)  # noqa: F821
