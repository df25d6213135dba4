"""Earlier images of a run stay to be looked at, and what is stored of it when it is over; in a browser, too."""

from __future__ import annotations

import json

import h5py
import msgspec
import numpy as np
from browsing import CHROMIUM, apart, in_chromium, until
from pretended_beamline import VOLUME

from bluesky_streamrecon.beamline.source import Snapshot, Source
from bluesky_streamrecon.cuts import Cut
from bluesky_streamrecon.live_view.images import Images, Kept, thinned
from bluesky_streamrecon.wire import RunStatus

ROW = {"corner": [4.4, -0.5, -0.5], "down": [0, 16, 0], "across": [0, 0, 16], "shape": [16, 16]}
FRONT = {"corner": [-0.5, 8, -0.5], "down": [12, 0, 0], "across": [0, 0, 16], "shape": [12, 16]}
SIZES = ((1920, 1080), (820, 1180), (1280, 800))
ALL_FILLED = "['row', 'front', 'side', 'oblique'].every(name => drawn[name].values.some(Number.isFinite))"


def look(page, image, *cuts):
    body = {"viewer": "a-page", "image": image, "cuts": cuts}
    answer = page.ask("POST", "/cuts", body, X_Streamrecon_Token=page.token)
    values = answer.read()
    if answer.status != 200:
        return json.loads(values)["text"], None
    about = json.loads(answer.headers["X-Streamrecon-Cuts"])
    ends = np.cumsum([height * width for height, width in about["shapes"]] * (1 + about["compared"]))
    parts = np.split(np.frombuffer(values, "<f4"), ends[:-1])
    return about, [part.reshape(shape) for part, shape in zip(parts, about["shapes"] * 2, strict=False)]


def kept(server, beamline, changes, *values):
    """Make images of these values, and wait until each is kept."""
    images = server._images
    for number, value in enumerate(values, 1):
        beamline.show(number, value)
        next(told for told in changes if told["newest"] and images.kept and images.kept[-1].image_number == number)


def finish(beamline, tmp_path, taken=9):
    """End the run, with its images stored."""
    z, y, x = np.indices(VOLUME)
    with h5py.File(tmp_path / "recon.h5", "w") as file:
        file["/exchange/data"] = (100 * z + 10 * y + x).astype(np.float32)
        file["/exchange/volume"] = (100 * z + 10 * y + x + 7).astype(np.float32)
    about = {"run_uid": None, "last_run": "run-1", "ended": "success: quality: good enough", "taken": taken}
    about |= {"used": taken, "result": str(tmp_path / "recon.h5"), "volume": "of run-1 is finished"}
    beamline.status = msgspec.structs.replace(beamline.status, **about)


def image(number, **about):
    """An image whose values are a linear function of the place, kept with every second voxel in each direction."""
    z, y, x = np.moveaxis(2 * np.indices((4, 6, 6)) + 0.5, 0, 0)
    whole = (100 * z + 10 * y + x).astype(np.float32)
    kept = {"rows": (3,), "slices": np.full((1, 6, 6), 7, np.float32), "box": whole, **about}
    return Kept("run", number, number, (8, 12, 12), **kept)


def test_images_are_thinned_evenly_and_stay_within_bounds():
    kept = ()
    for number in range(1, 1001):
        kept = thinned((*kept, image(number)), 64, 10**6)
        assert len(kept) <= 64
        assert (kept[0].projections, kept[-1].projections) == (1, number)
    assert np.diff([each.projections for each in kept]).max() <= 4 * 1000 / 64
    assert len(thinned(kept, 64, 10 * kept[0].nbytes)) == 10


def test_kept_image_is_coarse_but_in_its_rows_which_alone_are_seen_where_there_is_no_more():
    made = image(1)
    row, front = (Cut(**each) for each in (ROW, FRONT))
    assert (made.cut(msgspec.structs.replace(row, corner=(3, -0.5, -0.5)), made.volume)[:12, :12] == 7).all()
    middle = Cut(corner=(1.5, 1.5, 1.5), down=(0, 8, 0), across=(0, 0, 8), shape=(8, 8))
    np.testing.assert_allclose(made.cut(middle, made.volume), middle.points() @ [100, 10, 1], rtol=1e-5)
    assert made.placed(front) == front
    alone = image(1, box=None)
    assert alone.placed(row).corner[0] == 3
    assert np.isnan(alone.cut(front, alone.volume)).all()
    assert "rows 3 only" in alone.text


