"""A scan ends with the volume made from all of its projections, and waits for it only if it is asked to."""

from __future__ import annotations

import os
import signal

import h5py
import numpy as np
import pytest
from pace import held_back

from bluesky_streamrecon.beamline import ReconJob
from bluesky_streamrecon.plans import stream_tomo_plan
from bluesky_streamrecon.sim_devices import sim_beamline

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(120)]


@pytest.fixture
def scan(run_engine, tmp_path):
    """Take a scan; those of one test are alike down to the noise."""

    def take(job, held=False, **settings):
        same = sim_beamline(rows=4, columns=64, directory=tmp_path, instant=True)
        chosen = {"num": 24, "window": 8, "flats": 2, "darks": 2, "axis": 34.8, "threshold": 1.0}
        plan = stream_tomo_plan(
            same.detector,
            same.stage,
            shutter=same.shutter,
            sample_table=same.table,
            job=job,
            **{**chosen, **settings},
        )
        return run_engine(held_back(plan, job) if held else plan)

    return take


@pytest.fixture
def own_job(tmp_path, no_orphans):
    made = ReconJob("job", ranks=2, output=tmp_path / "recon", backoff=0.05)
    yield made
    made.close()


def volume_of(record):
    with h5py.File(record.volume) as file:
        return file["/exchange/volume"][:]


def test_volume_and_its_similarity_to_the_live_image_are_in_the_record_and_among_the_documents(scan, kept_job):
    documents = []
    token = kept_job.subscribe(lambda name, doc: documents.append((name, doc)))
    assert scan(kept_job).exit_status == "success"
    kept_job.unsubscribe(token)
    record = kept_job.last_run
    assert record.volume == record.result
    assert 0.5 < record.similarity < 1
    assert volume_of(record).shape == (4, 64, 64)
    assert [doc["name"] for name, doc in documents if name == "descriptor"] == ["image", "volume", "scores"]
    assert documents[-1][0] == "stop"
    assert "is finished, in " in kept_job.status().volume


@pytest.mark.parametrize("early", [False, True])
def test_flats_and_darks_after_the_projections_are_taken_and_used_also_where_the_scan_ends_early(
    scan, kept_job, run_engine, early
):
    streams = []
    token = run_engine.subscribe(lambda _, doc: streams.append(doc["num_events"]), "stop")
    ends = {"policy": "ms-ssim", "threshold": 0.01, "minimum_projections": 12} if early else {}
    phase = {"step": "paganin", "delta_beta": 10.0, "energy": 20.0, "distance": 25.0, "pixel_size": 2.7}
    chosen = {"flats_after": 3, "darks_after": 1, "preparation": ["zingers", phase, "rings"]}
    assert scan(kept_job, held=early, **chosen, **ends).exit_status == "success"
    run_engine.unsubscribe(token)
    (events,) = streams
    assert (events["flat"], events["dark"], events["primary"] < 24) == (5, 3, early)
    record = kept_job.last_run
    assert record.ledger_totals()["balanced"]
    later = [record.counts[name] for name in ("later_flats", "later_darks", "late_flats_darks")]
    assert later == [3 * record.ranks, record.ranks, 0]
    assert volume_of(record).shape == (4, 64, 64)


def test_next_scan_does_not_wait_for_the_volume_and_the_job_ends_when_both_are_there(scan, own_job):
    own_job.options.wait_for_volume = False
    scan(own_job, final="mlem", final_iterations=1500)
    first = own_job.last_run
    assert first.finishing
    assert first.volume is None
    assert "is being finished" in own_job.status().volume
    with h5py.File(first.result) as file:
        assert np.isnan(file["/exchange/volume"][:]).all()
    assert scan(own_job).exit_status == "success"
    assert own_job.last_run.run_uid != first.run_uid
    own_job.wait_for_volume()
    assert own_job.last_run.volume is not None
    with h5py.File(first.result) as file:
        assert np.isfinite(file["/exchange/volume"][:]).all()
    assert own_job.job.link is None


def test_job_that_is_killed_while_it_finishes_is_started_again_and_makes_the_same_volume(scan, own_job, monkeypatch):
    own_job.options.keep_alive = True
    chosen = {"final": "sirt", "final_iterations": 500}
    scan(own_job, **chosen)
    expected = volume_of(own_job.last_run)
    killed = []
    add = own_job.runs.volumes.add

    def kill(record, now):
        ranks = [peer.pid for peer in own_job.job.endpoint.peers() if peer.role == "rank"]
        os.kill(ranks[0], signal.SIGKILL)
        killed.append(ranks[0])
        return add(record, now)

    monkeypatch.setattr(own_job.runs.volumes, "add", kill)
    scan(own_job, **chosen)
    assert killed
    record = own_job.last_run
    assert record.problems == ()
    assert np.abs(volume_of(record) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_volume_that_a_closed_job_did_not_finish_is_a_problem_of_its_run(scan, own_job):
    own_job.options.wait_for_volume = False
    scan(own_job, final="mlem", final_iterations=100_000)
    own_job.close()
    assert own_job.last_run.problems == ("volume: not finished: the job was closed",)
