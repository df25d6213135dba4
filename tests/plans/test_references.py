"""Flats and darks of an earlier run: taken once, found, checked, and used as if the scan had taken them."""

from __future__ import annotations

import asyncio

import bluesky.plans as bp
import bluesky.preprocessors as bpp
import h5py
import numpy as np
import pytest
from bluesky.plan_stubs import mv

from bluesky_streamrecon.errors import ConfigError, StorageError
from bluesky_streamrecon.evaluation.scans import prepared
from bluesky_streamrecon.plans import (
    stream_tomo_fly_plan,
    stream_tomo_plan,
    streaming_wrapper,
    take_frames,
    take_references_plan,
    use_beamline,
)
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings
from bluesky_streamrecon.sim_devices import sim_beamline
from bluesky_streamrecon.storage import load_references, load_run, open_storage

pytestmark = pytest.mark.timeout(180)  # a server is started


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """One catalogue for all, since its server takes seconds to start."""
    with open_storage(directory=tmp_path_factory.mktemp("data")) as opened:
        yield opened


@pytest.fixture
def beamline(run_engine, storage, pretend_job):
    """A beamline in use, whose runs are stored."""
    made = sim_beamline(rows=4, columns=32, directory=storage.detector_directory, instant=True)
    run_engine.subscribe(storage.writer)
    use_beamline(made, pretend_job, storage=storage)
    yield made
    use_beamline(None)


def test_flats_and_darks_of_the_last_run_come_before_the_projections_of_any_scan(
    run_engine, documents, beamline, script, storage, of
):
    uid = run_engine(take_references_plan(flats=3, darks=2)).plan_result
    run_engine(streaming_wrapper(bp.scan([beamline.detector], beamline.stage, 0, 90, 4), references="last"))
    assert storage.flush()
    start, stop = of(documents, "start")[-1], of(documents, "stop")[-1]
    assert [kind for kind, *_ in script.frames] == ["dark"] * 2 + ["flat"] * 3 + ["projection"] * 4
    taken = load_references(storage.catalog, uid, "detector")
    np.testing.assert_array_equal([pixels for kind, *_, pixels in script.frames if kind == "flat"], taken.flats)
    np.testing.assert_array_equal([pixels for kind, *_, pixels in script.frames if kind == "dark"], taken.darks)
    used = start["streamrecon"]["references"]
    assert (used["uid"], used["flats"], used["darks"]) == (uid, 3, 2)
    assert 0 <= used["age"] < 600
    assert f"with 3 flats and 2 darks of run {uid[:8]}, " in stop["reason"]
    assert set(stop["num_events"]) == {"primary", "steering"}
    again = load_run(storage.catalog, start["uid"])
    np.testing.assert_array_equal(np.asarray(again.flats), taken.flats)
    np.testing.assert_array_equal(np.asarray(again.darks), taken.darks)


def test_newest_flats_of_this_detector_are_the_last_ones_whichever_plan_took_them(run_engine, beamline, storage):
    other = sim_beamline(rows=4, columns=32, directory=storage.detector_directory, instant=True, prefix="other_")

    @bpp.run_decorator(md={"detectors": ["detector"]})
    def mine():
        yield from take_frames([beamline.detector], "flat", 2)

    (first,) = run_engine(take_references_plan(flats=1, darks=1)).run_start_uids
    (second,) = run_engine(mine()).run_start_uids
    run_engine(
        take_references_plan([other.detector], flats=4, darks=0, shutter=other.shutter, sample_table=other.table)
    )
    run_engine(bp.scan([beamline.detector], beamline.stage, 0, 90, 2))
    assert storage.flush()
    found = load_references(storage.catalog, "last", "detector")
    assert (found.uid, len(found.flats), len(found.darks)) == (second, 2, 0)
    assert load_references(storage.catalog, first[:8], "detector").uid == first
    assert len(load_references(storage.catalog, "last", "other_detector").flats) == 4


