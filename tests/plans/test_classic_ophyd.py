"""Detectors of classic ophyd, whose frames are told by resource and datum documents."""

from __future__ import annotations

import itertools
import math

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from ophyd.sim import SynAxis, SynSignalWithRegistry

from bluesky_streamrecon.plans import stream_tomo_plan, streaming_wrapper


class Camera(SynSignalWithRegistry):
    """Numbers its frames."""

    def __init__(self, directory):
        numbers = itertools.count()  # 0 before any exposure
        super().__init__(name="camera", func=lambda: np.full((4, 8), next(numbers), "<u2"), save_path=str(directory))

    def describe(self):
        described = super().describe()
        described["camera"] |= {"shape": [4, 8], "dtype": "array", "dtype_numpy": "<u2"}
        return described


@pytest.fixture
def camera(tmp_path):
    return Camera(tmp_path)


def test_frames_in_files_of_a_simulated_detector_are_reconstructed(run_engine, pretend_job, script, camera):
    rotation = SynAxis(name="rotation")
    run_engine(stream_tomo_plan([camera], rotation, num=4, order="fixed", pixel_values="transmission", job=pretend_job))
    assert [(angle, pixels[0, 0]) for _, _, angle, pixels in script.frames] == [
        (pytest.approx(math.radians(45 * number)), number + 1) for number in range(4)
    ]
    assert not pretend_job.last_run.problems


def test_event_whose_exposure_was_repeated_keeps_its_number_and_angle(run_engine, pretend_job, script, camera):
    """As when a plan is rewound: the file then has a frame that no event names."""
    rotation = SynAxis(name="rotation")

    @bpp.stage_decorator([camera, rotation])
    @bpp.run_decorator(md={"num_points": 3})
    def plan():
        for number in range(3):
            yield from bps.mv(rotation, 10 * number)
            if number == 1:
                yield from bps.trigger(camera, wait=True)
            yield from bps.trigger_and_read([camera, rotation])

    run_engine(streaming_wrapper(plan(), detector=camera, angle=rotation, pixel_values="transmission", job=pretend_job))
    assert [(round(math.degrees(angle)), pixels[0, 0]) for _, _, angle, pixels in script.frames] == [
        (0, 1), (10, 3), (20, 4),
    ]  # fmt: skip
