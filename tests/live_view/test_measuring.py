"""What is shown can be measured, in a real browser where there is one: a line, a region, and limits in a histogram."""

from __future__ import annotations

import os
import re

import msgspec
import numpy as np

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
