"""What is shown can be measured, in a real browser where there is one: a line, a region, and limits in a histogram."""

from __future__ import annotations

import os
import re

import msgspec
import numpy as np
from browsing import apart

from bluesky_streamrecon.selection import WHOLE_VIEW, Selection
from bluesky_streamrecon.wire import CHECKS, Check, Judged, Order

ROW = 6  # in the middle, where the page begins


def drag(page, begin, end):
    """Draw in the row's cut, from one place (x, y) in voxels to another."""
    box = page.locator("#cut-row").bounding_box()
    places = [
        (box["x"] + (x + 0.5) / 16 * box["width"], box["y"] + (y + 0.5) / 16 * box["height"]) for x, y in (begin, end)
    ]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=3)
    page.mouse.up()


def test_lines_and_regions_are_measured_in_pixels_and_in_the_units_of_the_run(window, beamline):
    beamline.begin_cuts()
    window.locator("#cut-note", has_text="Image 1").wait_for()
    window.locator("#cut-row .scale", has_text="5 pixels").wait_for()
    window.select_option("#tool", "region")
    drag(window, (1.6, 2.6), (5.4, 7.4))  # the centres of x 2 to 5 and y 3 to 7 are inside
    y, x = np.mgrid[3:8, 2:6]
    values = 100 * ROW + 10 * y + x
    said = window.locator("#measured", has_text=", 20 pixels: ").text_content()
    assert [float(n) for n in re.findall(r"[\d.]+", said.split(": ")[1])] == [
        float(f"{v:.3g}") for v in (values.mean(), values.std(ddof=1))
    ]
    beamline.status = msgspec.structs.replace(beamline.status, pixel_size=200.0)
    window.locator("#measured", has_text=re.compile("^Region of 760 µm × 960 µm")).wait_for()
    per_cm = window.locator("#measured", has_text=" per cm").text_content().rpartition("per pixel, ")[2]
    assert float(per_cm.split(" ")[0]) == float(f"{values.mean() / 0.02:.3g}")
    window.locator("#cut-row .scale", has_text="1 mm").wait_for()
    if shots := os.environ.get("VIEW_SCREENSHOTS"):
        window.screenshot(path=f"{shots}/region.png")

    window.select_option("#tool", "line")
    drag(window, (2, 4), (12, 4))
    window.locator("#measured", has_text=re.compile("^Line of 2 mm: 642 per pixel.* to 652 per pixel")).wait_for()
    assert window.locator("#graph .curve").count() == 1
    if shots := os.environ.get("VIEW_SCREENSHOTS"):
        window.screenshot(path=f"{shots}/line.png")
    window.focus("#cut-row")
    window.keyboard.press("Escape")
    window.select_option("#tool", "region")
    window.focus("#cut-row")
    for key in ("m", "ArrowRight", "ArrowRight", "ArrowDown", "m"):
        window.keyboard.press(key)
    window.locator("#measured", has_text=re.compile("^Region of 400 µm × 200 µm, 6 pixels: 694 ")).wait_for()
    window.keyboard.press("Escape")
    graph = window.locator("#graph")
    assert graph.locator(".edge").count() == 2
    low, high = (float(window.input_value(name)) for name in ("#low", "#high"))
    box = graph.bounding_box()
    window.mouse.move(box["x"] + 0.95 * box["width"], box["y"] + 20)
    window.mouse.down()
    window.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 20, steps=3)
    window.mouse.up()
    assert window.is_checked("#locked")
    assert abs(float(window.input_value("#high")) - (low + high) / 2) < 0.1 * (high - low)
    assert float(window.input_value("#low")) == low


def test_region_that_is_drawn_is_judged_by_and_shown_with_who_set_it_and_is_taken_back(window, beamline):
    beamline.judged = tuple(Judged(image_number=n, projections=n, score=n / 9, gain=0.1 / n) for n in (1, 2, 3))
    beamline.begin_cuts()
    window.locator("#cut-note", has_text="Image 1").wait_for()
    window.locator("#scores", has_text="0.3333 at 3").wait_for()
    window.select_option("#tool", "region")
    drag(window, (1.6, 2.6), (5.4, 7.4))  # the centres of x 2 to 5 and y 3 to 7 are inside
    window.click("#region")
    window.locator("#about", has_text="Scores and predictions count in x 2 to 5, y 3 to 7 alone").wait_for()
    window.fill("#reason", "the crack")
    window.click("#really")
    window.locator("#said", has_text="region done").wait_for()
    (order,) = beamline.orders
    assert (order.action, order.who, order.place) == ("region", "anna@here", "live view")
    assert (order.selection, order.reason) == (Selection((2, 3, 6, 8)), "the crack")
    assert window.locator(".mark").count() == 0  # it is shown as what counts, once it does
    beamline.status = msgspec.structs.replace(beamline.status, selection=order.selection, selected_by=order)
    window.locator("#counts", has_text="x 2 to 5, y 3 to 7, by anna@here since").wait_for()
    window.locator("#scores", has_text="nothing yet").wait_for()  # those before were of the whole view
    frames = {name: window.locator(f"#cut-{name} .counts").get_attribute("d") for name in ("row", "front", "side")}
    corners = {name: [float(v) for v in re.findall(r"[-\d.]+", path)] for name, path in frames.items()}
    left, top, right, bottom, _ = corners["row"]
    assert np.allclose(16 * np.array([left, top, right, bottom]), [2, 3, 6, 8])
    assert np.allclose(16 * np.array(corners["front"])[[0, 2]], [2, 6])
    assert np.allclose(16 * np.array(corners["side"])[[0, 2]], [3, 8])
    if shots := os.environ.get("VIEW_SCREENSHOTS"):
        window.screenshot(path=f"{shots}/region-counts.png")
    window.click("#region")
    window.locator("#wanted", has_text="Judge by the whole view").wait_for()
    window.fill("#reason", "all of it again")
    window.click("#really")
    window.locator("#said", has_text="region done").wait_for()
    assert (beamline.orders[-1].selection, beamline.orders[-1].reason) == (WHOLE_VIEW, "all of it again")


