"""Cuts on the page: through the volume that is being made, over HTTP and in a real browser where there is one."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from browsing import CHROMIUM, in_chromium, until
from pretended_beamline import VOLUME

from bluesky_streamrecon.cuts import Cut

ROW = {"corner": [3, -0.5, -0.5], "down": [0, 16, 0], "across": [0, 0, 16], "shape": [16, 16]}


def wish(page, *cuts, viewer="a-page"):
    answer = page.ask("POST", "/cuts", {"viewer": viewer, "cuts": cuts}, X_Streamrecon_Token=page.token)
    return answer, answer.read()


def test_page_gets_the_values_of_its_cuts_and_what_they_are_of(page, beamline):
    beamline.begin_cuts()
    next(told for told in page.changes() if told["newest"] == "1")
    outside = {**ROW, "corner": [99, 0, 0], "shape": [2, 3]}
    answer, body = wish(page, ROW, outside)
    about = json.loads(answer.headers["X-Streamrecon-Cuts"])
    assert (answer.status, about["run"], about["volume"]) == (200, "run-1", list(VOLUME))
    assert about["text"] == "Image 1 from 1 projections"
    assert about["shapes"] == [[16, 16], [2, 3]]
    values = np.frombuffer(body, "<f4")
    y, x = np.indices((16, 16))
    np.testing.assert_allclose(values[:256].reshape(16, 16), 300 + 10 * y + x)
    assert np.isnan(values[256:]).all()


@pytest.mark.parametrize(
    "cuts",
    [
        [],
        [ROW] * 5,
        [{**ROW, "corner": [1, 2]}],
        [{**ROW, "corner": ["a", 0, 0]}],
        [{**ROW, "corner": [1e300, 0, 0]}],
        [{**ROW, "shape": [2000, 2000]}],
        [{**ROW, "shape": [0, 4]}],
        [{"corner": [1, 2, 3]}],
    ],
)
def test_cuts_that_make_no_sense_are_refused(page, beamline, cuts):
    next(told for told in page.changes() if told["run"])
    answer, body = wish(page, *cuts)
    assert answer.status == 400
    assert json.loads(body)["text"]
    assert beamline.wishes == []


def test_cuts_need_the_token(page):
    assert page.ask("POST", "/cuts", {"viewer": "v", "cuts": [ROW]}).status == 403


@CHROMIUM
def test_cross_hair_moves_all_three_and_a_dragged_plane_arrives(server, beamline):
    beamline.begin_cuts()
    with in_chromium(server.url) as (page, shot):
        page.locator("#cut-note", has_text="Image 1 from 1 projections, 12 × 16 × 16 voxels").wait_for()

        box = page.locator("#cut-row").bounding_box()
        page.mouse.click(
            box["x"] + 3.4 / 16 * box["width"], box["y"] + 11.4 / 16 * box["height"]
        )  # in voxel x = 3, y = 11
        front, side = "drawn.front.cut.corner[1]", "drawn.side.cut.corner[2]"
        until(page, f"{front} === 11 && {side} === 3")
        page.focus("#cut-front")
        page.keyboard.press("ArrowUp")
        until(page, "drawn.row.cut.corner[0] === 5")
        assert page.locator("#cuts label", has_text="row 5").count() == 1
        before = page.evaluate("[...drawn.oblique.values]")
        box = page.locator("#cut-oblique").bounding_box()
        page.mouse.move(box["x"] + 50, box["y"] + 50)
        page.mouse.down()
        page.mouse.move(box["x"] + 90, box["y"] + 70, steps=4)
        page.mouse.up()
        until(page, "drawn.oblique.values.some((v, i) => Number.isFinite(v) && v !== before[i])", before)
        for name in ("row", "front", "side", "oblique"):
            drawn = page.evaluate("name => ({...drawn[name], values: [...drawn[name].values]})", name)
            made = Cut(**drawn["cut"])
            values = np.array(drawn["values"], float).reshape(made.shape)
            known = np.isfinite(values)
            assert known.mean() > 0.2
            np.testing.assert_allclose(values[known], (made.points() @ [100.0, 10.0, 1.0])[known], rtol=1e-5)
        page.fill("#low", "0")
        page.fill("#high", "5000")
        page.locator("#high").blur()
        assert page.is_checked("#locked")
        beamline.status = msgspec.structs.replace(beamline.status, image_number=2)
        page.locator("#cut-note", has_text="Image 2").wait_for()
        assert page.input_value("#high") == "5000"
        shot("cuts")
