"""A job by a batch system: submitted, followed, submitted again, cancelled. Slurm's commands are pretended here."""

from __future__ import annotations

import os
import queue
import stat
import sys
import textwrap
import time
from pathlib import Path

import pytest

from bluesky_streamrecon.beamline import SlurmLauncher, make_launcher
from bluesky_streamrecon.beamline import slurm as slurm_module
from bluesky_streamrecon.beamline.processes import ProcessExit
from bluesky_streamrecon.config_file import load_config_file
from bluesky_streamrecon.errors import ConfigError, JobError

BOUND = 20.0
PRETENDED = """\
    #!{python}
    import pathlib, sys
    here = pathlib.Path({here!r})
    name, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
    with (here / "said").open("a") as said:
        print(name, *words, file=said)
    if (here / f"{{name}}-hangs").exists():
        (here / f"{{name}}-hangs").read_text()  # a pipe that nobody writes to
    if (here / f"{{name}}-fails").exists():
        sys.exit((here / f"{{name}}-fails").read_text())
    if name == "sbatch":
        number = len(list(here.glob("job-*"))) + 41
        (here / f"job-{{number}}").write_text("RUNNING")
        print(f"{{number}};cluster")
    elif name == "squeue":
        number = next(word.partition("=")[2] for word in words if word.startswith("--jobs="))
        print((here / f"job-{{number}}").read_text())
    elif name == "scancel":
        (here / f"job-{{words[0]}}").write_text("CANCELLED")
    """


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A directory with Slurm's commands, on the PATH."""
    here = tmp_path / "slurm"
    here.mkdir()
    for name in ("sbatch", "squeue", "scancel"):
        program = here / name
        program.write_text(textwrap.dedent(PRETENDED.format(python=sys.executable, here=str(here))))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(here), prepend=":")
    return here


@pytest.fixture
def exits():
    return queue.Queue()


@pytest.fixture
def launcher(slurm, tmp_path):
    made = SlurmLauncher(
        options=["--partition=short", "--time=00:10:00"],
        setup=["module load mpi"],
        run=["srun", "--mpi=pmi2"],
        python="/opt/python",
        directory=tmp_path / "shared",
        security_options=["--key", "/keys/cluster.secret", "--server-key", "/keys/beamline.public"],
        control_options=["--preview-bind", "tcp://*:*"],
        poll=0.02,
    )
    yield made
    made.stop(0.0)


def said(slurm: Path, name: str) -> list[str]:
    return [line for line in (slurm / "said").read_text().splitlines() if line.startswith(name)]


def test_script_asks_for_the_ranks_and_starts_both_with_what_they_need_to_know(launcher, slurm, exits, tmp_path):
    launcher.start("tcp://10.0.0.1:5555", "job 7", 16, exits.put)
    assert (launcher.running, launcher.job_number) == (True, "41")
    (submitted,) = said(slurm, "sbatch")
    script = Path(submitted.split()[-1])
    assert script == tmp_path / "shared" / "streamrecon-job_7.sh"
    text = script.read_text()
    assert text.startswith("#!/bin/bash\n#SBATCH --ntasks=16\n")
    for line in ("#SBATCH --partition=short", "#SBATCH --time=00:10:00", "module load mpi"):
        assert f"\n{line}\n" in text
    control, ranks = (line for line in text.splitlines() if "bluesky_streamrecon" in line)
    us = "/opt/python -m bluesky_streamrecon"
    assert control.startswith(f"{us} control --address tcp://10.0.0.1:5555 --job-id 'job 7'")
    assert control.endswith("--preview-bind 'tcp://*:*' &")
    assert ranks.startswith(f"srun --mpi=pmi2 -n 16 {us} job --address tcp://10.0.0.1:5555")
    for words in ("--key /keys/cluster.secret", "--server-key /keys/beamline.public", "--checkpoints", "--threads"):
        assert words in ranks
    assert "state RUNNING; log: " in launcher.logs()


def test_job_that_fails_is_told_with_its_state_and_log(launcher, slurm, exits, tmp_path):
    launcher.start("tcp://10.0.0.1:5555", "job", 2, exits.put)
    (tmp_path / "shared" / "streamrecon-41.log").write_text("no such module\n")
    (slurm / "job-41").write_text("FAILED")
    exited = exits.get(timeout=BOUND)
    assert exited.role == "job of 2 ranks"
    assert not exited.expected
    assert exited.tail == "Slurm says FAILED\nno such module"
    assert not launcher.running


