"""Clients of Tiled see the images of a run as they are made; the scan never waits for the server."""

from __future__ import annotations

import queue
from uuid import uuid4

import event_model
import h5py
import msgspec
import numpy as np
import pytest
from browsing import CHROMIUM, in_chromium, live_view
from pretended_beamline import BOUND, pretended_beamline
from tiled_server import WATCHING, Server, Watcher

from bluesky_streamrecon.cuts import Cut
from bluesky_streamrecon.errors import JobError
from bluesky_streamrecon.live_view import LiveImageWriter, Source, open_stored_run, tiled_images
from bluesky_streamrecon.live_view.page import checks
from bluesky_streamrecon.storage import open_storage, reconstruction_documents
from bluesky_streamrecon.wire import Check, Order

pytestmark = [*WATCHING, pytest.mark.timeout(240)]

LONG = 40.0


@pytest.fixture
def beamline():
    with pretended_beamline() as made:
        yield made


@pytest.fixture
def write(beamline):
    """Begin to write the beamline's images."""
    writers = []

    def start(uri, most=10):
        writers.append(LiveImageWriter(Source(beamline.connect, "anna@here"), uri, most, share=1.0))
        return writers[-1]

    yield start
    for each in writers:
        each.close()
        assert not each._thread.is_alive()


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """A server of its own: Tiled with SQLite uses numbers of deleted nodes again, with what their streams had."""
    with open_storage(directory=tmp_path_factory.mktemp("live")) as opened:
        yield opened


@pytest.fixture
def client(storage):
    """A client that knows nothing of us."""
    from tiled.client import from_uri

    opened = from_uri(storage.uri)
    yield opened
    opened.context.close()


@pytest.fixture
def watcher(client):
    watching = Watcher(client)
    yield watching
    watching.close()


def begin(beamline, uid):
    beamline.status = msgspec.structs.replace(beamline.status, run_uid=uid)


def test_subscribed_client_sees_each_image_as_it_is_made_in_units_of_attenuation(
    beamline, storage, write, watcher, client
):
    begin(beamline, "run-seen")
    writer = write(storage.uri)
    for number in (1, 2, 3):
        beamline.show(number, number / 5)
        place, values = watcher.next()
        assert place == number - 1
        assert values.shape == (1, 2, 16, 16)
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, number / 5, rtol=1e-6)
        known = client["live"]["run-seen"].metadata["images"][place]
        assert (known["image_number"], known["projections"], known["made"]) == (number, number, 1.0)
    writer.close()
    assert watcher.ended.wait(LONG)
    array = client["live"]["run-seen"]
    assert array.structure().dims == ("image", "slice", "y", "x")
    assert (array.metadata["rows"], array.metadata["units"], array.metadata["volume"]) == (
        [3, 5],
        "1/pixel",
        [12, 16, 16],
    )
    np.testing.assert_allclose(array.read()[:, 0, 0, 0], [0.2, 0.4, 0.6], rtol=1e-6)
    assert "run-seen" not in storage.catalog


@pytest.mark.parametrize(
    ("planned", "kept"), [(12, [2, 5, 8, 12]), (0, [1, 2, 3, 12])], ids=["planned", "without a plan"]
)
def test_images_that_are_kept_are_bounded_spread_over_the_scan_and_the_last_is_the_newest(
    beamline, storage, write, watcher, client, planned, kept
):
    uid = f"run-bounded-{planned}"
    beamline.status = msgspec.structs.replace(beamline.status, run_uid=uid, planned=planned)
    writer = write(storage.uri, most=4)
    known = queue.Queue()
    writer._source.listen(lambda: known.put(writer._source.snapshot.status))
    known.put(writer._source.snapshot.status)  # it may have come before
    while known.get(timeout=BOUND).run_uid != uid:
        pass
    for number in range(1, 13):
        beamline.show(number, number)
        place, values = watcher.next()
        assert np.all(values == number)
    writer.close()
    array = client["live"][uid]
    assert array.shape == (4, 2, 16, 16)
    assert place == 3
    assert [each["projections"] for each in array.metadata["images"]] == kept
    assert array.read()[:, 0, 0, 0].tolist() == kept


