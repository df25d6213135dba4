"""Garbage is never a success: each way in which a scan goes wrong is named, whatever the policy says of the images."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from bluesky_streamrecon.ordering import make_order
from bluesky_streamrecon.quality.checks import RankReports, inspect_scan
from bluesky_streamrecon.quality.data_checks import structured_rows, too_early
from bluesky_streamrecon.quality.lines import ScanLines
from bluesky_streamrecon.recon.quick import QuickReconstructor
from bluesky_streamrecon.sim_devices.faults import Faults
from bluesky_streamrecon.sim_devices.samples import Discs, Foam, SheppLogan

FAULTS = {
    "drift": (Faults(drift=(0.06, 0.03)), "the sample moves on its mount: .* it drifts"),
    "step": (Faults(jump_at=50, jump=(4.0, 2.0)), r"the sample moves .* elsewhere since about projection 5\d"),
    "dimming": (Faults(dimming=0.003), "total attenuation varies .* as when the beam dims"),
    "all dark": (Faults(dark_from=0), "no light in all 120 projections"),
    "blocked later": (Faults(dark_from=40), r"no light in projections 41 to 1\d\d:"),
    "all flat": (Faults(empty_from=0), "nothing absorbs: no sample in the beam, or flat frames"),
    "sample lost": (Faults(empty_from=50), "nothing absorbs in the newest 12 frames"),
    "stuck stage": (Faults(slips_from=0), "the stage does not turn the sample"),
    "stuck later": (Faults(slips_from=40), "newest 12 frames differ by no more than noise: is the stage stuck"),
}
SPREAD = ("optimized-interleaved", "interleaved", "golden")
IN_FIXED_ORDER = FAULTS | {
    "drift": (Faults(drift=(0.06, 0.03)), "the sample drifts, or the axis is wrong: .* turns about column 4"),
    "stuck later": (Faults(slips_from=50), "newest 24 frames differ by no more than noise: is the stage stuck"),
}


def find_fault(lines):
    return inspect_scan(lines, RankReports())[0]


@pytest.mark.parametrize(("faults", "said"), FAULTS.values(), ids=FAULTS)
def test_every_fault_has_its_own_words(simulate, faults, said):
    assert re.match(f".*{said}", find_fault(simulate(faults=faults).lines))


@pytest.mark.parametrize("rule", ["ms-ssim", "ms-ssim|predicted-gain", "measurement", "resolution"])
@pytest.mark.parametrize("faults", [faults for faults, _ in FAULTS.values()], ids=FAULTS)
def test_no_fault_ends_as_success_under_any_policy(simulate, drive, faults, rule, stand_in):
    options = {"measurement": {"measure": "porosity", "within": 0.5}, "resolution": {"least_share": 0.5}}
    asked = {"policy": rule, "options": options.get(rule, {}), "minimum_projections": 75}
    scores, enough = drive(simulate(faults=faults), reconstructor=stand_in, **asked)
    assert enough is None
    assert scores[-1].verdict == "invalid"
    assert scores[-1].text.startswith("not judged at 120 of 120 projections: ")


@pytest.mark.parametrize(
    ("order", "faults", "said"),
    [(order, *fault) for order in SPREAD for fault in FAULTS.values()]
    + [("fixed", *fault) for fault in IN_FIXED_ORDER.values()],
    ids=[f"{order}, {name}" for order in (*SPREAD, "fixed") for name in FAULTS],
)
def test_no_fault_ends_as_success_with_default_settings_and_each_has_its_own_words(
    simulate, drive, order, faults, said
):
    scan = simulate(faults=faults, order=make_order(order, num=120))
    scores, enough = drive(scan, reconstructor=QuickReconstructor())
    assert enough is None
    assert scores[-1].verdict == "invalid"
    assert re.match(f"not judged at 120 of 120 projections: .*{said}", scores[-1].text)


@pytest.mark.parametrize("order", ["optimized-interleaved", "fixed"])
def test_scan_that_goes_well_ends_with_default_settings(simulate, drive, order):
    scores, enough = drive(simulate(order=make_order(order, num=120)), reconstructor=QuickReconstructor())
    assert enough is not None
    assert "invalid" not in {score.verdict for score in scores}


@pytest.mark.parametrize("order", ["optimized-interleaved", "fixed"])
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda rng, lines: rng.standard_normal(lines.shape), "frames differ by no more than noise"),
        (lambda rng, lines: np.zeros_like(lines), "all frames are equal"),
        (lambda rng, lines: 0.01 * rng.standard_normal(lines.shape), "nothing absorbs: no sample in the beam"),
    ],
    ids=["noise", "empty", "empty and noise"],
)
def test_noise_and_an_empty_beam_never_stop_a_scan_with_default_settings(simulate, drive, order, make, said):
    scan = simulate(order=make_order(order, num=120))
    values = make(np.random.default_rng(0), scan.lines.values).astype(np.float32)
    scan = replace(scan, lines=replace(scan.lines, values=values))
    scores, enough = drive(scan, reconstructor=QuickReconstructor())
    assert enough is None
    assert scores[-1].verdict == "invalid"
    assert said in scores[-1].text


def test_scan_that_goes_well_ends_by_the_papers_rule(simulate, drive):
    scores, enough = drive(simulate(), policy="ms-ssim", minimum_projections=60)
    assert enough is not None
    assert enough.projections == 60
    assert {score.verdict for score in scores[:-1]} == {"continue"}


@pytest.mark.parametrize(
    "sample", [Foam(), Foam(pores=90), Discs(), SheppLogan()], ids=["foam", "pores", "discs", "head"]
)
@pytest.mark.parametrize("counts", [300, 1e3, 1e5])
def test_sound_scans_are_never_called_faulty(simulate, sample, counts):
    scan = simulate(sample, counts=counts)
    assert {count: find_fault(scan.upto(count)) for count in (3, 8, 12, 24, 36, 60, 90, 120)} == dict.fromkeys(
        (3, 8, 12, 24, 36, 60, 90, 120)
    )
    assert structured_rows(scan.lines) == [0, 1]


@pytest.mark.parametrize("name", ["fixed", "interleaved", "golden"])
def test_sound_scans_are_not_called_faulty_in_any_order(simulate, name):
    scan = simulate(order=make_order(name, num=90))
    assert [find_fault(scan.upto(count)) for count in (12, 24, 45, 60, 90)] == [None] * 5


@pytest.mark.parametrize("sample", [Foam(), Foam(pores=90), SheppLogan()], ids=["foam", "pores", "head"])
def test_small_steps_are_not_called_a_stuck_stage(simulate, sample):
    scan = simulate(sample, order=make_order("fixed", num=360), rows=1)
    assert [find_fault(scan.upto(count)) for count in range(24, 361, 12)] == [None] * 29


@pytest.mark.parametrize(
    ("sample", "num", "counts"),
    [(sample, 720, 300) for sample in (Foam(seed=2), Foam(pores=90), Discs(), SheppLogan())]
    + [(Foam(seed=2), 360, 300), (SheppLogan(), 360, 300), (Foam(pores=90), 720, 1e5), (Discs(), 720, 1e5)],
)
def test_dense_scans_are_not_called_stuck_and_a_stuck_stage_is_found_in_them(simulate, sample, num, counts):
    order = make_order("fixed", num=num)
    sound = simulate(sample, order=order, counts=counts, rows=1)
    checks = range(24, num + 1, num // 12)
    assert {count: find_fault(sound.upto(count)) for count in checks} == dict.fromkeys(checks)
    stuck = simulate(sample, Faults(slips_from=num // 2), order=order, counts=counts, rows=1)
    assert find_fault(stuck.upto(num // 2)) is None
    assert "is the stage stuck" in find_fault(stuck.lines)


@pytest.mark.parametrize("name", ["optimized-interleaved", "interleaved", "golden"])
def test_stage_that_is_stuck_for_most_of_a_scan_is_still_found_in_the_end(simulate, name):
    order = make_order(name, num=120)
    scan = simulate(Foam(pores=90), Faults(slips_from=30), order=order, counts=300, rows=1)
    found = [find_fault(scan.upto(count)) for count in (60, 90, 120)]
    assert ["is the stage stuck" in (fault or "") for fault in found] == [True] * 3


@pytest.mark.parametrize("faults", [Faults(), Faults(slips_from=0)], ids=["sound", "stuck"])
def test_nothing_is_said_and_no_scan_ended_while_views_cover_too_small_an_angle(simulate, drive, faults):
    scan = simulate(Foam(seed=2), faults, order=make_order("fixed", num=720), counts=300, rows=1)
    early = scan.upto(36)
    assert find_fault(early) is None
    assert too_early(early).startswith("too early to tell whether the sample turns: frames so far differ by no more")
    scores, enough = drive(replace(scan, lines=early), policy="ms-ssim", minimum_projections=24)
    assert enough is None
    assert scores[-1].verdict == "continue"
    assert "too early to tell whether the sample turns" in scores[-1].text
    later = scan.upto(150)
    assert too_early(later) is None
    assert find_fault(later) is None if faults == Faults() else "does not turn" in find_fault(later)


def test_axis_that_is_not_where_the_image_is_made_with_is_named(simulate):
    lines = simulate(order=make_order("fixed", num=120)).lines
    wrong = ScanLines(lines.values, lines.angles, lines.axis + 3, lines.rows, 120)
    assert re.search(f"turns about column {lines.axis:.1f}, and .* the axis at {wrong.axis:.1f}", find_fault(wrong))
    near = ScanLines(lines.values, lines.angles, lines.axis + 0.5, lines.rows, 120)
    assert find_fault(near) is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda rng, shape: rng.random(shape), "frames differ by no more than noise"),
        (lambda rng, shape: rng.standard_normal(shape), "frames differ by no more than noise"),
        (lambda rng, shape: 1 + 0.01 * rng.standard_normal(shape), "frames differ by no more than noise"),
        (lambda rng, shape: np.zeros(shape), "all frames are equal"),
        (lambda rng, shape: np.ones(shape), "all frames are equal"),
    ],
    ids=["uniform", "normal", "constant and noise", "zeros", "ones"],
)
def test_pure_noise_and_nothing_at_all_are_named_and_divide_by_nothing(simulate, drive, make, said):
    scan = simulate()
    values = make(np.random.default_rng(0), scan.lines.values.shape).astype(np.float32)
    lines = ScanLines(values, scan.lines.angles, scan.lines.axis, scan.lines.rows, 120)
    assert find_fault(lines).startswith(said)


@pytest.mark.parametrize("order", ["optimized-interleaved", "fixed"])
@pytest.mark.parametrize("dimming", [0.003, 0.006, 0.02])
def test_beam_that_dims_slowly_or_fast_is_no_sample_that_reaches_out_of_view(simulate, order, dimming):
    scan = simulate(faults=Faults(dimming=dimming), order=make_order(order, num=120))
    assert re.search("total attenuation varies .* as when the beam dims", find_fault(scan.lines))


@pytest.mark.parametrize("counts", [1e3, 2e4])
def test_flats_that_are_darker_than_the_open_beam_of_the_projections_are_named(simulate, counts):
    """As where they were not exposed as long: all attenuation is then too low, and looks right."""
    lines = simulate(counts=counts).lines
    by = 0.12 * float(np.percentile(np.nanmean(lines.values, axis=0), 95)) + 0.06
    fault = find_fault(replace(lines, values=lines.values - np.float32(by)))
    assert fault.startswith("projections are brighter than the flats: line integrals at the detector's edge are -0.")
    assert find_fault(replace(lines, values=lines.values - np.float32(by / 4))) is None


def test_row_above_the_sample_does_not_make_a_scan_faulty(simulate):
    scan, air = simulate(), simulate(faults=Faults(empty_from=0))
    values = np.stack([scan.lines.values[:, 0], air.lines.values[:, 1]], axis=1)
    lines = ScanLines(values, scan.lines.angles, scan.lines.axis, (3, 4), 120)
    assert find_fault(lines) is None
    assert structured_rows(lines) == [0]


def test_lost_projections_are_no_fault_unless_they_are_many(simulate):
    lines = simulate().lines
    lines.values[[5, 30]] = np.nan
    assert find_fault(lines) is None
    lines.values[::10] = np.nan
    assert find_fault(lines) == (
        "no light in 13 of 120 projections: the shutter or the beam fails now and then, or their frames could not be "
        "read or sent (the run's problems say which)"
    )


def test_sample_wider_than_the_detector_may_change_its_mass_in_view(simulate):
    lines = simulate().lines
    cut = ScanLines(np.ascontiguousarray(lines.values[:, :, 30:60]), lines.angles, lines.axis - 30, lines.rows, 120)
    assert find_fault(cut) is None


@pytest.mark.parametrize("closed", [4, 40])
@pytest.mark.parametrize(
    ("faults", "said"), [({"dark_from": 0}, "no light"), ({"empty_from": 0}, "nothing absorbs"), ({}, None)]
)
def test_scan_that_is_over_before_the_first_forecast_is_looked_at_all_the_same(simulate, drive, closed, faults, said):
    scores, enough = drive(simulate(faults=Faults(**faults)), closed=closed)
    assert enough is None
    assert [score.projections for score in scores[:closed]] == list(range(3, 3 * closed + 1, 3))
    if said is None:
        assert len(scores) == 40
        assert {score.verdict for score in scores} == {"continue"}
        return
    told = scores[closed:]
    assert told[0].projections == 3 * closed  # the newest image once more
    assert len(told) == 41 - closed
    assert {score.verdict for score in told} == {"invalid"}
    assert all(said in score.text for score in told)
    assert told[-1].text.startswith("not judged at 120 of 120 projections: ")
