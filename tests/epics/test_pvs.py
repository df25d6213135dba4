"""The run as PVs: what clients of PV Access see of it, and what they may order."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import msgspec
import numpy as np
import pytest
from follower_program import Program
from ophyd import Signal
from ophyd_async.core import init_devices, soft_signal_rw
from ophyd_async.epics.core import epics_signal_r
from pretended_beamline import BOUND, pretended_beamline

from bluesky_streamrecon.beamline import JobState
from bluesky_streamrecon.cli._pvs import open_source, serve_pvs
from bluesky_streamrecon.cli._steer import open_operator
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.job_registration import register_job, unregister_job
from bluesky_streamrecon.live_view import PvServer, Source
from bluesky_streamrecon.plans import stop_early_wrapper
from bluesky_streamrecon.wire import ClientSecurity, Judged, ServerSecurity, generate_keys

pytestmark = pytest.mark.epics

PREFIX = "T:RECON:"
HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "use-the-verdict-elsewhere.md"


@pytest.fixture
def beamline():
    with pretended_beamline() as made:
        yield made


@pytest.fixture
def serve(beamline, monkeypatch, free_port):
    """Serve the beamline's run as PVs."""
    served, sources = [], []

    def start(**options):
        sources.append(Source(beamline.connect, "anna@here"))
        served.append(PvServer(sources[-1], PREFIX, **options))
        return served[-1]

    yield start
    for each in (*served, *sources):
        each.close()


@pytest.fixture
def client():
    """Return a client that knows nothing of us."""
    from p4p.client.thread import Context

    with Context("pva") as context:
        yield context


@pytest.fixture
def until(client):
    """Wait for a PV to have a value."""

    def wait(name, wanted):
        deadline, seen = time.monotonic() + BOUND, []
        while time.monotonic() < deadline:
            seen.append(client.get(PREFIX + name, timeout=BOUND))
            if wanted(seen[-1]):
                return seen[-1]
            threading.Event().wait(0.02)
        raise AssertionError(f"{name}: saw {seen[-3:]}")

    return wait


def change(beamline, **fields):
    beamline.status = msgspec.structs.replace(beamline.status, **fields)


def test_verdict_is_served_in_numbers_and_words_as_it_comes(serve, beamline, until):
    serve()
    change(beamline, taken=7, score=0.93, gain=0.02, gain_low=0.01, gain_high=0.04, tolerance=0.03, text="nearly")
    assert until("Projections", lambda n: n == 7) == 7
    assert until("Text", lambda text: text == "nearly") == "nearly"
    values = {"Score": 0.93, "Gain": 0.02, "GainLow": 0.01, "GainHigh": 0.04, "Tolerance": 0.03}
    for name, value in values.items():
        assert until(name, lambda n: n == n) == value
    assert until("Planned", lambda n: n == 12) == 12
    assert until("Run", bool) == "run-1"
    change(beamline, score=None)
    until("Score", np.isnan)


def test_slices_are_one_image_side_by_side_that_any_viewer_of_ntndarray_opens(serve, beamline, until):
    serve()
    beamline.judged = (Judged(image_number=1, projections=2, score=0.5),)
    beamline.show(3)
    image = until("Image", lambda image: image.shape != (1, 1))
    assert (image.shape, image.dtype, int(image.max()), int(image.min())) == ((16, 32), np.float32, 665, 300)
    assert image.raw.uniqueId == 3
    assert 300 <= image.attrib["Low"] < image.attrib["High"] <= 665
    assert image.attrib["Rows"] == "3, 5"


def test_orders_that_are_put_carry_who_and_why(serve, beamline, client, until):
    serve()
    until("Run", bool)
    client.put(f"{PREFIX}Hold", "look at the crack first", timeout=BOUND)
    client.put(f"{PREFIX}Extend", 20, timeout=BOUND)
    client.put(f"{PREFIX}SetAxis", 512.5, timeout=BOUND)
    client.put(f"{PREFIX}Release", "", timeout=BOUND)
    client.put(f"{PREFIX}Finish", "good enough", timeout=BOUND)
    assert [(o.action, o.place, o.reason, o.count, o.axis) for o in beamline.orders] == [
        ("hold", "PV", "look at the crack first", 0, None),
        ("extend", "PV", "", 20, None),
        ("axis", "PV", "", 0, 512.5),
        ("release", "PV", "", 0, None),
        ("finish", "PV", "good enough", 0, None),
    ]
    assert all(order.who.endswith("@127.0.0.1") for order in beamline.orders)
    assert until("Answer", lambda text: "finish" in text) == "finish done"