def test_images_of_unlike_width_are_compared_about_the_axis_in_their_middle():
    """As where the axis was corrected in the middle of a run of half acquisition."""

    def about_middle(number, side):
        y, x = np.indices((side, side)) - (side - 1) / 2
        slices = (10 * y + x).astype(np.float32)[None]
        return Kept("run", number, number, (8, side, side), rows=(3,), slices=slices, box=np.repeat(slices, 8, axis=0))

    status = RunStatus(run_uid="run")
    for sides in ((12, 17), (17, 12)):
        kept = [about_middle(number, side) for number, side in enumerate(sides, 1)]
        stored = {"image": np.repeat(kept[1].slices, 8, axis=0)}
        for snapshot, given in ((Snapshot(unlinked="", status=status), {}), (Snapshot(status=status), stored)):
            images = Images(Source(None, snapshot=snapshot), kept, given)
            for row in (3.0, 5.0):
                whole = Cut(
                    corner=(row, -0.5, -0.5), down=(0, sides[1], 0), across=(0, 0, sides[1]), shape=(sides[1],) * 2
                )
                shown = images.cut(1, [whole])
                assert shown.volume == (8, sides[1], sides[1])
                (earlier,), (newest,) = shown.values, shown.newest
                np.testing.assert_allclose(newest, kept[1].slices[0], atol=1e-4)
                inside = np.abs(np.arange(sides[1]) - (sides[1] - 1) / 2) <= (sides[0] - 1) / 2
                seen = np.ix_(inside, inside)
                np.testing.assert_allclose(earlier[seen], newest[seen], atol=1e-4)
                assert np.isnan(earlier[:, 0]).all() == (sides[0] < sides[1])


def test_earlier_image_is_cut_in_any_direction_beside_the_newest(server, page, beamline):
    changes = page.changes()
    kept(server, beamline, changes, 20.0, None, 7.0)
    told = next(told for told in page.changes() if len(told["earlier"]) == 2)
    assert told["earlier"] == [[1, "projection 1 of 12"], [2, "projection 2 of 12"]]
    about, (row, front, newest, _) = look(page, 2, ROW, FRONT)
    assert (about["volume"], about["compared"], about["cuts"][0]["corner"][0]) == (list(VOLUME), True, 4.4)
    assert "row 5, coarse elsewhere" in about["text"]
    np.testing.assert_allclose(row, Cut(**ROW).points() @ [100, 10, 1], rtol=1e-5)
    np.testing.assert_allclose(front, Cut(**FRONT).points() @ [100, 10, 1], rtol=1e-5)
    np.testing.assert_allclose(newest, 7)


def test_finished_volume_and_last_live_image_take_the_place_of_the_image_that_was_made(page, beamline, tmp_path):
    changes = page.changes()
    beamline.begin_cuts()
    next(told for told in changes if told["newest"] == "1")
    finish(beamline, tmp_path)
    told = next(told for told in changes if told["link"])
    assert (told["newest"], told["earlier"]) == ("volume", [[-1, "last live image"]])
    about, (front,) = look(page, 0, FRONT)
    assert about["text"] == "Finished volume from 9 projections"
    z, x = np.indices((12, 16))
    np.testing.assert_allclose(front, 100 * z + 80 + x + 7)
    about, (live, finished) = look(page, -1, FRONT)
    assert about["text"] == "Last live image from 9 projections"
    np.testing.assert_allclose(finished - live, 7)


def test_page_that_is_opened_after_the_run_shows_how_it_ended_and_its_volume(beamline, tmp_path, request):
    finish(beamline, tmp_path)
    page = request.getfixturevalue("page")
    told = next(told for told in page.changes() if told["run"])
    assert (told["run"], told["headline"]["what"], told["newest"]) == (
        "run-1",
        "The run has ended at projection 9 of 12",
        "volume",
    )


def test_run_whose_images_are_elsewhere_has_nothing_to_look_at(page, beamline):
    beamline.status = msgspec.structs.replace(
        beamline.status, run_uid=None, last_run="run-1", ended="success", result="/elsewhere/recon.h5"
    )
    assert next(told for told in page.changes() if told["link"])["newest"] == ""
    assert look(page, 0, ROW) == ("there is no image to look at yet", None)


