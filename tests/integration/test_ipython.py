"""The installed profile at a real IPython prompt, driven as a person would."""

import gc
import os
import re
import sys
from pathlib import Path

import pexpect
import pytest
from tiled_tables import give_tables

from bluesky_streamrecon.profile import install_profile

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(240)]

PROMPT = re.compile(r"In \[\d+\]: ")
OURS = "bluesky_streamrecon"
# What is imported until the first prompt stays: looking through it for garbage takes about a second.
WITHOUT_GC = "import gc; gc.set_threshold(0); from IPython import start_ipython; start_ipython()"


def job_processes(session: str) -> dict[int, str]:
    """Return pid and command of every process of ours that carries this session's mark in its environment."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if session.encode() in environment and OURS in command:
            found[int(entry.name)] = command
    return found


@pytest.fixture(scope="module")
def ipython(tmp_path_factory):
    """Yield a started IPython with the profile, and the mark that its processes carry; nothing survives it.

    Starting it takes as long as a scan, so all scans are taken in one, as a person does.
    """
    tmp_path = tmp_path_factory.mktemp("ipython")
    install_profile("tomo", tmp_path / "ipython")
    give_tables(tmp_path / "data")
    mark = f"streamrecon-test-{os.getpid()}-{tmp_path.name}"
    environment = os.environ | {
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "STREAMRECON_DATA": str(tmp_path / "data"),
        "STREAMRECON_TEST_MARK": mark,
        "COLUMNS": "200",
        "PYTHONWARNINGS": "default",
    }
    environment.pop("DISPLAY", None)
    with (tmp_path / "prompt.log").open("w") as log:
        child = pexpect.spawn(
            sys.executable,
            ["-c", WITHOUT_GC, "--profile=tomo", "--no-banner", "--simple-prompt", "--no-confirm-exit"],
            env=environment,
            cwd=str(tmp_path),
            encoding="utf-8",
            timeout=100,
            dimensions=(50, 200),
            logfile=log,
        )
        child.ptyproc.delayafterterminate = 2.0  # a busy computer needs more than the tenth of a second to end it
        try:
            child.expect(PROMPT)
            say(child, f"import gc; gc.freeze(); gc.set_threshold(*{gc.get_threshold()})")
            yield child, mark
        finally:
            child.close(force=True)
    assert job_processes(mark) == {}


def press_ctrl_c(child: pexpect.spawn, expected: str | re.Pattern[str]) -> None:
    """Press Ctrl-C until it is heard, as a person does: bluesky may miss one that comes while it looks elsewhere."""
    for _ in range(5):
        child.sendintr()
        if child.expect([expected, pexpect.TIMEOUT], timeout=8) == 0:
            return
    raise AssertionError(f"Ctrl-C was not heard: waited for {expected}")


def say(child: pexpect.spawn, line: str) -> str:
    """Type a line and give what was printed before the next prompt."""
    child.sendline(line)
    child.expect(PROMPT)
    return child.before


def test_plan_without_arguments_prints_the_score_and_ends_by_quality(ipython):
    child, _ = ipython
    printed = say(child, "result = RE(stream_tomo_plan())")
    assert re.search(r"Scan 1 \(\w{8}\): 180 projections in optimized-interleaved order", printed)
    assert re.search(r"\d+ of 180 +[\d.]+ +\d+ +0\.\d{4} ", printed), "no score in the table"
    assert max(len(line) for line in printed.splitlines() if " of 180 " in line and "ended" not in line) <= 80
    assert re.search(r"Scan 1 \(\w{8}\) ended after 0:\d\d, success: quality: stopped at \d+ of 180", printed)
    assert "Traceback" not in printed
    reason = say(child, "raw = catalog[result[0]].metadata; print(raw['stop']['reason'])")
    assert re.search(
        r"quality: stopped at \d+ of 180 projections: .*the remaining \d+ \w+ predicted to improve ", reason
    )
    assert re.search(r"the image by 0\.\d+ MS-SSIM, at most 0\.\d+ \(tolerance 0\.02\)", reason)
    say(child, "recon_uid = raw['start']['streamrecon']['recon_uid']")
    assert "True" in say(child, "print(catalog[recon_uid].metadata['start']['raw_run_uid'] == result[0])")
    assert "True" in say(child, "print(db[recon_uid].start['raw_run_uid'] == result[0])")
    say(child, "from bluesky_streamrecon.storage import load_reconstruction")
    assert "(16, 256, 256)" in say(child, "print(load_reconstruction(catalog, recon_uid).shape)")
    assert "(1, 16, 256)" in say(child, "print(catalog[result[0]]['primary']['detector'][0].shape)")
    assert "reconstruction-" in say(child, "figure = show_last()")


def test_person_at_the_prompt_has_the_last_word_while_the_scan_is_paused(ipython):
    child, _ = ipython
    refused = say(child, "finish_now('good enough')")
    assert "SteeringError: " in refused
    assert "Traceback" not in refused
    assert "Traceback" in say(child, "%tb")
    refused = say(child, "RE(stream_tomo_plan(policy='mine'))")
    assert "ConfigError: stopping policy: got 'mine'" in refused
    assert "Traceback" not in refused
    say(child, "recon_job.options.keep_alive = True  # the next test's lines have this job, too")
    child.sendline("RE(stream_tomo_plan(num=60, threshold=1.0))")
    child.expect(r"\n +6 of 60 ")
    press_ctrl_c(child, r"A 'deferred pause'")
    press_ctrl_c(child, PROMPT)
    told = say(child, "status()")
    assert re.search(r"projections +\d+ of 60 streamed", told)
    assert re.search(r"held +no", told)
    assert "held: no automatic stop" in say(child, "hold('wait for Anna')")
    assert "wait for Anna" in say(child, "recon_job.status()")
    assert "ends as a success" in say(child, "finish_now('good enough', who='ben')")
    say(child, "result = RE.resume()")
    stop = say(
        child, "run = catalog[result[0]]; print(run.metadata['stop']['exit_status'], run.metadata['stop']['reason'])"
    )
    assert "success operator ben: good enough" in stop
    say(child, "rows = {name: run['steering'][f'recon_job-steering-{name}'].read() for name in ('who', 'verdict')}")
    rows = say(child, "print([f'{v} by {w}' for w, v in zip(rows['who'], rows['verdict']) if w])")
    assert "hold by" in rows
    assert "finish by ben" in rows


def readme(language: str) -> list[str]:
    """Return the lines of the README's blocks in one language, without comments."""
    text = (Path(__file__).parents[2] / "README.md").read_text()
    blocks = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def test_every_line_for_the_prompt_in_the_readme_runs_and_every_scan_leaves_an_image(ipython):
    child, _ = ipython
    say(child, "from bluesky_streamrecon.sim_devices import sim_beamline; from bluesky_streamrecon.storage import *")
    small = "rows=4, columns=96, instant=True"  # else as in the profile
    say(child, f"quick = sim_beamline(directory=configuration.data / 'detector', {small})")
    say(child, "use_beamline(quick, recon_job, storage=storage)")
    say(child, "detector, stage, shutter = quick.detector, quick.stage, quick.shutter")
    say(child, "recon_job.options.keep_alive = True  # it starts once for all lines")
    say(child, "as_installed = stream_tomo_plan, stream_tomo_fly_plan")
    say(child, "stream_tomo_plan, stream_tomo_fly_plan = (with_settings(each, {'num': 40}) for each in as_installed)")
    lines = readme("python")
    assert len(lines) == 6
    for line in lines:
        shorter = line.replace("num=361", "num=41").replace("0, 179, 180", "0, 179, 40")
        assert "Traceback" not in say(child, f"uids = {shorter}"), line
        if "bps." in line:
            continue
        assert "success" in say(child, "stop = catalog[uids[0]].metadata['stop']; print(stop['exit_status'])"), line
        if "take_references_plan" not in line:
            # A scan that takes no time may be over before an image of it is scored.
            assert "True" in say(
                child, "print('no light' not in stop['reason'] and 'no final image' not in stop['reason'])"
            ), line
            assert "(4, 96, 96)" in say(child, "print(load_reconstruction(catalog, uids[0]).shape)"), line
    assert "with 10 flats and 10 darks of run" in say(child, "print(stop['reason'])")
    say(child, "stream_tomo_plan, stream_tomo_fly_plan = as_installed")
    say(
        child,
        "use_beamline(beamline, recon_job, storage=storage); recon_job.options.keep_alive = False; recon_job.close()",
    )


