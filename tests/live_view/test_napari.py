"""The volume as a layer of napari: coarse, in its place, of the newest image; the viewer is pretended."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from pretended_beamline import BOUND, VOLUME

from bluesky_streamrecon.beamline.slices import coarse_volume
from bluesky_streamrecon.live_view import Source
from bluesky_streamrecon.live_view.napari_layer import VolumeLayer


class Viewer:
    """What of napari's viewer is used; signals each layer that is added."""

    def __init__(self):
        self.status, self.layers = "", []

    def add_image(self, data, **options):
        self.layers.append(SimpleNamespace(data=data, **options))
        return self.layers[-1]


def updated(layer, what):
    """Look as the window's timer does, until something is so."""
    pause, end = threading.Event(), 10 * BOUND
    for _ in range(int(end)):
        layer.update()
        if what():
            return True
        pause.wait(0.1)
    return False


@pytest.mark.parametrize("shape", [(512, 512, 512), (3, 2048, 2048), (2048, 16, 16), (1, 4, 4)])
def test_whole_volume_is_asked_for_in_as_many_voxels_as_one_wish_can_have(shape):
    cut = coarse_volume(shape, 50_000)
    points = cut.points().reshape(-1, 3)
    assert cut.pixels <= 50_000
    assert cut.pixels > 0.8 * min(50_000, np.prod(shape)) or min(shape) < 30
    np.testing.assert_allclose((points.min(axis=0) + points.max(axis=0)) / 2, (np.array(shape) - 1) / 2)


def test_layer_follows_the_newest_image_in_its_place_and_keeps_what_people_set(beamline):
    beamline.begin_cuts()
    beamline.status = msgspec.structs.replace(beamline.status, pixel_size=1.5)
    source, viewer = Source(beamline.connect, "anna@here"), Viewer()
    layer = VolumeLayer(viewer, source)
    try:
        assert updated(layer, lambda: viewer.layers)
        (shown,) = viewer.layers
        rows, y, x = np.indices(VOLUME)
        np.testing.assert_allclose(shown.data, 100 * rows + 10 * y + x)
        assert (shown.scale, shown.translate) == ([1.5] * 3, [0.0] * 3)
        assert shown.name == "run run-1, 1 projections"
        shown.contrast_limits = (0, 7)
        beamline.status = msgspec.structs.replace(beamline.status, image_number=2)
        assert updated(layer, lambda: shown.name == "run run-1, 2 projections")
        assert (shown.contrast_limits, len(viewer.layers)) == ((0, 7), 1)
        viewer.layers.clear()
        beamline.status = msgspec.structs.replace(beamline.status, image_number=3)
        assert updated(layer, lambda: viewer.layers)
    finally:
        source.close()
