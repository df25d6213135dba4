"""The page shows what the beamline knows, takes orders from those who have its address, and from nobody else."""

from __future__ import annotations

import base64
import io
import json
import re
import time

import msgspec
import numpy as np
import pytest
from PIL import Image

from bluesky_streamrecon.beamline.operator_status import described
from bluesky_streamrecon.beamline.source import Snapshot
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.live_view import ViewServer
from bluesky_streamrecon.live_view.curves import draw_curves
from bluesky_streamrecon.live_view.page import about, checks, expected_stop, headline, to_do
from bluesky_streamrecon.wire import CHECKS, Check, Judged, Order, RunStatus


def until(changes, what):
    return next(told for told in changes if what(told))


def test_page_is_one_file_that_loads_nothing_from_elsewhere(page):
    answer = page.ask("GET", f"/?token={page.token}")
    text = answer.read().decode()
    assert answer.status == 200
    assert "@TOKEN@" not in text
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Referrer-Policy"] == "no-referrer"


def test_page_is_told_status_verdicts_and_images_as_they_come(page, beamline):
    changes = page.changes()
    beamline.judged = (Judged(image_number=1, projections=2, score=0.5),)
    beamline.status = msgspec.structs.replace(beamline.status, taken=3)
    told = until(changes, lambda t: "0.5000 at 2" in t["curves"][0])
    assert (told["run"], told["taken"], told["link"]) == ("run-1", 3, "")
    assert ["projections", "3 of 12 streamed"] in told["lines"]
    beamline.status = msgspec.structs.replace(beamline.status, taken=6)
    told = until(changes, lambda t: "time left" in dict(t["lines"]))
    assert re.fullmatch(r"0:\d\d to projection 12, if all are taken", dict(told["lines"])["time left"])
    beamline.judged += (Judged(image_number=2, projections=4, score=0.6, gain=0.1),)
    until(changes, lambda t: "0.6000 at 4" in t["curves"][0] and "0.1000 at 4" in t["curves"][1])
    beamline.show(1)
    assert until(changes, lambda t: t["newest"])["newest"] == "1"


def test_directions_and_projections_are_drawn_and_what_is_not_there_is_transparent(page, beamline):
    changes = page.changes()
    beamline.show(1)
    told = until(changes, lambda t: t["directions"]["run"])["directions"]
    assert told["text"].startswith("6 of 12 directions covered, the newest at 29°")
    assert dict(told["paths"])["covered"].count("Z") == 6

    def projections(what):
        answer = page.ask("GET", f"/projections/{what}/5?viewer=v&token={page.token}")
        return json.loads(answer.read()) if answer.status == 200 else answer.status

    sinogram = projections("sinogram")
    assert sinogram["text"].startswith("Line integrals so far: detector row 5, columns across, 0° to 180° downwards")
    drawn = Image.open(io.BytesIO(base64.b64decode(sinogram["image"].partition(",")[2]))).convert("LA")
    grey, opaque = np.moveaxis(np.asarray(drawn), 2, 0)
    assert (np.diff(grey[0].astype(int)) >= 0).all()
    assert opaque.all(axis=1).tolist() == [True, False] * 6
    assert projections("residual") == {"image": "", "text": "Not there yet: it comes with one of the next images."}
    assert projections("nonsense") == 404


def test_another_run_begins_with_no_verdicts(page, beamline):
    changes = page.changes()
    beamline.judged = tuple(Judged(image_number=n, projections=n, score=0.9) for n in range(1, 9))
    until(changes, lambda t: "0.9000 at 8" in t["curves"][0])
    beamline.judged = (Judged(image_number=1, projections=1, score=0.1),)
    beamline.status = msgspec.structs.replace(beamline.status, run_uid="run-2")
    told = until(changes, lambda t: t["run"] == "run-2" and "0.1000 at 1" in t["curves"][0])
    assert "0.9000" not in told["curves"][0]
    ended = {"last_run": "run-2", "ended": "success: quality: stopped at 1 of 12 projections"}
    beamline.status = msgspec.structs.replace(beamline.status, run_uid=None, **ended)
    told = until(changes, lambda t: t["link"])
    assert (told["run"], told["headline"]["detail"]) == ("run-2", "quality: stopped at 1 of 12 projections")


