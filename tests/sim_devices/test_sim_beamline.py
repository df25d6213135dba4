"""The beamline under a real RunEngine: documents, files, and what they hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from urllib.parse import urlparse

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import event_model
import h5py
import numpy as np
import pytest
from bluesky.callbacks import LiveTable
from bluesky.utils import FailedStatus
from ophyd_async.core import TriggerInfo
from ophyd_async.plan_stubs import ensure_connected

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.sim_devices import Exposure, Faults, Foam, FrameKind, sim_beamline

TOOTH = Path(__file__).parents[1] / "data" / "tooth.h5"


def small(tmp_path, **options):
    return sim_beamline(**{"rows": 3, "columns": 48, "directory": tmp_path, "instant": True} | options)


def path_of(resource) -> Path:
    return Path(urlparse(resource["uri"]).path)


def test_documents_are_valid_and_frames_are_those_of_the_model(run_engine, documents, tmp_path):
    beamline = small(tmp_path)
    angles = [0.0, 90.0, 45.0, 370.0]
    run_engine(bp.list_scan([beamline.detector], beamline.stage, angles))
    for name, doc in documents:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)
    names = [name for name, _ in documents]
    assert names == ["start", "descriptor", "stream_resource", *["stream_datum", "event"] * 4, "stop"]
    descriptor, resource = documents[1][1], documents[2][1]
    assert descriptor["data_keys"]["detector"]["shape"] == [1, 3, 48]
    assert descriptor["data_keys"]["detector"]["dtype_numpy"] == "<u2"
    assert descriptor["data_keys"]["detector"]["external"] == "STREAM:"
    assert descriptor["configuration"]["detector"]["data"] == {"detector-exposure_time": 0.05}
    assert descriptor["hints"]["stage"] == {"fields": ["stage"]}
    with h5py.File(path_of(resource)) as file:
        frames = file[resource["parameters"]["dataset"]][:]
    for index, angle in enumerate(angles):
        expected = beamline.camera.frame(Exposure(FrameKind.PROJECTION, angle, index))
        np.testing.assert_array_equal(frames[index], expected)


def test_inline_detector_puts_the_same_frames_into_events(run_engine, documents, tmp_path):
    beamline = small(tmp_path, inline=True)
    run_engine(bp.list_scan([beamline.detector], beamline.stage, [0, 30]))
    key = documents[1][1]["data_keys"]["detector"]
    assert (key["dtype"], key["shape"], key["dtype_numpy"]) == ("array", [3, 48], "<u2")
    events = [doc for name, doc in documents if name == "event"]
    for index, event in enumerate(events):
        expected = beamline.camera.frame(Exposure(FrameKind.PROJECTION, 30.0 * index, index))
        np.testing.assert_array_equal(event["data"]["detector"], expected)


def test_flats_and_darks_are_taken_with_table_and_shutter(run_engine, documents, tmp_path):
    beamline = small(tmp_path)

    def plan():
        yield from bps.open_run()
        for name, sample, beam in (("flat", "out", "open"), ("dark", "out", "closed"), ("primary", "in", "open")):
            yield from bps.mv(beamline.table, sample, beamline.shutter, beam)
            yield from bps.stage(beamline.detector, wait=True)
            yield from bps.trigger_and_read([beamline.detector, beamline.stage], name=name)
            yield from bps.unstage(beamline.detector, wait=True)
        yield from bps.close_run()

    run_engine(plan())
    resources = [doc for name, doc in documents if name == "stream_resource"]
    assert len({path_of(resource) for resource in resources}) == 3
    for resource, kind in zip(resources, (FrameKind.FLAT, FrameKind.DARK, FrameKind.PROJECTION), strict=True):
        with h5py.File(path_of(resource)) as file:
            np.testing.assert_array_equal(file["/entry/data/data"][0], beamline.camera.frame(Exposure(kind, 0.0, 0)))


READER = """
import sys, h5py
for line in sys.stdin:
    path, index = line.split()
    with h5py.File(path, "r", swmr=True) as file:
        print(int(file["/entry/data/data"][int(index)].sum()), flush=True)
"""


def test_another_process_reads_each_frame_as_soon_as_its_datum_is_out(run_engine, tmp_path):
    beamline = small(tmp_path)
    read, paths = [], []
    with subprocess.Popen(
        [sys.executable, "-c", READER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as p:

        def on_document(name, doc):
            if name == "stream_resource":
                paths.append(path_of(doc))
            if name == "stream_datum":
                p.stdin.write(f"{paths[0]} {doc['indices']['stop'] - 1}\n")
                p.stdin.flush()
                read.append(int(p.stdout.readline()))

        run_engine(bp.list_scan([beamline.detector], beamline.stage, [0, 10, 20]), on_document)
        p.stdin.close()
    expected = [beamline.camera.frame(Exposure(FrameKind.PROJECTION, 10.0 * k, k)) for k in range(3)]
    assert read == [int(frame.astype(np.int64).sum()) for frame in expected]


def test_same_scan_twice_gives_the_same_data(run_engine, documents, tmp_path):
    beamline = small(tmp_path)
    for _ in range(2):
        run_engine(bp.list_scan([beamline.detector], beamline.stage, [0, 45]))
    one, two = (h5py.File(path_of(doc)) for name, doc in documents if name == "stream_resource")
    with one, two:
        np.testing.assert_array_equal(one["/entry/data/data"][:], two["/entry/data/data"][:])


def test_recording_is_replayed_at_its_angles_in_any_order(run_engine, documents, tmp_path):
    beamline = sim_beamline(TOOTH, directory=tmp_path, instant=True)
    assert len(beamline.angles) == 181
    assert beamline.axis is None
    order = [beamline.angles[k] for k in (90, 0, 45)]
    run_engine(bp.list_scan([beamline.detector], beamline.stage, order))
    (resource,) = [doc for name, doc in documents if name == "stream_resource"]
    with h5py.File(path_of(resource)) as file, h5py.File(TOOTH) as tooth:
        assert file["/entry/data/data"].dtype == np.dtype("<f4")
        for index, k in enumerate((90, 0, 45)):
            np.testing.assert_array_equal(file["/entry/data/data"][index], tooth["exchange/data"][k])


@pytest.mark.parametrize("inline", [False, True])
def test_exposure_that_can_not_be_made_fails_the_trigger_with_its_reason(run_engine, tmp_path, inline):
    beamline = sim_beamline(TOOTH, directory=tmp_path, instant=True, inline=inline)
    with pytest.raises(FailedStatus) as caught:
        run_engine(bp.list_scan([beamline.detector], beamline.stage, [0.5, 0.6]))
    assert "no projection at 0.5" in str(caught.value.__cause__) + str(caught.value)


def test_live_table_shows_the_angle_and_skips_the_frame(run_engine, tmp_path, capsys):
    for inline in (False, True):
        beamline = small(tmp_path, inline=inline)
        table = LiveTable(["stage"])
        run_engine(bp.list_scan([beamline.detector], beamline.stage, [0, 45]), table)
        assert "45.0000" in capsys.readouterr().out


def test_beamline_made_without_a_running_engine_works_later(tmp_path):
    script = f"""