def test_orders_that_can_not_be_are_refused_and_the_client_is_told_why(serve, beamline, client, until):
    from p4p.client.raw import RemoteError

    serve()
    until("Run", bool)
    with pytest.raises(RemoteError, match="Extend: got -3, expected 1 to"):
        client.put(f"{PREFIX}Extend", -3, timeout=BOUND)
    beamline.refuse = "the plan can not be made longer"
    with pytest.raises(RemoteError, match="the plan can not be made longer"):
        client.put(f"{PREFIX}Extend", 3, timeout=BOUND)
    assert until("Answer", lambda text: "longer" in text) == "refused: the plan can not be made longer"
    with pytest.raises(RemoteError):  # what is shown is not to be written
        client.put(f"{PREFIX}Score", 1.0, timeout=BOUND)
    assert not beamline.orders


def test_orders_are_taken_from_allowed_hosts_alone(serve, beamline, client, until):
    from p4p.client.raw import RemoteError

    serve(allow=["10.1.2.0/24"])
    until("Run", bool)
    with pytest.raises(RemoteError, match=r"not taken from 127\.0\.0\.1; the option --pvs-allow of the server"):
        client.put(f"{PREFIX}Finish", "mine", timeout=BOUND)
    assert not beamline.orders
    with pytest.raises(ConfigError, match=r"hosts that may put: .*expected an address or a network"):
        serve(allow=["beamline.example"])


def test_finalize_is_false_again_when_the_run_has_ended_so_that_the_next_is_not_held(serve, beamline, until):
    serve()
    change(beamline, finalize=True)
    until("Finalize", bool)
    change(beamline, run_uid=None, last_run="run-1", ended="success: quality")
    until("Finalize", lambda value: not value)
    assert until("Ended", bool) == "success: quality"


@pytest.fixture
def finalize(run_engine):
    """Return the PV as a signal of ophyd-async."""

    async def connect():
        async with init_devices():
            finalize = epics_signal_r(bool, f"pva://{PREFIX}Finalize")
            motor = soft_signal_rw(float, 0.0)
        return finalize, motor

    return lambda: asyncio.run_coroutine_threadsafe(connect(), run_engine.loop).result(BOUND)


def test_any_plan_is_ended_by_the_pv(run_engine, serve, beamline, finalize, documents):
    serve()
    signal, motor = finalize()

    def third(name, doc):
        if name == "event" and doc["seq_num"] == 3:
            change(beamline, finalize=True)

    run_engine.subscribe(third)
    plan = bp.count([motor], 100_000, delay=0.01)
    run_engine(stop_early_wrapper(plan, signal, reason="the image is good enough"))
    stop = next(doc for name, doc in documents if name == "stop")
    assert (stop["exit_status"], stop["reason"]) == ("success", "the image is good enough")
    assert 3 <= stop["num_events"]["primary"] < 100_000


@pytest.fixture
def page(run_engine):
    """Run those lines of the how-to that have this in them, with other names of PVs; return what they define."""

    def lines(words, language="python"):
        (found,) = [
            each for each in re.findall(rf"```{language}\n(.*?)```", HOW_TO.read_text(), re.DOTALL) if words in each
        ]
        return found.replace("BL:RECON:", PREFIX)

    def run(words, tomoscan="", **names):
        defined = {"RE": run_engine, **names}
        exec(lines(words).replace("2bmb:TomoScan:", tomoscan), defined)
        return defined

    run.lines = lines
    return run


def test_stock_suspender_of_bluesky_holds_another_scan_until_the_run_is_over(
    run_engine, serve, beamline, documents, in_thread, page
):
    serve()
    defined = page("SuspendBoolHigh")
    (suspender,), counter, over = run_engine.suspenders, Signal(name="counter", value=1), threading.Event()

    def end_the_run_that_holds():
        deadline = time.monotonic() + BOUND
        while not suspender.tripped and time.monotonic() < deadline:
            threading.Event().wait(0.02)
        assert suspender.tripped
        change(beamline, run_uid=None, last_run="run-1", ended="success: quality")
        over.set()

    @bpp.run_decorator()
    def another_scan():
        change(beamline, finalize=True)
        while not over.is_set() or suspender.tripped:
            yield from bps.checkpoint()
            yield from bps.trigger_and_read([counter])
            yield from bps.sleep(0.02)

    in_thread(end_the_run_that_holds)
    assert run_engine(another_scan()).exit_status == "success"
    assert not suspender.tripped
    defined["client"].close()