@CHROMIUM
def test_history_scrubs_by_keyboard_and_the_difference_and_the_finished_volume_are_seen(
    server, page, beamline, tmp_path
):
    changes = page.changes()
    beamline.show(1, 1.0)
    with in_chromium(server.url) as (seen, shot):
        seen.locator("#cut-note", has_text="Image 1").wait_for()
        kept(server, beamline, changes, 1.0, 2.0, 3.0)
        seen.focus("#cut-row")
        seen.keyboard.press("+")
        seen.keyboard.press("ArrowLeft")
        until(seen, "view.zoom > 1 && drawn.row.cut.down[1] < 16 && Number(document.getElementById('when').max) === 2")
        before = seen.evaluate("[view.zoom, view.low, view.high, view.cross]")
        seen.focus("#when")
        seen.keyboard.press("ArrowLeft")
        seen.locator("#cut-note", has_text="Image 2 from 2 projections").wait_for()
        seen.keyboard.press("Home")
        seen.locator("#moment", has_text="projection 1 of 12").wait_for()
        seen.locator("#cut-note", has_text="Image 1 from 1 projections: row 5, coarse elsewhere").wait_for()
        assert seen.evaluate("[view.zoom, view.low, view.high, view.cross]") == before

        seen.select_option("#compare", "difference")
        seen.locator("#between", has_text="per pixel").wait_for()
        step = "onShow(drawn.row).filter(Number.isFinite).every(v => Math.abs(v - 2) < 1e-5)"
        assert seen.evaluate(step)
        shot("difference")
        seen.select_option("#compare", "blink")
        seen.locator("#between", has_text="shown: newest").wait_for()
        seen.locator("#between", has_text="shown: projection 1").wait_for()
        seen.emulate_media(reduced_motion="reduce")
        shown = seen.locator("#between").inner_text()
        seen.keyboard.press("b")
        assert seen.locator("#between").inner_text() != shown

        seen.keyboard.press("End")
        seen.locator("#cut-note", has_text="Image 3 from 3 projections, 12").wait_for()
        assert seen.locator("#moment").inner_text() == "newest"
        finish(beamline, tmp_path)
        seen.locator("#cut-note", has_text="Finished volume from 9 projections").wait_for()
        until(seen, ALL_FILLED)
        seen.focus("#when")
        seen.keyboard.press("ArrowLeft")
        seen.select_option("#compare", "difference")
        seen.locator("#cut-note", has_text="Last live image from 9 projections").wait_for()
        filled = "onShow(drawn[name]).filter(Number.isFinite)"
        assert seen.evaluate(f"['front', 'side', 'oblique'].every(name => {filled}.every(v => Math.abs(v - 7) < 1e-3))")
        seen.select_option("#compare", "beside")
        seen.locator("#beside figcaption", has_text="finished volume, the same limits").wait_for()
        live, finished = (seen.locator(f"{name} .cut").bounding_box() for name in ("#cuts .large", "#beside"))
        assert (live["width"], live["y"]) == (finished["width"], finished["y"])
        shot("beside")
        seen.select_option("#compare", "difference")
        for size in SIZES:
            apart(seen, size, "#cuts", "#past", "#about-cuts", "#scores", "#gains", "#headline", "#finish")
            shot(f"finished-{size[0]}")


UNMADE = """() => {
    const real = fetch;
    fetch = () => new Promise(answer => {
        unmade = () => { fetch = real; answer(new Response('{"text": "no run makes images now"}', { status: 504 })); };
    });
}"""


@CHROMIUM
def test_finished_volume_is_seen_although_the_run_ended_while_cuts_of_it_were_wished_for(server, beamline, tmp_path):
    beamline.show(1, 1.0)
    with in_chromium(server.url) as (seen, _):
        seen.locator("#cut-note", has_text="Image 1").wait_for()
        until(seen, "!looking")
        seen.evaluate(UNMADE)
        beamline.show(2, 2.0)
        until(seen, "window.unmade")
        finish(beamline, tmp_path)
        until(seen, "view.newest === 'volume'")
        seen.evaluate("() => unmade()")
        seen.locator("#cut-note", has_text="Finished volume from 9 projections").wait_for()
