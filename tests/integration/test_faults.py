"""A scan that can not be trusted, with everything real: it goes on to its end, and says what is wrong with it."""

from __future__ import annotations

import pytest

from bluesky_streamrecon.plans import stream_tomo_plan
from bluesky_streamrecon.sim_devices import Faults, sim_beamline

pytestmark = [pytest.mark.mpi, pytest.mark.usefixtures("no_orphans"), pytest.mark.timeout(120)]


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        (Faults(jump_at=20, jump=(4.0, 3.0)), "the sample moves on its mount"),
        (Faults(dimming=0.006), "total attenuation varies"),
        (Faults(dark_from=20), "no light in projections 21 to "),
        (Faults(empty_from=0), "nothing absorbs"),
        (Faults(slips_from=20), "is the stage stuck?"),
    ],
    ids=["moved", "dims", "blocked", "no sample", "stuck"],
)
def test_fault_is_told_in_the_reason_and_ends_nothing_early(run_engine, documents, kept_job, tmp_path, faults, said):
    beamline = sim_beamline(rows=4, columns=64, directory=tmp_path, instant=True, faults=faults)
    run_engine(
        stream_tomo_plan(
            beamline.detector,
            beamline.stage,
            shutter=beamline.shutter,
            sample_table=beamline.table,
            job=kept_job,
            num=60,
            window=8,
            axis=beamline.axis,
            threshold=0.5,  # what any two images reach
            minimum_projections=40,
        )
    )
    stop = next(document for name, document in documents if name == "stop")
    assert stop["num_events"]["primary"] == 60
    assert stop["reason"].startswith("all 60 projections taken; not judged at 60 of 60 projections: ")
    assert said in stop["reason"]
    assert kept_job.last_run.verdicts[-1].verdict == "invalid"
