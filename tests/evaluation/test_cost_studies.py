"""What metrics and finished volumes cost, as the studies in docs/studies measure it."""

import logging

import pytest
from study import load_study

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
