"""When a run is over, the whole volume is finished from all of its projections, whatever happens meanwhile."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from bluesky_streamrecon.beamline.serving import QueuedFrame, RunFinished
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.partition import RowBlock
from bluesky_streamrecon.recon import reconstruct
from bluesky_streamrecon.recon.archive import Archive
from bluesky_streamrecon.recon.communicator import Agreement, Communicator
from bluesky_streamrecon.recon.job import _Job
from bluesky_streamrecon.recon.steps import Pipeline
from bluesky_streamrecon.recon.volume import FinishedVolume
from bluesky_streamrecon.settings import ReconSettings
from bluesky_streamrecon.wire import OpenRun, Problem, Shutdown, Status, VolumeDone


def settings(scan, **changes):
    values = {"window": 8, "step": 2, "axis": scan.axis, "ranks": 1, "coalesce": False}
    return ReconSettings(**(values | changes))


def volume_of(done):
    with h5py.File(done.result) as file:
        return file["/exchange/volume"][:]


def live_of(done):
    with h5py.File(done.result) as file:
        return file["/exchange/data"][:]


def offline(scan, algorithm="auto", **options):
    lines = scan.line_integrals().astype(np.float32)
    return reconstruct(lines, scan.angles, axis=scan.axis, algorithm=algorithm, threads=1, backend="cpu", **options)


def finished(beamline, scan, chosen, output, uid="run-1"):
    results = beamline.feed(scan, chosen, output, uid).results
    assert all(result.finishing for result in results)
    done = beamline.wait_for(VolumeDone)
    assert done.run_uid == uid
    assert done.result is not None, done.text
    return done


def close(volume, expected):
    return np.abs(volume - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("final", "options"),
    [
        ("auto", {}),
        ("fbp", {}),
        ("sirt", {"relaxation": 0.8}),
        ("pml-quadratic", {}),
    ],
)
def test_volume_equals_that_of_the_recipe_offline_in_any_order(beamline, job, scan, tmp_path, final, options):
    order = np.random.default_rng(1).permutation(len(scan.angles))
    mixed = replace(scan, projections=scan.projections[order], angles=scan.angles[order])
    iterations = None if final in ("auto", "fbp") else 5
    chosen = settings(scan, final=final, final_options=options, final_iterations=iterations)
    done = finished(beamline, mixed, chosen, tmp_path)
    assert close(volume_of(done), offline(scan, final, iterations=iterations, **options))
    assert not close(volume_of(done), live_of(done))


def test_nothing_is_finished_where_none_is_wanted_or_the_run_failed(beamline, job, scan, tmp_path):
    assert not beamline.feed(scan, settings(scan, final="none"), tmp_path, "none").results[0].finishing
    assert not beamline.feed(scan, settings(scan), None, "no file").results[0].finishing
    beamline.open(scan, settings(scan), tmp_path, "aborted")
    beamline.references(scan)
    beamline.projections(scan)
    beamline.endpoint.close_run("abort", "by hand")
    assert not beamline.wait_for(RunFinished).results[0].finishing


def test_progress_of_finishing_is_reported(beamline, job, scan, tmp_path):
    finished(beamline, scan, settings(scan), tmp_path)
    told = [event.text for event in beamline.seen if isinstance(event, Status) and event.state == "finishing"]
    assert told == [f"{10 * k} %" for k in range(1, 11)]


def test_run_that_begins_in_the_middle_of_finishing_goes_first_and_both_are_whole(beamline, job, scan, tmp_path):
    slow = settings(scan, final="mlem", final_iterations=400)
    beamline.feed(scan, slow, tmp_path, "first")
    beamline.wait_for(Status, lambda status: status.state == "finishing")
    second = beamline.feed(scan, settings(scan), tmp_path, "second")
    assert second.run_uid == "second"
    assert not any(isinstance(event, VolumeDone) for event in beamline.seen)
    done = {event.run_uid: event for event in (beamline.wait_for(VolumeDone), beamline.wait_for(VolumeDone))}
    assert close(volume_of(done["first"]), offline(scan, "mlem", iterations=400))
    assert close(volume_of(done["second"]), offline(scan))


@pytest.mark.mpi
@pytest.mark.parametrize(("ranks", "share"), [(1, 1), (2, 1), (3, 1), (3, 3)])
def test_volume_is_the_same_for_any_number_of_ranks(kept_mpi_job, scan, tmp_path, ranks, share):
    beamline, _ = kept_mpi_job(ranks)
    for final in ("auto",) if share == 3 else ("auto", "pml-quadratic"):
        chosen = settings(scan, ranks=ranks, share=share, final=final)
        done = finished(beamline, scan, chosen, tmp_path, uid=f"{final}-{share}")
        assert close(volume_of(done), offline(scan, final))


@pytest.mark.parametrize(
    ("preparation", "left"),
    [
        ((), 0.02),
        (({"step": "beam", "left": 2, "right": 2}, "rings"), 0.2),
        (({"step": "paganin", "delta_beta": 20.0, "energy": 20.0, "distance": 25.0, "pixel_size": 2.7},), 0.1),
    ],
)
def test_light_that_changes_between_flats_leaves_no_rings_in_the_volume(
    beamline, job, scan, tmp_path, preparation, left
):
    """Each pixel's gain drifts by up to 10 % to the middle of the scan and on, otherwise, to its end."""
    rng = np.random.default_rng(0)
    count, middle, lines = len(scan.angles), 10, scan.line_integrals()
    middle_gain, end_gain = np.cumsum(rng.uniform(-0.1, 0.1, (2, *scan.shape)), axis=0)
    drift = np.stack([
        np.interp(np.arange(count) + 0.5, [0, middle, count], [0, a, b])
        for a, b in zip(middle_gain.ravel(), end_gain.ravel(), strict=True)
    ], axis=1).reshape(count, *scan.shape)  # fmt: skip

    def frames(gain, lines=0.0):
        return np.rint(100 + 4e4 * (1 + gain) * np.exp(-lines)).astype(np.uint16)

    still = replace(scan, projections=frames(0, lines), flats=frames(np.zeros((3, *scan.shape))))
    moving = replace(still, projections=frames(drift, lines))
    chosen = settings(scan, final="fbp", preparation=preparation)
    volumes = {}
    for name, taken, later in (("truth", still, ()), ("constant", moving, ()), ("drift", moving, (middle, count))):
        beamline.open(taken, chosen, tmp_path, uid=name)
        beamline.references(taken)
        number = len(taken.flats)
        for first, stop in ((0, middle), (middle, count)):
            beamline.projections(taken, first, stop)
            for _ in range(2 if stop in later else 0):
                number += 1
                flat = frames(middle_gain if stop == middle else end_gain)
                beamline.endpoint.append(QueuedFrame("flat", number, 0.0, flat))
        (result,) = beamline.finish().results
        assert result.counts.get("later_flats", 0) == 2 * len(later)
        volumes[name] = volume_of(beamline.wait_for(VolumeDone))

    def rms(name):
        return np.sqrt(np.mean((volumes[name] - volumes["truth"]) ** 2))

    assert rms("constant") > 0.05 * volumes["truth"].std()
    assert rms("drift") < left * rms("constant")


