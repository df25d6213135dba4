"""A sample that changes is told from noise, a beam that fades and zingers, whatever the photons."""

from __future__ import annotations

import numpy as np
import pytest
from study import load_study

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.quality import Evidence, ScoredImage, get_policy
from bluesky_streamrecon.quality.changes import structure
from bluesky_streamrecon.settings import SteeringSettings


@pytest.fixture(scope="module")
def study():
    return load_study("change")


@pytest.mark.parametrize("photons", [1e3, 1e4, 1e5])
def test_crack_is_marked_within_half_a_turn_and_still_series_are_not(study, capsys, photons):
    false, delays = study.main(["--series", "1", "--photons", str(photons)])[photons]
    assert false == 0
    assert len(delays) == 1
    assert max(delays) <= study.PER_VOLUME
    assert f"{photons:g}" in capsys.readouterr().out


def test_still_views_differ_by_one_whatever_the_beam_does():
    random = np.random.default_rng(3)
    line = np.broadcast_to(np.linspace(0, 3, 300), (400, 300))

    def view(photons, tilt=0.0):
        beam = photons * (1 + tilt * np.linspace(-1, 1, 300))
        return -np.log(np.maximum(random.poisson(beam * np.exp(-line)), 0.5) / photons).astype(np.float32)

    for other in (view(1e4), view(0.5e4), view(1e4, tilt=0.02)):
        assert structure(view(1e4), other).mean() == pytest.approx(1, abs=0.08)
    assert np.isnan(structure(view(1e4)[0], np.full(300, np.nan, np.float32)))


@pytest.mark.parametrize(
    ("until", "began", "over", "verdict", "said"),
    [
        ("end", None, None, "continue", "no change so far (0.20; 1 is one)"),
        ("end", 305.0, None, "continue", "changes since about projection 305, in volume 2 of 4"),
        ("change", 305.0, None, "enough", "changes since about projection 305, in volume 2 of 4"),
        ("over", 305.0, None, "continue", "changes since about projection 305, in volume 2 of 4"),
        ("over", 305.0, 560.0, "enough", "changed from about projection 305, in volume 2 of 4; that is over at"),
    ],
)
def test_policy_reports_a_change_and_ends_the_run_where_it_was_asked_to(until, began, over, verdict, said):
    policy = get_policy("change")(SteeringSettings(policy="change", options={"until": until}))
    metrics = {"ms-ssim": 0.9, "change": 0.2, "change-began": began, "change-over": over}
    judged = policy.judge(Evidence([ScoredImage(570, 570, metrics)], planned=720, turns=4))
    assert (judged.verdict, judged.score) == (verdict, 0.9)
    assert judged.text.startswith("at 570 of 720 projections, in volume 4 of 4: ")
    assert said in judged.text


@pytest.mark.parametrize("options", [{"until": "later"}, {"untl": "over"}])
def test_policy_refuses_options_that_it_has_not(options):
    with pytest.raises(ConfigError, match="expected none but until='end', 'change', 'over'"):
        get_policy("change")(SteeringSettings(policy="change", options=options))
