"""The how-to's analysis of frames, as printed, in a real job: a plan without any rotation ends by it."""

from __future__ import annotations

import re
from pathlib import Path

import bluesky.plans as bp
import h5py
import numpy as np
import pytest
from pace import held_back

from bluesky_streamrecon.beamline import ReconJob
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.plans import streaming_wrapper
from bluesky_streamrecon.settings import ReconSettings
from bluesky_streamrecon.sim_devices import sim_beamline

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "add-an-analysis.md"


@pytest.fixture
def my_package(tmp_path, monkeypatch):
    """Install the how-to's package for this process and those that it starts; return the how-to's example of a plan."""
    definition, example = re.findall(r"```python\n(.*?)```", HOW_TO.read_text(), flags=re.DOTALL)
    assert len(definition.splitlines()) < 60
    entries = re.search(r"```toml\n(.*?)```", HOW_TO.read_text(), flags=re.DOTALL)[1]
    makers = re.findall(r"# (def .*)", entries)
    site = tmp_path / "site"
    about = site / "my_package-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1\n")
    (about / "entry_points.txt").write_text(re.sub(r"#.*|project\.entry-points\.|\"", "", entries))
    (site / "my_package").mkdir()
    (site / "my_package" / "__init__.py").touch()
    (site / "my_package" / "frames.py").write_text("\n".join([definition, *makers, ""]))
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    return example


@pytest.fixture
def frame_job(tmp_path, no_orphans):
    made = ReconJob("job", ranks=2, output=tmp_path / "recon")
    yield made
    made.close()


@pytest.mark.mpi
@pytest.mark.timeout(120)
def test_count_without_a_rotation_ends_when_the_mean_of_its_frames_is_steady(
    run_engine, documents, of, my_package, frame_job, tmp_path
):
    beamline = sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True)
    names = {"detector": beamline.detector}
    exec(my_package.replace("    recon=", "    job=job,\n    recon="), {**names, "job": frame_job}, names)
    run_engine(held_back(names["plan"], frame_job))
    (stop,), record = of(documents, "stop"), frame_job.last_run
    taken = stop["num_events"]["primary"]
    assert (stop["exit_status"], record.problems) == ("success", ())
    assert re.match(r"quality: .*mean changed by 0\.001\d+ at \d+ of 400 projections", stop["reason"])
    assert 8 < taken < 400
    assert record.ledger_totals()["balanced"]
    assert record.verdicts[-1].metrics.keys() == {"mean-change"}
    with h5py.File(record.result) as file:
        mean, variance = np.moveaxis(file["/exchange/data"][:], 1, 0)
        assert (file.attrs["analysis"], file.attrs["projections"]) == ("running-mean", taken)
    assert mean.shape == (4, 32)
    with h5py.File(next(tmp_path.glob("*.h5"))) as file:
        frames = file["/entry/data/data"][:taken]
    np.testing.assert_allclose(mean, frames.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(variance, frames.var(axis=0, ddof=1), rtol=1e-4)


def test_analysis_that_is_not_installed_is_refused_before_anything_moves(pretend_job):
    with pytest.raises(ConfigError, match="analysis: got 'magic', expected one of tomography"):
        streaming_wrapper(bp.count([], 3), job=pretend_job, recon=ReconSettings(analysis="magic"))


def test_run_of_another_analysis_needs_neither_angle_nor_flats(
    run_engine, documents, of, my_package, pretend_job, script, tmp_path
):
    beamline = sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True)
    recon = ReconSettings(analysis="running-mean")
    run_engine(streaming_wrapper(bp.count([beamline.detector], 3), job=pretend_job, recon=recon))
    assert [(kind, angle) for kind, _, angle, _ in script.frames] == [("projection", 0.0)] * 3
    assert of(documents, "stop")[0]["reason"].startswith("all 3 projections taken")