@pytest.mark.mpi
def test_phase_is_retrieved_alike_with_any_number_of_ranks(kept_mpi_job, tall_scan, tmp_path):
    scan = replace(tall_scan, projections=tall_scan.projections.copy())
    scan.projections[::5, ::3, 17] = 60000  # zingers
    scan.projections[3, 11] = 100  # a row without light
    phase = {"step": "paganin", "delta_beta": 100.0, "energy": 20.0, "distance": 25.0, "pixel_size": 2.7}
    live, volumes, counts = [], [], []
    for ranks, share in ((1, 1), (2, 1), (3, 1), (3, 3)):
        beamline, _ = kept_mpi_job(ranks)
        chosen = settings(scan, ranks=ranks, share=share, final="fbp", preparation=("zingers", phase))
        results = beamline.feed(scan, chosen, tmp_path, uid=f"phase-{ranks}-{share}").results
        done = beamline.wait_for(VolumeDone)
        live.append(live_of(done))
        volumes.append(volume_of(done))
        names = ("zingers", "dark_rows", "saturated_values")
        blocks = [result.counts for result in results][::share]
        counts.append({name: sum(each.get(name, 0) for each in blocks) for name in names})
    for image, volume in zip(live[1:], volumes[1:], strict=True):
        assert np.abs(image - live[0]).max() <= 1e-5 * live[0].max()
        assert np.abs(volume - volumes[0]).max() <= 1e-6 * volumes[0].max()
    assert counts == [counts[0]] * 4
    assert counts[0]["zingers"] > 0 < counts[0]["dark_rows"]
    assert not close(volumes[0], offline(scan, "fbp"))


