"""The controller's loop serves run after run, loses nothing on the way, and ends when it should."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import deque
from types import SimpleNamespace

import pytest

from bluesky_streamrecon.quality import Verdict, policy
from bluesky_streamrecon.quality.controller import EARLY_PREVIEWS, Controller
from bluesky_streamrecon.quality.metrics import metrics
from bluesky_streamrecon.selection import Selection
from bluesky_streamrecon.wire import (
    AbandonRun,
    ChangeRun,
    CloseRun,
    LinkLost,
    LinkRestored,
    Problem,
    Refused,
    Score,
    Shutdown,
)


class ScriptedLink:
    """Stand for an endpoint: return events from a list, keep what is sent, and end the loop when the list is empty."""

    def __init__(self, *events):
        self.events = deque(events)
        self.stop = threading.Event()
        self.silent = 0.0
        self.scores: list[Score] = []
        self.problems: list[Problem] = []

    def next(self, timeout=None):
        if self.events:
            return self.events.popleft()
        if timeout:  # nothing to judge, nothing to take
            self.stop.set()
        return None

    def unlinked_seconds(self):
        return self.silent

    def send(self, message):
        {Score: self.scores, Problem: self.problems}[type(message)].append(message)


@pytest.fixture
def previews(preview, image):
    def make(*numbers, uid="run-1"):
        return [preview(number, uid=uid, pixels=image(number)) for number in numbers]

    return make


def close(uid="run-1"):
    return CloseRun(run_uid=uid, seq=1, projections=0, flats=0, darks=0, exit_status="success")


def work(*events, **options):
    link = ScriptedLink(*events)
    controller = Controller(link, **options)
    return controller.run(link.stop), link


def test_every_image_of_a_run_is_scored_and_the_verdict_says_when_it_is_enough(open_run, previews):
    code, link = work(open_run(threshold=1e-6, compare_to=4), *previews(*range(1, 9)))
    assert code == 0
    assert [score.image_number for score in link.scores] == list(range(1, 9))
    assert next(score.image_number for score in link.scores if score.verdict == "enough") == 5
    assert {score.run_uid for score in link.scores} == {"run-1"}
    assert link.problems == []


def test_next_run_is_judged_by_itself(open_run, previews):
    steering = {"threshold": 1e-6, "compare_to": 2}
    _, link = work(
        open_run("run-1", **steering),
        *previews(1, 2, 3),
        close("run-1"),
        open_run("run-2", **steering),
        *previews(1, 2, 3, uid="run-2"),
    )
    assert [(each.run_uid, each.image_number) for each in link.scores] == [
        (uid, number) for uid in ("run-1", "run-2") for number in (1, 2, 3)
    ]
    assert next(each.run_uid for each in link.scores if each.verdict == "enough") == "run-1"
    assert link.scores[-1].verdict == "enough"


def test_controller_that_is_started_again_hears_what_the_budget_allows_and_which_region_counts(open_run, previews):
    selection = Selection((2, 0, 40, 36))
    changes = [ChangeRun(run_uid="run-1", seq=1, allowed=90), ChangeRun(run_uid="run-1", seq=2, selection=selection)]
    for _ in range(2):
        controller = Controller(link := ScriptedLink())
        for event in (open_run(), *changes, *previews(1)):  # the beamline keeps them for it
            controller.handle(event)
        controller.judge_next()
        assert controller.session._lines.allowed == 90
        assert [score.selection for score in link.scores] == [selection]


def test_images_after_close_are_scored(open_run, previews):
    opened = open_run(threshold=1e-6, compare_to=1)
    _, link = work(opened, *previews(1), close(), *previews(2))
    assert [score.verdict for score in link.scores] == ["continue", "enough"]


def test_close_of_another_run_is_nothing_to_this_one(open_run, previews):
    opened = open_run(threshold=1e-6, compare_to=1)
    _, link = work(opened, close("run-0"), AbandonRun(run_uid="run-0", reason=""), *previews(1, 2))
    assert link.scores[-1].verdict == "enough"


def test_run_told_again_after_a_reconnect_is_not_begun_anew(open_run, previews):
    opened = open_run(threshold=1e-6, compare_to=1)
    _, link = work(opened, *previews(1, 2), LinkLost("cable"), LinkRestored(), opened, *previews(1, 2, 3))
    assert [score.image_number for score in link.scores] == [1, 2, 3]
    assert link.scores[-1].verdict == "enough"


def test_previews_that_come_before_their_run_are_not_lost(open_run, previews):
    _, link = work(*previews(1, 2), open_run(), *previews(3))
    assert [score.image_number for score in link.scores] == [1, 2, 3]


def test_previews_of_a_past_or_abandoned_run_are_left_aside(open_run, previews):
    _, link = work(
        open_run("run-1"),
        AbandonRun(run_uid="run-1", reason="aborted"),
        *previews(1),
        open_run("run-2"),
        *previews(2),
    )
    assert link.scores == []


def test_previews_of_a_run_that_never_opens_do_not_pile_up(previews):
    link = ScriptedLink(*previews(*range(1, 200)))
    controller = Controller(link)
    controller.run(link.stop)
    assert len(controller._early) == EARLY_PREVIEWS


def test_run_with_an_unknown_policy_is_reported_and_the_next_is_judged(open_run, previews):
    code, link = work(
        open_run("run-1", policy="no-such"),
        *previews(1),
        open_run("run-2"),
        *previews(1, uid="run-2"),
    )
    assert code == 0
    (problem,) = link.problems
    assert (problem.where, problem.fault) == ("steering", "local")
    assert problem.run_uid == "run-1", "it must not become a problem of another run"
    assert (
        "run run-1 will not be judged: stopping policy: got 'no-such', expected one of change, measurement"
        in problem.text
    )
    assert [score.run_uid for score in link.scores] == ["run-2"]


class Unfinished:
    """A policy whose parts raise what they should not; each is asked for at another moment."""

    name = "unfinished"

    def __init__(self, where):
        self.where = where

    @property
    def metrics(self):
        return self.at("metrics", ())

    def judge(self, evidence):
        return self.at("judge", Verdict("continue", None, "all is well"))

    def at(self, where, answer):
        if where == self.where:
            sys.exit("no licence")
        return answer


@pytest.mark.parametrize("where", ["make", "metrics", "judge"])
def test_plugin_that_exits_ends_neither_controller_nor_scan_and_is_reported(monkeypatch, open_run, previews, where):
    def make(settings):
        return Unfinished(where).at("make", None) or Unfinished(where)

    monkeypatch.setitem(policy.policies._added, "unfinished", make)
    code, link = work(
        open_run("run-1", policy="unfinished"),
        *previews(1),
        open_run("run-2"),
        *previews(1, uid="run-2"),
    )
    assert code == 0
    said = [problem.text for problem in link.problems] + [s.text for s in link.scores if s.run_uid == "run-1"]
    assert "SystemExit: no licence" in said[0]
    assert "policy 'unfinished'" in said[0]
    assert "run-2" in {score.run_uid for score in link.scores}


@pytest.mark.parametrize("looks", [0, 2], ids=["while it is checked", "later"])
def test_metric_that_exits_when_it_is_looked_at_does_not_end_the_controller(monkeypatch, open_run, previews, looks):
    class Unlicensed:
        name, looked = "unlicensed", 0

        @property
        def reach(self):
            self.looked += 1
            return 4 if self.looked <= looks else sys.exit("no licence")

        def __call__(self, history): ...

    look_on = SimpleNamespace(name="look-on", metrics=("unlicensed",), judge=print)
    monkeypatch.setitem(metrics._added, "unlicensed", lambda settings, compare_to: Unlicensed())
    monkeypatch.setitem(policy.policies._added, "look-on", lambda settings: look_on)
    code, link = work(open_run("run-1", policy="look-on"), open_run("run-2"), *previews(1, uid="run-2"))
    assert code == 0
    assert ["SystemExit: no licence" in problem.text for problem in link.problems] == [True]
    assert [score.run_uid for score in link.scores] == ["run-2"]


def test_preview_that_does_not_fit_is_reported_as_the_other_sides_fault(open_run, preview, image):
    wrong = preview(1, size=43, pixels=image(1))
    _, link = work(open_run(), wrong, preview(2, pixels=image(2)))
    assert [(each.where, each.fault, each.run_uid) for each in link.problems] == [("previews", "remote", "run-1")]
    assert [score.image_number for score in link.scores] == [2]


def test_controller_ends_in_order_when_asked(caplog):
    code, _ = work(Problem(fault="local", where="rank 1", text="disk full"), Shutdown(reason="done"))
    assert code == 0
    assert "asks the controller to end: done" in caplog.text


def test_controller_that_is_refused_fails():
    code, _ = work(Refused("version 2 here, version 1 there"))
    assert code == 1


def test_controller_gives_up_when_the_beamline_is_silent_for_too_long(caplog):
    link = ScriptedLink(LinkLost("no heartbeat"))
    link.silent = 61.0
    assert Controller(link, link_limit=60.0).run(link.stop) == 1
    assert "nothing heard of the beamline for 61 s (limit 60 s)" in caplog.text


def test_beamline_side_never_loads_the_controllers_numba():
    code = "import sys, bluesky_streamrecon.quality.controller; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