def test_scan_of_tomoscan_is_aborted_by_its_own_record(serve, beamline, until, start_ioc, page):
    from caproto.sync.client import read

    ioc = start_ioc()
    abort = f"{ioc.prefix}TS:AbortScan"
    serve()
    change(beamline, finalize=True)
    until("Finalize", bool)
    assert list(read(abort, repeater=False, timeout=BOUND).data) == [b"No"]
    page("AbortScan", tomoscan=f"{ioc.prefix}TS:")["abort"].disconnect()
    assert list(read(abort, repeater=False, timeout=BOUND).data) == [b"Yes"]


def test_shell_asks_and_orders_with_p4p_as_a_macro_of_spec_does(serve, beamline, until, page, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    serve()
    change(beamline, finalize=True, text="nearly")
    until("Finalize", bool)
    lines = page.lines("p4p.client.cli", "bash")
    said = subprocess.run(["bash", "-ec", lines], capture_output=True, text=True, timeout=BOUND, check=True).stdout
    assert re.fullmatch(rf"{PREFIX}Finalize .* true\n{PREFIX}Text .*'nearly'\n", said)
    assert [(order.action, order.reason) for order in beamline.orders] == [("hold", "look at the crack first")]
    of_spec = re.search(r'unix\("(.*?)"', HOW_TO.read_text())[1].replace("BL:RECON:", PREFIX)
    assert lines.startswith(of_spec)


PVAPY = """
import pvaccess, sys
image = pvaccess.Channel(sys.argv[1]).get("field()")
(pixels,) = image["value"][0].values()
print(image["uniqueId"], [each["size"] for each in image["dimension"]], len(pixels), set(pixels.tolist()))
"""


@pytest.mark.skipif(find_spec("pvaccess") is None, reason="no pvapy here")
def test_image_is_what_pvapy_reads_as_viewers_do(serve, beamline, until):
    """In a process of its own: pvapy and p4p have the same libraries of EPICS, which do not bear each other."""
    serve()
    beamline.judged = (Judged(image_number=1, projections=2, score=0.5),)
    beamline.show(3, 0.5)
    until("Image", lambda image: image.raw.uniqueId == 3)
    command = [sys.executable, "-c", PVAPY, f"{PREFIX}Image"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=BOUND, check=True).stdout
    assert said == "3 [32, 16] 512 {0.5}\n"


@pytest.fixture
def keys(tmp_path):
    """Return what the beamline and those who look at it need, and where the keys of the latter are."""
    for name in ("beamline", "people"):
        generate_keys(tmp_path, name)
    people, beamline = tmp_path / "people.secret", tmp_path / "beamline.public"
    server = ServerSecurity.from_files(tmp_path / "beamline.secret", tmp_path / "people.public")
    return server, ClientSecurity.from_files(people, beamline), (people, beamline)


def test_view_of_a_job_that_wants_keys_says_so_in_a_pv_and_serves_the_run_to_who_has_them(
    until, tmp_path, monkeypatch, keys, free_port
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    server, client, files = keys
    with pretended_beamline(server, client) as beamline:
        at = register_job(beamline.endpoint.address, beamline.endpoint.job_id, server.keys.public)
        for given, name, wanted in (
            ((None, None), "State", lambda state: "give --key and --server-key" in state),
            (files, "Run", lambda run: run == "run-1"),
        ):
            with (
                open_source(partial(open_operator, None, None, *given), None) as source,
                serve_pvs(source, PREFIX, "127.0.0.1", None),
            ):
                until(name, wanted)
        unregister_job(at)


@pytest.mark.mpi
@pytest.mark.timeout(120)
@pytest.mark.usefixtures("no_orphans")
def test_follow_serves_the_verdict_on_the_scans_of_others_with_the_keys_that_its_configuration_names(
    until, tmp_path, monkeypatch, keys
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    configuration = tmp_path / "streamrecon.toml"
    configuration.write_text(
        '[job]\nranks = 1\nkey = "beamline.secret"\nallowed = ["people.public"]\njob_key = "people.secret"\n'
        'server_key = "beamline.public"\n[follow]\nplans = ["scan"]\ndetector = "camera"\n'
    )
    with socket.create_server(("127.0.0.1", 0)) as proxy:  # that publishes nothing
        documents_at = f"127.0.0.1:{proxy.getsockname()[1]}"
        program = Program("--zmq", documents_at, "--config", configuration, "--pvs", PREFIX)
        try:
            program.wait_for("ready: 1 ranks")
            until("Connected", bool)
            until("State", lambda state: state == JobState.READY)
        finally:
            program.close()
