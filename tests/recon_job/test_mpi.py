"""The job as it is really run: several processes under mpiexec, fed over sockets, ended in all the ways there are."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from bluesky_streamrecon.cuts import Cut
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon import Engine
from bluesky_streamrecon.recon.axis import find_axis
from bluesky_streamrecon.recon.preparation import Preparation
from bluesky_streamrecon.settings import ReconSettings

pytestmark = pytest.mark.mpi

WAIT_S = 25.0


def settings(scan, ranks, **changes):
    values = {"window": 8, "step": 2, "axis": scan.axis, "ranks": ranks, "window_policy": "spread", "coalesce": False}
    return ReconSettings(**(values | changes))


def image_of(finished):
    with h5py.File(finished.results[0].result) as file:
        return file["/exchange/data"][:]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_any_number_of_ranks_gives_the_image_of_an_independent_loop(
    kept_mpi_job, scan, tmp_path, reference_mlem, ranks
):
    beamline, _ = kept_mpi_job(ranks)
    finished = beamline.feed(scan, settings(scan, ranks, options={"initial": 0.02}), tmp_path)
    expected = reference_mlem(scan, window=8, step=2, initial=0.02)
    assert len(finished.results) == ranks
    assert np.abs(image_of(finished) - expected).max() <= 1e-4 * np.abs(expected).max()

    results = beamline.feed(scan, settings(scan, ranks, axis=None), tmp_path, uid="axis").results
    assert {result.axis for result in results} == {results[0].axis}
    assert results[0].axis == pytest.approx(scan.axis, abs=0.25)


@pytest.mark.parametrize("ranks", [1, 3])
def test_axis_that_is_known_late_ends_with_the_image_of_a_run_that_had_it_from_the_start(
    kept_mpi_job, scan, tmp_path, ranks
):
    beamline, _ = kept_mpi_job(ranks)
    turned = np.argsort(scan.angles)  # from one end to the other: few views say nothing about the axis
    late = replace(scan, projections=scan.projections[turned], angles=scan.angles[turned])
    light = late.flats.mean(axis=0) - late.darks.mean(axis=0)
    integrals = -np.log((late.projections - late.darks.mean(axis=0)) / light)
    assert abs(find_axis(integrals[:16], late.angles[:16]).axis - scan.axis) > 0.5
    steps = {"preparation": ("zingers", "rings")}
    finished = beamline.feed(late, settings(late, ranks, axis=None, **steps), tmp_path, uid="late")
    axis = finished.results[0].axis
    assert axis == pytest.approx(scan.axis, abs=0.25)
    given = beamline.feed(late, settings(late, ranks, axis=axis, **steps), tmp_path, uid="given")
    assert finished.results[0].image_number == given.results[0].image_number
    assert np.abs(image_of(finished) - image_of(given)).max() <= 1e-5 * image_of(given).max()


@pytest.mark.parametrize("ranks", [1, 3])
def test_axis_that_a_person_corrects_ends_with_the_image_of_a_run_that_had_it_from_the_start(
    kept_mpi_job, scan, tmp_path, ranks
):
    beamline, _ = kept_mpi_job(ranks)
    given = beamline.feed(scan, settings(scan, ranks), tmp_path, uid="right")
    beamline.open(scan, settings(scan, ranks, axis=scan.axis + 4), tmp_path, uid="corrected")
    beamline.references(scan)
    beamline.projections(scan, 0, 13)
    beamline.wait_for_images(ranks, 6)
    beamline.correct_axis(scan.axis - 2)
    beamline.wait_for_images(ranks, 7)  # at once: no projection comes meanwhile
    beamline.projections(scan, 13, 20)
    beamline.correct_axis(scan.axis)
    beamline.projections(scan, 20)
    finished = beamline.finish()
    assert {result.axis for result in finished.results} == {scan.axis}
    assert np.abs(image_of(finished) - image_of(given)).max() <= 1e-5 * image_of(given).max()
    assert all(entry.balanced for entry in beamline.endpoint.ledger().values())


@pytest.mark.parametrize("at", [0, 5, 13])
def test_person_who_sets_the_axis_that_is_being_looked_for_ends_the_search(kept_mpi_job, scan, tmp_path, at):
    beamline, _ = kept_mpi_job(2)
    turned = np.argsort(scan.angles)  # from one end to the other: the finder is not certain for long
    late = replace(scan, projections=scan.projections[turned], angles=scan.angles[turned])
    set_to = scan.axis + 0.5  # which no finder would say
    given = beamline.feed(late, settings(late, 2, axis=set_to), tmp_path, uid=f"given-{at}")
    beamline.open(late, settings(late, 2, axis=None), tmp_path, uid=f"set-{at}")
    beamline.references(late)
    beamline.projections(late, 0, at)
    beamline.correct_axis(set_to)
    beamline.projections(late, at)
    finished = beamline.finish()
    assert {result.axis for result in finished.results} == {set_to}
    assert np.abs(image_of(finished) - image_of(given)).max() <= 1e-5 * image_of(given).max()


def test_steps_of_the_preparation_give_the_same_image_with_any_number_of_ranks(kept_mpi_job, scan, tmp_path):
    projections = scan.projections.copy()
    projections[::3, 2, 17] = 60000  # zingers
    projections[:, :, 11] = 0.8 * projections[:, :, 11]  # a ring
    faulty = replace(scan, projections=projections)
    beam = {"step": "beam", "left": 2, "right": 2}
    images, zingers = [], []
    steps = ("zingers", beam, "rings", "wavelet-rings")
    for preparation, ranks in (((), 1), (steps, 1), (steps, 3)):
        beamline, _ = kept_mpi_job(ranks)
        finished = beamline.feed(
            faulty, settings(faulty, ranks, preparation=preparation), tmp_path, uid=str(len(images))
        )
        images.append(image_of(finished))
        zingers.append(sum(result.counts.get("zingers", 0) for result in finished.results))
    assert zingers[0] == 0 < zingers[1] == zingers[2]
    assert np.abs(images[1] - images[0]).max() > 0.1 * images[0].max()
    np.testing.assert_array_equal(images[2], images[1])


def resampled(volume, cut):
    """The stored volume at the cut's points, by another hand; NaN outside."""
    points = cut.points()
    found = map_coordinates(volume.astype(np.float64), np.moveaxis(points, -1, 0), order=1, mode="nearest")
    outside = ((points < -0.5) | (points > np.array(volume.shape) - 0.5)).any(axis=-1)
    return np.where(outside, np.nan, found)


