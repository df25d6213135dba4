"""Processes that are started, watched and ended: nothing survives, and what ended is told at once."""

from __future__ import annotations

import os
import queue
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import warnings

import pytest

from bluesky_streamrecon.beamline import MpiLauncher, find_mpiexec
from bluesky_streamrecon.beamline.processes import Child
from bluesky_streamrecon.errors import ConfigError, JobError

BOUND = 20.0

pytestmark = pytest.mark.usefixtures("no_orphans")

OBEDIENT = "import sys; print('ready', flush=True); sys.stdin.read()"
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('ready', flush=True)
while True:
    signal.pause()
"""
PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'], process_group=0)
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def exits():
    return queue.Queue()


@pytest.fixture
def child(tmp_path, exits):
    made = []

    def make(source, **kwargs):
        log = tmp_path / f"{len(made)}.log"
        made.append(Child("test", [sys.executable, "-c", source], log, on_exit=exits.put, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.stop(0.0)


def until(text, child):
    """Wait until a child has said something."""
    import threading

    pause = threading.Event()
    for _ in range(1000):
        if text in child.log.read_text():
            return
        pause.wait(0.01)
    raise AssertionError(f"{text!r} never came: {child.log.read_text()!r}")


def test_process_that_ends_unasked_is_told_with_status_and_last_lines(child, exits):
    child("print('one'); print('two'); raise SystemExit(3)")
    exited = exits.get(timeout=BOUND)
    assert (exited.code, exited.tail) == (3, "one\ntwo")
    assert "test ended (exit status 3); log: " in str(exited)


def test_process_that_ends_without_a_word_is_told_with_the_likely_reason(child, exits):
    """MPI's launcher ends where it can not write what its ranks say."""
    child("raise SystemExit(255)")
    assert str(exits.get(timeout=BOUND)).endswith("no output; is the disk of the log full?")


def test_process_that_is_killed_is_told_with_the_signal(child, exits):
    victim = child(OBEDIENT)
    until("ready", victim)
    os.kill(victim.pid, signal.SIGKILL)
    assert "killed by SIGKILL" in str(exits.get(timeout=BOUND))


def test_obedient_process_ends_when_its_standard_input_is_closed(child, exits):
    obedient = child(OBEDIENT)
    until("ready", obedient)
    obedient.stop(BOUND)
    assert obedient.code == 0
    assert exits.empty()


def test_stubborn_process_is_killed(child, monkeypatch):
    monkeypatch.setattr("bluesky_streamrecon.beamline.processes.TERM_SECONDS", 0.1)
    stubborn = child(STUBBORN)
    until("ready", stubborn)
    stubborn.stop(0.05)
    assert stubborn.code == -signal.SIGKILL


def test_what_a_process_started_ends_with_it_even_in_another_group(child, monkeypatch):
    monkeypatch.setattr("bluesky_streamrecon.beamline.processes.TERM_SECONDS", 2.0)
    parent = child(PARENT)
    until("\n", parent)
    parent.stop(BOUND)  # and `no_orphans` looks for the grandchild


def test_ctrl_c_at_the_prompt_does_not_reach_it(child):
    ours = child(OBEDIENT)
    until("ready", ours)
    assert os.getsid(ours.pid) == ours.pid != os.getsid(0)


def test_process_that_is_forked_from_ours_leaves_it_alone_when_it_ends(child, exits):
    ours = child(OBEDIENT)
    until("ready", ours)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads; nothing here needs one
        forked = os.fork()
    if forked == 0:
        ours.stop(0.0)
        os._exit(0)
    assert os.waitpid(forked, 0)[1] == 0
    assert not ours.wait(0.2)
    assert exits.empty()


def test_program_that_is_not_there_is_a_clear_error(tmp_path):
    with pytest.raises(JobError, match="'/no/such/program' can not be started"):
        Child("test", ["/no/such/program"], tmp_path / "log")


# ----------------------------------------------------------------------------------------- launcher