@pytest.mark.parametrize("plan", [stream_tomo_plan, stream_tomo_fly_plan])
def test_plans_take_no_frames_of_their_own_where_those_of_a_run_are_named(
    run_engine, documents, beamline, script, of, plan
):
    uid = run_engine(take_references_plan(flats=2, darks=1)).plan_result
    run_engine(plan(num=6, order="fixed", window=4, references=uid))
    block, stop = of(documents, "start")[-1]["streamrecon"], of(documents, "stop")[-1]
    assert (block["flats"], block["darks"], block["references"]["uid"]) == (0, 0, uid)
    assert [kind for kind, *_ in script.frames[:4]] == ["dark", "flat", "flat", "projection"]
    assert f"2 flats and 1 darks of run {uid[:8]}" in stop["reason"]


def test_flats_of_a_detector_that_has_changed_are_refused_and_what_has_changed_is_named(
    run_engine, documents, beamline, script
):
    run_engine(take_references_plan(flats=1, darks=1))

    async def lengthen():
        await beamline.detector.exposure_time.set(0.2)

    asyncio.run_coroutine_threadsafe(lengthen(), run_engine.loop).result(20)
    with pytest.raises(ConfigError, match=r"detector-exposure_time was 0.05, is 0.2; take new ones"):
        run_engine(stream_tomo_plan(references="last", num=5, window=4))
    assert (script.frames, beamline.stage.angle) == ([], 0.0)
    assert len([name for name, _ in documents if name == "start"]) == 1


def test_flats_of_another_region_of_interest_are_refused(run_engine, storage, beamline, pretend_job, script):
    inline = sim_beamline(rows=6, columns=32, directory=storage.detector_directory, instant=True, inline=True)
    use_beamline(inline, pretend_job, storage=storage)
    (uid,) = run_engine(take_references_plan(flats=1, darks=0)).run_start_uids
    smaller = sim_beamline(rows=4, columns=32, directory=storage.detector_directory, instant=True, inline=True)
    plan = bp.scan([smaller.detector], smaller.stage, 0, 90, 3)
    with pytest.raises(ConfigError, match=r"its frames were of \(6, 32\) pixels, are of \(4, 32\)"):
        run_engine(streaming_wrapper(plan, references=uid, job=pretend_job))
    assert (script.frames, smaller.stage.angle) == ([], 0.0)


@pytest.mark.parametrize(
    ("references", "words"),
    [
        ("last", "none of the newest .* has flats of 'new_detector'; take some with"),
        ("0123abcd", "references='0123abcd': no such run"),
    ],
)
def test_references_that_are_not_there_are_refused_before_the_stage_moves(
    run_engine, documents, beamline, storage, references, words
):
    new = sim_beamline(rows=4, columns=32, directory=storage.detector_directory, instant=True, prefix="new_")
    with pytest.raises(StorageError, match=words):
        run_engine(streaming_wrapper(bp.scan([new.detector], new.stage, 40, 90, 4), references=references))
    assert (new.stage.angle, documents) == (0.0, [])


def test_run_without_flats_of_the_detector_is_named(run_engine, beamline, storage):
    (uid,) = run_engine(bp.scan([beamline.detector], beamline.stage, 0, 10, 2)).run_start_uids
    assert storage.flush()
    with pytest.raises(StorageError, match=r"has no flats of 'detector': only streams \['primary'\]"):
        load_references(storage.catalog, uid, "detector")
    (uid,) = run_engine(take_references_plan(flats=1, darks=0)).run_start_uids
    assert storage.flush()
    with pytest.raises(StorageError, match="its stream 'flat' is not of 'camera'"):
        load_references(storage.catalog, uid, "camera")


def test_without_a_catalogue_references_are_refused_with_what_to_do(run_engine, documents, pretend_job, tmp_path):
    beamline = sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True)
    plan = bp.scan([beamline.detector], beamline.stage, 0, 90, 4)
    with pytest.raises(ConfigError, match=r"no catalogue to look them up in; expected use_beamline\(..., storage="):
        run_engine(streaming_wrapper(plan, references="last", job=pretend_job))
    assert documents == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, r"no flat field: .* references='own' if .* RE\(take_references_plan\(\)\)"),
        ({"references": "last", "pixel_values": "line-integrals"}, "those are corrected already"),
        ({"pixel_values": "grey"}, "pixel_values: got 'grey', expected one of counts, transmission, line-integrals"),
    ],
)
def test_scan_that_can_not_become_an_image_is_refused_before_anything_starts(pretend_job, script, arguments, words):
    with pytest.raises(ConfigError, match=words):
        streaming_wrapper(iter(()), job=pretend_job, **arguments)
    assert script.launched == []


