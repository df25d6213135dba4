"""`ReconJob` with a real endpoint, and ranks and controller that this process plays over real sockets."""

from __future__ import annotations

import asyncio
import logging
import threading

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import numpy as np
import pytest

from bluesky_streamrecon.beamline import JobState, ReconJob, job_runs
from bluesky_streamrecon.beamline.serving import QueuedFrame
from bluesky_streamrecon.errors import ConfigError, JobError
from bluesky_streamrecon.plans import streaming_wrapper
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings
from bluesky_streamrecon.sim_devices import sim_beamline
from bluesky_streamrecon.wire import (
    CloseRun,
    ControllerEndpoint,
    Item,
    OpenRun,
    Problem,
    RankEndpoint,
    RunDone,
    Score,
    Status,
)

BOUND = 20.0


@pytest.fixture
def beamline(run_engine, tmp_path):
    return sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True)


@pytest.fixture
def attached():
    """A job that somebody else starts."""
    job = ReconJob("job", local=False, job_id="elsewhere", start_timeout=BOUND, finish_timeout=BOUND)
    yield job
    job.close()


class Player:
    """Plays one rank, or the controller, until it is told to go."""

    def __init__(self, address, *, rank=None, size=2, scores=()):
        self.sums = []
        self.scores = scores
        self.rank = rank
        if rank is None:
            self.endpoint = ControllerEndpoint(address, job_id="elsewhere")
        else:
            self.endpoint = RankEndpoint(address, job_id="elsewhere", rank=rank, size=size)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.play)
        self.thread.start()

    def play(self):
        run, count = None, 0
        while not self.over.is_set():
            match event := self.endpoint.next(0.05):
                case OpenRun():
                    run, count = event, 0
                    if self.rank is None and self.scores is None:
                        text = "run will not be judged"
                        self.endpoint.send(Problem(fault="local", where="steering", text=text))
                    elif self.rank is None:
                        for number, score in enumerate(self.scores, 1):
                            self.endpoint.send(
                                Score(
                                    run_uid=run.run_uid,
                                    image_number=number,
                                    projections=number,
                                    score=score,
                                    policy="ms-ssim",
                                )
                            )
                case Item(kind=kind, seq=seq, pixels=pixels):
                    self.sums.append(int(pixels.sum()))
                    count += kind == "projection"
                    self.endpoint.applied(seq)
                    about = {"run_uid": run.run_uid, "rank": self.rank, "image_number": count}
                    self.endpoint.send(Status(state="running", projections=count, **about))
                case CloseRun() if self.rank is not None:
                    self.endpoint.send(RunDone(run_uid=run.run_uid, rank=self.rank, image_number=count, axis=15.5))
        self.endpoint.close()

    def join(self):
        self.over.set()
        self.thread.join(BOUND)
        assert not self.thread.is_alive()


@pytest.fixture
def players():
    made = []
    yield made
    for player in made:
        player.join()


def test_staging_that_is_given_up_ends_with_it_and_not_with_its_time_when_another_scan_may_have_begun(
    run_engine, attached
):
    async def given_up():
        staged = attached.stage()
        while attached.job.link is None:
            await asyncio.sleep(0)
        await attached.unstage()
        return staged.done and staged.exception()

    assert asyncio.run_coroutine_threadsafe(given_up(), run_engine.loop).result(BOUND / 2) is None


def when_bound(job, in_thread, then):
    """Do something as soon as the job's address is known."""
    pause = threading.Event()

    def wait():
        for _ in range(2000):
            if job.address is not None:
                then()
                return
            pause.wait(0.01)
        raise AssertionError("the job was never staged")

    in_thread(wait)