@pytest.mark.parametrize("state", ["TIMEOUT", "PREEMPTED", "NODE_FAIL"])
def test_job_at_the_end_of_its_time_is_submitted_again(launcher, slurm, exits, state):
    launcher.start("tcp://10.0.0.1:5555", "job", 2, exits.put)
    (slurm / "job-41").write_text(state)
    exited = exits.get(timeout=BOUND)
    assert exited.expected
    launcher.restart(exited)
    assert (launcher.running, launcher.job_number) == (True, "42")
    launcher.restart(exited)  # it is there: nothing to do
    assert len(said(slurm, "sbatch")) == 2
    assert len(set(said(slurm, "sbatch"))) == 1  # with the same script


def test_stop_cancels_a_job_that_does_not_end_by_itself_and_nobody_is_told(launcher, slurm, exits):
    launcher.start("tcp://10.0.0.1:5555", "job", 2, exits.put)
    launcher.stop(0.05)
    launcher.stop(0.05)
    assert said(slurm, "scancel") == ["scancel 41"]
    assert not launcher.running
    assert exits.empty()
    launcher.restart(ProcessExit("job of 2 ranks", 1, Path("/nowhere"), ""))
    assert len(said(slurm, "sbatch")) == 1


def test_job_that_ended_by_itself_is_not_cancelled(launcher, slurm, exits):
    launcher.start("tcp://10.0.0.1:5555", "job", 2, exits.put)
    (slurm / "job-41").write_text("COMPLETED")
    launcher.stop(BOUND)
    assert said(slurm, "scancel") == []


def test_stop_returns_soon_and_names_the_job_when_slurm_does_not_answer(launcher, slurm, exits, monkeypatch, caplog):
    assert slurm_module.CANCEL_SECONDS <= 10  # what a plan waits for
    monkeypatch.setattr(slurm_module, "CANCEL_SECONDS", 0.3)
    launcher.start("tcp://10.0.0.1:5555", "job", 2, exits.put)
    for name in ("squeue", "scancel"):
        os.mkfifo(slurm / f"{name}-hangs")
    began = time.monotonic()
    launcher.stop(0.3)
    took = time.monotonic() - began
    assert took < 10  # not a command's whole time for each look at the queue
    assert "job 41 is left in the queue: scancel: no answer" in caplog.text
    assert "end it by 'scancel 41'" in caplog.text


def test_job_that_can_not_be_submitted_is_a_clear_error(launcher, slurm, exits):
    (slurm / "sbatch-fails").write_text("sbatch: error: invalid partition specified: short")
    with pytest.raises(JobError, match="invalid partition specified: short"):
        launcher.start("tcp://10.0.0.1:5555", "job", 2, exits.put)
    assert not launcher.running


def test_queue_that_can_not_be_seen_for_a_moment_is_no_end(launcher, slurm, exits):
    launcher.start("tcp://10.0.0.1:5555", "job", 2, exits.put)
    (slurm / "squeue-fails").write_text("slurm_load_jobs error: Unable to contact slurm controller")
    exited = exits.get(timeout=BOUND)  # three times running it is one
    assert len(said(slurm, "squeue")) >= 3
    assert exited.tail == "Slurm says UNKNOWN"


def test_without_slurm_the_error_says_so(tmp_path, monkeypatch, exits):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(JobError, match="is Slurm installed on this computer"):
        SlurmLauncher(directory=tmp_path).start("tcp://10.0.0.1:5555", "job", 2, exits.put)


def test_numbers_that_can_not_work_are_refused():
    with pytest.raises(ConfigError, match="slurm: got poll=0"):
        SlurmLauncher(poll=0)


def test_configuration_makes_the_launcher(tmp_path, slurm, exits):
    file = tmp_path / "config.toml"
    file.write_text(
        f'[job]\nlauncher = "slurm"\nranks = 3\n[job.slurm]\noptions = ["--qos=fast"]\ndirectory = "{tmp_path}/x"\n'
    )
    launcher = make_launcher(load_config_file(file))
    launcher.start("tcp://127.0.0.1:1", "job", 3, exits.put)
    assert "#SBATCH --qos=fast" in (tmp_path / "x" / "streamrecon-job.sh").read_text()
    launcher.stop(0.0)
