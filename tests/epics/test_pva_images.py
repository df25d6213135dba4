"""What an NTNDArray holds: pixels of any type, by any codec of areaDetector, as they were taken."""

from __future__ import annotations

import numpy as np
import pytest
from pva_camera import UNIONS, image

from bluesky_streamrecon.beamline.pva.ntndarray import read_image
from bluesky_streamrecon.errors import DataError

pytestmark = pytest.mark.epics


@pytest.mark.parametrize("codec", ["", "lz4", "blosc", "bslz4"])
@pytest.mark.parametrize("dtype", UNIONS)
def test_pixels_of_any_type_and_codec_are_those_that_were_taken(dtype, codec):
    rng = np.random.default_rng(1)
    sent = (rng.random((37, 53)) * 100).astype(dtype)
    got = read_image(image(sent, 5, codec=codec, taken=3.5))
    np.testing.assert_array_equal(got.pixels, sent)
    assert (got.pixels.dtype, got.number, got.time) == (np.dtype(dtype), 5, 3.5)


def test_pixels_that_were_compressed_with_loss_are_nearly_those_that_were_taken():
    sent = np.add.outer(np.arange(64), np.arange(96)).astype("u1")
    got = read_image(image(sent, 5, codec="jpeg"))
    assert np.abs(got.pixels.astype(int) - sent).max() <= 3


def test_image_that_can_not_be_decompressed_is_an_error_that_names_it():
    sent = image(np.zeros((8, 8), "u2"), 17, codec="blosc")
    sent.value = ("ubyteValue", np.arange(sent.compressedSize, dtype="u1"))
    with pytest.raises(DataError, match=r"image 17: .* bytes of blosc can not be decompressed"):
        read_image(sent)


def test_colour_is_refused():
    with pytest.raises(
        DataError, match=r"image 3: got \(4, 5, 3\) pixels in ColorMode 2, expected .* set the detector to Mono"
    ):
        read_image(image(np.zeros((4, 5, 3), "u1"), 3, ColorMode=2))
