"""What dies is started again, so often and so soon, and no oftener."""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
from pathlib import Path

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import pytest
from ophyd_async.core import wait_for_value

from bluesky_streamrecon.beamline import JobState, MpiLauncher
from bluesky_streamrecon.beamline.processes import ProcessExit
from bluesky_streamrecon.beamline.supervision import Supervision
from bluesky_streamrecon.errors import ConfigError, JobError
from bluesky_streamrecon.plans import streaming_wrapper
from bluesky_streamrecon.sim_devices import sim_beamline

BOUND = 20.0
JOB = ProcessExit("job of 2 ranks", -9, Path("/nowhere/job.log"), "MPI said nothing")
CONTROLLER = ProcessExit("controller", 1, Path("/nowhere/controller.log"), "")


def test_wait_doubles_up_to_the_limit_for_each_process_on_its_own():
    supervision = Supervision()
    assert [supervision.delay(JOB) for _ in range(4)] == [1.0, 2.0, 4.0, None]
    assert supervision.describe(JOB).endswith("MPI said nothing (after 3 restarts, the limit)")
    assert supervision.delay(CONTROLLER) == 1.0


def test_end_at_the_schedulers_time_limit_does_not_count():
    supervision = Supervision(restarts=1)
    timeout = ProcessExit("job of 2 ranks", 1, Path("/nowhere/job.log"), "", expected=True)
    assert [supervision.delay(timeout) for _ in range(3)] == [1.0, 1.0, 1.0]
    assert supervision.ordinal(timeout) == "time limit reached"
    assert supervision.delay(JOB) == 1.0
    assert Supervision(restarts=0).delay(timeout) is None


@pytest.mark.parametrize("arguments", [{"restarts": -1}, {"backoff": -0.5}])
def test_numbers_that_can_not_work_are_refused(arguments):
    with pytest.raises(ConfigError, match="supervision: got"):
        Supervision(**arguments)


# ----------------------------------------------------------------------------------------- the device


@pytest.fixture
def dying(pretend_job, script):
    """A job whose process dies whenever it is started, from the fifth projection on."""
    pretend_job.options.restarts, pretend_job.options.backoff = 2, 0.0
    script.lost_at = 5
    launcher = pretend_job.job.launcher

    def restart(exited):
        script.restarted.append(exited.role)
        if launcher.fails is not None:
            raise launcher.fails
        threading.Thread(target=launcher.endpoint.on_exit, args=(exited,)).start()

    launcher.fails, launcher.restart = None, restart
    return pretend_job


@pytest.fixture
def scan(run_engine, documents, tmp_path):
    def scanned(job, lost=True):
        beamline = sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True)

        def point(detectors, step, pos_cache):
            yield from bps.one_nd_step(detectors, step, pos_cache)
            if lost and 70 < step[beamline.stage] < 80:  # after the seventh of eight
                yield from bps.wait_for([lambda: wait_for_value(job.state, JobState.LOST, BOUND)])

        plan = bp.scan([beamline.detector], beamline.stage, 0, 90, 8, per_step=point)
        run_engine(streaming_wrapper(plan, job=job, detector=beamline.detector, angle=beamline.stage, references="own"))
        return next(doc for name, doc in documents if name == "stop")

    return scanned


def test_job_that_dies_too_often_is_lost_loudly_and_the_scan_goes_on(dying, script, scan, caplog):
    stop = scan(dying)
    assert script.restarted == ["job of 2 ranks"] * 2
    assert (stop["exit_status"], stop["num_events"]["primary"]) == ("success", 8)
    assert "is started again (restart 2 of 2)" in stop["reason"]
    assert "reconstruction job lost after " in stop["reason"]
    assert dying.last_run.lost
    assert "(after 2 restarts, the limit)" in dying.last_run.problems[-1]
    assert any(record.levelname == "ERROR" and "lost after" in record.message for record in caplog.records)


def test_job_that_can_not_be_started_again_is_lost_at_once(dying, script, scan):
    dying.job.launcher.fails = JobError("no more cores")
    stop = scan(dying)
    assert script.restarted == ["job of 2 ranks"]
    assert (
        "could not be started again: no more cores; before that: job of 2 ranks ended (killed by SIGKILL)"
        in (stop["reason"])
    )
    assert dying.last_run.lost


def test_state_tells_of_the_restart_that_is_awaited(run_engine, dying, script, scan):
    seen = []
    dying.options.backoff = 1e3  # it never comes
    dying.options.finish_timeout = 0.1
    script.never_done = True

    async def watch():
        dying.state.subscribe(lambda reading: seen.append(reading[dying.state.name]["value"]))

    asyncio.run_coroutine_threadsafe(watch(), run_engine.loop).result(BOUND)
    stop = scan(dying, lost=False)
    assert "no last image: no message from the job for 0.1 s" in stop["reason"]
    assert JobState.RESTARTING in seen
    assert JobState.LOST not in seen
    assert not dying.last_run.lost


# --------------------------------------------------------------------------------------- the launcher


def test_launcher_starts_only_what_has_ended_again_and_keeps_its_log(tmp_path, no_orphans):
    program = tmp_path / "mpiexec"
    program.write_text(f"#!{sys.executable}\nimport sys\nprint('started', flush=True)\nsys.stdin.readline()\n")
    program.chmod(0o755)
    exits: queue.Queue[ProcessExit] = queue.Queue()
    launcher = MpiLauncher(mpiexec=program, log_directory=tmp_path / "logs")
    launcher.start("tcp://127.0.0.1:5", "job-7", 2, exits.put)
    ranks, controller = launcher._children
    ranks._process.stdin.write(b"\n")
    ranks._process.stdin.flush()
    exited = exits.get(timeout=BOUND)
    assert (exited.role, launcher.running) == ("job of 2 ranks", False)
    launcher.restart(exited)
    again = launcher._children[0]
    assert (again.command, again.environment) == (ranks.command, ranks.environment)
    assert (launcher._children[1], launcher.running, again.pid != ranks.pid) == (controller, True, True)
    launcher.restart(exited)  # it runs: nothing to do
    assert launcher._children[0] is again
    launcher.stop(0.0)
    assert (tmp_path / "logs" / "job.log").read_text().count("started") >= 1
    launcher.restart(exited)
    assert launcher.pids == ()
