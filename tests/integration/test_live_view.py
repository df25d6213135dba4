"""A real run is overruled from the live view: by HTTP, and by a real browser where there is one."""

from __future__ import annotations

import json
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
from browsing import CHROMIUM, apart, in_chromium, live_view, until

pytestmark = [pytest.mark.mpi, pytest.mark.usefixtures("no_orphans"), pytest.mark.timeout(200)]

SIZES = ((1920, 1080), (820, 1180), (1280, 800))
WHAT_MATTERS = ("#cuts", "#headline", "#finish", "#scores", "#gains")  # seen without scrolling


def of(documents, name, stream=None):
    descriptors = {doc["uid"]: doc["name"] for kind, doc in documents if kind == "descriptor"}
    found = [doc for kind, doc in documents if kind == name]
    return found if stream is None else [doc for doc in found if descriptors[doc["descriptor"]] == stream]


def by_people(documents):
    rows = [event["data"] for event in of(documents, "event", "steering")]
    names = ("verdict", "who", "place", "text")
    return [tuple(row[f"job-steering-{n}"] for n in names) for row in rows if row["job-steering-policy"] == "operator"]


def test_run_is_finished_from_the_live_view_by_http(overruled, documents):
    pictures = []

    def speak():
        with live_view() as url:
            base, token = f"http://{urlsplit(url).netloc}", urlsplit(url).query.removeprefix("token=")
            with urlopen(f"{base}/events?token={token}", timeout=30) as changes:
                told = next(t for t in messages(changes) if t["run"] and t["newest"] and not t["link"])
            row = {"corner": [0, -0.5, -0.5], "down": [0, 8, 0], "across": [0, 0, 8], "shape": [8, 8]}
            wish = json.dumps({"viewer": "anna", "cuts": [row]}).encode()
            with urlopen(Request(f"{base}/cuts", wish, {"X-Streamrecon-Token": token}), timeout=30) as answer:
                pictures.append(answer.read())
            for order in ({"action": "hold"}, {"action": "finish", "reason": "seen enough"}):
                body = json.dumps({"run": told["run"], **order}).encode()
                asked = Request(f"{base}/order", body, {"X-Streamrecon-Token": token})
                with urlopen(asked, timeout=30) as answer:
                    assert json.load(answer)["ok"]

    overruled(speak, advisory=True)
    stop = of(documents, "stop")[0]
    assert (stop["exit_status"], stop["reason"]) == ("success", "operator anna: seen enough")
    assert [row[:3] for row in by_people(documents)] == [("hold", "anna", "live view"), ("finish", "anna", "live view")]
    assert len(pictures[0]) == 4 * 8 * 8


def messages(changes):
    for line in changes:
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


@CHROMIUM
def test_run_is_held_extended_corrected_and_finished_in_a_browser_and_looked_back_at(overruled, documents):
    def speak():
        with in_chromium(url) as (page, shot):
            page.locator("#cut-note", has_text="Image").wait_for()
            page.wait_for_selector("#hold:enabled")
            page.click("#hold")
            page.locator("#expected", has_text="held by anna").wait_for()
            page.fill("#count", "5")
            page.click("#extend")
            page.locator("#said", has_text="no automatic stop before 15").wait_for()
            page.locator("#coverage title", has_text="10 of 24 directions covered").wait_for(state="attached")
            page.click("#projections summary")
            page.locator("#projections p", has_text="columns across, 0° to 180°").wait_for()
            for kind, said in (("projection", "Line integrals of the newest projection"), ("raw", "Not there yet")):
                page.select_option("#kind", kind)
                page.locator("#projections p", has_text=said).wait_for()
            page.fill("#column", "30.5")
            page.click("#axis")
            page.locator("#about", has_text="about detector column 30.5").wait_for()
            page.fill("#reason", "a doubled edge")
            page.click("#really")
            page.locator("#cut-note", has_text="rotation axis at detector column 30.50").wait_for()
            until(page, "past.earlier.length > 0")  # of the image about the axis before
            page.focus("#when")
            page.keyboard.press("ArrowLeft")
            page.select_option("#compare", "difference")
            page.locator("#cut-note", has_text="row 2, coarse elsewhere").wait_for()
            until(page, "past.limit > 0 && onShow(drawn.row).some(v => v !== 0 && Number.isFinite(v))")
            for size in SIZES:
                apart(page, size, *WHAT_MATTERS, "#past")
                for scheme in ("light", "dark"):
                    page.emulate_media(color_scheme=scheme)
                    shot(f"view-{size[0]}-{scheme}")
            page.click("#newest")
            page.click("#finish")
            page.fill("#reason", "seen enough")
            page.click("#really")
            page.locator("#expected", has_text="seen enough").wait_for()

    with live_view() as url:
        overruled(speak, threshold=1.0)
        with in_chromium(url) as (page, shot):
            page.locator("#what", has_text="The run has ended at projection").wait_for()
            page.locator("#cut-note", has_text="Finished volume").wait_for()
            page.focus("#when")
            page.keyboard.press("ArrowLeft")
            page.locator("#cut-note", has_text="Last live image").wait_for()
            page.select_option("#compare", "difference")
            until(page, "ALL.every(name => onShow(drawn[name]).some(v => v !== 0 && Number.isFinite(v)))")
            apart(page, SIZES[-1], *WHAT_MATTERS, "#past")
            shot("finished")
    stop = of(documents, "stop")[0]
    assert (stop["exit_status"], stop["reason"]) == ("success", "operator anna: seen enough")
    told = "images are made anew about detector column 30.5, and scores begin anew"
    assert by_people(documents) == [
        ("hold", "anna", "live view", "held: no automatic stop until release"),
        ("extend", "anna", "live view", "no automatic stop before 15 projections"),
        ("axis", "anna", "live view", f"a doubled edge: {told}"),
        ("finish", "anna", "live view", "seen enough"),
    ]
