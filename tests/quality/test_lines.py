"""Line integrals reach the controller once each, whatever becomes of previews, ranks and controllers."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.quality.lines import LineStore
from bluesky_streamrecon.quality.session import SteeringSession
from bluesky_streamrecon.wire import Preview

COLUMNS = 44


@pytest.fixture
def part():
    """Make a preview that brings projections ``first + 1`` to ``last`` of some rows; pixels tell which they are."""

    def make(first, last, *, rows=(3, 7), rank=0, axis=21.5, columns=COLUMNS):
        header = Preview(
            run_uid="run-1",
            seq=last,
            rank=rank,
            image_number=last,
            projections=last,
            rows=rows,
            shape=(44, 44),
            angles_used=tuple(0.01 * number for number in range(first + 1, last + 1)),
            columns=columns,
            lines_first=first,
            axis=axis,
        )
        numbers = np.arange(first + 1, last + 1)[:, None, None] + 1000 * np.array(rows)[None, :, None]
        lines = np.broadcast_to(numbers, (last - first, len(rows), columns)).astype(np.float32)
        return msgspec.structs.replace(header, lines=lines)

    return make


def whole(store, count, rows=(3, 7)):
    scan = store.scan()
    np.testing.assert_array_equal(scan.values[:, :, 0], np.arange(1, count + 1)[:, None] + 1000 * np.array(rows))
    np.testing.assert_allclose(scan.angles, 0.01 * np.arange(1, count + 1))
    return scan


def test_projections_that_come_again_are_taken_once(open_run, part):
    store = LineStore(open_run())
    for first, last in ((0, 2), (2, 5), (0, 5), (4, 7), (0, 3)):
        store.add(part(first, last))
    assert whole(store, 7).axis == 21.5


def test_how_the_image_of_the_run_shows_the_sample_is_known_with_its_lines(open_run, part):
    run = open_run()
    for rotation, mirrored in (("counterclockwise", False), ("clockwise", True)):
        recon = msgspec.structs.replace(run.recon, rotation=rotation)
        store = LineStore(msgspec.structs.replace(run, recon=recon))
        store.add(msgspec.structs.replace(part(0, 7), shape=(30, 30)))
        assert (whole(store, 7).mirrored, whole(store, 7).size) == (mirrored, 30)


def test_prediction_is_made_anew_about_a_corrected_axis_though_no_projection_came(open_run, part):
    session = SteeringSession(open_run(policy="predicted-gain"))
    begun = []
    session._forecaster.begin = lambda lines, _: begun.append((lines.projections, lines.axis))
    shown = msgspec.structs.replace(part(0, 24), pixels=np.zeros((2, 44, 44), np.float32))
    session.accept(shown)
    assert session.judge().axis == 21.5
    anew = {"image_number": 25, "axis": 19.5, "columns": 0, "lines": None, "angles_used": ()}
    session.accept(msgspec.structs.replace(shown, **anew))
    assert session.judge().axis == 19.5
    assert begun == [(24, 21.5), (24, 19.5)]


def test_rows_of_several_ranks_are_put_together_as_far_as_all_have_come(open_run, part):
    store = LineStore(open_run(rows=(9, 3, 7)))
    assert store.scan() is None
    store.add(part(0, 6, rows=(3, 7)))
    assert store.projections == 0
    store.add(part(0, 4, rows=(9,), rank=1))
    whole(store, 4, rows=(9, 3, 7))


def test_missing_projections_and_other_detectors_are_refused(open_run, part):
    store = LineStore(open_run())
    store.add(part(0, 2))
    with pytest.raises(DataError, match="got projections from 5 on, expected from 3 on"):
        store.add(part(4, 6))
    with pytest.raises(DataError, match=r"got 40 columns and axis 21\.5, expected 44 columns"):
        store.add(part(2, 3, columns=40))
    with pytest.raises(DataError, match="axis None"):
        store.add(part(2, 3, axis=None))
    store.add(part(2, 3))
    whole(store, 3)


def test_images_are_judged_although_their_line_integrals_are_missing(open_run, part, image, caplog):
    session = SteeringSession(open_run())
    for last in (5, 6):
        session.accept(msgspec.structs.replace(part(4, last), pixels=image(last)))
        assert session.judge().image_number == last
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    assert "was the job restarted from a checkpoint without them" in caplog.text