def test_row_that_is_looked_at_is_judged_by_alone_as_a_whole_or_in_the_region_that_is_drawn_in_it(window, beamline):
    beamline.begin_cuts()
    window.locator("#cut-note", has_text="Image 1").wait_for()
    window.focus("#cut-row")
    window.keyboard.press("PageDown")
    window.click("#region")
    window.locator(
        "#about", has_text="Scores and predictions count in the whole view alone, and begin anew."
    ).wait_for()
    window.locator("#rows", has_text=f"in row {ROW + 1} alone").wait_for()
    window.check("#alone")
    window.fill("#reason", "the crack")
    window.click("#really")
    window.locator("#said", has_text="region done").wait_for()
    (order,) = beamline.orders
    assert order.selection == Selection(rows=(ROW + 1,))
    beamline.status = msgspec.structs.replace(beamline.status, selection=order.selection, selected_by=order)
    window.locator("#counts", has_text=f"what counts: row {ROW + 1}, by anna@here since").wait_for()
    corners = [float(v) for v in re.findall(r"[-\d.]+", window.locator("#cut-front .counts").get_attribute("d"))]
    assert np.allclose(16 * np.array(corners[:4]), [0, 2 + ROW + 1, 16, 2 + ROW + 2])  # 12 rows in the middle of 16
    window.select_option("#tool", "region")
    drag(window, (1.6, 2.6), (5.4, 7.4))
    window.focus("#cut-row")
    window.keyboard.press("PageDown")  # the region stays in the row that it was drawn in
    window.click("#region")
    window.locator("#about", has_text="Scores and predictions count in x 2 to 5, y 3 to 7 alone").wait_for()
    window.locator("#rows", has_text=f"in row {ROW + 1} alone").wait_for()
    assert not window.is_checked("#alone")
    window.check("#alone")
    if shots := os.environ.get("VIEW_SCREENSHOTS"):
        window.screenshot(path=f"{shots}/row-asked.png")
    window.fill("#reason", "its tip")
    window.click("#really")
    window.locator("#said", has_text="region done").wait_for()
    order = beamline.orders[-1]
    assert order.selection == Selection((2, 3, 6, 8), (ROW + 1,))
    beamline.status = msgspec.structs.replace(beamline.status, selection=order.selection, selected_by=order)
    window.locator("#counts", has_text=f"what counts: x 2 to 5, y 3 to 7 of row {ROW + 1}, by").wait_for()
    assert window.locator("#cut-row .counts").count() == 0  # the next row is on show
    window.focus("#cut-row")
    window.keyboard.press("PageUp")
    window.locator("#cut-row .counts").wait_for(state="attached")
    if shots := os.environ.get("VIEW_SCREENSHOTS"):
        window.screenshot(path=f"{shots}/row-counts.png")
    window.click("#finish")
    window.locator("#wanted", has_text="Finish now").wait_for()
    assert window.is_hidden("#rows")


def test_controls_stay_where_they_are_whatever_is_said(window, beamline):
    beamline.begin_cuts()
    window.locator("#cut-note", has_text="Image 1").wait_for()
    before = window.locator(".controls").bounding_box()
    long = "what is wrong is told at length, with what to do about it; " * 8
    wrong = tuple(Check(name=name, state="wrong", number="column 84.0, far off", text=name + long) for name in CHECKS)
    held = Order(action="hold", who="anna", reason=long)
    about = {"text": long, "problem": long, "checks": wrong, "verdict": "invalid", "held": held, "lag": 99}
    beamline.status = msgspec.structs.replace(beamline.status, **about)
    window.locator("#to-do p").nth(len(CHECKS) - 1).wait_for(state="attached")
    after = window.locator(".controls").bounding_box()
    assert [after[side] for side in ("x", "y", "width")] == [before[side] for side in ("x", "y", "width")]
    for size in ((1280, 800), (1920, 1080), (820, 1180)):
        apart(window, size, "#cuts", "#headline", "#finish", "#scores", "#gains")