def test_job_that_somebody_else_starts_is_waited_for_and_served(
    run_engine, documents, attached, beamline, players, in_thread, of_stop
):
    when_bound(
        attached,
        in_thread,
        lambda: players.extend(
            [
                Player(attached.address, rank=0),
                Player(attached.address, rank=1),
                Player(attached.address, scores=[None, 0.5, 0.6, 0.7, 0.8]),
            ]
        ),
    )
    plan = bp.scan([beamline.detector], beamline.stage, 0, 90, 5)
    steering = SteeringSettings(policy="ms-ssim", threshold=0.95)
    run_engine(
        streaming_wrapper(plan, job=attached, detector="detector", angle="stage", references="own", steering=steering)
    )
    assert of_stop(documents)["reason"] == "all 5 projections taken; best score 0.800, threshold 0.95 not reached"
    record = attached.last_run
    assert (record.used, record.ranks, record.axis) == (5, 2, 15.5)
    assert record.ledger_totals()["balanced"]
    assert len(players[0].sums) == len(players[1].sums) == 5


@pytest.fixture
def of_stop():
    return lambda documents: next(doc for name, doc in documents if name == "stop")


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([], "no verdict on the last image, number 5: none came from the controller within 0.1 s, the last was on"),
        ([0.5], "within 0.1 s, the last was on image 1"),
        (None, "controller: steering: run will not be judged"),
    ],
    ids=["none", "the first only", "refused"],
)
def test_controller_that_judges_no_more_is_waited_for_only_so_long_and_that_is_said(
    run_engine, attached, beamline, players, in_thread, monkeypatch, scores, said
):
    usual = BOUND if scores is None else 0.1
    monkeypatch.setattr(job_runs, "FIRST_VERDICT_SECONDS", 100 * BOUND if scores != [] else 0.1)
    monkeypatch.setattr(job_runs, "VERDICT_SECONDS", usual)
    when_bound(
        attached,
        in_thread,
        lambda: players.extend(
            [*(Player(attached.address, rank=rank) for rank in (0, 1)), Player(attached.address, scores=scores)]
        ),
    )
    plan = bp.scan([beamline.detector], beamline.stage, 0, 90, 5)
    run_engine(streaming_wrapper(plan, job=attached, detector="detector", angle="stage", references="own"))
    record = attached.last_run
    assert record.used == 5
    assert said in "; ".join(record.problems)


def test_scan_without_any_job_goes_on_and_says_so(run_engine, documents, attached, beamline, of_stop):
    attached.options.wait_for_job = False
    attached.options.finish_timeout = 0.2
    plan = bp.scan([beamline.detector], beamline.stage, 0, 90, 5)
    run_engine(
        streaming_wrapper(plan, job=attached, detector=beamline.detector, angle=beamline.stage, references="own")
    )
    stop = of_stop(documents)
    assert stop["exit_status"] == "success"
    assert "no image was scored; no final image; no last image: no message from the job for 0.2 s" in stop["reason"]
    assert len([doc for name, doc in documents if name == "event" and "stage" in doc["data"]]) == 5


def test_job_that_comes_in_the_middle_gets_everything_from_the_first_projection(
    run_engine, documents, attached, beamline, players, of_stop
):
    attached.options.wait_for_job = False

    def join(name, doc):
        if doc["seq_num"] == 3 and not players:
            players.extend([Player(attached.address, rank=rank) for rank in (0, 1)])

    run_engine.subscribe(join, "event")
    plan = bp.scan([beamline.detector], beamline.stage, 0, 90, 6)
    run_engine(
        streaming_wrapper(plan, job=attached, detector=beamline.detector, angle=beamline.stage, references="own")
    )
    assert attached.last_run.ledger_totals()["balanced"]
    assert len(players[0].sums) == 6


def test_nothing_can_be_sent_before_it_is_staged():
    job = ReconJob("job", local=False)
    with pytest.raises(JobError, match="not staged"):
        job.runs.append(QueuedFrame("flat", 1, pixels=np.zeros((2, 2))))
    assert (job.address, job.runs.ledger(), job.runs.open) == (None, {}, None)
    job.close()


def test_kernels_that_are_compiled_are_announced_in_one_line(caplog):
    job = ReconJob("job", local=False)
    with caplog.at_level(logging.WARNING):
        for rank in range(3):
            for state in ("loading kernels", "compiling kernels"):
                job.runs.take_event(Status(run_uid="run", rank=rank, state=state))
    assert caplog.messages == ["kernels are compiled, once on this computer: the first image is about a minute later"]
    job.close()


