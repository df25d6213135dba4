"""The figure at the prompt and in notebooks shows the run that is taken, and another run from its own beginning."""

from __future__ import annotations

import queue
from types import SimpleNamespace

import IPython.display
import msgspec
import numpy as np
import pytest
from IPython.core import getipython
from matplotlib.figure import Figure
from pretended_beamline import BOUND

from bluesky_streamrecon.beamline.live_figure import LiveReconstruction, _shown, show_job
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.live_view import Source
from bluesky_streamrecon.selection import Selection
from bluesky_streamrecon.wire import Judged


@pytest.fixture
def source(beamline):
    made = Source(beamline.connect, "anna@here")
    yield made
    made.close()


class SimpleJob:
    """What of a job is used to connect to it."""

    def __init__(self, beamline):
        self.connect_operator = beamline.connect


@pytest.fixture
def live(source):
    """A figure, and what waits until it has taken an image."""
    taken = queue.Queue()

    class Live(LiveReconstruction):
        def event(self, doc):
            super().event(doc)
            taken.put(self._cuts)

    def wait(number):
        while (cuts := taken.get(timeout=BOUND)) is None or cuts.image_number != number:
            pass

    return Live(source, figure=Figure(), slice_number=0), wait


def await_verdicts(source):
    seen = queue.Queue()
    source.listen(lambda: seen.put(None))
    while not (source.snapshot.judged and source.snapshot.status.image_number):
        seen.get(timeout=BOUND)


def test_slice_score_and_gain_of_the_run_are_drawn_in_place(beamline, source, live):
    judged = Judged(image_number=1, projections=4, score=0.5, gain=0.1, gain_low=0.05, gain_high=0.2, gain_at=3)
    beamline.judged = (judged, msgspec.structs.replace(judged, image_number=2, projections=8, score=0.7, gain_at=6))
    beamline.status = msgspec.structs.replace(beamline.status, tolerance=0.02)
    beamline.show(1)
    live, await_image = live
    await_verdicts(source)
    live("start", {"uid": "run-1", "scan_id": 7})
    await_image(1)
    live._draw()
    picture, score, gain = live.figure.axes
    y, x = np.indices((16, 16))
    np.testing.assert_allclose(picture.images[0].get_array(), 300 + 10 * y + x)
    assert picture.get_title() == "row 3 from 1 projections"
    np.testing.assert_array_equal(score.lines[0].get_xydata(), [(4, 0.5), (8, 0.7)])
    np.testing.assert_array_equal(gain.lines[0].get_xydata(), [(3, 0.1), (6, 0.1)])
    assert gain.lines[1].get_label() == "tolerance"
    beamline.show(2, 50.0)
    await_image(2)
    live("stop", {"exit_status": "success"})
    assert np.all(picture.images[-1].get_array() == 50)
    assert len(live.figure.axes) == 3
    assert live.figure.get_suptitle() == "Scan 7 (run-1) ended: success"


def test_another_run_begins_with_an_empty_figure(beamline, live):
    beamline.judged = (Judged(image_number=1, projections=4, score=0.5),)
    beamline.show(1)
    live, await_image = live
    await_image(1)
    live("start", {"uid": "run-2"})
    assert [(panel.lines[:], panel.images[:]) for panel in live.figure.axes] == [([], [])] * 3


def test_figure_that_can_not_be_drawn_ends_no_scan(source, caplog):
    live = LiveReconstruction(source, figure="closed")
    live("start", {"uid": "run-1"})
    assert "suppressed to not interrupt plan execution" in caplog.text


def test_job_shows_its_runs_in_a_notebook_and_updates_the_same_output(beamline, monkeypatch):
    outputs = queue.Queue()

    class Handle:
        def update(self, shown):
            outputs.put(shown._repr_png_())

    def display(shown, display_id):
        assert display_id
        return Handle()

    monkeypatch.setattr(getipython, "get_ipython", lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setattr(IPython.display, "display", display)
    job = SimpleJob(beamline)
    show_job(job)
    try:
        beamline.judged = (Judged(image_number=1, projections=4, score=0.5),)
        beamline.show(1)
        first = outputs.get(timeout=BOUND)
        assert first.startswith(b"\x89PNG")
        live = _shown[job]
        while not live.figure.axes[0].images:
            outputs.get(timeout=BOUND)
        show_job(job)  # in another cell: the first is closed
        assert _shown[job] is not live
    finally:
        _shown[job].close()


def test_job_without_display_and_notebook_says_where_to_look(beamline, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(ConfigError, match="streamrecon view"):
        show_job(SimpleJob(beamline))


def test_figure_shows_the_row_and_frames_the_region_that_count_and_draws_what_was_judged_in_them(
    live, beamline, source
):
    figure, wait = live
    whole, selection = Selection(), Selection((2, 3, 9, 8), (10,))
    beamline.judged = tuple(
        Judged(image_number=n, projections=n, score=n / 4, selection=selection if n > 1 else whole) for n in (1, 2, 3)
    )
    beamline.status = msgspec.structs.replace(beamline.status, selection=selection)
    figure.start({"uid": "run-1", "scan_id": 7})
    beamline.show(1)
    wait(1)
    await_verdicts(source)
    figure.stop({"exit_status": "success"})
    picture, score, _ = figure.figure.axes
    assert [frame.get_bbox().extents.tolist() for frame in picture.patches] == [[2, 3, 9, 8]]
    assert picture.get_title().startswith("row 10 from ")
    assert list(score.lines[0].get_xdata()) == [2, 3]
