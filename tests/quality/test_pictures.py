"""What people see of an image: small, 8-bit, and drawn no oftener than is cheap."""

from __future__ import annotations

import numpy as np

from bluesky_streamrecon.coverage import AngularRange
from bluesky_streamrecon.quality.lines import ScanLines
from bluesky_streamrecon.quality.metrics import PreviewImage
from bluesky_streamrecon.quality.pictures import Pictures, draw_picture, draw_sinogram
from bluesky_streamrecon.wire import ShowMe


def image(number, stack, rows=None):
    stack = np.asarray(stack, np.float32)
    return PreviewImage(number, 2 * number, tuple(range(len(stack))) if rows is None else rows, stack)


def pixels(picture):
    return np.frombuffer(picture.pixels, np.uint8).reshape(len(picture.rows), picture.size, picture.size)


def test_large_slices_are_made_small_by_means_of_blocks():
    stack = np.kron(np.arange(25.0).reshape(1, 5, 5), np.ones((1, 560, 560), np.float32))
    picture = draw_picture("run", image(4, stack[:, :2444, :2444], rows=(7,)), axis=300.5, made=3.0)
    assert (picture.size, picture.full_size, picture.rows) == (815, 2444, (7,))
    assert (picture.run_uid, picture.image_number, picture.projections) == ("run", 4, 8)
    assert (picture.axis, picture.made) == (300.5, 3.0)
    shown = pixels(picture)[0]
    assert (shown[0, 0], shown[-1, -1]) == (0, 255)
    assert shown[0, 400] < shown[400, 400] < shown[800, 400]


def test_hot_pixels_do_not_darken_the_rest_and_what_is_not_finite_is_black():
    stack = np.tile(np.linspace(0, 1, 100, dtype=np.float32), (1, 100, 1))
    stack[0, 0, :3] = 1e6
    stack[0, 5, 5:8] = np.nan
    shown = pixels(draw_picture("run", image(1, stack)))[0]
    assert shown[0, 0] == 255
    assert np.all(shown[5, 5:8] == 0)
    assert 120 < shown[50, 50] < 135


def test_empty_image_and_many_rows_can_be_shown():
    assert np.all(pixels(draw_picture("run", image(1, np.zeros((2, 8, 8))))) == 0)
    assert np.all(pixels(draw_picture("run", image(1, np.full((2, 8, 8), np.nan)))) == 0)
    many = draw_picture("run", image(1, np.zeros((9, 1024, 1024), np.float32)))
    assert many.rows == (0, 4, 8)


def test_slices_of_another_shape_are_stretched_to_a_square():
    shown = pixels(draw_picture("run", image(1, [np.outer([1, 2], np.ones(8))])))[0]
    assert shown.shape == (8, 8)
    assert (shown[:4] == shown[0, 0]).all()
    assert (shown[4:] == shown[7, 7]).all()
    assert shown[0, 0] < shown[7, 7]


def test_sinogram_has_the_projections_at_their_directions_and_nothing_between():
    degrees = np.array([0.0, 90.0, 45.0, 180.0])  # 180 sees what 0 saw, and is the newer one
    values = np.ones((4, 2, 600), np.float32) * np.array([1, 2, 3, 4], np.float32)[:, None, None]
    values[2, 1] = np.nan
    over = AngularRange(0.0, 2 * np.pi)
    lines = ScanLines(values, np.radians(degrees), 300.0, (5, 9), planned=16, over=over)
    seen = draw_sinogram(lines, [1, 0])
    assert (list(seen.counts), seen.columns) == ([2, 0, 1, 0, 1, 0, 0, 0], 200)
    assert (seen.span, seen.newest) == (np.pi, np.pi)
    upper, lower = np.frombuffer(seen.pixels, np.uint8).reshape(2, 8, 200)  # rows 9 and 5
    assert lower[:, 0].tolist() == [255, 0, 128, 0, 1, 0, 0, 0]
    assert upper[:, 0].tolist() == [255, 0, 0, 0, 1, 0, 0, 0]
    picture = draw_picture("run", image(1, np.zeros((1, 8, 8)), rows=(9,)), lines=lines)
    assert picture.sinogram.pixels[200 * 2] == 0


def test_newest_image_is_drawn_once_per_wish_and_not_too_often():
    now, sent = [0.0], []
    pictures = Pictures(sent.append, clock=lambda: now[0], wall=lambda: 5.0)
    pictures.offer("run", image(1, np.eye(4)[None]))
    pictures.turn()
    assert sent == []
    pictures.wanted(ShowMe())
    pictures.offer("run", image(2, np.eye(4)[None]))
    pictures.turn()
    pictures.turn()
    assert [picture.image_number for picture in sent] == [2]
    pictures.wanted(ShowMe(run_uid="run", image_number=2))
    pictures.turn()
    assert len(sent) == 1
    pictures.offer("run", image(3, np.eye(4)[None]))
    pictures.turn()
    assert len(sent) == 1
    now[0] = 0.3
    pictures.turn()
    assert [picture.image_number for picture in sent] == [2, 3]
    pictures.begin()
    pictures.wanted(ShowMe(run_uid="run", image_number=3))
    now[0] = 9.0
    pictures.turn()
    assert len(sent) == 2