def test_what_pixels_stand_for_travels_to_the_job_and_into_the_start_document(
    run_engine, documents, beamline, script, of
):
    scan = bp.scan([beamline.detector], beamline.stage, 0, 90, 3)
    run_engine(streaming_wrapper(scan, pixel_values="line-integrals"))
    run_engine(stream_tomo_plan(num=4, window=4, pixel_values="transmission"))
    assert [spec.recon.pixel_values for spec in script.specs] == ["line-integrals", "transmission"]
    told = [start["streamrecon"]["recon"]["pixel_values"] for start in of(documents, "start")]
    assert told == ["line-integrals", "transmission"]
    assert {kind for kind, *_ in script.frames} == {"projection"}


@pytest.mark.mpi
@pytest.mark.timeout(120)
def test_plain_scan_makes_the_image_that_a_tomogram_makes(run_engine, documents, beamline, storage, kept_job):
    """The same angles of the same sample, with the flats of the first run for the second one."""
    images = []
    angles = [float(angle) for angle in range(0, 180, 6)]
    tomogram = {"num": 30, "order": angles, "axis": beamline.axis, "threshold": 1.0, "window": 8, "iterations": 2}
    run_engine(stream_tomo_plan(**tomogram, flats=3, darks=2, ranks=2, job=kept_job))
    images.append(h5py.File(kept_job.last_run.result)["/exchange/data"][:])
    recon = ReconSettings(ranks=2, axis=beamline.axis, window=8, iterations=2)
    plan = bp.list_scan([beamline.detector], beamline.stage, angles)
    steering = SteeringSettings(threshold=1.0)
    run_engine(mv(beamline.shutter, "open"))  # no plan of the user's opens it, and ours have closed it
    run_engine(streaming_wrapper(plan, references="last", job=kept_job, recon=recon, steering=steering))
    images.append(h5py.File(kept_job.last_run.result)["/exchange/data"][:])
    assert kept_job.last_run.ledger_totals()["balanced"]
    assert np.corrcoef(images[0].ravel(), images[1].ravel())[0, 1] > 0.95
    assert images[1].max() > 0


def test_readings_of_a_monitor_are_taken_from_an_earlier_run_and_used_when_the_scan_is_replayed(
    run_engine, beamline, pretend_job, script, storage
):
    faded = sim_beamline(
        rows=4, columns=32, directory=storage.detector_directory, instant=True, fading=0.5, projections=6
    )
    use_beamline(faded, pretend_job, storage=storage)
    (flats,) = run_engine(take_references_plan(flats=2, darks=1)).run_start_uids
    (uid,) = run_engine(stream_tomo_plan(num=6, window=4, references=flats, monitor="monitor")).run_start_uids
    assert storage.flush()
    readings = 1e7 * 0.5 ** (np.arange(6) / 5)
    assert script.monitors == pytest.approx([1.0, 1e7, 1e7, *readings])
    scan = load_run(storage.catalog, uid)
    np.testing.assert_allclose(scan.monitor, readings)
    np.testing.assert_allclose(scan.flat_monitor, 1e7)
    as_it_was, normalised = (
        prepared(scan, uid, ReconSettings(axis=16, monitor=name)).integrals for name in (None, "monitor")
    )
    lost = -np.log(readings / 1e7)[:, np.newaxis, np.newaxis]
    np.testing.assert_allclose(as_it_was - normalised, np.broadcast_to(lost, normalised.shape), atol=1e-5)
    (without,) = run_engine(take_references_plan([faded.detector], flats=1, darks=0)).run_start_uids
    with pytest.raises(StorageError, match=r"has flats without readings of the monitor 'monitor'; take new ones with"):
        run_engine(stream_tomo_plan(num=6, window=4, references=without, monitor="monitor"))