def test_orders_carry_who_and_where_and_a_refusal_is_told(page, beamline):
    changes = page.changes()
    until(changes, lambda t: t["run"])
    assert page.order({"action": "hold", "run": "run-1"}) == (200, {"ok": True, "text": "hold done"})
    assert "held by anna@here" in until(changes, lambda t: t["held"])["expected"]
    assert page.order({"action": "extend", "run": "run-1", "count": 7})[0] == 200
    assert page.order({"action": "axis", "run": "run-1", "axis": 511.5, "reason": "doubled"})[0] == 200
    assert [(o.action, o.who, o.place, o.count, o.axis, o.reason) for o in beamline.orders] == [
        ("hold", "anna@here", "live view", 0, None, ""),
        ("extend", "anna@here", "live view", 7, None, ""),
        ("axis", "anna@here", "live view", 0, 511.5, "doubled"),
    ]
    beamline.refuse = "no run is open"
    assert page.order({"action": "finish", "reason": "good"}) == (409, {"ok": False, "text": "no run is open"})


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}, {"Host": "127.0.0.1:1"}],
    ids=str,
)
def test_order_of_another_site_is_refused_even_with_the_token(page, beamline, headers):
    answer = page.ask("POST", "/order", {"action": "finish", "reason": "x"}, X_Streamrecon_Token=page.token, **headers)
    assert answer.status == 403
    assert beamline.orders == []


def test_nothing_is_told_without_the_token_and_orders_need_it_in_a_header(page, beamline):
    for path in ("/", "/events", "/projections/raw/1", "/?token=wrong"):
        assert page.ask("GET", path).status == 403
    assert page.ask("POST", f"/order?token={page.token}", {"action": "finish", "reason": "x"}).status == 403
    assert beamline.orders == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"action": "status"}, 400),
        ({"action": "extend", "count": -1}, 400),
        ({"action": "hold", "more": 1}, 400),
        ([], 400),
        ({"action": "finish", "reason": "x" * 20_000}, 413),
    ],
    ids=["no order", "negative", "unknown field", "no object", "too long"],
)
def test_nonsense_is_refused(page, beamline, body, status):
    assert page.order(body)[0] == status
    assert beamline.orders == []


def test_many_pages_share_one_connection(page, beamline):
    watching = [page.changes() for _ in range(8)]
    for changes in watching:
        until(changes, lambda t: t["run"])
    beamline.show(1)
    for changes in watching:
        until(changes, lambda t: t["newest"])
    assert beamline.endpoint._hub.operators == 1


def test_port_that_is_taken_is_said(server):
    with pytest.raises(ConfigError, match="take another one"):
        ViewServer(server._source, server.port)


RUN = RunStatus(state="running", run_uid="run-1", taken=60, planned=180, text="at 59: about 34 more are needed")


@pytest.mark.parametrize(
    ("changes", "ended", "what", "tone"),
    [
        ({"verdict": "continue"}, False, "Projection 60 of 180: not good enough yet", "wait"),
        ({"verdict": "enough"}, False, "Projection 60 of 180: good enough", "good"),
        ({"verdict": "continue", "tolerance": 0.02}, False, "Projection 60 of 180: too early to judge", "wait"),
        ({"verdict": "invalid"}, False, "Projection 60 of 180: the image is not to be relied on", "bad"),
        ({"verdict": "invalid"}, True, "Projection 60 of 180: the image is not to be relied on", "bad"),
        ({"verdict": "enough"}, True, "The run has ended, or is out of reach, at projection 60 of 180", "good"),
        (
            {"verdict": "continue", "ended": "success: operator: seen"},
            True,
            "The run has ended at projection 60 of 180",
            "good",
        ),
        ({"verdict": "enough", "ended": "fail: stalled"}, True, "The run has ended at projection 60 of 180", "bad"),
        (
            {"verdict": "invalid", "ended": "success: all taken; not judged"},
            True,
            "The run has ended at projection 60 of 180: its image is not to be relied on",
            "bad",
        ),
        ({}, False, "Projection 60 of 180: no verdict yet", "wait"),
        ({"run_uid": None}, False, "No run is open", "wait"),
    ],
)
def test_what_a_person_has_to_know_first_is_said_first(changes, ended, what, tone):
    said = headline(msgspec.structs.replace(RUN, **changes), ended=ended)
    assert (said["what"], said["tone"]) == (what, tone)


