"""A scan ends with the session at whose prompt it was begun, however that is left; driven at a real prompt."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from bluesky_streamrecon.profile import end_scan_with_session

pytestmark = pytest.mark.timeout(120)

PROMPT = re.compile(r"In \[\d+\]: ")

SESSION = """
import asyncio, gc, json, os, signal, sys
from pathlib import Path
import bluesky.plan_stubs as bps, bluesky.preprocessors as bpp
from bluesky import RunEngine
from bluesky_streamrecon.profile import _leaving, end_scan_with_session

left = Path("left.jsonl")

def write(**what):
    with left.open("a") as file:
        file.write(json.dumps(what) + "\\n")

RE = RunEngine()
RE.subscribe(lambda name, doc: name == "stop" and write(stop=[doc["exit_status"], doc["reason"]]))
end_scan_with_session(RE)

def close_shutter():
    async def close():
        await asyncio.to_thread(print, "the shutter is closed in a thread")
    yield from bps.wait_for([close])
    write(clean="the shutter is closed")

@bpp.finalize_decorator(close_shutter)
def scan(then):
    yield from bps.open_run()
    yield from bps.checkpoint()
    yield from then()

@bpp.finalize_decorator(lambda: hold())
def scan_that_never_ends():
    yield from bps.pause()

def end_of_child():
    here, there = os.pipe()
    child = os.fork()
    if not child:
        os.write(there, b"!")  # before that, Python loses signals
        while True:
            pass
    os.read(here, 1)
    os.kill(child, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def hold():
    async def for_ever():
        print("HOLDING", flush=True)
        await asyncio.Event().wait()
    yield from bps.wait_for([for_ever])

gc.freeze()
"""
# What is imported stays: to look through it for garbage, and once more in the end, takes half as long as all else.
WITHOUT_GC = "import gc; gc.set_threshold(0); from IPython import start_ipython; start_ipython()"


@pytest.fixture
def prompt(tmp_path: Path) -> Iterator[pexpect.spawn]:
    """Yield an IPython whose RunEngine ends its scan with the session."""
    (tmp_path / "session.py").write_text(SESSION)
    child = pexpect.spawn(
        sys.executable,
        ["-c", WITHOUT_GC, "--no-banner", "--simple-prompt", "--no-confirm-exit", "-i", "session.py"],
        env=os.environ | {"IPYTHONDIR": str(tmp_path / "ipython")},
        cwd=str(tmp_path),
        encoding="utf-8",
        timeout=50,
        dimensions=(50, 200),
    )
    child.ptyproc.delayafterterminate = 2.0
    try:
        child.expect(PROMPT)
        yield child
    finally:
        child.close(force=True)


LEAVE = {
    "exit": lambda prompt: prompt.sendline("exit"),
    "Ctrl-D": lambda prompt: prompt.sendeof(),
    "SIGTERM": lambda prompt: prompt.kill(signal.SIGTERM),
    "closed terminal": lambda prompt: prompt.ptyproc.fileobj.close(),
}


@pytest.mark.parametrize(
    ("plan", "way"),
    [
        *(("scan(bps.pause)", way) for way in LEAVE),
        ("scan(hold)", "SIGTERM"),
        ("scan(hold)", "closed terminal"),
    ],
)
def test_scan_that_is_left_cleans_up_and_its_run_says_that_the_session_ended(prompt, tmp_path, plan, way):
    prompt.sendline(f"RE({plan})")
    prompt.expect("HOLDING\r" if "hold" in plan else PROMPT)
    LEAVE[way](prompt)
    prompt.ptyproc.wait()
    cleaned, stopped = map(json.loads, (tmp_path / "left.jsonl").read_text().splitlines())
    assert cleaned == {"clean": "the shutter is closed"}
    assert stopped == {"stop": ["abort", "the session ended"]}


@pytest.mark.parametrize("seconds", [0.1, 180.0])
def test_clean_up_that_hangs_is_given_up_after_a_while_or_by_a_second_signal(prompt, seconds):
    prompt.sendline(f"_leaving.CLEAN_UP_SECONDS = {seconds}; RE(scan_that_never_ends())")
    prompt.expect(PROMPT)
    prompt.kill(signal.SIGTERM)
    prompt.expect("HOLDING\r")
    if seconds == 180.0:
        prompt.kill(signal.SIGTERM)
    assert prompt.ptyproc.wait() is None
    assert prompt.ptyproc.signalstatus == signal.SIGTERM


def test_process_that_a_session_has_forked_ends_by_itself_and_not_the_scan(prompt):
    prompt.sendline("RE(scan(bps.pause))")
    prompt.expect(PROMPT)
    prompt.sendline("print('ENDED', end_of_child(), RE.state)")
    prompt.expect(r"ENDED -15 paused\r")


def test_without_a_prompt_signals_keep_their_ways(run_engine):
    end_scan_with_session(run_engine)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