def test_every_line_for_the_shell_in_the_readme_is_one_that_a_test_or_the_build_runs():
    assert readme("shell") == [
        "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/streamrecon demo",  # test_demo
        'python3 -m venv .venv && .venv/bin/pip install -q -e ".[test]" && .venv/bin/pytest',  # .ci/run
        ".venv/bin/streamrecon profile install tomo",  # test_install, test_program
        ".venv/bin/ipython --profile=tomo",  # here
    ]


def test_abort_after_a_pause_leaves_no_process_the_next_run_works_and_ipython_ends(ipython):
    child, mark = ipython
    child.sendline("RE(stream_tomo_plan())")
    child.expect(r"\n +7 of 180 ")  # a row of the table
    assert len(job_processes(mark)) >= 3  # mpiexec's ranks and the controller
    press_ctrl_c(child, r"A 'deferred pause'")
    press_ctrl_c(child, PROMPT)
    assert "paused" in say(child, "RE.state")
    assert job_processes(mark), "the job must stay while the scan is paused"
    assert "Traceback" not in say(child, "RE.abort()")
    assert job_processes(mark) == {}
    assert "idle" in say(child, "RE.state")
    flight = "num=12, order='interlaced(2)', velocity=60, window=4, threshold=1.0"
    printed = say(child, f"result = RE(stream_tomo_fly_plan({flight}))")
    assert "Traceback" not in printed
    assert "success" in say(child, "print(catalog[result[0]].metadata['stop']['exit_status'])")
    say(child, "gc.freeze()")
    child.sendline("exit()")
    child.expect(pexpect.EOF)
