"""The benchmarks' own parts: what they count, compare with and refuse. Never how fast anything is."""

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest

from bluesky_streamrecon.beamline.processes import ProcessExit
from bluesky_streamrecon.beamline.publisher import Publisher
from bluesky_streamrecon.beamline.serving import Acked, AllRanksReady, PeerLost
from bluesky_streamrecon.errors import ConfigError, JobError
from bluesky_streamrecon.evaluation.bench.documents import ScanDocuments
from bluesky_streamrecon.evaluation.bench.harness import beside, printed, seconds_per_call, take_turns
from bluesky_streamrecon.evaluation.bench.jobs import EventRecorder
from bluesky_streamrecon.evaluation.bench.kernels import measure_kernels
from bluesky_streamrecon.evaluation.bench.peers import astra, compare_peers, ours
from bluesky_streamrecon.evaluation.bench.pipeline import measure_pipeline
from bluesky_streamrecon.evaluation.bench.receivers import be_rank, receive_bare
from bluesky_streamrecon.evaluation.bench.sample import DARK_COUNT, FLAT_COUNT, counts_of, sample_scan
from bluesky_streamrecon.evaluation.bench.viewer import watch_page
from bluesky_streamrecon.evaluation.bench.wire import measure_wire
from bluesky_streamrecon.recon import reconstruct
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings
from bluesky_streamrecon.wire import PeerInfo, Problem, Score, Status

BOUND = 20.0
RANK = PeerInfo(job_id="job", role="rank", rank=1, size=2, host="here", pid=7, software="", instance="i", linked=False)


def test_time_of_a_call_is_not_that_of_an_interrupted_one():
    ticks = iter([0.0, 0.2, 0.9, 1.1])
    calls = []
    assert seconds_per_call(lambda: calls.append(1), at_least=1.0, clock=lambda: next(ticks)) == pytest.approx(0.2)
    assert len(calls) == 3


def test_a_quantity_is_the_median_of_its_samples_in_turns_with_what_it_is_compared_to():
    samples = iter([1.0, 10.0, 3.0, 20.0, 2.0, 30.0])
    found = take_turns(3, lambda: {"ours": next(samples), "theirs": next(samples)})
    assert (found["ours"].median, found["theirs"].median) == (2.0, 20.0)
    assert (found["ours"].spread, found["theirs"].spread) == (1.0, 1.0)


def test_kernel_rows_come_in_the_order_that_was_asked_for():
    result = measure_kernels(
        columns=(16, 32), threads=(1, 2), windows=(3,), algorithms=("mlem", "fbp"), slices=4, repeats=3, seconds=0.001
    )
    asked = [(c, t, a) for c in (16, 32) for t in (1, 2) for a in ("mlem", "fbp")]
    rows = result.fields["rows"]
    assert [(row["columns"], row["threads"], row["algorithm"]) for row in rows] == asked
    assert all(row["gups"] > 0 and row["gups_moving"] > 0 and row["gups_per_gfma"] > 0 for row in rows)
    assert all(row["spread"] >= 0 for row in rows)
    assert result.fields["probe_gfma"] > 0


@pytest.mark.parametrize(
    ("measure", "arguments", "expected"),
    [
        (measure_kernels, {"algorithms": ("mlme",)}, "mlem"),
        (measure_pipeline, {"rows": 4, "columns": 32, "window": 12, "projections": 12}, "14"),
        (measure_pipeline, {"rows": 4, "columns": 32, "ranks": 0}, "ranks"),
        (measure_pipeline, {"rows": 4, "columns": 32, "algorithm": "mlme"}, "mlem"),
        (measure_pipeline, {"rows": 4, "columns": 32, "policy": "ms-sim"}, "ms-ssim"),
        (measure_wire, {"rows": 1, "receivers": 2}, "a row for every receiver"),
    ],
)
def test_a_case_that_can_not_be_measured_is_refused_before_anything_starts(measure, arguments, expected, no_orphans):
    with pytest.raises(ConfigError, match=expected):
        measure(**arguments)


def test_sample_is_what_the_reconstruction_finds():
    scan = sample_scan(64, 2, 90)
    image = reconstruct(scan.integrals, scan.angles, algorithm="sirt", iterations=30)
    skull, brain, outside = image[0, 31, 10:14].max(), image[0, 25, 31], image[0, 2, 2]
    assert skull > 1.4 * brain > 0
    assert abs(outside) < 0.1 * skull
    np.testing.assert_allclose(image[1], 0.85 * image[0], rtol=0.05, atol=0.01 * image.max())
    counts = counts_of(scan.integrals).astype(float)
    np.testing.assert_allclose(-np.log((counts - DARK_COUNT) / (FLAT_COUNT - DARK_COUNT)), scan.integrals, atol=1e-3)


@pytest.mark.parametrize("projector", ["line", "linear"])
def test_peers_reconstruct_the_same_image(projector):
    pytest.importorskip("astra")
    scan = sample_scan(48, 4, 45)
    with ours("sirt", scan) as engine, astra(projector, scan) as theirs:
        engine.iterate(20)
        theirs.iterate(20)
        image = theirs.image()
        assert image.shape == (theirs.slices, 48, 48)
        reference = engine.image()[: theirs.slices]
        assert np.corrcoef(image.ravel(), reference.ravel())[0, 1] > 0.97
        assert image.mean() == pytest.approx(reference.mean(), rel=0.05)


def test_a_missing_peer_is_named_with_the_way_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "astra", None)
    with pytest.raises(ConfigError, match=r"pip install 'bluesky-streamrecon\[bench\]'"):
        compare_peers(columns=(16,))


