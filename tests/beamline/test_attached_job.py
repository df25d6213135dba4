"""The job that a device has: what is said about it while a run waits for it."""

from __future__ import annotations

import logging
import time

from bluesky_streamrecon.beamline.attached_job import AttachedJob
from bluesky_streamrecon.wire import Status


def test_kernels_that_are_compiled_are_announced_in_one_line(caplog):
    job = AttachedJob(lambda on_event: None, None, lambda event, sender: None, clock=time.monotonic)
    with caplog.at_level(logging.WARNING):
        for rank in range(3):
            job.note(Status(run_uid="run", rank=rank, state="loading kernels"), in_run=True)
            job.note(Status(run_uid="run", rank=rank, state="compiling kernels"), in_run=True)
    assert caplog.messages == ["kernels are compiled, once on this computer: the first image is about a minute later"]