def test_doubt_and_tolerance_reach_the_page(page, beamline):
    changes = page.changes()
    problem = "the sample sits elsewhere since about projection 60"
    beamline.status = msgspec.structs.replace(beamline.status, problem=problem, tolerance=0.02)
    told = until(changes, lambda t: t["headline"]["doubt"])
    assert told["headline"]["doubt"] == problem
    assert "tolerance 0.02" in told["curves"][1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"stop_at": 110, "gain_at": 57},
            r"When it is good enough, probably in about 3 min at [0-9:]{5}, near projection 110 of 180 \(predict",
        ),
        (
            {"stop_at": 180},
            r"Not before the end \(projection 180 in about 6 min at .*\): all projections are predicted",
        ),
        (
            {"stop_at": 160, "allowed": 120},
            r"Not before the end of its budget \(projection 120 in about 3 min .*\): 160 pro",
        ),
        ({"stop_at": 60}, "Soon: the next prediction decides, near projection 60 of 180"),
        ({"stop_at": 80, "least": 120, "gain_at": 57}, "When it is good enough, .*near projection 120 of 180"),
        ({}, r"Not known yet: when the image is good enough, at the latest at the end \(projection 180 in about 6 min"),
        ({"tolerance": None, "policy": "ms-ssim"}, r"Not predicted \(ms-ssim\): .* at the latest at the end"),
        ({"planned": 0, "tolerance": None}, r"Not predicted .*: .* at the latest at the plan's end\."),
        ({"verdict": "invalid", "stop_at": 110}, "Not before the end .* while the image is not to be relied on"),
        ({"advisory": True, "stop_at": 110}, "Not before the end .* only reports"),
        (
            {"held": Order(action="hold", who="anna")},
            r"Not by itself, as it is held by anna since .*\. The scan goes on, at the latest to the end",
        ),
        (
            {"finish": Order(action="finish", who="anna", reason="seen")},
            "Stops at the next projection, as anna has asked: seen",
        ),
        ({"finalize": True}, "Stops at the next projection: the image is good enough"),
        ({"ended": "success: all taken"}, ""),
    ],
)
def test_when_the_run_will_stop_and_why_is_said_in_one_line(changes, said):
    status = msgspec.structs.replace(RUN, **({"tolerance": 0.02} | changes))
    snapshot = Snapshot(unlinked="", status=status, first=(30, time.monotonic() - 90))
    assert re.match(said, expected_stop(snapshot)) if said else expected_stop(snapshot) == ""


def test_checks_that_are_not_ok_are_said_once_and_what_was_not_checked_says_so():
    fault = "it sits elsewhere since about projection 50"
    made = tuple(
        Check(name=name, state=state, text=text)
        for name, state, text in (
            ("still", "wrong", fault),
            ("rings", "look", "more flats help"),
            ("axis", "ok", "known"),
        )
    )
    status = msgspec.structs.replace(RUN, checks=made, lag=20, text=f"not judged at 60: {fault}")
    shown = checks(Snapshot(unlinked="", status=status))
    assert [(each.name, each.state) for each in shown[2:]] == [("axis", "ok"), ("lag", "look")]
    assert to_do(status) == [("look", "rings: more flats help")]
    none = checks(Snapshot(unlinked="", status=RUN))
    assert {each.name: each.state for each in none} == dict.fromkeys(CHECKS, "open") | {"lag": "ok"}


def test_check_that_is_wrong_is_seen_and_its_words_are_reached_by_keyboard(window, beamline):
    fault = Check(
        name="axis", state="wrong", number="column 84.0", text="the axis is wrong: the sample turns about 80.4"
    )
    beamline.status = msgspec.structs.replace(beamline.status, checks=(fault,), about={"sample": "foam 7"}, started=1e9)
    item = window.locator("#checks .wrong", has_text="column 84.0")
    item.wait_for()
    assert window.locator("#to-do .wrong").inner_text() == "axis: the axis is wrong: the sample turns about 80.4"
    assert not item.locator("p").is_visible()
    item.focus()
    item.locator("p").wait_for(state="visible")
    beamline.status = msgspec.structs.replace(beamline.status, lag=3)
    window.locator("#checks li", has_text="lag").locator("span", has_text="3").wait_for()
    assert item.locator("p").is_visible()  # what one reads stays
    assert "wrong, column 84.0" in item.get_attribute("aria-label")


def test_page_names_sample_scan_person_and_start_of_the_run():
    told = {"sample": "{'name': 'foam'}", "sample_name": "foam 7", "scan_id": "42", "operator": "anna", "time": "1e9"}
    said = about(msgspec.structs.replace(RUN, **described(told)))
    assert re.fullmatch(r"foam 7 · scan 42 · by anna · started on 2001-09-0\d at \d\d:\d\d · run run-1", said)


def test_what_a_policy_measures_is_drawn_with_its_band_in_place_of_the_gain():
    status = msgspec.structs.replace(RUN, measured="porosity <all>", policy="measurement")
    judged = [
        Judged(image_number=n, projections=n, score=0.9, value=0.3 + n / 1000, value_low=0.2, value_high=0.4)
        for n in range(1, 3000)
    ]
    score, measured = draw_curves(status, judged)
    assert "porosity &lt;all&gt; in the image" in measured
    assert 'class="band"' in measured
    assert max(len(score), len(measured)) < 20_000
