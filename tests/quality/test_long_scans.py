"""A scan of more projections than are held is judged as well as one of which all are."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from bluesky_streamrecon.ordering import make_order
from bluesky_streamrecon.projection_sets import ProjectionStore
from bluesky_streamrecon.quality import lines as lines_module
from bluesky_streamrecon.quality.checks import RankReports, inspect_scan
from bluesky_streamrecon.quality.data_checks import structured_rows
from bluesky_streamrecon.quality.gain import predict_gain
from bluesky_streamrecon.quality.lines import GROUP, LineStore
from bluesky_streamrecon.quality.trials import TrialReconstruction
from bluesky_streamrecon.recon.quick import QuickReconstructor
from bluesky_streamrecon.sim_devices.faults import Faults
from bluesky_streamrecon.sim_devices.samples import Foam
from bluesky_streamrecon.wire import Preview

PLANNED = 480
MOST = 144
ORDER = make_order("golden", num=PLANNED)


def find_fault(lines):
    return inspect_scan(lines, RankReports())[0]


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Hold few views, so that a scan that is quickly simulated is a long one."""
    monkeypatch.setattr(lines_module, "most_views", lambda columns: MOST)


@pytest.fixture
def empty(open_run):
    """Make a store for a scan."""

    def make(scan):
        run = open_run(rows=scan.rows, planned=scan.planned)
        return LineStore(msgspec.structs.replace(run, detector_shape=(10, scan.values.shape[2])))

    return make


@pytest.fixture
def told(empty):
    """Tell a scan to a store in steps, the rows by ranks of their own."""

    def tell(scan, count, *, store=None, first=0, step=5):
        rows = scan.rows
        store = store or empty(scan)
        for start in range(first, count, step):
            stop = min(start + step, count)
            for rank, row in enumerate(rows):
                header = Preview(
                    run_uid="run-1",
                    seq=stop,
                    rank=rank,
                    image_number=stop,
                    projections=stop,
                    rows=(row,),
                    shape=(4, 4),
                    angles_used=tuple(scan.angles[start:stop].tolist()),
                    columns=scan.values.shape[2],
                    lines_first=start,
                    axis=scan.axis,
                    lines=scan.values[start:stop, rank : rank + 1],
                )
                store.add(header)
        return store

    return tell


def means(scan, count, rank):
    """What a rank tells of the first projections of a long scan, when it tells them again."""
    kept = ProjectionStore(MOST)
    for values, angle in zip(scan.values[:count], scan.angles[:count], strict=True):
        kept.append(values[rank : rank + 1], float(angle))
    views = kept.views()
    return Preview(
        run_uid="run-1",
        seq=count,
        rank=rank,
        image_number=count,
        projections=count,
        rows=(scan.rows[rank],),
        shape=(4, 4),
        angles_used=tuple(views.angles.tolist()),
        columns=scan.values.shape[2],
        lines_counts=tuple(views.counts.tolist()),
        axis=scan.axis,
        lines=views.values,
    )


def test_what_is_held_does_not_grow_with_the_scan(simulate, told):
    scan = told(simulate(order=ORDER).lines, PLANNED).scan()
    assert len(scan.angles) <= MOST
    assert len(scan.sample.angles) <= MOST + 3 * GROUP
    assert scan.projections == PLANNED
    assert scan.per_view == PLANNED / len(scan.angles)


def test_projections_are_kept_one_by_one_in_groups_with_the_newest(simulate, told):
    whole = simulate(order=ORDER).lines
    for count in (150, 307, 480):
        sample = told(whole, count).scan().sample
        numbers = sample.numbers
        np.testing.assert_array_equal(sample.values, whole.values[numbers - 1])
        np.testing.assert_array_equal(
            numbers[-2 * GROUP :], [*numbers[-2 * GROUP : -GROUP], *range(count - 11, count + 1)]
        )
        assert all(np.ptp(group) == GROUP - 1 for group in numbers.reshape(-1, GROUP))


def test_prediction_from_means_is_that_from_all_projections(simulate, told):
    recipe = QuickReconstructor()
    for photons, count in ((300, 240), (1e3, 360)):
        simulated = simulate(Foam(pores=60), counts=photons, order=ORDER)
        exact = predict_gain(TrialReconstruction(simulated.upto(count), [0, 1], recipe))
        means = predict_gain(TrialReconstruction(told(simulated.lines, count).scan(), [0, 1], recipe))
        assert exact.lower < means.gain < exact.upper
        assert means.gain == pytest.approx(exact.gain, rel=0.2, abs=5e-4)
        assert (means.projections, means.planned) == (count, PLANNED)
        assert means.by_variance == pytest.approx(exact.by_variance, rel=0.2)


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        (Faults(drift=(0.02, 0.01)), "the sample moves on its mount"),
        (Faults(jump_at=300, jump=(4.0, 2.0)), "elsewhere since about projection [34]"),
        (Faults(dimming=0.001), "as when the beam dims"),
        (Faults(dark_from=400), "no light in projections 4.. to 480"),
        (Faults(slips_from=420), "is the stage stuck"),
        (Faults(empty_from=440), "nothing absorbs in the newest 12 frames"),
    ],
    ids=["drift", "step", "dimming", "blocked", "stuck", "lost"],
)
def test_faults_of_a_long_scan_are_named(simulate, told, faults, said):
    scan = told(simulate(order=ORDER, faults=faults).lines, PLANNED).scan()
    with pytest.raises(AssertionError, match=said):
        assert find_fault(scan) is None, find_fault(scan)


def test_sound_long_scan_is_not_called_faulty(simulate, told):
    whole = simulate(order=ORDER).lines
    for count in (145, 200, 300, 480):
        scan = told(whole, count).scan()
        assert find_fault(scan) is None
        assert structured_rows(scan) == [0, 1]


def test_controller_that_comes_back_takes_means_and_goes_on(simulate, told, empty):
    whole = simulate(order=ORDER).lines
    store = empty(whole)
    for rank in range(2):
        store.add(means(whole, 300 + rank, rank))  # ranks may be a projection apart
    assert store.projections == 300
    scan = told(whole, PLANNED, store=store, first=300).scan()
    assert scan.projections == PLANNED
    expected = told(whole, PLANNED).scan()
    assert abs(len(scan.angles) - len(expected.angles)) <= 2
    assert find_fault(scan) is None
    assert scan.sample.numbers[0] > 300


def test_means_of_what_is_here_already_are_left_aside(simulate, told):
    whole = simulate(order=ORDER).lines
    store = told(whole, 310)
    before = store.scan()
    store.add(means(whole, 300, 0))
    after = store.scan()
    np.testing.assert_array_equal(before.values, after.values)
    np.testing.assert_array_equal(before.sample.numbers, after.sample.numbers)


def test_residual_of_a_long_scan_is_that_of_projections_not_seen_before(simulate, told, stand_in):
    whole = simulate(order=ORDER).lines
    before = TrialReconstruction(told(whole, 300).scan(), [0, 1], stand_in)
    study = TrialReconstruction(told(whole, 360).scan(), [0, 1], stand_in, before)
    measured, predicted = study.held_out()
    assert measured.shape == predicted.shape
    assert GROUP <= len(measured) <= 60
    assert any(np.array_equal(measured[-1], np.maximum(line, 0)) for line in whole.values[300:360])
