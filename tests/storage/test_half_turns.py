"""A half turn of a stored time series, as the how-to has it exported: its volume, finished on demand, or its frames."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import tifffile
import typer
from typer.testing import CliRunner

from bluesky_streamrecon.cli import _commands
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.half_turns import projections_of
from bluesky_streamrecon.plans import stream_tomo_plan, use_beamline
from bluesky_streamrecon.recon import reconstruct
from bluesky_streamrecon.sim_devices import Faults, Noise, sim_beamline
from bluesky_streamrecon.storage import load_run, read_nxtomo

HOW_TO = (Path(__file__).parents[2] / "docs" / "how-to" / "time-series.md").read_text()
NUM, TURNS = 12, 3

pytestmark = pytest.mark.timeout(300)  # a server is started


@pytest.fixture
def series(run_engine, storage, pretend_job):
    """The how-to's scan, smaller, of a sample that cracks in its second half turn; give its uid."""
    beamline = sim_beamline(
        rows=3, columns=48, directory=storage.detector_directory, instant=True, axis=24.2,
        noise=Noise(counts=1e5, dead=0, hot=0), faults=Faults(crack_at=15, crack_over=2), fading=0.3,
        projections=NUM * TURNS,
    )  # fmt: skip
    use_beamline(beamline, pretend_job)
    token = run_engine.subscribe(storage.writer)
    plan = re.search(r"```python\n(.*?)```", HOW_TO, flags=re.DOTALL)[1]
    more = "flats_after=3, darks_after=2, monitor='monitor', axis=24.2, order='fixed'"
    plan = plan.replace("num=180, turns=20", f"num={NUM}, turns={TURNS}, {more}")
    done = []
    exec(plan, {"RE": lambda given: done.append(run_engine(given)), "stream_tomo_plan": stream_tomo_plan})
    run_engine.unsubscribe(token)
    use_beamline(None)
    assert storage.writer.flush(20)
    (result,) = done
    assert result.exit_status == "success"
    return result.run_start_uids[0]


def expected(scan, number):
    """The recipe on this half turn alone, by the monitor, and between flats of before and after by its place in all."""
    dark = np.asarray(scan.darks[:-2]).mean(axis=0)  # those of afterwards are the same but for the noise
    flats = (np.asarray(scan.flats[:]) - dark) / scan.flat_monitor[:, None, None]
    before, after = flats[:-3].mean(axis=0), flats[-3:].mean(axis=0)
    numbers = np.arange((number - 1) * NUM, number * NUM)
    part = slice(numbers[0], numbers[-1] + 1)
    light = (np.asarray(scan.projections[part]) - dark) / scan.monitor[part, None, None]
    lines = -np.log(light / before) + np.log(after / before) * ((numbers + 0.5) / (NUM * TURNS))[:, None, None]
    return reconstruct(lines.astype(np.float32), scan.angles[numbers], axis=24.2, algorithm="auto")


def test_lines_of_the_how_to_export_any_half_turn_and_refuse_one_that_is_not_there(storage, series, tmp_path):
    lines = re.search(r"```shell\n(streamrecon export.*?)```", HOW_TO, flags=re.DOTALL)[1].splitlines()

    app = typer.Typer()
    _commands.register(app)

    def run(line):
        arguments = shlex.split(line.replace(" 3f2a91c4 ", f" {series} ").replace("furnace-7", f"{tmp_path}/furnace-7"))
        return CliRunner().invoke(app, [*arguments[1:], "--uri", storage.uri])

    volume, frames = (line.replace("--volume 7", "--volume 2") for line in lines)
    assert "volume 2 of the series of 3 x 48 x 48" in run(volume).output
    assert run(frames).exit_code == 0
    scan = load_run(storage.catalog, series)
    made = tifffile.imread(tmp_path / "furnace-7.tif")
    of_second, of_first = expected(scan, 2), expected(scan, 1)
    assert np.abs(made - of_second).max() < 1e-3 * of_second.max()
    assert np.abs(of_first - of_second).max() > 0.1 * of_second.max()
    part = read_nxtomo(tmp_path / "furnace-7.nxs")
    np.testing.assert_array_equal(part.projections[:], scan.projections[NUM : 2 * NUM])
    np.testing.assert_allclose(part.angles_deg, scan.angles_deg[NUM : 2 * NUM])
    assert len(part.flats) == len(scan.flats)
    with pytest.raises(
        ConfigError, match=r"volume: got 4, expected 1 to 3: run .* has 36 projections, 12 in each volume"
    ):
        projections_of(storage.catalog, series, 4)
