"""Any plan ends as a success, with a reason, when a signal says so; what was begun is kept."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import pytest
from ophyd import Signal
from ophyd.sim import NullStatus, SynAxis, SynSignal, det, motor
from ophyd_async.core import soft_signal_r_and_setter

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.plans import stop_early_wrapper

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "end-any-plan.md"
REASON = "the sample has melted"


class Flag:
    """A signal of either library, and how it is set."""

    def __init__(self, library):
        self.signal, self.put = {"modern": self.modern, "classic": self.classic}[library]()

    @staticmethod
    def modern():
        return soft_signal_r_and_setter(int, 0, name="flag")

    @staticmethod
    def classic():
        signal = Signal(name="flag", value=0)
        return signal, signal.put


@pytest.fixture(params=["modern", "classic"])
def flag(run_engine, request):
    return Flag(request.param)


@pytest.fixture(params=["after-projection", "at-once"])
def suspend(request):
    return request.param


def on_event(run_engine, actions):
    run_engine.subscribe(lambda name, doc: actions.get(doc["seq_num"], lambda: None)(), "event")


def stop_of(documents):
    (stop,) = [doc for name, doc in documents if name == "stop"]
    return stop["exit_status"], stop["reason"], stop["num_events"].get("primary", 0)


def test_step_scan_ends_with_the_reason_and_what_was_taken(run_engine, documents, flag, suspend):
    on_event(run_engine, {3: lambda: flag.put(1)})
    result = run_engine(
        stop_early_wrapper(bp.scan([det], motor, 0, 1, 10), flag.signal, reason=REASON, suspend=suspend)
    )
    assert result.exit_status == "success"
    assert stop_of(documents) == ("success", REASON, 3)
    assert result.plan_result == documents[0][1]["uid"]
    assert run_engine.suspenders == ()
    assert run_engine.rewindable


def test_scan_whose_signal_says_nothing_runs_its_course(run_engine, documents, flag):
    run_engine(stop_early_wrapper(bp.scan([det], motor, 0, 1, 4), flag.signal, reason=REASON))
    assert stop_of(documents) == ("success", "", 4)


def test_value_that_is_reached_ends_the_scan(run_engine, documents, flag):
    on_event(run_engine, {number: lambda number=number: flag.put(100 * number) for number in range(1, 9)})
    plan = bp.scan([det], motor, 0, 1, 10)
    run_engine(stop_early_wrapper(plan, flag.signal, when=lambda counts: counts > 450, reason="enough counts"))
    assert stop_of(documents) == ("success", "enough counts", 5)


def test_signal_that_is_true_already_ends_the_run_at_its_first_checkpoint(run_engine, documents, flag):
    flag.put(1)
    run_engine(stop_early_wrapper(bp.scan([det], motor, 0, 1, 10), flag.signal, reason=REASON))
    assert stop_of(documents) == ("success", REASON, 0)


def test_signal_that_comes_and_goes_within_a_step_counts(run_engine, documents, flag):
    def pulse():
        flag.put(1)
        flag.put(0)

    on_event(run_engine, {4: pulse})
    run_engine(stop_early_wrapper(bp.scan([det], motor, 0, 1, 10), flag.signal, reason=REASON))
    assert stop_of(documents) == ("success", REASON, 4)


class Gone(Signal):
    """Can not be read once it is disconnected."""

    def get(self, **options):
        if self.disconnected:
            raise TimeoutError("flag: not connected")
        return super().get(**options)

    disconnected = False


def test_signal_that_disconnects_lets_the_scan_run_its_course_and_is_reported(run_engine, documents):
    flag = Gone(name="flag", value=0)
    on_event(run_engine, {2: lambda: setattr(flag, "disconnected", True)})
    run_engine(stop_early_wrapper(bp.scan([det], motor, 0, 1, 5), flag, reason=REASON))
    status, reason, events = stop_of(documents)
    assert (status, events) == ("success", 5)
    assert reason == "flag could not be read at the end, and may have wanted an earlier one: flag: not connected"


def test_signal_that_is_not_there_is_refused_before_anything_moves(run_engine, documents):
    flag = Gone(name="flag", value=0)
    flag.disconnected = True
    with pytest.raises(ConfigError, match="signal flag: can not be read and judged: TimeoutError"):
        run_engine(stop_early_wrapper(bp.scan([det], motor, 0, 1, 5), flag, reason=REASON))
    assert documents == []


def test_what_is_no_signal_is_refused(run_engine):
    with pytest.raises(ConfigError, match="expected a signal"):
        stop_early_wrapper(bp.scan([det], motor, 0, 1, 5), 7, reason=REASON)


class Flyer:
    """Flies: has one more event each time that it is asked."""

    name, parent = "flyer", None

    def __init__(self):
        self.taken, self.stopped = 0, False

    def kickoff(self):
        return NullStatus()

    def complete(self):
        return NullStatus()

    def describe_collect(self):
        return {"primary": {"counts": {"source": "here", "dtype": "integer", "shape": []}}}

    def collect(self):
        self.taken += 1
        now = time.time()
        yield {"data": {"counts": self.taken}, "timestamps": {"counts": now}, "time": now}

    def stop(self):
        self.stopped = True


def test_fly_scan_ends_where_it_collects_and_its_own_clean_up_runs(run_engine, documents, flag):
    flyer = Flyer()

    @bpp.run_decorator()
    def flight():
        yield from bps.kickoff(flyer, wait=True)
        for _ in range(10):
            yield from bps.collect(flyer)
        yield from bps.complete(flyer, wait=True)

    def plan():
        yield from bpp.finalize_wrapper(flight(), bps.stop(flyer))

    def follow(name, doc):
        if name == "event_page" and 6 in doc["seq_num"]:
            flag.put(1)

    run_engine.subscribe(follow)
    run_engine(stop_early_wrapper(plan(), flag.signal, reason=REASON))
    assert stop_of(documents) == ("success", REASON, 6)
    assert flyer.stopped


@pytest.fixture
def page(run_engine):
    """Run the lines of the how-to that have this in them, with these names."""

    def run(words, **names):
        (lines,) = [each for each in re.findall(r"```python\n(.*?)```", HOW_TO.read_text(), re.DOTALL) if words in each]
        exec(lines, {"RE": run_engine, **names})

    return run


def test_scan_of_the_how_to_ends_with_its_reason(run_engine, documents, page):
    counts = Signal(name="counts", value=0)
    on_event(run_engine, {number: lambda number=number: counts.put(3e5 * number) for number in range(1, 9)})
    page("bp.scan", camera=det, rotation=motor, counts=counts)
    assert stop_of(documents) == ("success", "enough counts", 4)


class FivePoints:
    """An optimizer that tries one point after the other."""

    def __init__(self):
        self.left, self.ingested = [{"_id": number, "mirror": float(number)} for number in range(5)], []

    def suggest(self, num_points=None):
        return [self.left.pop(0)]

    def ingest(self, points):
        self.ingested += points


def test_optimisation_of_the_how_to_ends_after_the_point_that_is_good_enough(run_engine, documents, of, page):
    protocols = pytest.importorskip("blop.protocols")
    mirror = SynAxis(name="mirror")
    flux = SynSignal(name="flux", func=lambda: 1 - (mirror.readback.get() - 3) ** 2 / 10)
    optimizer = FivePoints()

    def evaluate(uid, suggestions):
        return [{"_id": each["_id"], "flux": flux.get()} for each in suggestions]

    problem = protocols.OptimizationProblem(optimizer, [mirror], [flux], evaluate)
    page("blop.optimize", agent=SimpleNamespace(to_optimization_problem=lambda: problem), flux=flux)
    names = {doc["uid"]: doc["plan_name"] for doc in of(documents, "start")}
    stops = [(names[doc["run_start"]], doc["exit_status"], doc["reason"]) for doc in of(documents, "stop")]
    assert stops == [("list_scan", "success", "")] * 4 + [("optimize", "success", "bright enough")]
    assert of(documents, "stop")[-1]["num_events"] == {"primary": 4}
    assert [point["flux"] for point in optimizer.ingested] == pytest.approx([0.1, 0.6, 0.9, 1.0])
    assert mirror.readback.get() == 3
