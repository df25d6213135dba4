"""The installed beamline: an IPython profile whose startup files are readable and can be changed by hand."""

from __future__ import annotations

from bluesky_streamrecon.profile._errors import shorten_errors
from bluesky_streamrecon.profile._install import ProfileReport, install_profile, remove_profile
from bluesky_streamrecon.profile._leaving import end_scan_with_session
from bluesky_streamrecon.profile._queue import queue_plans, run_startup
from bluesky_streamrecon.profile._show import show_reconstruction

__all__ = [
    "ProfileReport",
    "end_scan_with_session",
    "install_profile",
    "queue_plans",
    "remove_profile",
    "run_startup",
    "shorten_errors",
    "show_reconstruction",
]
