"""Suspenders with a real RunEngine: every trap that a stock suspender falls into."""

from __future__ import annotations

import threading

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import pytest
from bluesky.run_engine import RunEngineInterrupted
from bluesky.suspenders import SuspendBoolHigh
from bluesky.utils import Msg
from ophyd.sim import det as classic_detector
from ophyd.sim import motor as classic_motor
from ophyd_async.core import soft_signal_r_and_setter

from bluesky_streamrecon.beamline import BacklogSuspender, QualityReached, QualitySuspender
from bluesky_streamrecon.beamline.event_loop import call_in_loop
from bluesky_streamrecon.errors import ConfigError

BOUND = 20.0


@pytest.fixture
def flag():
    signal, put = soft_signal_r_and_setter(bool, False, name="flag")
    return signal, put


@pytest.fixture
def lag():
    signal, put = soft_signal_r_and_setter(int, 0, name="lag")
    return signal, put


def on_event(run_engine, number, action):
    """Do something in the RunEngine's loop when the n-th event has been emitted."""

    def callback(name, doc):
        if doc["seq_num"] == number:
            action()

    run_engine.subscribe(callback, "event")


def steps(num=20):
    return bp.scan([classic_detector], classic_motor, 0, 1, num)


def test_stock_suspender_refuses_an_ophyd_async_signal(run_engine, flag):
    """Why there is a suspender of our own."""

    def install():
        yield Msg("install_suspender", None, SuspendBoolHigh(flag[0]))

    with pytest.raises(TypeError, match="event_type"):
        run_engine(install())


@pytest.mark.parametrize("where", ["prompt", "plan"])
def test_at_once_ends_a_plan_that_is_not_wrapped(run_engine, documents, flag, where):
    signal, put = flag
    suspender = QualitySuspender(signal, mode="at-once", reached=lambda: QualityReached("quality: good"))
    on_event(run_engine, 3, lambda: put(True))

    def install():
        yield Msg("install_suspender", None, suspender)

    def remove():
        yield Msg("remove_suspender", None, suspender)

    plan = steps()
    if where == "prompt":
        run_engine.install_suspender(suspender)
    else:
        plan = bpp.pchain(install(), plan)
    with pytest.raises(QualityReached, match="quality: good"):
        run_engine(plan)
    assert documents[-1][1]["num_events"] == {"primary": 3}
    assert run_engine.rewindable
    run_engine(remove()) if where == "plan" else run_engine.remove_suspender(suspender)
    assert run_engine.suspenders == ()
    assert run_engine(steps(5)).exit_status == "success"


def test_signal_that_tripped_before_the_run_fires_with_its_first_event(run_engine, documents, flag):
    signal, put = flag
    suspender = QualitySuspender(signal, mode="at-once")
    run_engine.install_suspender(suspender)
    run_engine.loop.call_soon_threadsafe(put, True)
    with pytest.raises(QualityReached):
        run_engine(steps())
    assert documents[-1][1]["num_events"] == {"primary": 1}
    run_engine.remove_suspender(suspender)


def test_signal_that_is_true_at_install_counts(run_engine, flag):
    signal, put = flag
    put(True)
    suspender = QualitySuspender(signal, mode="at-once")
    run_engine.install_suspender(suspender)
    assert suspender.armed
    with pytest.raises(QualityReached):
        run_engine(steps())
    run_engine.remove_suspender(suspender)


def test_fires_once_per_run_and_again_in_the_next(run_engine, flag):
    signal, put = flag
    suspender = QualitySuspender(signal, mode="at-once")
    run_engine.install_suspender(suspender)
    run_engine.loop.call_soon_threadsafe(put, True)
    for _ in range(2):
        with pytest.raises(QualityReached):
            run_engine(steps())
    run_engine.remove_suspender(suspender)


def test_after_projection_only_arms(run_engine, documents, flag):
    signal, put = flag
    suspender = QualitySuspender(signal)
    run_engine.install_suspender(suspender)
    on_event(run_engine, 3, lambda: put(True))
    assert run_engine(steps(8)).exit_status == "success"
    assert documents[-1][1]["num_events"] == {"primary": 8}
    assert suspender.armed
    run_engine.remove_suspender(suspender)
    assert not suspender.armed


def test_plan_without_checkpoint_is_left_to_end_the_run_itself(run_engine, documents, flag):
    signal, put = flag
    suspender = QualitySuspender(signal, mode="at-once")
    run_engine.install_suspender(suspender)
    on_event(run_engine, 2, lambda: put(True))

    @bpp.run_decorator()
    def fly():
        yield Msg("clear_checkpoint")
        taken = 0
        while not suspender.armed:
            taken += 1
            yield from bps.trigger_and_read([classic_detector])
        return taken

    assert run_engine(fly()).exit_status == "success"
    assert documents[-1][1]["exit_status"] == "success"
    run_engine.remove_suspender(suspender)


def test_exception_may_be_caught_inside_the_run(run_engine, documents, flag):
    signal, put = flag
    suspender = QualitySuspender(signal, mode="at-once")
    run_engine.install_suspender(suspender)
    on_event(run_engine, 3, lambda: put(True))

    def plan():
        yield from bps.open_run()
        try:
            while True:
                yield from bps.checkpoint()
                yield from bps.trigger_and_read([classic_detector])
        except QualityReached:
            yield from bps.close_run(exit_status="success", reason="quality")

    assert run_engine(plan()).exit_status == "success"
    assert documents[-1][1]["reason"] == "quality"
    assert run_engine.rewindable
    run_engine.remove_suspender(suspender)