def test_images_of_another_width_than_the_first_are_written_with_the_axis_where_it_was(
    beamline, storage, write, watcher
):
    begin(beamline, "run-wider")
    write(storage.uri)
    y, x = np.mgrid[:16, :16].astype(np.float32)
    for number, width in ((1, 16), (2, 20), (3, 13)):  # as the rotation axis becomes known in half acquisition
        beamline.volume = (12, width, width)
        beamline.show(number)
        _, values = watcher.next()
        beyond = (width - 16) / 2
        expected = 300 + 10 * (y + beyond) + x + beyond
        expected[(np.minimum(y, x) + beyond < -0.5) | (np.maximum(y, x) + beyond > width - 0.5)] = np.nan
        np.testing.assert_allclose(values[0, 0], expected, rtol=1e-6)


def test_images_that_a_writer_before_this_one_has_written_are_not_written_again(
    beamline, storage, write, watcher, client, monkeypatch
):
    begin(beamline, "run-of-two-writers")
    really = LiveImageWriter._write
    for number in (1, 1, 2):  # a job shows its last image to whoever comes
        written = queue.Queue()
        told = lambda *picture, done=written: done.put(really(*picture))  # noqa: E731
        monkeypatch.setattr(LiveImageWriter, "_write", told)
        writer = write(storage.uri)
        beamline.show(number)
        written.get(timeout=LONG)
        writer.close()
    assert [each["image_number"] for each in client["live"]["run-of-two-writers"].metadata["images"]] == [1, 2]


@pytest.fixture
def opened_later(beamline, storage, write, watcher):
    """A stored run with pictures, verdicts, the last live image and the finished volume."""
    uid, recon_uid = str(uuid4()), str(uuid4())
    file = storage.detector_directory / f"{recon_uid}.h5"
    begin(beamline, uid)
    writer = write(storage.uri)
    for number in (1, 2, 3):
        beamline.show(number, number / 5)
        watcher.next()
    writer.close()
    shape = (12, 16, 16)
    with h5py.File(file, "w") as written:
        written["/exchange/data"], written["/exchange/volume"] = np.full(shape, 1, "f4"), np.full(shape, 3, "f4")
    block = {"recon_uid": recon_uid, "projections": 12}
    scan = event_model.compose_run(uid=uid, metadata={"streamrecon": block, "plan_name": "scan"})
    scores = [{"image_number": n, "projections": 3 * n, "score": 0.5, "verdict": "continue"} for n in (1, 2)]
    scores = [{**row, "region": region, "rows": ""} for row, region in zip(scores, ("", "0 0 40 33"), strict=True)]
    told = {"used": 9, "axis": 3.5, "steering": {"policy": "predicted-gain", "tolerance": 0.02}}
    check, anna = Check(name="beam", state="look", text="faint"), Order(action="region", who="anna", time=1.0)
    told |= {"selection": {"region": [0, 0, 40, 33], "rows": []}, "selected_by": msgspec.to_builtins(anna)}
    about = {"streamrecon": told | {"checks": [msgspec.structs.asdict(check)]}}
    ended = scan.compose_stop(exit_status="success", reason="quality: good enough")
    stored = reconstruction_documents(recon_uid, uid, file, shape, volume=True, scores=scores, metadata=about)
    for name, document in [("start", scan.start_doc), ("stop", ended), *stored]:
        storage.writer(name, document)
    assert storage.flush()
    return uid


