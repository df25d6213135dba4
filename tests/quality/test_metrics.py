"""Histories of images stay bounded, and a metric compares the right pair of them or says why not."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from bluesky_streamrecon.errors import ConfigError, DataError
from bluesky_streamrecon.quality import (
    ImageHistory,
    Metric,
    MsSsimMetric,
    PreviewImage,
    make_metric,
    ms_ssim,
)
from bluesky_streamrecon.quality.metrics import comparison_distance, metrics
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings

STACK = np.zeros((1, 22, 22), np.float32)


def history_of(*projections: int, stacks=None) -> ImageHistory:
    history = ImageHistory()
    for number, count in enumerate(projections, start=1):
        stack = STACK if stacks is None else stacks[number - 1]
        history = history.appended(PreviewImage(number, count, tuple(range(len(stack))), stack))
    return history


def projections_in(history: ImageHistory) -> list[int]:
    return [image.projections for image in history.images]


def test_history_finds_the_newest_image_at_or_before_a_count():
    history = history_of(3, 6, 9, 12)
    assert [found and found.projections for found in map(history.made_of, (2, 3, 5, 9, 99))] == [None, 3, 3, 9, 12]
    assert projections_in(history.upto(2)) == [3, 6]
    assert history.newest.projections == 12


def test_history_refuses_images_out_of_order_or_of_another_shape():
    history = history_of(3, 6)
    with pytest.raises(DataError, match="expected both numbers to grow"):
        history.appended(PreviewImage(2, 9, (0,), STACK))
    with pytest.raises(DataError, match="expected both numbers to grow"):
        history.appended(PreviewImage(3, 5, (0,), STACK))
    with pytest.raises(DataError, match="like image 2 of the same run"):
        history.appended(PreviewImage(3, 9, (1,), STACK))
    with pytest.raises(DataError, match="got no image yet"):
        _ = ImageHistory().newest


def test_history_forgets_what_no_comparison_can_ask_for():
    history = history_of(*range(1, 41))
    assert projections_in(history.trimmed(40 - 24, most=99)) == list(range(16, 41))
    assert projections_in(history_of(5, 15, 40).trimmed(16, most=99)) == [15, 40]
    assert projections_in(history_of(20, 30, 40).trimmed(16, most=99)) == [20, 30, 40]


def test_history_thins_out_evenly_where_memory_is_short():
    history = history_of(*range(1, 34)).trimmed(0, most=9, keep=2)
    kept = projections_in(history)
    assert len(kept) == 9
    assert (kept[0], kept[-2:]) == (1, [32, 33])
    assert max(np.diff(kept)) <= 8
    assert projections_in(history_of(1, 2, 3).trimmed(0, most=1, keep=2)) == [1, 2, 3]


def test_history_stays_within_its_limit_over_a_long_run():
    history = ImageHistory()
    for number in range(1, 400):
        history = history.appended(PreviewImage(number, number, (0,), STACK)).trimmed(number - 100, most=20)
        assert len(history) <= 20
    found = history.made_of(399 - 100)
    assert found is not None
    assert 399 - 130 <= found.projections <= 299


def test_ms_ssim_compares_with_the_image_k_projections_earlier_or_the_next_older(image):
    stacks = [image(count) for count in (10, 18, 40)]
    history = history_of(10, 18, 40, stacks=stacks)
    same = {"scales": 3, "levels": 3}
    assert MsSsimMetric(22)(history) == ms_ssim(stacks[2], stacks[1], **same)
    assert MsSsimMetric(24)(history) == ms_ssim(stacks[2], stacks[0], **same)
    assert MsSsimMetric(31)(history) is None


def test_slices_that_show_nothing_do_not_raise_the_score(image):
    stacks = [image(10, rows=3), image(40, rows=3)]
    expected = MsSsimMetric(24)(history_of(10, 40, stacks=[stack[[0, 2]] for stack in stacks]))
    for stack in stacks:
        stack[1] = 0.0
    assert MsSsimMetric(24)(history_of(10, 40, stacks=stacks)) == expected


def test_slice_that_went_empty_lowers_the_score(image):
    stacks = [image(10), image(40)]
    stacks[1][1] = 0.0
    assert MsSsimMetric(24)(history_of(10, 40, stacks=stacks)) < 0.7


def test_images_that_can_not_tell_anything_raise_and_never_score(image):
    with pytest.raises(DataError, match="images 1 and 2 are empty"):
        MsSsimMetric(24)(history_of(10, 40, stacks=[image(10) * 0, image(10) * 0 + 3]))
    with pytest.raises(DataError, match="bit for bit image 1: 30 projections changed nothing"):
        MsSsimMetric(24)(history_of(10, 40, stacks=[image(10), image(10)]))
    broken = image(10)
    broken[0, 1, 2] = np.nan
    with pytest.raises(DataError, match=r"second image .* nan at slice 0, row 1, column 2"):
        MsSsimMetric(24)(history_of(10, 40, stacks=[broken, image(40)]))
    small = np.random.default_rng(0).random((2, 1, 8, 8), np.float32)
    with pytest.raises(DataError, match="8 x 8 pixels, expected at least 11 x 11"):
        MsSsimMetric(24)(history_of(10, 40, stacks=list(small)))


@pytest.mark.parametrize(
    ("window", "step", "compare_to", "expected"),
    [(24, 1, None, 24), (12, 3, 36, 36), (None, 2, None, 24), (None, 60, None, 60)],
)
def test_images_are_compared_over_the_window_unless_told_otherwise(window, step, compare_to, expected):
    recon, steering = ReconSettings(window=window, step=step), SteeringSettings(compare_to=compare_to)
    assert comparison_distance(recon, steering) == expected


class Brightness:
    name = "brightness"
    reach = 0

    def __call__(self, history):
        return float(history.newest.stack.mean())


def test_own_metric_is_found_by_its_name(monkeypatch):
    monkeypatch.setattr("bluesky_streamrecon.quality.metrics.metrics._added", {})
    metrics.add("brightness", lambda settings, compare_to: Brightness())
    metric = make_metric("brightness", SteeringSettings(), 24)
    assert isinstance(metric, Metric)
    assert metric(history_of(1)) == 0.0
    with pytest.raises(ConfigError, match="expected one of brightness"):
        make_metric("no-such", SteeringSettings(), 24)


def test_metric_of_an_installed_package_is_found_by_its_name(installed_package):
    source = (
        "class Metric:\n    name = 'their-metric'\n    reach = 0\n    def __call__(self, history): return self.given\n"
        "def make(settings, compare_to):\n    made = Metric()\n"
        "    made.given = settings.scales, compare_to\n    return made\n"
    )
    installed_package("bluesky_streamrecon.metrics", "their-metric", "their_metrics", source, "make")
    assert metrics.names() == ("half-set-frc", "held-out-residual", "measurement", "ms-ssim", "their-metric")
    assert make_metric("their-metric", SteeringSettings(scales=2), 12)(ImageHistory()) == (2, 12)


class Named:
    reach = 0

    def __init__(self, name="mine", reach=0):
        self.name, self.reach = name, reach

    def __call__(self, history):
        return 1.0


class Nameless:
    reach = 0

    def __call__(self, history):
        return 1.0


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (Named, "calls itself SteeringSettings"),  # the class itself, where what makes it is wanted
        (lambda settings: Named(), "can not be made with its settings: TypeError"),
        (lambda settings, compare_to: settings.options["relax"], "KeyError: 'relax'"),
        (lambda settings, compare_to: sys.exit(3), "can not be made with its settings: SystemExit: 3"),
        (lambda settings, compare_to: None, "returned None, expected an object with a name"),
        (lambda settings, compare_to: Nameless(), "expected an object with a name"),
        (lambda settings, compare_to: Named("ms-ssim"), "calls itself 'ms-ssim'"),
        (lambda settings, compare_to: Named(reach="all"), "got reach 'all'"),
        (lambda settings, compare_to: Named(reach=-1), "got reach -1"),
    ],
)
def test_what_is_no_metric_is_refused_by_name_when_the_run_opens(monkeypatch, factory, said):
    monkeypatch.setattr("bluesky_streamrecon.quality.metrics.metrics._added", {"mine": factory})
    with pytest.raises(ConfigError, match="metric 'mine'") as refused:
        make_metric("mine", SteeringSettings(), 24)
    assert said in str(refused.value)


def test_package_that_exits_when_it_is_imported_is_named(installed_package):
    installed_package("bluesky_streamrecon.metrics", "paid", "paid_metrics", "raise SystemExit('no licence')", "make")
    with pytest.raises(ConfigError, match=r"metric 'paid' .* can not be imported \(SystemExit: no licence\)"):
        make_metric("paid", SteeringSettings(), 24)


def test_nobody_takes_the_name_of_a_metric_of_ours(installed_package, monkeypatch, caplog):
    with pytest.raises(ConfigError, match="'ms-ssim' comes with the package"):
        metrics.add("ms-ssim", lambda settings, compare_to: Named("ms-ssim"))
    installed_package("bluesky_streamrecon.metrics", "ms-ssim", "their_ms_ssim", "make = 1", "make")
    monkeypatch.setattr(metrics, "_looked", False)
    assert isinstance(make_metric("ms-ssim", SteeringSettings(), 24), MsSsimMetric)
    assert "'ms-ssim' is registered as their_ms_ssim:make, too, which is not used" in caplog.text
