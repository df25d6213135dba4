"""What metrics and finished volumes cost, as the studies in docs/studies measure it."""

import json
import logging

import pytest
from study import load_study

from bluesky_streamrecon.errors import DeviceError
from bluesky_streamrecon.quality import metrics


def test_metrics_are_all_told_with_what_they_cost():
    measured = load_study("metrics").measure_metrics(rows=3, columns=64, num=96, repeats=3, seconds=0.01).fields
    assert [row["metric"] for row in measured["metrics"] if row["every"] == 1] == ["ms-ssim"]
    assert {row["metric"] for row in measured["metrics"]} == {*metrics.metrics.names(), "predicted-gain", "faults"}
    for row in measured["metrics"]:
        assert row["seconds"] > 0
        assert row["share"] == pytest.approx(row["seconds"] / (row["every"] * measured["update_seconds"]))


def test_metric_of_another_package_that_fails_is_left_out_and_logged(monkeypatch, caplog):
    class Broken:
        name = "broken"
        reach = 0

        def __call__(self, history):
            raise RuntimeError("boom")

    monkeypatch.setitem(metrics.metrics._added, "broken", lambda settings, compare_to: Broken())
    caplog.set_level(logging.WARNING)
    measured = load_study("metrics").measure_metrics(rows=3, columns=64, num=96, repeats=3, seconds=0.01)
    assert "broken" not in {row["metric"] for row in measured.fields["metrics"]}
    assert "broken is left out: metric 'broken' failed: RuntimeError: boom" in caplog.messages


@pytest.mark.nightly
def test_volume_is_measured_by_its_recipe_and_by_fbp_in_updates():
    rows = load_study("volume").measure_volume(rows=2, columns=32, num=24, repeats=3).fields["rows"]
    assert [(row["final"], row["iterations"]) for row in rows] == [("sirt", 1), ("fbp", 1), ("auto", 10)]
    assert rows[0]["per_update"] == 1
    assert all(row["seconds"] > 0 for row in rows)


@pytest.mark.nightly
@pytest.mark.timeout(300)
def test_all_that_a_gpu_is_expected_to_do_is_measured(monkeypatch):
    study = load_study("gpu")
    # Both start processes that compile or reconstruct, a minute or more; `bench memory` has tests of its own.
    monkeypatch.setattr(study, "measure_memory", lambda **settings: study.Report({"rows": [settings]}))
    monkeypatch.setattr(study, "_ready_seconds", lambda backend: [6.0, 0.5])
    small = {"columns": 32, "slices": 4, "windows": (12, 24), "projections": 48, "repeats": 3, "seconds": 0.001}
    found = study.measure_gpu(**small, backend="cpu").fields
    rows = {row["what"]: row for row in found["rows"]}
    assert {what for what in study.EXPECTED if "ASTRA" not in what} <= rows.keys()
    assert all(row["found"] > 0 for row in rows.values())
    assert not rows["mlem, GUPS at l = 12"]["holds"]  # of a CPU
    assert rows["sirt, GUPS at l = 24"]["holds"] is None
    assert found["device"].startswith("CPU")
    assert {"kernels", "peers", "pipeline", "memory"} <= found.keys()


def test_what_fails_on_a_gpu_costs_no_other_figure(monkeypatch, capsys):
    study = load_study("gpu")

    def kernels(*, algorithms, **_):
        if algorithms == ("pml-hybrid",):
            raise DeviceError("the GPU failed: out of memory")
        row = {"algorithm": algorithms[0], "window": 12, "gups": 3100.0, "spread": 0.01, "host_ms": 0.1}
        return study.Report({"rows": [row | {"device": "Card"}]})

    monkeypatch.setattr(study, "measure_kernels", kernels)
    monkeypatch.setattr(study, "measure_pipeline", lambda **_: 1 / 0)
    monkeypatch.setattr(study, "_ready_seconds", lambda _: [6.0, 0.5])
    monkeypatch.setattr(study, "measure_memory", lambda **_: study.Report({"rows": []}))
    kept = []
    found = study.measure_gpu(backend="cpu", keep=lambda report: kept.append(json.dumps(report.fields))).fields
    assert found["failed"] == ["kernels", "pipeline"]
    assert found["device"] == "Card"
    assert {"mlem, GUPS at l = 12", "seconds until kernels are compiled"} <= {row["what"] for row in found["rows"]}
    assert "out of memory" in capsys.readouterr().err
    assert "mlem" in kept[0]
    assert json.loads(kept[-1]) == found


def test_figures_of_a_gpu_are_compared_with_what_is_expected():
    row = load_study("gpu")._row
    assert row("mlem, GUPS at l = 12", 3100.0, 0.01)["holds"]
    assert not row("mlem, GUPS at l = 12", 2900.0, 0.01)["holds"]
    assert row("mlem, host ms a step at l = 12", 0.13, 0.0)["holds"]
    assert not row("seconds until kernels are compiled", 11.0, 0.0)["holds"]


def test_nothing_of_a_gpu_is_timed_where_the_checks_can_not_be_made(monkeypatch):
    monkeypatch.setenv("NUMBA_CUDA_DRIVER", "/nowhere/libcuda.so.1")
    assert "needs a GPU: there is no NVIDIA driver here" in load_study("gpu").run_checks()