from bluesky_streamrecon.sim_devices import sim_beamline
beamline = sim_beamline(rows=2, columns=32, directory={str(tmp_path)!r}, instant=True)
from bluesky import RunEngine
import bluesky.plans as bp
RE = RunEngine({{}})
print(len(RE(bp.count([beamline.detector], 2))))
"""
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=50)
    assert (done.stdout.strip(), done.stderr) == ("1", "")


def test_beamline_made_inside_a_plan_is_connected_there(run_engine, tmp_path):
    def plan():
        beamline = small(tmp_path)
        yield from ensure_connected(*beamline.devices)
        yield from bp.count([beamline.detector], 1)
        return beamline

    assert run_engine(plan()).exit_status == "success"


def test_series_of_frames_is_taken_on_one_kickoff(run_engine, documents, tmp_path):
    beamline = small(tmp_path)

    @bpp.stage_decorator([beamline.detector])
    @bpp.run_decorator()
    def plan():
        yield from bps.prepare(beamline.detector, TriggerInfo(number_of_events=5), wait=True)
        yield from bps.declare_stream(beamline.detector, name="primary", collect=True)
        yield from bps.kickoff(beamline.detector, wait=True)
        yield from bps.complete(beamline.detector, wait=True)
        yield from bps.collect(beamline.detector, name="primary")

    run_engine(plan())
    assert sum(d["indices"]["stop"] - d["indices"]["start"] for name, d in documents if name == "stream_datum") == 5


def test_faults_show_in_the_frames(run_engine, documents, tmp_path):
    beamline = small(tmp_path, inline=True, faults=Faults(dark_from=2, slips_from=1))
    run_engine(bp.list_scan([beamline.detector], beamline.stage, [0, 60, 90]))
    frames = [doc["data"]["detector"].astype(int) for name, doc in documents if name == "event"]
    at_rest = beamline.camera.frame(Exposure(FrameKind.PROJECTION, 0.0, 1))
    np.testing.assert_array_equal(frames[1], at_rest)
    assert np.median(frames[2]) < 200


def test_own_sample_size_axis_and_prefix_are_taken(tmp_path):
    beamline = small(tmp_path, sample=Foam(pores=5, seed=9), axis=21.0, prefix="sim-")
    assert beamline.axis == pytest.approx(23.5 - 2.5)
    names = ["stage", "detector", "shutter", "table", "trigger", "encoder", "monitor"]
    assert [device.name for device in beamline.devices] == [f"sim-{name}" for name in names]


@pytest.mark.parametrize(
    ("options", "left", "right"),
    [
        ({}, False, False),
        ({"half_acquisition": True}, True, False),
        ({"half_acquisition": True, "axis": 40.0}, False, True),
        ({"fill": 1.5}, True, True),
    ],
)
def test_sample_reaches_out_of_view_where_it_was_asked_to(tmp_path, options, left, right):
    beamline = small(tmp_path, sample=Foam(pores=0), **options)
    flat, seen = (beamline.camera.frame(Exposure(kind, 0.0, 0)) for kind in (FrameKind.FLAT, FrameKind.PROJECTION))
    shade = -np.log(np.maximum(seen, 101.0) - 100) + np.log(np.maximum(flat, 101.0) - 100)
    ends = np.median(shade[:, :2]), np.median(shade[:, -2:])
    assert tuple(end > 0.1 for end in ends) == (left, right)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"sample": "no/such/file.h5"}, "path of a scan"),
        ({"rows": 0}, "0 rows"),
        ({"axis": 46.5}, "no room"),
        ({"axis": 48.0}, "0 to 47"),
        ({"fill": 5.0}, "0.05 to 4"),
        ({"tilt": 3.0}, "-2 to 2 degrees"),
        ({"sample": TOOTH, "half_acquisition": True}, "half_acquisition, .*: a recorded scan has its own"),
        ({"exposure": -1.0}, "exposure"),
        ({"counts": 0.0}, "photons"),
        ({"sample": TOOTH, "faults": Faults(drift=(1.0, 0.0))}, "recorded scan"),
    ],
)
def test_arguments_that_can_not_work_are_refused(tmp_path, options, word):
    with pytest.raises(ConfigError, match=word):
        small(tmp_path, **options)