def test_stored_run_is_opened_with_its_pictures_its_verdicts_and_its_images(storage, opened_later):
    run, images = open_stored_run(opened_later, storage.uri)
    status = run.snapshot.status
    assert (status.run_uid, status.ended, status.used) == (opened_later, "success: quality: good enough", 9)
    assert (status.axis, status.tolerance, status.total) == (3.5, 0.02, 12)
    assert [(each.projections, each.score, each.gain) for each in run.snapshot.judged] == [
        (3, 0.5, None),
        (6, 0.5, None),
    ]
    assert [each.projections for each in run.snapshot.counted] == [6]
    assert status.selection_text.startswith("x 0 to 39, y 0 to 32, by anna since ")
    assert [(check.name, check.state, check.text) for check in checks(run.snapshot)] == [("beam", "look", "faint")]
    assert images.newest(run.snapshot) == "volume"
    names = [(1, "projection 1 of 12"), (2, "projection 2 of 12"), (-1, "last live image")]
    assert images.earlier(run.snapshot) == names
    row = Cut(corner=(5, -0.5, -0.5), down=(0, 16, 0), across=(0, 0, 16), shape=(16, 16))
    for image, values, newest in ((0, 3, None), (-1, 1, 3), (2, 0.4, 0.6)):
        shown = images.cut(image, [row])
        assert np.allclose(shown.values, values)
        assert shown.newest == [] if newest is None else np.allclose(shown.newest, newest)
    with pytest.raises(JobError, match="the run is over"):
        run.order(Order(action="finish", who="anna"), run_uid=None)
    if CHROMIUM.args[0]:  # there is none
        return
    with live_view(opened_later[:9], "--uri", storage.uri) as url, in_chromium(url) as (page, shot):
        page.locator("#what", has_text="The run has ended at projection 9 of 12").wait_for()
        page.locator("#cut-note", has_text="Finished volume from 9 projections, 12 × 16 × 16 voxels").wait_for()
        page.focus("#when")
        page.keyboard.press("Home")
        page.locator("#cut-note", has_text="Image 1 from 1 projections: rows 3, 5 only").wait_for()
        shot("stored")


def test_image_whose_pixels_never_came_is_left_out_of_a_stored_run(storage, client, opened_later):
    """Its server was killed between what is known of it and its pixels."""
    array = client["live"][opened_later]
    known = array.metadata["images"]
    images = [*known, {**known[-1], "image_number": 9, "projections": 9}]
    array.update_metadata({"images": images}, drop_revision=True)
    run, images = open_stored_run(opened_later, storage.uri)
    assert [number for number, _ in images.earlier(run.snapshot)] == [1, 2, -1]


def test_server_that_is_killed_costs_one_line_and_the_next_run_is_tried_again(beamline, write, tmp_path, monkeypatch):
    from tiled.client import from_uri

    monkeypatch.setattr("tiled.client.utils.TILED_RETRY_ATTEMPTS", 2)
    reported = queue.Queue()
    monkeypatch.setattr(tiled_images.log, "warning", lambda text, *values: reported.put(text % values))
    server = Server(tmp_path / "served", tmp_path / "frames")
    try:
        client = from_uri(server.uri)
        watcher = Watcher(client)
        write(server.uri)
        beamline.show(1)
        watcher.next()
        watcher.close()
        client.context.close()
    finally:
        server.kill()
    for number in (2, 3):  # the beamline goes on showing them
        beamline.show(number)
    assert "run run-1: no more live images go to Tiled (" in reported.get(timeout=LONG)
    begin(beamline, "run-2")
    beamline.show(4)
    line = reported.get(timeout=LONG)
    assert "run run-2: no more live images" in line
    assert "is the server up?" in line
    assert reported.empty()


def test_embedded_server_keeps_a_bounded_amount_of_what_was_streamed(client, storage, monkeypatch):
    kept = storage._server._server.catalog.context.streaming_cache.client._data_cache
    assert kept.maxsize == 2**28
    array = client.write_array(np.zeros((1, 512, 512), np.float32), key="large")
    before = kept.currsize
    array.patch(np.ones((1, 512, 512), np.float32), offset=(1,), extend=True)
    assert kept.currsize - before >= 2**20
    item = {"payload": bytes(2**20)}
    for number in range(300):
        kept[f"data:x:{number}"] = item
    assert kept.currsize <= 2**28
    for number in range(300):
        kept.pop(f"data:x:{number}", None)
    client.delete_contents("large", external_only=False)
