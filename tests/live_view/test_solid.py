"""The whole volume, coarsely, in a real browser where there is one: brightest values or a surface, turned by hand."""

from __future__ import annotations

import os

import msgspec
import numpy as np
import pytest
from browsing import until
from pretended_beamline import VOLUME

GREYS = """side => {
    drawSolid();
    const { gl, canvas } = solid, pixels = new Uint8Array(4 * canvas.width * canvas.height);
    gl.readPixels(0, 0, canvas.width, canvas.height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
    const row = y => Math.floor((1 - y) * canvas.height), column = x => Math.floor(x * canvas.width);
    const at = (x, y) => pixels[4 * (row(y) * canvas.width + column(x))];
    const shares = Array.from({ length: side }, (_, i) => .3 + .4 * i / (side - 1));
    return shares.map(y => shares.map(x => at(x, y)));
}"""


def brightest(state, side):
    """The volume's greys as one sees them from the page's direction: largest along each ray, by another hand."""
    half = np.linalg.norm(VOLUME) / 2
    middle = (np.array(VOLUME) - 1) / 2
    shares = 0.3 + 0.4 * np.arange(side) / (side - 1)
    down, across, way = (np.array(state[name]) for name in ("down", "across", "normal"))
    depths = np.linspace(-half, half, 2001)
    seen = np.zeros((side, side))
    for i, y in enumerate(shares):
        for j, x in enumerate(shares):
            points = middle + half * ((2 * y - 1) * down + (2 * x - 1) * across) + depths[:, None] * way
            inside = (np.abs(points - middle) <= np.array(VOLUME) / 2).all(axis=1)
            points = np.clip(points[inside], 0, np.array(VOLUME) - 1)
            seen[i, j] = (points @ [100.0, 10.0, 1.0]).max(initial=state["low"])
    return np.clip(255 * (seen - state["low"]) / (state["high"] - state["low"]), 0, 255)


def test_whole_volume_is_seen_from_the_direction_of_the_oblique_plane_and_turned(window, beamline):
    beamline.begin_cuts()
    window.locator("#cut-note", has_text="Image 1").wait_for()
    window.select_option("#solid", "brightest")
    until(window, f"drawn.oblique?.height && drawn.oblique.values.length === {np.prod(VOLUME)}")
    window.locator("figcaption", has_text="brightest").wait_for()
    asked = len(beamline.wishes)
    for turned in range(2):
        if turned:
            box = window.locator("#cut-oblique").bounding_box()
            window.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.4 * box["height"])
            window.mouse.down()
            window.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"], steps=4)
            window.mouse.up()
        state = window.evaluate("() => ({ ...view, normal: normal() })")
        greys = window.evaluate(GREYS, 7)
        np.testing.assert_allclose(greys, brightest(state, 7), atol=6)
    assert len(beamline.wishes) == asked  # the volume is turned here, not asked for again
    window.select_option("#solid", "surface")
    window.locator("figcaption", has_text="surface at").wait_for()
    lit = np.array(window.evaluate(GREYS, 7))
    assert lit.max() > 40
    if shots := os.environ.get("VIEW_SCREENSHOTS"):
        window.screenshot(path=f"{shots}/solid.png")
    window.select_option("#solid", "plane")
    until(window, "drawn.oblique?.height && drawn.oblique.cut.layers === 1 && solid.canvas.hidden")


@pytest.mark.parametrize("kind", ["brightest", "surface"])
def test_whole_volume_follows_the_newest_image(window, beamline, kind):
    beamline.begin_cuts()
    window.locator("#cut-note", has_text="Image 1").wait_for()
    window.select_option("#solid", kind)
    until(window, "drawn.oblique?.height && drawn.oblique.cut.layers > 1 && !stale.size && !looking")
    asked = len(beamline.wishes)
    beamline.status = msgspec.structs.replace(beamline.status, image_number=2)
    window.locator("#cut-note", has_text="Image 2").wait_for()
    until(window, "!stale.size && !looking")
    assert {cut.layers for wish in beamline.wishes[asked:] for cut in wish.cuts} == {1, VOLUME[0]}
