"""The devices: a simulated beamline, until you write yours here in its place, under these four names.

`stage` turns the sample and `detector` sees it; `shutter` and `sample_table`, where there are some, are used for darks
and flats.
"""

from bluesky_streamrecon.sim_devices import sim_beamline

beamline = sim_beamline(directory=configuration.data / "detector")  # noqa: F821 - read in 10-streamrecon-storage.py
stage, detector, shutter, sample_table = beamline.stage, beamline.detector, beamline.shutter, beamline.table