@pytest.mark.mpi
def test_job_that_was_killed_in_the_middle_of_finishing_finishes_the_same_volume(beamline, mpi_job, scan, tmp_path):
    saved = ("--checkpoints", str(tmp_path / "saved"))
    chosen = settings(scan, ranks=2, final="mlem", final_iterations=200)
    started = mpi_job(2, *saved)
    assert beamline.feed(scan, chosen, tmp_path).results[0].finishing
    beamline.wait_for(Status, lambda status: status.state == "finishing")
    os.kill(started.pids[0], signal.SIGKILL)
    started.wait()
    again = mpi_job(2, *saved)
    done = beamline.wait_for(VolumeDone)
    assert "goes on with finishing" in again.said
    assert close(volume_of(done), offline(scan, "mlem", iterations=200))
    assert done.similarity is not None
    beamline.endpoint.shutdown_peers("the test is over")
    assert again.wait() == 0
    assert not list((tmp_path / "saved").iterdir())


@pytest.mark.mpi
@pytest.mark.parametrize("damaged", ["scratch-*", "last-*"])
def test_volume_whose_files_were_damaged_while_the_job_was_down_is_given_up_with_the_reason(
    beamline, mpi_job, scan, tmp_path, damaged
):
    saved = ("--checkpoints", str(tmp_path / "saved"))
    started = mpi_job(2, *saved)
    beamline.feed(scan, settings(scan, ranks=2, final="mlem", final_iterations=200), tmp_path)
    beamline.wait_for(Status, lambda status: status.state == "finishing")
    os.kill(started.pids[0], signal.SIGKILL)
    started.wait()
    (file,) = (tmp_path / "saved").glob(f"*_1of2_{damaged}")
    file.write_bytes(b"")
    again = mpi_job(2, *saved)
    done = beamline.wait_for(VolumeDone)
    assert done.result is None
    assert "gone or damaged" in done.text
    beamline.endpoint.shutdown_peers("the test is over")
    assert again.wait() == 0
    assert not list((tmp_path / "saved").iterdir())


