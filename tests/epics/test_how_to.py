"""The how-to for a first scan with devices of one's own, word by word: its blocks are what is run here."""

from __future__ import annotations

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pexpect
import pytest

from .conftest import ADDRESSES, Ioc

pytestmark = [pytest.mark.epics, pytest.mark.mpi, pytest.mark.timeout(590), pytest.mark.usefixtures("no_orphans")]

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "first-scan-with-your-devices.md").read_text()
PROMPT = re.compile(r"In \[\d+\]: ")
BOUND = 150.0
QUALITY = r"quality: stopped at \d+ of 40"


def blocks(language):
    """Return the page's blocks in one language, as lists of lines."""
    return [block.splitlines() for block in re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)]


INSTALL, PROFILE, CHECK, IPYTHON, MANAGER, QUEUE = blocks("shell")
(DEVICES,) = blocks("python")


@dataclass(frozen=True)
class Computer:
    """A person's home, and what a shell of theirs has in its environment."""

    home: Path
    environment: dict[str, str]

    def run(self, line):
        """Type a line into a shell; return what it printed."""
        options = {"env": self.environment, "cwd": self.home, "timeout": BOUND, "text": True}
        done = subprocess.run(["bash", "-c", line], capture_output=True, check=False, **options)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def computer(tmp_path_factory):
    """Do what the page says up to the edited file, beside a soft IOC with the page's names."""
    home = tmp_path_factory.mktemp("home")
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")  # of compiled kernels
    environment = os.environ | {
        "HOME": str(home),
        "XDG_CACHE_HOME": cache,
        "COLUMNS": "200",
        "PYTHONWARNINGS": "default",
    }
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for name in (
        "DISPLAY",
        "IPYTHONDIR",
        "STREAMRECON_DATA",
        "STREAMRECON_CONFIG",
        "XDG_STATE_HOME",
        "XDG_CONFIG_HOME",
    ):
        environment.pop(name, None)
    made = Computer(home, environment)
    ioc = Ioc(home, ADDRESSES[0], prefix="BL01:").start()
    assert INSTALL[1].startswith("pip install bluesky-streamrecon")
    (line,) = PROFILE
    made.run(line)
    path = re.search(r"write this to `~/(\S+)`", PAGE)[1]
    assert (home / path).exists()
    (home / path).write_text("\n".join([*DEVICES, ""]))
    yield made
    ioc.kill()


def test_check_finds_that_the_devices_work_and_names_the_plans_of_a_queue(computer):
    (line,) = CHECK
    said = computer.run(line)
    for item in ("stage stage", "shutter shutter", "sample_table sample_table", "detector detector", "queue"):
        assert re.search(rf"OK\s+{item}: ", said), said
    assert re.search(r"queue: a queue server lists the plans .*\bstream_tomo_plan\b", said)
    assert "ERROR" not in said


def test_scan_at_the_prompt_ends_by_quality(computer):
    (command,) = IPYTHON
    words = f"-c '{command} --no-banner --simple-prompt --no-confirm-exit'"
    with (computer.home / "prompt.log").open("w") as log:
        options = {"cwd": str(computer.home), "encoding": "utf-8", "timeout": BOUND, "dimensions": (50, 200)}
        child = pexpect.spawn(f"bash {words}", env=computer.environment, logfile=log, **options)
        try:
            child.expect(PROMPT)
            said = {line: say(child, line) for block in blocks("ipython") for line in block}
            child.sendline("exit")
            child.expect(pexpect.EOF)
        finally:
            child.close(force=True)
    checked, scan, shown = said.values()
    assert checked.count("     OK  ") == 4
    assert re.search(rf"success: {QUALITY}", scan), scan
    assert "reconstruction-" in shown
    assert not any("Traceback" in each for each in said.values())


def say(child, line):
    """Type a line at the prompt; return what was printed before the next one."""
    child.sendline(line)
    child.expect(PROMPT)
    return child.before


@contextmanager
def running(line, computer, log):
    """Run a line of the page in a terminal of its own, until the end of the block."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            line.split(), env=computer.environment, cwd=computer.home, stdout=out, stderr=subprocess.STDOUT
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(BOUND)


@pytest.fixture
def redis_and_ports(computer, tmp_path):
    """Start redis, and have the page's programs find it, and each other, at ports that nobody else has."""
    if shutil.which("redis-server") is None or not (Path(sys.executable).parent / "start-re-manager").exists():
        pytest.skip("no redis-server here, or no bluesky-queueserver (extra 'runners')")
    database, control, info = (free_port() for _ in range(3))
    settings = tmp_path / "manager.yml"
    settings.write_text(f"network:\n  redis_addr: 127.0.0.1:{database}\n")
    computer.environment.update(
        QSERVER_CONFIG=str(settings),
        QSERVER_ZMQ_CONTROL_ADDRESS_FOR_SERVER=f"tcp://127.0.0.1:{control}",
        QSERVER_ZMQ_INFO_ADDRESS_FOR_SERVER=f"tcp://127.0.0.1:{info}",
        QSERVER_ZMQ_CONTROL_ADDRESS=f"tcp://127.0.0.1:{control}",
        QSERVER_ZMQ_INFO_ADDRESS=f"tcp://127.0.0.1:{info}",
    )
    line = f"redis-server --port {database} --bind 127.0.0.1 --save '' --dir {tmp_path}".replace("''", "")
    with running(line, computer, tmp_path / "redis.log"):
        yield


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.usefixtures("redis_and_ports")
def test_the_same_scan_from_a_queue_ends_by_quality(computer, tmp_path):
    (manager,), (open_line, add, start, status, history) = MANAGER, QUEUE
    log = tmp_path / "manager.log"

    def until(**wanted):
        pause = threading.Event()
        for _ in range(60):
            said = subprocess.run(
                status.split(), env=computer.environment, capture_output=True, text=True, timeout=BOUND, check=False
            )
            found = answered(said.stdout)
            if all(found.get(name) == value for name, value in wanted.items()):
                return
            pause.wait(3.0)  # each look starts an interpreter, which takes the cores from what is waited for
        raise AssertionError(f"waited for {wanted}: {said.stdout}\n{log.read_text()[-4000:]}")

    with running(manager, computer, log):
        until(manager_state="idle")
        computer.run(open_line)
        until(worker_environment_exists=True, manager_state="idle")
        computer.run(add)
        computer.run(start)
        until(items_in_history=1, manager_state="idle")
        (done,) = answered(computer.run(history))["items"]
        assert done["result"]["exit_status"] == "completed", done["result"]
        (uid,) = done["result"]["run_uids"]
        assert re.search(QUALITY, computer.run(f"streamrecon runs --json | grep -o '{uid}.*'"))
        computer.run("qserver environment close")
        until(worker_environment_exists=False, manager_state="idle")


def answered(said):
    """Return what qserver printed as Python's words."""
    found = re.search(r"\{.*\}", said, flags=re.DOTALL)
    return ast.literal_eval(found[0]) if found else {}