@pytest.fixture
def fake_mpiexec(tmp_path):
    """A program in mpiexec's place: prints arguments and environment, and waits until its input is closed."""
    program = tmp_path / "mpiexec"
    program.write_text(
        textwrap.dedent(f"""\
        #!{sys.executable}
        import os, sys
        print(sys.argv[1:], os.environ["NUMBA_NUM_THREADS"], flush=True)
        sys.stdin.read()
        """)
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


@pytest.fixture
def launcher(fake_mpiexec, tmp_path):
    made = MpiLauncher(mpiexec=fake_mpiexec, arguments=["-bind-to", "core"], threads=3, log_directory=tmp_path / "logs")
    yield made
    made.stop(0.0)


def test_ranks_are_started_with_what_they_need_to_know(launcher, exits, tmp_path):
    launcher.start("tcp://127.0.0.1:5", "job-7", 4, exits.put)
    ranks = launcher._children[0]
    until("\n", ranks)
    said = ranks.log.read_text()
    assert "['-n', '4', '-bind-to', 'core'" in said
    for word in (
        "'job'",
        "--address",
        "tcp://127.0.0.1:5",
        "--job-id",
        "job-7",
        "--watch-parent",
        "'--threads', '3'",
        "] 3",
    ):
        assert word in said
    assert len(launcher.pids) == 2
    assert str(tmp_path / "logs" / "job.log") in launcher.logs()
    launcher.stop(0.0)
    assert not launcher.running


def test_launcher_starts_again_after_it_was_stopped(launcher, exits):
    for _ in range(2):
        launcher.start("tcp://127.0.0.1:5", "job-7", 2, exits.put)
        with pytest.raises(JobError, match="has been started already"):
            launcher.start("tcp://127.0.0.1:5", "job-7", 2, exits.put)
        launcher.stop(0.0)


def test_log_of_a_process_that_was_started_again_stays_since_the_run_names_it(
    fake_mpiexec, exits, tmp_path, monkeypatch
):
    monkeypatch.setattr(sys, "executable", str(fake_mpiexec))  # the controller is as obedient as the ranks
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    launcher = MpiLauncher(mpiexec=fake_mpiexec)
    launcher.start("tcp://127.0.0.1:5", "job-7", 2, exits.put)
    os.kill(launcher.pids[0], signal.SIGKILL)
    exited = exits.get(timeout=BOUND)
    launcher.restart(exited)
    for child in launcher._children:
        until("\n", child)
    launcher.stop(0.0)
    (log,) = tmp_path.glob("streamrecon-job-*/job.log")
    assert str(log) in str(exited)


def test_missing_mpiexec_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(JobError, match="pip install mpich"):
        find_mpiexec()
    with pytest.raises(JobError, match="not a program that can be started"):
        find_mpiexec("/no/such/mpiexec")


def test_threads_must_be_positive():
    with pytest.raises(ConfigError, match="threads per rank: got 0"):
        MpiLauncher(threads=0)


@pytest.mark.parametrize("end", ["pass", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
def test_processes_end_with_the_interpreter_that_started_them(end, fake_mpiexec):
    """`no_orphans` looks for what is left."""
    source = textwrap.dedent(f"""
        from bluesky_streamrecon.beamline import MpiLauncher
        launcher = MpiLauncher(mpiexec={str(fake_mpiexec)!r})
        launcher.start("tcp://127.0.0.1:5", "job", 2, print)
        {end}
    """)
    subprocess.run([sys.executable, "-c", source], timeout=BOUND * 2, check=False)


def test_a_number_of_ranks_that_this_computer_can_not_carry_is_refused_before_anything_starts(tmp_path):
    launcher = MpiLauncher(most_ranks=3, log_directory=tmp_path / "logs")
    launcher.check_ranks(3)
    with pytest.raises(ConfigError, match=r"ranks: got 4, expected at most 3 on this computer .*most_ranks"):
        launcher.start("tcp://127.0.0.1:1", "job", 4, lambda _: None)
    assert not launcher.pids
    assert not (tmp_path / "logs").exists()
    MpiLauncher().check_ranks(16)
    with pytest.raises(ConfigError, match="got 100000"):
        MpiLauncher().check_ranks(100_000)
    with pytest.raises(ConfigError, match="most_ranks: got 0"):
        MpiLauncher(most_ranks=0)
