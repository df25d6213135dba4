"""The queue server lists the profile's plans, and a scan from its queue ends when the image is good enough."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(590)]

PLANS = {"stream_tomo_plan", "stream_tomo_fly_plan", "take_references_plan", "check_devices_plan"}
BOUND = 250.0  # seconds that a plan or the manager's environment may take


def test_plans_are_listed_with_their_settings_and_devices_and_nothing_that_no_queue_can_run(installed, program):
    listing = program("qserver-list-plans-devices")
    installed.run(listing, "--startup-dir", str(installed.startup), "--file-dir", str(installed.data))
    listed = yaml.safe_load((installed.data / "existing_plans_and_devices.yaml").read_text())
    assert set(listed["existing_plans"]) == PLANS
    assert set(listed["existing_devices"]) >= {"stage", "detector", "shutter", "sample_table"}
    plan = listed["existing_plans"]["stream_tomo_plan"]
    parameters = {each["name"]: each for each in plan["parameters"]}
    assert plan["properties"]["is_generator"]
    assert "__READABLE__" in parameters["detectors"]["annotation"]["type"]
    assert "__MOVABLE__" in parameters["stage"]["annotation"]["type"]
    assert parameters["stage"]["convert_device_names"]
    window = parameters["window"]
    assert (window["annotation"]["type"], window["default"]) == ("typing.Optional[int]", "24")
    assert all(each.get("description") for each in parameters.values())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], log: Any, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the end of the block."""
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, **options)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


class Manager:
    """Asks the RE Manager, and waits for what it says."""

    def __init__(self, client: Any, redis: subprocess.Popen[bytes]) -> None:
        self.redis = redis
        self._client, self._pause = client, threading.Event()

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        answer = self._client.send_message(method=method, params=parameters)
        assert answer.get("success", True), answer
        return dict(answer)

    def until(self, **wanted: Any) -> None:
        end = time.monotonic() + BOUND
        status: object = None
        while time.monotonic() < end:
            try:
                status = answer = self._client.send_message(method="status")
            except Exception as error:  # noqa: BLE001 - it answers late while it is busy
                status = error
            else:
                if all(answer.get(name) == value for name, value in wanted.items()):
                    return
            self._pause.wait(0.2)
        raise AssertionError(f"waited {BOUND:g} s for {wanted}, the manager says {status!r}")