def test_run_that_begins_while_ranks_agree_interrupts_only_when_all_of_them_know_of_it(monkeypatch):
    """Ranks that have not heard of it go on with what all compute together, and so must this one."""
    done = []
    opened = OpenRun(
        run_uid="next", recon_uid="recon", planned=8, detector_shape=(2, 8), dtype="<f4", block=RowBlock(0, 2, 0, 0, 1),
    )  # fmt: skip

    class Beamline:
        """What comes from it: the next run in the middle of the first agreement, and the end when all has been done."""

        events = []  # noqa: RUF012

        def next(self, timeout):
            if timeout and not self.events and len(done) >= 3:
                self.events.append(Shutdown())
            return self.events.pop(0) if self.events else None

    class Late(Agreement):
        def done(self):
            return job._run is not None

    class Ranks(Communicator):
        def begin_minimum(self, values):
            if done:
                return Agreement(values)
            beamline.events.append(opened)
            return Late(values)

    class Run:
        prepared, axes, closed, failure, broken, superseded = 1, (), None, None, False, False
        cuts = SimpleNamespace(done=0, due=lambda: 0, advance=lambda agreed: None)

        def __init__(self, run, *_, **__):
            self.run = run

        def advance(self, *_):
            done.append("next run")
            return False

    monkeypatch.setattr("bluesky_streamrecon.recon.job.RankRun", Run)
    beamline = Beamline()
    job = _Job(Ranks(), beamline, SimpleNamespace(check=lambda: None), "job", 1, None, None, None)
    parts = {name: partial(done.append, name) for name in ("advance", "interrupt", "release")}
    job._finishing.append(SimpleNamespace(run=SimpleNamespace(run_uid="last"), done=False, **parts))
    assert job.serve() == 0
    assert done == ["advance", "interrupt", "next run", "release"]


@pytest.mark.parametrize(
    ("final", "members", "broken", "expected"),
    [
        ("auto", 1, False, OSError),
        ("auto", 1, True, RuntimeError),  # ranks estimate the noise together
        ("auto", 2, False, RuntimeError),
        ("pml-quadratic", 1, False, RuntimeError),
    ],
)
def test_rank_that_fails_alone_ends_the_job_where_others_wait_for_it(final, members, broken, expected):
    class Ranks(Communicator):
        def sum(self, array):
            archive.broken = True

    class Scratch(Archive):
        def projection(self, number, first, stop):
            if self.broken:
                raise OSError("the disk is gone")
            return super().projection(number, first, stop)

    archive, ranks = Scratch(2, 8), Ranks()
    archive.open()
    archive.append(np.ones((2, 8), np.float32), 0.0, 1)
    archive.broken, ranks.size = broken, 2
    run = OpenRun(
        run_uid="run", recon_uid="recon", planned=8, detector_shape=(2, 8), dtype="<f4",
        block=RowBlock(0, 2, 0, 0, members), recon=ReconSettings(final=final),
    )  # fmt: skip
    volume = FinishedVolume(
        run, archive, 1, None, ranks, geometry=TomoGeometry(8), backend="cpu", preparation=None, steps=None
    )
    with pytest.raises(expected, match="the disk is gone"):
        next(volume.parts())


def test_volume_is_made_from_sinograms_whose_rings_are_removed_as_a_whole(beamline, job, scan, tmp_path):
    done = finished(beamline, scan, settings(scan, final="fbp", preparation=("rings",)), tmp_path)
    lines = scan.line_integrals().astype(np.float32)
    corrected = Pipeline(["rings"], *scan.shape).second_part_of_all(lines.copy(), scan.angles)
    expected = reconstruct(corrected, scan.angles, axis=scan.axis, algorithm="fbp", threads=1, backend="cpu")
    assert close(volume_of(done), expected)
    assert not close(volume_of(done), offline(scan, "fbp"))


def test_volume_of_half_acquisition_that_ended_early_equals_that_of_its_span_offline(
    beamline, job, seen_through, tmp_path
):
    scan = seen_through(columns=40, axis=8.0, scale=28.0, turn=360.0)
    beamline.open(scan, settings(scan, size=64), tmp_path, angle_start="0", angle_stop="360")
    beamline.references(scan)
    beamline.projections(scan, stop=31)
    assert "half acquisition" in beamline.wait_for(Problem).text
    beamline.finish()
    lines, angles = scan.line_integrals()[:31].astype(np.float32), scan.angles[:31]
    given = {"axis": scan.axis, "size": 64, "algorithm": "auto", "threads": 1, "backend": "cpu"}
    expected = reconstruct(lines, angles, span=(0.0, 2 * np.pi), **given)
    assert close(volume_of(beamline.wait_for(VolumeDone)), expected)
    assert not close(reconstruct(lines, angles, **given), expected)
