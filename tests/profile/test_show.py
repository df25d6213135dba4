"""What `show_last` draws: cuts through the image that a run made, named by what it is."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
from matplotlib import pyplot as plt

from bluesky_streamrecon.profile import _show


@pytest.mark.parametrize(
    ("analysis", "label"),
    [("tomography", "attenuation (1/pixel)"), ("running-mean", "values of the analysis running-mean")],
)
def test_values_are_called_what_the_analysis_makes(monkeypatch, tmp_path, capsys, analysis, label):
    start = {"uid": "r" * 8, "raw_run_uid": "s" * 36, "streamrecon": {"recon": {"analysis": analysis}}}
    volume = np.random.default_rng(0).random((3, 8, 8))
    monkeypatch.setattr(_show, "find_reconstruction", lambda *_: SimpleNamespace(metadata={"start": start}, base={}))
    monkeypatch.setattr(_show, "load_reconstruction", lambda *_: volume)
    monkeypatch.setattr(_show, "finished_images", lambda *_: ("image",))
    monkeypatch.delenv("DISPLAY", raising=False)
    figure = _show.show_reconstruction(object(), directory=tmp_path)
    plt.close(figure)
    assert capsys.readouterr().out.strip() == str(tmp_path / "reconstruction-ssssssss.png")
    *panels, bar = figure.axes
    assert [panel.get_title() for panel in panels] == ["row 1 of 3", "x–row at y = 4", "y–row at x = 4"]
    assert bar.get_ylabel() == label
    np.testing.assert_array_equal(panels[0].images[0].get_array(), volume[1])


def test_finished_volume_is_shown_with_two_patches_that_differ_by_the_tolerance(monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    volume = rng.random((3, 96, 96), np.float32)
    start = {"uid": "r" * 8, "streamrecon": {"steering": {"tolerance": 0.02}}}
    live = {"image": volume + 0.3 * rng.standard_normal(volume.shape, np.float32)}

    stored = MagicMock(metadata={"start": start})
    stored.__getitem__.return_value = live
    monkeypatch.setattr(_show, "find_reconstruction", lambda *_: stored)
    monkeypatch.setattr(_show, "load_reconstruction", lambda *_: volume)
    monkeypatch.setattr(_show, "finished_images", lambda *_: ("image", "volume"))
    monkeypatch.delenv("DISPLAY", raising=False)
    figure = _show.show_reconstruction(object(), directory=tmp_path)
    plt.close(figure)
    *_, patch, worse, _bar = figure.axes
    assert [each.get_title() for each in (patch, worse)] == ["a patch of it", "worse by the tolerance, 0.02"]
