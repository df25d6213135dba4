"""The reconstruction job, which is a device too; nothing is started before a scan stages it."""

import atexit
import os

from bluesky_streamrecon.beamline import BacklogSuspender, ReconJob, make_job  # noqa: F401 - for use at the prompt

recon_job = make_job(configuration)  # noqa: F821 - read in 10-streamrecon-storage.py
recon_job.subscribe(tiled_writer)  # noqa: F821 - the reconstruction is stored as a run of its own
atexit.register(recon_job.close)

if storage is not None and configuration.storage.live_images:  # noqa: F821 - made in 10-streamrecon-storage.py
    try:
        from bluesky_streamrecon.live_view import store_live_images

        live_images = store_live_images(recon_job, configuration, storage.uri)  # noqa: F821
        atexit.register(live_images.close)
    except Exception as error:  # noqa: BLE001 - whatever it is, scans can be taken
        print(f"NO LIVE IMAGES IN TILED ({type(error).__name__}: {error})")

if os.environ.get("DISPLAY"):
    try:
        from bluesky_streamrecon.beamline.live_figure import live_figure

        reconstruction_figure = live_figure(recon_job)
    except Exception as error:  # noqa: BLE001 - whatever it is, scans can be taken
        print(f"NO FIGURE ({type(error).__name__}: {error})")

# Controls, while a scan runs or is paused: status(), finish_now("why"), hold(), release(), extend(20), set_axis(511.5),
# set_region((200, 150, 500, 450)). What is seen: recon_job.show().
status, finish_now, extend = recon_job.status, recon_job.finish_now, recon_job.extend
hold, release = recon_job.hold, recon_job.release
set_axis, set_region = recon_job.set_axis, recon_job.set_region
