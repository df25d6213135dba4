"""A real run is overruled from the live view: by HTTP, and by a real browser where there is one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

pytestmark = [pytest.mark.mpi, pytest.mark.usefixtures("no_orphans"), pytest.mark.timeout(100)]

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


SIZES = ((1920, 1080), (820, 1180), (1280, 800))
WHAT_MATTERS = ("#cuts", "#headline", "#finish", "#scores", "#gains")  # seen without scrolling


def overlapping(boxes):
    """Pairs of boxes that share area."""

    def meet(a, b):
        across = min(a["x"] + a["width"], b["x"] + b["width"]) - max(a["x"], b["x"])
        down = min(a["y"] + a["height"], b["y"] + b["height"]) - max(a["y"], b["y"])
        return across > 1 and down > 1

    names = list(boxes)
    return [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if meet(boxes[a], boxes[b])]


@contextlib.contextmanager
def live_view():
    """Start ``streamrecon view`` as a person does, and give the page's address."""
    command = [sys.executable, "-m", "bluesky_streamrecon", "view", "--json", "--as", "anna"]
    view = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield json.loads(view.stdout.readline())["url"]
    finally:
        view.terminate()
        view.communicate(timeout=20)


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
                told = next(t for t in messages(changes) if t["run"] and t["picture"] and not t["link"])
            with urlopen(f"{base}/picture/{told['picture']['image']}/0.png?token={token}", timeout=30) as answer:
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
    assert pictures[0].startswith(b"\x89PNG")


def messages(changes):
    for line in changes:
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this computer")
def test_run_is_held_extended_and_finished_by_the_buttons_in_a_browser(overruled, documents):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    shots = os.environ.get("VIEW_SCREENSHOTS")
    problems = []

    def speak():
        with live_view() as url, playwright.sync_playwright() as browsers:
            browser = browsers.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.goto(url)
            page.locator("#cut-note", has_text="Image").wait_for()
            page.wait_for_selector("#hold:enabled")
            page.click("#hold")
            page.locator("#held", has_text="Held by anna").wait_for()
            page.fill("#count", "5")
            page.click("#extend")
            page.locator("#said", has_text="no automatic stop before 15").wait_for()
            page.locator("#coverage title", has_text="10 of 24 directions covered").wait_for(state="attached")
            page.click("#sinogram summary")
            page.locator("#sinogram img[src*='sinogram/']").wait_for()
            page.evaluate("() => document.querySelector('#sinogram img').decode()")
            for width, height in SIZES:
                page.set_viewport_size({"width": width, "height": height})
                boxes = {name: page.locator(name).bounding_box() for name in WHAT_MATTERS}
                assert all(box["x"] + box["width"] <= width for box in boxes.values())
                assert all(box["y"] + box["height"] <= height for box in boxes.values()), (width, height, boxes)
                assert not overlapping(boxes)
                for scheme in ("light", "dark") if shots else ():
                    page.emulate_media(color_scheme=scheme)
                    page.screenshot(path=f"{shots}/view-{width}-{scheme}.png")
            page.fill("#column", "30.5")
            page.click("#axis")
            page.locator("#about", has_text="about detector column 30.5").wait_for()
            page.fill("#reason", "a doubled edge")
            page.click("#really")
            page.locator("#cut-note", has_text="rotation axis at detector column 30.50").wait_for()
            page.click("#finish")
            page.fill("#reason", "seen enough")
            page.click("#really")
            page.locator("#held", has_text="seen enough").wait_for()
            browser.close()

    overruled(speak, threshold=1.0)
    stop = of(documents, "stop")[0]
    assert (stop["exit_status"], stop["reason"]) == ("success", "operator anna: seen enough")
    told = "images are made anew about detector column 30.5, and scores begin anew"
    assert by_people(documents) == [
        ("hold", "anna", "live view", "held: no automatic stop until release"),
        ("extend", "anna", "live view", "no automatic stop before 15 projections"),
        ("axis", "anna", "live view", f"a doubled edge: {told}"),
        ("finish", "anna", "live view", "seen enough"),
    ]
    assert problems == []