def test_classic_ophyd_signals_are_watched_too(run_engine, documents):
    from ophyd import Signal

    signal = Signal(name="flag", value=0)
    suspender = QualitySuspender(signal, mode="at-once")
    run_engine.install_suspender(suspender)
    on_event(run_engine, 3, lambda: signal.put(1))
    with pytest.raises(QualityReached):
        run_engine(steps())
    run_engine.remove_suspender(suspender)


def test_unknown_mode_is_refused(flag):
    with pytest.raises(ConfigError, match="suspender mode: got 'soon'"):
        QualitySuspender(flag[0], mode="soon")


# ---------------------------------------------------------------------------------------------- backlog


@pytest.fixture
def suspended(run_engine, monkeypatch):
    """Tell when the RunEngine has suspended."""
    happened = threading.Event()
    original = run_engine.request_suspend

    def request_suspend(*args, **kwargs):
        happened.set()
        return original(*args, **kwargs)

    monkeypatch.setattr(run_engine, "request_suspend", request_suspend)
    return happened


def test_backlog_holds_the_scan_above_the_limit_and_lets_it_go_below(run_engine, documents, lag, suspended, in_thread):
    signal, put = lag
    suspender = BacklogSuspender(signal, 10, resume=4)
    run_engine.install_suspender(suspender)
    on_event(run_engine, 3, lambda: put(11))
    counts = []

    def catch_up():
        assert suspended.wait(BOUND)
        run_engine.loop.call_soon_threadsafe(put, 5)  # not yet
        counts.append(sum(name == "event" for name, _ in documents))
        run_engine.loop.call_soon_threadsafe(put, 4)

    in_thread(catch_up)
    assert run_engine(steps(8)).exit_status == "success"
    assert counts == [3]
    assert documents[-1][1]["num_events"] == {"primary": 8}
    run_engine.remove_suspender(suspender)


def test_backlog_that_is_there_before_the_run_holds_its_start(run_engine, documents, lag, in_thread):
    signal, put = lag
    put(11)
    suspender = BacklogSuspender(signal, 10)
    run_engine.install_suspender(suspender)
    waiting = threading.Event()
    original = run_engine._command_registry["wait_for"]

    async def wait_for(msg):
        waiting.set()
        return await original(msg)

    run_engine.register_command("wait_for", wait_for)

    def catch_up():
        assert waiting.wait(BOUND)
        assert documents == []
        run_engine.loop.call_soon_threadsafe(put, 0)

    in_thread(catch_up)
    assert run_engine(steps(3)).exit_status == "success"
    run_engine.remove_suspender(suspender)


def test_backlog_leaves_a_plan_alone_that_could_not_go_on(run_engine, documents, lag):
    signal, put = lag
    suspender = BacklogSuspender(signal, 10)
    run_engine.install_suspender(suspender)
    on_event(run_engine, 2, lambda: put(99))

    @bpp.run_decorator()
    def fly():
        yield Msg("clear_checkpoint")
        for _ in range(4):
            yield from bps.trigger_and_read([classic_detector])

    assert run_engine(fly()).exit_status == "success"
    assert documents[-1][1]["num_events"] == {"primary": 4}
    run_engine.remove_suspender(suspender)


def test_backlog_that_comes_while_a_plan_is_paused_holds_it_when_it_is_resumed(
    run_engine, documents, lag, suspended, in_thread
):
    signal, put = lag
    suspender = BacklogSuspender(signal, 10)
    run_engine.install_suspender(suspender)

    @bpp.run_decorator()
    def paused_between():
        for _ in range(3):
            yield Msg("checkpoint")
            yield from bps.trigger_and_read([classic_detector])
            if len(of_events()) == 1:
                yield from bps.pause()

    def of_events():
        return [name for name, _ in documents if name == "event"]

    with pytest.raises(RunEngineInterrupted):
        run_engine(paused_between())
    call_in_loop(run_engine.loop, lambda: put(99), BOUND)
    held = []

    def catch_up():
        assert suspended.wait(BOUND)
        held.append(len(of_events()))
        run_engine.loop.call_soon_threadsafe(put, 0)

    in_thread(catch_up)
    assert run_engine.resume().exit_status == "success"
    assert held == [1]
    run_engine.remove_suspender(suspender)


def test_backlog_just_before_a_run_ends_lets_it_end(run_engine, documents, lag, in_thread, suspended):
    signal, put = lag
    suspender = BacklogSuspender(signal, 10)
    run_engine.install_suspender(suspender)
    values = [99]
    on_event(run_engine, 1, lambda: values and put(values.pop()))  # it is taken again afterwards

    @bpp.run_decorator()
    def one_event():
        yield Msg("checkpoint")
        yield from bps.trigger_and_read([classic_detector])
        yield Msg("null")

    def catch_up():
        assert suspended.wait(BOUND)
        run_engine.loop.call_soon_threadsafe(put, 0)

    in_thread(catch_up)
    assert run_engine(one_event()).exit_status == "success"
    run_engine.remove_suspender(suspender)


def test_removing_a_backlog_suspender_lets_the_scan_go(run_engine, lag, suspended, in_thread):
    signal, put = lag
    suspender = BacklogSuspender(signal, 10)
    run_engine.install_suspender(suspender)
    on_event(run_engine, 2, lambda: put(99))

    def remove():
        assert suspended.wait(BOUND)
        run_engine.remove_suspender(suspender)

    in_thread(remove)
    assert run_engine(steps(4)).exit_status == "success"


def test_backlog_limits_must_be_in_order(lag):
    with pytest.raises(ConfigError, match="0 <= resume <= limit"):
        BacklogSuspender(lag[0], 5, resume=6)
