"""Stored runs of which frames were lost on their way to the file: the others are read with what is theirs."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from bluesky_streamrecon import half_turns
from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.evaluation.replay import recorded_file, recorded_run, replay
from bluesky_streamrecon.plans import stream_tomo_plan
from bluesky_streamrecon.sim_devices import sim_beamline
from bluesky_streamrecon.sim_devices.detector import FileDataLogic
from bluesky_streamrecon.storage import export_run, import_scan, load_run, read_scan

pytestmark = pytest.mark.timeout(180)  # servers are started

REFERENCES = 2, 2  # flats and darks, in files of their own; none of their frames is lost


@pytest.fixture
def taken(run_engine, storage, pretend_job, monkeypatch):
    """Take a scan of which some projections, from 2 on, do not reach the file; give uid and what the camera saw."""

    def take(lost, **settings):
        beamline = sim_beamline(rows=3, columns=48, directory=storage.detector_directory, instant=True)
        seen, write = [], FileDataLogic.write

        async def some_lost(logic, make):
            if not logic._shape or logic.taken not in lost:
                frames = []
                await write(logic, lambda: frames.append(make()) or frames[-1])
                if logic._shape:
                    seen.append(frames[0])
                return
            logic.taken += 1
            logic._set_written(await asyncio.to_thread(logic._file.leave, logic.taken))

        monkeypatch.setattr(FileDataLogic, "write", some_lost)
        flats, darks = REFERENCES
        devices = {"shutter": beamline.shutter, "sample_table": beamline.table, "job": pretend_job}
        detectors = [beamline.detector, beamline.monitor]
        token = run_engine.subscribe(storage.writer)
        plan = stream_tomo_plan(
            detectors, beamline.stage, flats=flats, darks=darks, axis=24.2, order="fixed", monitor="monitor", window=4,
            **devices, **settings,
        )  # fmt: skip
        (uid,) = run_engine(plan).run_start_uids
        run_engine.unsubscribe(token)
        assert storage.writer.flush(20)
        return uid, np.stack(seen[sum(REFERENCES) :])

    return take


def test_frames_that_were_lost_are_left_out_and_the_others_keep_their_angles(storage, elsewhere, taken, tmp_path):
    uid, seen = taken({2, 5, 6}, num=9)
    kept = np.array([0, 1, 3, 4, 7, 8])
    scan = load_run(storage.catalog, uid)
    np.testing.assert_array_equal(scan.projections[:], seen)
    np.testing.assert_allclose(scan.angles_deg, 20.0 * kept)
    assert (len(scan.monitor), len(scan.flat_monitor)) == (6, 2)
    (problem,) = scan.problems
    assert "3 of 9 frames were lost on their way to" in problem
    done = [export_run(storage.catalog, uid, tmp_path / name) for name in ("a.nxs", "a.h5")]
    for each in done:
        np.testing.assert_array_equal(read_scan(each.file).frames.projections[:], seen)
    import_scan(elsewhere, tmp_path / "a.nxs")
    again = load_run(elsewhere.catalog, uid)
    np.testing.assert_array_equal(again.projections[:], seen)
    np.testing.assert_allclose(again.angles_deg, scan.angles_deg)
    np.testing.assert_allclose(again.monitor, scan.monitor)
    with recorded_run(uid, uri=storage.uri) as past:
        assert replay(past).fields["taken"] == 6
        for name in ("a.nxs", "a.h5"):  # which are replayed by the settings of the run, too
            read = recorded_file(tmp_path / name)
            assert (read.recon.axis, read.recon.window, read.recon.monitor) == (24.2, 4, "monitor")
            for of_run in ("recon", "steering", "planned", "span"):
                assert getattr(read, of_run) == getattr(past, of_run)
            np.testing.assert_allclose(read.frames.monitor, past.frames.monitor)


def test_half_turn_of_a_series_is_made_of_its_own_projections_wherever_frames_were_lost(
    storage, taken, tmp_path, monkeypatch
):
    uid, seen = taken({3, 7}, num=6, turns=3)
    used = {}
    monkeypatch.setattr(half_turns, "finished_volume", lambda spec, frames, before: used.update(frames=[*frames]))
    half_turns.finished_half_turn(storage.catalog, uid, 2)
    projections = [each for each in used["frames"] if each[0] == "projection"]
    assert [each[1] for each in projections] == [7, 8, 9, 10, 11, 12, 18]
    np.testing.assert_allclose([np.degrees(each[3]) for each in projections[:-1]], np.arange(6) * 30.0)
    assert [each[2] is None for each in projections] == [False, True, False, False, False, False, True]
    np.testing.assert_array_equal(projections[2][2], seen[8 - 2])
    export_run(storage.catalog, uid, tmp_path / "second.nxs", projections=(6, 12))
    part = read_scan(tmp_path / "second.nxs").frames
    np.testing.assert_allclose(part.angles_deg, np.delete(np.arange(6) * 30.0, 1))
    np.testing.assert_array_equal(part.projections[:], seen[5:10])
    with pytest.raises(DataError, match=r"some frames of this time series were lost.*--volume"):
        export_run(storage.catalog, uid, tmp_path / "whole.nxs")


def test_frames_that_were_never_written_at_the_end_leave_a_run_that_can_be_carried_away(
    storage, elsewhere, taken, tmp_path
):
    uid, seen = taken({7, 8}, num=9)
    export_run(storage.catalog, uid, tmp_path / "a.nxs")
    import_scan(elsewhere, tmp_path / "a.nxs")
    np.testing.assert_array_equal(load_run(elsewhere.catalog, uid).projections[:], seen)
