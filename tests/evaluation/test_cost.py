"""The cost model, the advice made of it, and its predictions beside measurements."""

from __future__ import annotations

from math import isclose

import pytest

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.rates import evaluate_rates, predicted
from bluesky_streamrecon.recon.cost import advise, core_speed, step_seconds

DETECTOR = {"rows": 2048, "columns": 2048}


def test_time_of_a_step_goes_with_window_and_area_and_against_threads():
    case = {"rows": 64, "columns": 512, "window": 24}
    changes = ({"window": 12}, 0.5), ({"columns": 1024}, 4), ({"threads": 4}, 0.25), ({"members": 2}, 0.5)
    for changed, factor in changes:
        assert isclose(step_seconds(10.0, **(case | changed)), factor * step_seconds(10.0, **case))


def test_speed_of_a_core_gives_back_the_rate_that_it_was_made_from():
    case = {"rows": 16, "columns": 300, "window": 20}
    assert isclose(4 / step_seconds(core_speed(55.0, **case, step=4), **case), 55.0)


@pytest.mark.parametrize("rate", [1, 5, 20, 60])
@pytest.mark.parametrize("ranks", [4, 64, 4096])
def test_advice_is_feasible_exactly_when_it_sustains_the_detector(rate, ranks):
    found = advise(**DETECTOR, rate=rate, ranks=ranks, gups=10.0)
    assert 1 <= found["step"] <= found["window"] == 24
    assert found["feasible"] == (found["sustained"] >= rate)
    if found["feasible"] and found["step"] > 1:
        tighter = found["sustained"] * (found["step"] - 1) / found["step"]
        assert tighter < rate  # no shorter step would do


def test_ranks_that_are_said_to_be_needed_are_enough_and_fewer_are_not():
    slow = advise(**DETECTOR, rate=20, ranks=1, gups=10.0)
    assert not slow["feasible"]
    assert advise(**DETECTOR, rate=20, ranks=slow["ranks_needed"], gups=10.0)["feasible"]
    assert not advise(**DETECTOR, rate=20, ranks=slow["ranks_needed"] - 1, gups=10.0)["feasible"]


def test_no_number_of_ranks_is_promised_where_none_would_do():
    assert advise(rows=1, columns=4096, rate=1e6, ranks=1, gups=1.0)["ranks_needed"] == 0


@pytest.mark.parametrize("bad", [{"rate": 0}, {"ranks": 0}, {"gups": 0.0}, {"gups": float("nan")}, {"window": 0}])
def test_numbers_that_can_not_work_are_refused(bad):
    with pytest.raises(ConfigError, match=r"got|expected"):
        advise(**({**DETECTOR, "rate": 10, "ranks": 4, "gups": 10.0} | bad))


def test_everything_is_predicted_from_one_point_of_the_same_algorithm():
    case = {"algorithm": "mlem", "mode": "co-located", "rows": 16, "ranks": 1}
    sizes = [
        case | {"figure": "sizes", "columns": c, "window": 24, "step": 1, "threads": 1, "measured": measured}
        for c, measured in ((64, 90), (128, 20))
    ]
    mapped = case | {"figure": "map", "columns": 128, "window": 12, "step": 6, "threads": 2, "measured": 400}
    small, point, other = predicted([*sizes, mapped])
    assert (small["reference"], point["reference"], other["reference"]) == (False, True, False)
    assert isclose(point["predicted"], 20)
    assert isclose(small["predicted"], 80)
    assert isclose(other["predicted"], 20 * 6 * 2 * 2)
    assert isclose(other["ratio"], other["predicted"] / 400)


@pytest.mark.nightly
def test_rates_are_measured_drawn_and_written(tmp_path, monkeypatch):
    monkeypatch.setattr("bluesky_streamrecon.evaluation.rates.MAP_WINDOWS", (4, 8))
    monkeypatch.setattr("bluesky_streamrecon.evaluation.rates.MAP_STEPS", (1, 4))
    report = evaluate_rates(columns=(32, 48), rows=4, repeats=3, distributed=False)
    rows = report.fields["rows"]
    assert all(row["measured"] > 0 and row["predicted"] > 0 for row in rows)
    assert {row["figure"] for row in rows} == {"sizes", "map"}
    report.write(tmp_path)
    for name in ("rates_sizes.png", "rates_map.png", "rates.csv"):
        assert (tmp_path / name).stat().st_size > 100


def test_ranks_with_a_gpu_each_need_its_memory_and_share_no_rows():
    card = {"rows": 2048, "columns": 2048, "rate": 100, "gups": 3000.0, "gpu": True, "memory": 80 * 2**30}
    one = advise(**card, ranks=1)
    assert one["sustained"] > 100
    assert one["memory_per_rank"] > card["memory"]
    assert (one["feasible"], one["ranks_needed"]) == (False, 2)
    assert advise(**card, ranks=2)["feasible"]
    assert not advise(**{**card, "rows": 2}, ranks=4)["feasible"]
    assert advise(rows=1, columns=4096, rate=1e9, ranks=1, gups=1000.0, gpu=True)["ranks_needed"] == 0


def test_advise_measures_the_gpu_and_says_what_it_holds(monkeypatch, capsys):
    from bluesky_streamrecon.cli._advise import advise as command
    from bluesky_streamrecon.evaluation.bench import kernels
    from bluesky_streamrecon.recon.cuda import device

    found = device.CudaDevice(0, "Card", (9, 0), "1.0", "numba-cuda 1", 80 * 2**30, 79 * 2**30)
    monkeypatch.setattr(device, "find_device", lambda: found)
    monkeypatch.setattr(kernels, "kernel_speed", lambda columns, gpu: 3000.0 if gpu else 10.0)
    command(rows=2048, columns=2048, rate=100.0, ranks=1, backend="auto")
    said = capsys.readouterr().out
    assert "1 ranks of one GPU each (Card, 80 GiB), 3e+03 GUPS per GPU (measured here)" in said
    assert "does not fit: " in said
    assert "2 ranks would do" in said