@pytest.mark.parametrize(
    ("ranks", "share", "rotation"),
    [
        *((ranks, 1, "counterclockwise") for ranks in (1, 2, 3)),
        *((2, share, "clockwise") for share in (1, 2)),
    ],
)
def test_cuts_of_any_direction_equal_the_stored_volume(
    kept_mpi_job, viewer, oblique_cut, scan, tmp_path, ranks, share, rotation
):
    beamline, _ = kept_mpi_job(ranks)
    rows, columns = scan.shape
    upright = Cut(corner=(-0.5, 17.3, -0.5), down=(rows, 0, 0), across=(0, 0, columns), shape=(9, columns))
    row = Cut(corner=(1, -0.5, -0.5), down=(0, columns, 0), across=(0, 0, columns), shape=(columns, columns))
    far_away = Cut(corner=(50, 0, 0), down=(0, 8, 0), across=(0, 0, 8), shape=(2, 3))
    edges = {"through": (rows, 0, 0), "down": (0, columns, 0), "across": (0, 0, columns)}
    coarse = Cut(corner=(-0.5, -0.5, -0.5), layers=rows - 1, shape=(11, 13), **edges)
    chosen = settings(scan, ranks, share=share, rotation=rotation, final="none")
    beamline.open(scan, chosen, tmp_path, uid=f"{ranks}-{share}-{rotation}")
    beamline.references(scan)
    beamline.projections(scan)
    beamline.wait_for_images(ranks, len(scan.angles) // 2)
    shown = viewer(beamline).show_cuts([row, upright, oblique_cut(scan), far_away]).result(WAIT_S)
    whole = viewer(beamline).show_cuts([coarse]).result(WAIT_S)
    finished = beamline.finish()
    assert shown.image_number == finished.results[0].image_number
    assert (shown.projections, shown.volume) == (len(scan.angles), (rows, columns, columns))
    with h5py.File(finished.results[0].result) as file:
        volume = file["/exchange/data"][:]
    for values, cut in zip(shown.values() + whole.values(), shown.cuts + whole.cuts, strict=True):
        np.testing.assert_allclose(values, resampled(volume, cut), rtol=0, atol=1e-5 * volume.max())
    assert np.isnan(shown.values()[3]).all()
    np.testing.assert_array_equal(shown.values()[0], volume[1])
    assert np.isfinite(shown.values()[2]).mean() > 0.3


def test_projections_are_seen_by_the_same_road_as_corrected_as_they_came_and_less_the_image(
    kept_mpi_job, viewer, scan, tmp_path
):
    beamline, _ = kept_mpi_job(2)
    watching, (rows, columns) = viewer(beamline), scan.shape
    edges = {"down": (rows, 0, 0), "across": (0, 0, columns), "shape": scan.shape}
    newest = [Cut(corner=(-0.5, 0, -0.5), space=space, **edges) for space in ("projection", "raw", "residual")]
    earlier = Cut(corner=(-0.5, float(scan.angles[3]), -0.5), space="sinogram", **edges)
    steps = {"down": (0, np.pi, 0), "across": (0, 0, columns), "shape": (8 * 24, columns), "space": "sinogram"}
    step = np.pi / (8 * 24)
    beamline.open(scan, settings(scan, 2), tmp_path)
    beamline.references(scan)
    beamline.projections(scan, 0, 10)
    beamline.wait_for_images(2, 5)
    lines = scan.line_integrals()
    first = watching.show_cuts([*newest, earlier]).result(WAIT_S)
    projection, raw, residual, fourth = first.values()
    assert first.angle == pytest.approx(scan.angles[9])
    np.testing.assert_allclose(projection, lines[9], atol=1e-4)
    np.testing.assert_allclose(fourth, lines[3], atol=1e-4)
    assert np.isnan(raw).all()  # nobody had wished for these
    assert np.isnan(residual).all()
    beamline.projections(scan, 10, 20)
    beamline.wait_for_images(2, 10)
    second = watching.show_cuts([*newest, Cut(corner=(2, -step / 2, -0.5), **steps)]).result(WAIT_S)
    projection, raw, residual, sinogram = second.values()
    np.testing.assert_array_equal(raw, scan.projections[19])
    assert 0 < np.abs(residual).mean() < 0.3 * np.abs(projection).mean()
    taken = np.isfinite(sinogram).all(axis=1)
    places = np.rint(scan.angles[:20] / step).astype(int) % len(taken)
    assert sorted(set(places)) == np.flatnonzero(taken).tolist()
    np.testing.assert_allclose(sinogram[places], lines[:20, 2], atol=1e-4)
    beamline.finish()


def alone(scan, algorithm):
    """The same run by one engine, with no job around it."""
    preparation = Preparation(*scan.shape)
    for flat in scan.flats:
        preparation.add_reference("flat", flat)
    for dark in scan.darks:
        preparation.add_reference("dark", dark)
    geometry = TomoGeometry(scan.shape[1], scan.axis)
    with Engine(geometry, scan.shape[0], algorithm=algorithm, window=8, window_policy="spread") as engine:
        for number, (projection, angle) in enumerate(zip(scan.projections, scan.angles, strict=True), 1):
            engine.append(preparation.prepare(projection), float(angle))
            if number % 2 == 0:
                engine.update()
        return engine.image()


def test_neighbouring_and_shared_rows_do_not_change_the_image(kept_mpi_job, scan, tmp_path):
    beamline, _ = kept_mpi_job(3)
    for algorithm, share in (("pml-quadratic", 1), ("mlem", 3), ("pml-quadratic", 2)):
        finished = beamline.feed(
            scan, settings(scan, 3, algorithm=algorithm, share=share), tmp_path, uid=f"{algorithm}-{share}"
        )
        expected = alone(scan, algorithm)
        assert np.abs(image_of(finished) - expected).max() <= 1e-5 * expected.max()


def test_more_ranks_than_rows_make_the_image_also_where_one_of_them_shares_its_rows_with_nobody(
    kept_mpi_job, low_scan, tmp_path
):
    beamline, _ = kept_mpi_job(3)
    finished = beamline.feed(low_scan, settings(low_scan, 3, algorithm="pml-quadratic"), tmp_path, uid="low")
    expected = alone(low_scan, "pml-quadratic")
    assert np.abs(image_of(finished) - expected).max() <= 1e-5 * expected.max()


def test_job_that_waits_for_the_detector_uses_hardly_any_core(kept_mpi_job, scan, tmp_path):
    beamline, started = kept_mpi_job(2)
    beamline.open(scan, settings(scan, 2), tmp_path, uid="waits")
    beamline.references(scan)
    beamline.projections(scan, 0, 9)
    beamline.wait_for_images(2, 4)
    before = [core_seconds(pid) for pid in started.pids]
    beamline.listen(2.0)
    assert max(core_seconds(pid) - was for pid, was in zip(started.pids, before, strict=True)) < 0.4
    beamline.endpoint.abandon_run("the test is over")


def core_seconds(pid):
    """User and system time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_job_ends_as_a_success_when_it_is_asked_to(kept_mpi_job):
    beamline, started = kept_mpi_job(1)
    beamline.endpoint.shutdown_peers("the test is over")
    assert started.wait() == 0


def test_job_ends_when_the_process_that_started_it_is_gone(kept_mpi_job):
    _, started = kept_mpi_job(2)
    started.hang_up()
    assert started.wait() != 0
    assert "standard input closed" in started.said


def test_death_of_one_rank_ends_all(kept_mpi_job, scan, tmp_path):
    beamline, started = kept_mpi_job(3)
    beamline.open(scan, settings(scan, 3), tmp_path)
    beamline.references(scan)
    beamline.projections(scan, 0, 10)
    beamline.wait_for_images(3, 2)
    os.kill(started.pids[1], signal.SIGKILL)
    assert started.wait() != 0


def test_sigterm_ends_all_ranks(beamline, mpi_job):
    started = mpi_job(2)
    started.process.terminate()
    assert started.wait() != 0


def test_job_that_was_killed_goes_on_from_its_checkpoint_to_the_same_image(beamline, mpi_job, scan, tmp_path):
    phase = {"step": "paganin", "delta_beta": 100.0, "energy": 20.0, "distance": 25.0, "pixel_size": 2.7}
    chosen = settings(scan, 2, checkpoint_every=2, final="none", preparation=("zingers", phase, "rings"))
    undisturbed = mpi_job(2, "--checkpoints", str(tmp_path / "saved"))
    expected = image_of(beamline.feed(scan, chosen, tmp_path, uid="undisturbed"))

    beamline.open(scan, chosen, tmp_path, uid="disturbed")
    beamline.references(scan)
    beamline.projections(scan, 0, 14)
    beamline.wait_for_images(2, 7)
    os.kill(undisturbed.pids[0], signal.SIGKILL)
    undisturbed.wait()
    beamline.projections(scan, 14)
    again = mpi_job(2, "--checkpoints", str(tmp_path / "saved"))
    finished = beamline.finish()
    assert "goes on after image 6" in again.said
    assert [result.image_number for result in finished.results] == [12, 12]
    assert finished.results[0].counts["flats"] == len(scan.flats)
    np.testing.assert_array_equal(image_of(finished), expected)
    beamline.endpoint.shutdown_peers("the test is over")
    assert again.wait() == 0
    assert not list((tmp_path / "saved").iterdir())


@pytest.mark.parametrize("checkpoint_every", [0, 2])
def test_job_that_was_killed_after_its_axis_was_corrected_ends_with_the_same_image(
    beamline, mpi_job, scan, tmp_path, checkpoint_every
):
    chosen = settings(scan, 2, checkpoint_every=checkpoint_every)
    first = mpi_job(2, "--checkpoints", str(tmp_path / "saved"))
    expected = image_of(beamline.feed(scan, chosen, tmp_path, uid="right"))

    wrong = settings(scan, 2, axis=scan.axis + 4, checkpoint_every=checkpoint_every)
    beamline.open(scan, wrong, tmp_path, uid="corrected")
    beamline.references(scan)
    beamline.projections(scan, 0, 6)
    beamline.wait_for_images(2, 3)
    beamline.correct_axis(scan.axis)
    beamline.wait_for_images(2, 4)
    beamline.projections(scan, 6, 14)
    beamline.wait_for_images(2, 8)
    os.kill(first.pids[0], signal.SIGKILL)
    first.wait()
    beamline.projections(scan, 14)
    again = mpi_job(2, "--checkpoints", str(tmp_path / "saved"))
    finished = beamline.finish()
    assert ("goes on after image" in again.said) is bool(checkpoint_every)
    np.testing.assert_array_equal(image_of(finished), expected)
    assert finished.results[0].axis == scan.axis