@pytest.fixture
def manager(installed, program, tmp_path) -> Iterator[Manager]:
    """Start redis and an RE Manager with the profile; both are gone in the end."""
    start = program("start-re-manager")
    redis = shutil.which("redis-server")
    if redis is None:
        pytest.skip("no redis-server on this computer: plans are listed, but none is run from a queue")
    from bluesky_queueserver import ZMQCommSendThreads

    database, control, info = free_port(), free_port(), free_port()
    addresses = [f"--zmq-control-addr=tcp://127.0.0.1:{control}", f"--zmq-info-addr=tcp://127.0.0.1:{info}"]
    command = [start, "--startup-dir", str(installed.startup), f"--redis-addr=127.0.0.1:{database}"]
    with (tmp_path / "redis.log").open("wb") as one, (tmp_path / "manager.log").open("wb") as two:
        memory = [redis, "--port", str(database), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
        environment = {"env": installed.environment, "cwd": tmp_path}
        with running(memory, one) as store, running([*command, *addresses], two, **environment):
            client = ZMQCommSendThreads(zmq_server_address=f"tcp://127.0.0.1:{control}", timeout_recv=20_000)
            try:
                asked = Manager(client, store)
                asked.until(manager_state="idle")
                yield asked
                if store.poll() is not None:
                    return  # without its redis it can not even be asked to end
                client.send_message(method="environment_close")
                asked.until(worker_environment_exists=False, manager_state="idle")
                client.send_message(method="manager_stop", params={"option": "safe_off"})
            except BaseException:
                print((tmp_path / "manager.log").read_text()[-6000:])
                raise
            finally:
                client.close()


def eventually(found: Callable[[], Any], what: str) -> Any:
    """Look until there is something, and return it."""
    end, pause = time.monotonic() + BOUND, threading.Event()
    while time.monotonic() < end:
        if it := found():
            return it
        pause.wait(0.1)
    raise AssertionError(f"waited {BOUND:g} s for {what}")


def job_processes() -> list[str]:
    """Return the commands of the jobs' processes that descend from this test."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            ours = f"STREAMRECON_TEST={os.getpid()}".encode() in (entry / "environ").read_bytes()
            if ours and "bluesky_streamrecon" in command and not command.startswith(("python -m pytest", "start-re")):
                found.append(command)
    return found


@pytest.mark.usefixtures("no_orphans")
def test_scan_goes_on_to_its_end_when_redis_is_killed_and_its_job_ends_with_it(manager, installed):
    manager.ask("environment_open")
    manager.until(worker_environment_exists=True, manager_state="idle")
    wanted = {"num": 60, "threshold": 1.0, "window": 4, "algorithm": "sirt", "flats": 2, "darks": 2}
    scan = {"name": "stream_tomo_plan", "args": [["detector"], "stage"], "kwargs": wanted, "item_type": "plan"}
    manager.ask("queue_item_add", item=scan, user="anna", user_group="primary")
    manager.ask("queue_start")
    not_stored = installed.data / "not_stored"

    def documents(at_least: int) -> list[dict[str, Any]]:
        lines = [line for path in not_stored.glob("*.jsonl") for line in path.read_text().splitlines(keepends=True)]
        return [json.loads(line) for line in lines if line.endswith("\n")] if len(lines) >= at_least else []

    eventually(lambda: documents(20), "a scan on its way")
    assert job_processes()
    manager.redis.kill()
    manager.redis.wait(20)

    def stopped() -> list[dict[str, Any]]:
        return [
            each["doc"] for each in documents(1) if each["name"] == "stop" and "primary" in each["doc"]["num_events"]
        ]

    (stop,) = eventually(stopped, "the end of the scan")
    assert (stop["exit_status"], stop["num_events"]["primary"]) == ("success", 60)
    assert stop["reason"].startswith("all 60 projections taken")
    eventually(lambda: not job_processes(), "the end of the job")


def test_scan_from_the_queue_ends_by_quality_and_its_documents_are_kept(manager, installed):
    manager.ask("environment_open")
    manager.until(worker_environment_exists=True, manager_state="idle")
    manager.ask(
        "queue_item_add", item={"name": "check_devices_plan", "item_type": "plan"}, user="anna", user_group="primary"
    )
    scan = {
        "name": "stream_tomo_plan",
        "args": [["detector"], "stage"],
        "kwargs": {"num": 360, "threshold": 0.5, "window": 4, "algorithm": "sirt", "flats": 2, "darks": 2},
        "item_type": "plan",
    }
    manager.ask("queue_item_add", item=scan, user="anna", user_group="primary")
    manager.ask("queue_start")
    manager.until(items_in_queue=0, items_in_history=2, manager_state="idle")
    checked, done = manager.ask("history_get")["items"]
    assert checked["result"]["exit_status"] == "completed", checked["result"]
    assert done["result"]["exit_status"] == "completed", done["result"]
    uid = done["result"]["run_uids"][0]
    lines = (installed.data / "not_stored" / f"{uid}.jsonl").read_text().splitlines()  # there is no catalogue here
    documents = [json.loads(line) for line in lines]
    (stop,) = (each["doc"] for each in documents if each["name"] == "stop")
    assert stop["exit_status"] == "success"
    assert stop["reason"].startswith("quality: stopped at ")
    assert stop["num_events"]["primary"] < 360


@pytest.mark.usefixtures("no_orphans")
def test_scans_of_a_queue_are_paused_steered_stopped_aborted_and_halted_one_after_the_other_and_no_job_is_left(
    manager, installed, program
):
    manager.ask("environment_open")
    manager.until(worker_environment_exists=True, manager_state="idle")
    wanted = {"num": 3600, "threshold": 1.0, "window": 4, "algorithm": "sirt", "flats": 2, "darks": 2, "final": "none"}
    scan = {"name": "stream_tomo_plan", "args": [["detector"], "stage"], "kwargs": wanted, "item_type": "plan"}
    seen: set[Path] = set()

    def begun() -> Path | None:
        for path in set((installed.data / "not_stored").glob("*.jsonl")) - seen:
            lines = path.read_text()
            if '"plan_name": "stream_tomo_plan"' in lines and lines.count('"name": "event"') > 12:
                seen.add(path)
                return path
        return None

    found = []
    for number, order in enumerate(["finish", "re_stop", "re_abort", "re_halt"], 1):
        manager.ask("queue_clear")  # what was stopped is put back
        manager.ask("queue_item_add", item=scan, user="anna", user_group="primary")
        manager.ask("queue_start")
        path = eventually(begun, "a scan on its way")
        manager.ask("re_pause", option="deferred")
        manager.until(manager_state="paused")
        if order == "finish":
            manager.ask("re_resume")
            manager.until(manager_state="executing_queue")
            installed.run(program("streamrecon"), "steer", "finish", "seen enough")
        else:
            manager.ask(order)
        manager.until(items_in_history=number, manager_state="idle")
        stop = eventually(
            lambda path=path: [each for each in path.read_text().splitlines() if '"name": "stop"' in each],
            "its stop document",
        )
        document = json.loads(stop[0])["doc"]
        found.append((document["exit_status"], document["reason"]))
    assert [exit_status for exit_status, _ in found] == ["success", "success", "abort", "abort"]
    assert found[0][1].endswith("seen enough")
    assert "projections streamed" in found[1][1]
    ended = [each["result"]["exit_status"] for each in manager.ask("history_get")["items"]]
    assert ended == ["completed", "stopped", "aborted", "halted"]
    manager.ask("environment_close")
    manager.until(worker_environment_exists=False, manager_state="idle")
    eventually(lambda: not job_processes(), "the end of the job")
