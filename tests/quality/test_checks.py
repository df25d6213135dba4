"""People are told how each check went: what was not made is never "ok", and nothing is called a ring that is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from bluesky_streamrecon.evaluation.scans import measured_scan
from bluesky_streamrecon.ordering import make_order
from bluesky_streamrecon.quality.checks import RankReports, fixed_pattern, inspect_scan
from bluesky_streamrecon.quality.data_checks import row_statistics
from bluesky_streamrecon.quality.lines import ScanLines
from bluesky_streamrecon.sim_devices.faults import Faults
from bluesky_streamrecon.sim_devices.samples import Discs, Foam, SheppLogan

DATA = Path(__file__).parents[1] / "data"


def states(lines, ranks=None):
    return {check.name: check.state for check in inspect_scan(lines, ranks or RankReports())[1]}


def test_sound_scan_is_ok_in_all_that_can_be_checked_and_each_check_has_its_number(simulate):
    fault, checks = inspect_scan(simulate().lines, RankReports())
    found = {check.name: (check.state, check.number) for check in checks}
    assert fault is None
    assert {name: state for name, (state, _) in found.items()} == {
        **dict.fromkeys(("sample", "centred", "still", "axis", "frames", "beam", "rings"), "ok"),
        "light": "open",
    }
    assert (found["axis"][1], found["frames"][1]) == ("column 48.8", "0 of 120 bad")
    assert all(check.text for check in checks)


@pytest.mark.parametrize(
    ("faults", "wrong", "not_checked"),
    [
        (Faults(dark_from=50), "frames", {"sample", "centred", "still", "axis", "beam", "rings"}),
        (Faults(slips_from=50), "sample", {"centred", "still", "axis", "beam", "rings"}),
        (Faults(drift=(0.06, 0.03)), "still", {"centred", "axis", "beam"}),
        (Faults(dimming=0.003), "beam", {"centred", "still", "axis"}),
    ],
)
def test_fault_is_wrong_in_its_check_with_the_words_of_the_prompt_and_what_builds_on_it_is_not_ok(
    simulate, faults, wrong, not_checked
):
    fault, checks = inspect_scan(simulate(faults=faults).lines, RankReports())
    assert [(check.name, check.text) for check in checks if check.state == "wrong"] == [(wrong, fault)]
    assert not_checked <= {check.name for check in checks if check.state == "open"}


def test_wrong_axis_is_wrong_and_what_ranks_doubt_is_to_be_looked_at(simulate):
    lines = simulate().lines
    assert states(replace(lines, axis=lines.axis + 4))["axis"] == "wrong"
    ranks = RankReports()
    ranks.axis = "rotation axis: column 48.80 by harmonics, but 51.00 by opposite views"
    (axis,) = (check for check in inspect_scan(lines, ranks)[1] if check.name == "axis")
    assert (axis.state, axis.text) == ("look", ranks.axis)


def test_nothing_is_ok_before_it_can_be_known(simulate):
    few = simulate().upto(6)
    assert {state for name, state in states(few).items() if name not in ("frames", "light")} == {"open"}
    narrow = states(simulate(order=make_order("fixed", num=120)).upto(16))
    assert {state for name, state in narrow.items() if name not in ("frames", "light")} == {"open"}


def test_sample_that_is_wider_than_the_detector_is_not_called_centred(simulate):
    lines = simulate(columns=160).lines
    values = np.ascontiguousarray(lines.values[..., 45:115])
    found = states(replace(lines, values=values, axis=lines.axis - 45))
    assert (found["centred"], found["still"], found["axis"], found["beam"]) == ("look", "open", "open", "open")


def test_saturated_and_lost_frames_are_to_be_looked_at(simulate, preview):
    lines = simulate().lines
    lines.values[7:9] = np.nan
    ranks = RankReports(10 * 96)
    ranks.add(msgspec.structs.replace(preview(120), saturated=3000))
    found = {check.name: check for check in inspect_scan(lines, ranks)[1]}
    assert (found["frames"].state, found["frames"].number) == ("look", "2 of 120 bad")
    assert (found["light"].state, found["light"].number) == ("look", "2.60% saturated")
    ranks.add(msgspec.structs.replace(preview(121), saturated=0))
    assert states(lines, ranks)["light"] == "ok"


def rings(values, angles, axis):
    lines = ScanLines(values.astype(np.float32)[:, None], angles, axis, (0,), len(angles))
    return states(lines)["rings"], fixed_pattern(row_statistics(lines)[0])


@pytest.mark.parametrize("sample", [Foam(), Discs(), SheppLogan()], ids=lambda sample: type(sample).__name__)
@pytest.mark.parametrize("counts", [300, 1e4, 1e6])
def test_rings_are_seen_where_there_are_stripes_and_nowhere_else(simulate, sample, counts):
    lines = simulate(sample, counts=counts, rows=1, columns=160).lines
    row, noise = lines.values[:, 0], np.sqrt(row_statistics(lines)[0].noise)
    number = np.arange(len(row))[:, None] / len(row)
    fading = 0.3 * number * np.linspace(-1, 1, row.shape[1]) ** 2
    assert rings(row, lines.angles, lines.axis)[0] == "ok"
    assert rings(row + fading, lines.angles, lines.axis)[0] in ("ok", "open")
    pattern = np.random.default_rng(3).normal(0, 2 * noise, row.shape[1])
    assert rings(row + pattern, lines.angles, lines.axis)[0] == "look"
    single = np.zeros(row.shape[1])
    single[50] = 9 * noise
    state, found = rings(row + single, lines.angles, lines.axis)
    assert (state, found.column) == ("look", 50)


@pytest.mark.parametrize("inner", [0, 60])
def test_round_and_centred_samples_have_no_rings(inner):
    angles, axis = np.arange(120) * np.pi / 120, 80.0
    away = np.arange(160) - axis
    clean = 0.04 * (np.sqrt(np.maximum(64**2 - away**2, 0)) - np.sqrt(np.maximum(inner**2 - away**2, 0)))
    photons = np.random.default_rng(0).poisson(1e4 * np.exp(-clean), (120, 160))
    lines = ScanLines(-np.log(photons / 1e4)[:, None].astype(np.float32), angles, axis, (0,), 120)
    found = fixed_pattern(row_statistics(lines)[0])
    assert (found.strongest, found.typical < 0.1) == (0, True)


def test_no_rings_are_seen_in_a_measured_scan():
    scan = measured_scan(DATA / "tooth.h5")
    assert states(ScanLines(scan.integrals, scan.angles, scan.axis, (0, 1), len(scan)))["rings"] == "ok"
