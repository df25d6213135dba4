"""Stored runs of plans of one's own: of which detector the frames are, and of which stream."""

from __future__ import annotations

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
import pytest

from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.plans import streaming_wrapper
from bluesky_streamrecon.sim_devices import sim_beamline
from bluesky_streamrecon.storage import load_run
from bluesky_streamrecon.storage.references import load_references

pytestmark = pytest.mark.timeout(120)  # a server is started


@pytest.fixture
def taken(run_engine, storage, pretend_job):
    """Take a scan of two cameras, the second of which counts; give its uid, and flats and projections of that one."""

    def take(staged_once):
        lines = [
            sim_beamline(
                rows=3, columns=48, directory=storage.detector_directory, instant=True, seed=n, prefix=f"own{n}"
            )
            for n in (1, 2)
        ]
        beamline, seen = lines[1], []
        cameras, expose = [lines[0].detector, beamline.detector], beamline.camera.frame
        beamline.camera.frame = lambda exposure: seen.append(expose(exposure)) or seen[-1]

        def staged(steps):
            return steps if staged_once else bpp.stage_wrapper(steps, cameras)

        def flats():
            yield from bps.mv(beamline.table, "out")
            for _ in range(2):
                yield from bps.trigger_and_read(cameras, name="flat")
            yield from bps.mv(beamline.table, "in")

        def projections():
            for angle in range(0, 180, 30):
                yield from bps.checkpoint()
                yield from bps.mv(beamline.stage, angle)
                yield from bps.trigger_and_read([*cameras, beamline.stage])

        @bpp.stage_decorator(cameras if staged_once else [])
        @bpp.run_decorator(md={"detectors": [each.name for each in cameras], "motors": [beamline.stage.name]})
        def plan():
            yield from staged(flats())
            yield from staged(projections())

        token = run_engine.subscribe(storage.writer)
        streamed = streaming_wrapper(plan(), detector=beamline.detector, references="own", job=pretend_job, planned=6)
        (uid,) = run_engine(streamed).run_start_uids
        run_engine.unsubscribe(token)
        assert storage.writer.flush(20)
        return uid, beamline.detector.name, np.stack(seen[:2]), np.stack(seen[2:])

    return take


def test_frames_of_a_stored_run_are_those_of_the_detector_that_was_reconstructed(storage, taken):
    uid, _, flats, projections = taken(staged_once=False)
    scan = load_run(storage.catalog, uid)
    np.testing.assert_array_equal(scan.projections[:], projections)
    np.testing.assert_array_equal(scan.flats[:], flats)


def test_projections_that_the_catalogue_has_among_the_flats_are_not_taken_for_flats(storage, taken):
    uid, detector, *_ = taken(staged_once=True)
    with pytest.raises(DataError, match=r"no frames of .*one file of the detector.*stage its detector for each"):
        load_run(storage.catalog, uid)
    for wanted in (uid, "last"):
        with pytest.raises(DataError, match=r"8 frames of .* for 2 events; .*stage its detector for each"):
            load_references(storage.catalog, wanted, detector)