@pytest.mark.parametrize("arguments", [{"ranks": 0}, {"start_timeout": 0}, {"finish_timeout": -1}])
def test_numbers_that_can_not_work_are_refused(arguments):
    with pytest.raises(ConfigError, match="reconstruction job: got"):
        ReconJob("job", **arguments)


def test_reading_has_no_pause_in_it(run_engine, pretend_job):
    """So no interruption can cut it short in the middle of an event."""
    reading = pretend_job.read()
    with pytest.raises(StopIteration) as done:
        reading.send(None)
    assert set(done.value.value) == {
        f"job-{name}" for name in ("score", "lag", "image_number", "projections", "state", "problem")
    }
    described = asyncio.run_coroutine_threadsafe(pretend_job.describe(), run_engine.loop).result(BOUND)
    assert set(described) == set(done.value.value)


def test_states_follow_the_run(run_engine, pretend_job, beamline):
    seen = []
    signal = pretend_job.state

    def watch(reading):
        state = reading[signal.name]["value"]
        if not seen or seen[-1] != state:
            seen.append(state)

    def watched(subscribe):
        async def call():
            subscribe(watch)

        asyncio.run_coroutine_threadsafe(call(), run_engine.loop).result(BOUND)

    watched(signal.subscribe)
    plan = bp.scan([beamline.detector], beamline.stage, 0, 90, 4)
    run_engine(
        streaming_wrapper(plan, job=pretend_job, detector=beamline.detector, angle=beamline.stage, references="own")
    )
    watched(signal.clear_sub)
    assert seen == [
        JobState.IDLE, JobState.STARTING, JobState.READY, JobState.RUNNING, JobState.FINISHING, JobState.FINISHED,
        JobState.IDLE,
    ]  # fmt: skip


def test_job_can_be_staged_again_after_it_was_closed(run_engine, pretend_job, script):
    def stage_and_unstage():
        yield from bps.stage(pretend_job, wait=True)
        yield from bps.unstage(pretend_job, wait=True)

    run_engine(stage_and_unstage())
    pretend_job.close()
    pretend_job.close()
    run_engine(stage_and_unstage())
    assert (script.launched, script.stopped) == ([2, 2], 2)


def test_other_number_of_ranks_is_started_anew(run_engine, pretend_job, script, beamline):
    pretend_job.options.keep_alive = True
    for ranks in (2, 3, 3):
        plan = bp.scan([beamline.detector], beamline.stage, 0, 90, 2)
        recon = ReconSettings(ranks=ranks)
        run_engine(
            streaming_wrapper(plan, job=pretend_job, detector="detector", angle="stage", references="own", recon=recon)
        )
    assert script.launched == [2, 3]


def test_directory_for_reconstructions_that_can_not_be_made_is_refused_before_the_stage_moves(
    run_engine, documents, pretend_job, beamline, script, tmp_path
):
    (tmp_path / "file").write_text("in the way")
    pretend_job.options.output = tmp_path / "file" / "reconstructions"
    plan = bp.scan([beamline.detector], beamline.stage, 10, 90, 2)
    with pytest.raises(ConfigError, match="reconstructions: can not be made: Not a directory"):
        run_engine(streaming_wrapper(plan, job=pretend_job, detector="detector", angle="stage", references="own"))
    assert (documents, script.launched, beamline.stage.angle) == ([], [], 0.0)


def test_job_gets_the_directory_for_reconstructions_which_is_there(run_engine, pretend_job, beamline, script, tmp_path):
    pretend_job.options.output = tmp_path / "a" / "b"
    plan = bp.scan([beamline.detector], beamline.stage, 0, 90, 2)
    run_engine(streaming_wrapper(plan, job=pretend_job, detector="detector", angle="stage", references="own"))
    assert script.specs[0].output == str(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