class Sink:
    def __init__(self):
        self.spec, self.frames, self.closed = None, [], None

    def open_run(self, spec):
        self.spec = spec

    def append(self, frame):
        pixels = frame.read() if frame.pixels is None else frame.pixels
        self.frames.append((frame.kind, frame.index, round(frame.angle, 12), int(pixels[0, 0])))

    def close_run(self, exit_status="success", reason=""):
        self.closed = exit_status


@pytest.mark.parametrize("in_file", [False, True])
def test_documents_are_such_that_the_publisher_takes_them(in_file, tmp_path):
    pool = [np.full((2, 3), value, np.uint16) for value in (5, 6)]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = np.stack(pool)
    place = ((tmp_path / "a.h5").as_uri(), "data") if in_file else None
    sink, problems = Sink(), []
    publisher = Publisher(sink, on_problem=problems.append)
    scan = ScanDocuments(publisher, (2, 3), 2, ReconSettings(), SteeringSettings(), file=place)
    scan.start()
    scan.stream("primary")
    for i, angle in enumerate((0.0, 1.5)):
        scan.frame("primary", angle, i if in_file else pool[i])
    scan.stop()
    assert problems == []
    assert (sink.spec.run_uid, sink.spec.detector_shape, sink.spec.dtype) == (scan.uid, (2, 3), "<u2")
    assert sink.frames == [("projection", 1, 0.0, 5), ("projection", 2, 1.5, 6)]
    assert sink.closed == "success"


def test_an_image_counts_when_every_rank_has_it():
    clock = iter(range(100))
    events = EventRecorder(clock=lambda: float(next(clock)))
    events.begin("now")
    events(AllRanksReady(2))  # at 0
    for rank, projections in ((0, 4), (0, 8), (1, 4), (1, 8)):  # at 1 to 4
        events(Status(run_uid="now", rank=rank, state="", projections=projections))
    events(Score(run_uid="now", image_number=2, projections=8))
    events(Score(run_uid="before", image_number=1, projections=4))
    assert events.imaged_at == {4: 3.0, 8: 4.0}
    assert events.judged_at == {8: 5.0}
    events(Acked("now", 0, 9, 8))
    assert events.used == 0
    events(Acked("now", 1, 7, 6))
    assert events.used == 7


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Problem(fault="local", where="rank 1", text="no flat field"), "no flat field"),
        (PeerLost(RANK, "silent for 10 s"), "rank 1 of 2.*: silent for 10 s"),
        (ProcessExit("job of 2 ranks", -9, Path("job.log"), "ouch"), "(?s)SIGKILL.*ouch"),
    ],
)
def test_a_problem_ends_every_wait_with_its_words(event, text):
    events = EventRecorder()
    threading.Thread(target=events, args=(event,)).start()
    with pytest.raises(JobError, match=text):
        events.wait("the last image", lambda: False, BOUND)


def test_a_wait_is_bounded_and_says_what_for():
    with pytest.raises(JobError, match="hello of 2 ranks: did not come within"):
        EventRecorder().wait("hello of 2 ranks", lambda: False, 0.01)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (be_rank, ("tcp://127.0.0.1:9", "none", 0, 1, "")),
        (receive_bare, ("tcp://127.0.0.1:9", "")),
    ],
)
def test_a_receiver_ends_when_its_standard_input_is_closed(function, arguments, no_orphans):
    with beside(function, *arguments) as process:
        process.stdin.close()
        assert process.wait(BOUND) == 0


def test_a_process_beside_that_fails_is_reported_with_its_traceback_above(capfd, no_orphans):
    with beside(receive_bare, "nowhere", "") as process, pytest.raises(JobError, match=r"a receiver: .* exit status 1"):
        printed(process, "a receiver")
    assert "ZMQError" in capfd.readouterr().err


def test_a_viewer_fetches_the_cuts_of_each_new_image_once_and_says_how_old_it_was():
    wishes, fetched_all, ending = [], threading.Event(), threading.Event()
    now = time.time()
    made = {"1": now - 60, "2": now + 60, "3": now + 60}
    newest = []

    class Page(BaseHTTPRequestHandler):
        def do_POST(self):
            wish = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            wishes.append((newest[-1], self.headers["X-Streamrecon-Token"], [cut["shape"] for cut in wish["cuts"]]))
            self.send_response(200)
            self.send_header("X-Streamrecon-Cuts", json.dumps({"volume": [4, 400, 400], "made": made[newest[-1]]}))
            self.end_headers()
            seen.release()

        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            for number in ("", "1", "2", "2", "3"):
                new = number and number not in newest
                newest.append(number)
                self.wfile.write(f"data: {json.dumps({'newest': number})}\n\n".encode())
                if new:
                    assert seen.acquire(timeout=BOUND)
            ending.set()
            self.wfile.write(b"\n")
            fetched_all.set()

        def log_message(self, *_):
            pass

    seen = threading.Semaphore(0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server, ThreadPoolExecutor(2) as pool:
        pool.submit(server.serve_forever, 0.01)
        ready = threading.Event()
        url = f"http://127.0.0.1:{server.server_port}/?token=secret"
        delays = pool.submit(lambda: list(watch_page(url, ready.set, ending))).result(BOUND)
        server.shutdown()
    assert ready.is_set()
    shapes = [[400, 400], [320, 320], [320, 320], [320, 320]]
    assert wishes == [("1", "secret", [[1, 1]]), ("2", "secret", shapes), ("3", "secret", shapes)]
    assert len(delays) == 2
