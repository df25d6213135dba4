"""Counts become line integrals, and what was not measured does no harm."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.recon.later_references import take_off
from bluesky_streamrecon.recon.preparation import Preparation

SHAPE = (3, 64)
GAIN = np.full(SHAPE, 900.0)


def prepared(dtype=np.float32, flat=1000.0, dark=100.0, **arguments):
    preparation = Preparation(*SHAPE, **arguments)
    preparation.add_reference("dark", np.full(SHAPE, dark, dtype))
    preparation.add_reference("flat", np.full(SHAPE, flat, dtype))
    return preparation


def test_line_integrals_are_minus_log_of_dark_corrected_transmission():
    rng = np.random.default_rng(1)
    flats = rng.uniform(900, 1100, (4, *SHAPE))
    darks = rng.uniform(90, 110, (3, *SHAPE))
    raw = rng.uniform(200, 800, SHAPE)
    preparation = Preparation(*SHAPE)
    for frame in flats:
        preparation.add_reference("flat", frame)
    for frame in darks:
        preparation.add_reference("dark", frame)
    dark = darks.mean(axis=0)
    expected = -np.log((raw - dark) / (flats.mean(axis=0) - dark))
    result = preparation.prepare(raw)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    assert preparation.counts["flats"] == 4
    assert preparation.counts["darks"] == 3


def test_line_integrals_are_exact_to_the_last_place_from_the_darkest_to_the_brightest_pixel():
    shares = np.concatenate((np.geomspace(1e-6, 1e4, SHAPE[0] * SHAPE[1] - 3), [1.0, np.nextafter(1, 0), 1 + 2e-7]))
    shares = np.random.default_rng(0).permutation(shares).reshape(SHAPE).astype(np.float32)
    expected = -np.log(shares.astype(np.float64))
    for values in (shares, np.where(np.arange(SHAPE[1]) == 7, 0, shares)):  # the second way mends a pixel
        result = Preparation(*SHAPE, values="transmission").prepare(values)
        error = np.abs(result - expected) / np.spacing(np.abs(expected).astype(np.float32))
        assert np.delete(error, 7, axis=1).max() < 1


def test_averages_of_many_bright_frames_do_not_overflow():
    preparation = Preparation(*SHAPE)
    for _ in range(300):
        preparation.add_reference("flat", np.full(SHAPE, 65000, np.uint16))
    np.testing.assert_allclose(preparation.prepare(np.full(SHAPE, 32500, np.uint16)), np.log(2), rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(np.nan, "not_finite_values"), (np.inf, "not_finite_values"), (100.0, "not_positive_values"), (-5.0, None)],
)
def test_single_bad_value_becomes_that_of_its_neighbours_and_is_counted(value, kind):
    raw = np.full(SHAPE, 550.0, np.float32)
    raw[1, 10] = value
    preparation = prepared()
    np.testing.assert_allclose(preparation.prepare(raw), np.log(2), rtol=1e-6)
    assert preparation.counts[kind or "not_positive_values"] == 1


def test_dead_column_is_mended_alike_with_and_without_other_bad_pixels():
    flat = np.full(SHAPE, 1000, np.uint16)
    flat[:, [0, 20, 21]] = 100
    preparation = Preparation(*SHAPE)
    preparation.add_reference("dark", np.full(SHAPE, 100, np.uint16))
    preparation.add_reference("flat", flat)
    raw = np.random.default_rng(3).integers(300, 900, SHAPE).astype(np.uint16)
    raw[:, 20] = np.iinfo(np.uint16).max
    alone = preparation.prepare(raw)
    assert preparation.counts["saturated_values"] == 0
    raw[2, 40] = 0
    beside = preparation.prepare(raw)
    np.testing.assert_array_equal(beside[:2], alone[:2])
    np.testing.assert_array_equal(beside[2, :39], alone[2, :39])
    np.testing.assert_allclose(alone[:, 0], alone[:, 1])
    third = (alone[:, 22] - alone[:, 19]) / 3
    np.testing.assert_allclose(alone[:, 20:22], alone[:, 19:20] + third[:, None] * [1, 2], rtol=1e-5)
    raw[1] = 100
    assert np.isnan(preparation.prepare(raw)[1]).all()
    assert (preparation.counts["dead_pixels"], preparation.counts["dark_rows"]) == (9, 1)


def test_bad_values_at_the_edge_take_the_nearest_good_one():
    raw = np.full(SHAPE, 550.0, np.float32)
    raw[0, :3] = np.nan
    raw[2, -2:] = np.nan
    np.testing.assert_allclose(prepared().prepare(raw), np.log(2), rtol=1e-6)


def test_bad_values_between_different_neighbours_lie_on_the_line_between_them():
    raw = np.full(SHAPE, 1000.0, np.float32)
    raw[1, 30:] = 100 + 900 * np.exp(-1.0)
    raw[1, 27:30] = np.nan
    np.testing.assert_allclose(prepared().prepare(raw)[1, 26:31], [0, 0.25, 0.5, 0.75, 1.0], atol=1e-5)


def test_saturated_counts_are_replaced_and_counted():
    raw = np.full(SHAPE, 550, np.uint16)
    raw[2, 5:8] = 65535
    preparation = prepared(np.uint16)
    np.testing.assert_allclose(preparation.prepare(raw), np.log(2), rtol=1e-6)
    assert preparation.counts["saturated_values"] == 3


def test_detector_may_saturate_below_its_largest_number():
    raw = np.full(SHAPE, 550, np.uint16)
    raw[2, 5] = 4095
    preparation = prepared(np.uint16, saturation=4095)
    np.testing.assert_allclose(preparation.prepare(raw), np.log(2), rtol=1e-6)
    assert preparation.counts["saturated_values"] == 1


@pytest.mark.parametrize(
    ("dead", "said"),
    [(np.s_[1, 20:36], False), (np.s_[1, 20:37], True), (np.s_[:, :20], True), (np.s_[1], False)],
    ids=["16 pixels", "17 pixels of a row", "a side", "a whole row"],
)
def test_gap_that_is_too_wide_to_be_bridged_is_reported(dead, said):
    """A row that measures nothing at all is none, and has no image."""
    preparation = Preparation(*SHAPE)
    dark = np.full(SHAPE, 100.0)
    dark[dead] = 1500.0
    preparation.add_reference("dark", dark)
    preparation.add_reference("flat", np.full(SHAPE, 1000.0))
    preparation.prepare(np.full(SHAPE, 550.0))
    found = [text for text in preparation.warnings if "in more than 16 pixels side by side" in text]
    assert len(found) == said


def test_dead_column_is_filled_from_its_neighbours_and_counted_once_per_pixel():
    preparation = Preparation(*SHAPE)
    flat = np.full(SHAPE, 1000.0)
    flat[:, 20] = 100
    preparation.add_reference("dark", np.full(SHAPE, 100.0))
    preparation.add_reference("flat", flat)
    raw = np.full(SHAPE, 550.0)
    raw[:, 20] = 100
    for _ in range(2):
        np.testing.assert_allclose(preparation.prepare(raw), np.log(2), rtol=1e-6)
    assert preparation.counts["dead_pixels"] == SHAPE[0]
    assert preparation.counts["not_positive_values"] == 0


def test_wide_shadow_stays_dark():
    raw = np.full(SHAPE, 1000.0, np.float32)
    raw[1, 20:50] = 100
    result = prepared().prepare(raw)
    assert result[1, 20:50].min() > 10
    assert np.isfinite(result).all()


def test_row_without_light_is_not_measured_and_counted():
    raw = np.full(SHAPE, 550.0, np.float32)
    raw[1] = 100 + np.where(np.arange(SHAPE[1]) % 2, 0.5, -0.5)
    preparation = prepared()
    result = preparation.prepare(raw)
    assert np.isnan(result[1]).all()
    np.testing.assert_allclose(result[[0, 2]], np.log(2), rtol=1e-6)
    assert preparation.counts["dark_rows"] == 1
    assert preparation.counts["dark_projections"] == 0


def test_projection_without_light_is_counted():
    preparation = prepared()
    assert np.isnan(preparation.prepare(np.full(SHAPE, 100.0, np.float32))).all()
    assert preparation.counts["dark_projections"] == 1


def test_what_is_done_to_a_row_does_not_depend_on_the_rows_beside_it():
    rng = np.random.default_rng(2)
    raw = rng.uniform(50, 900, SHAPE).astype(np.float32)
    raw[0] = 100
    raw[1, ::7] = np.nan
    together = prepared().prepare(raw)
    for row in range(SHAPE[0]):
        alone = Preparation(1, SHAPE[1])
        alone.add_reference("dark", np.full((1, SHAPE[1]), 100.0))
        alone.add_reference("flat", np.full((1, SHAPE[1]), 1000.0))
        np.testing.assert_array_equal(alone.prepare(raw[row : row + 1])[0], together[row])


def test_flats_that_are_nowhere_bright_are_said_so():
    preparation = prepared(flat=100.0)
    assert np.isnan(preparation.prepare(np.full(SHAPE, 550.0, np.float32))).all()
    assert "swapped" in preparation.warnings[0]


def test_missing_darks_mean_zero_and_are_said_so():
    preparation = Preparation(*SHAPE)
    preparation.add_reference("flat", np.full(SHAPE, 1000.0))
    np.testing.assert_allclose(preparation.prepare(np.full(SHAPE, 500.0)), np.log(2), rtol=1e-6)
    assert preparation.warnings == ["darks: none came, and a dark of zero is used"]


def test_missing_flats_are_an_error_that_says_what_is_missing():
    preparation = Preparation(*SHAPE, name="9123")
    assert not preparation.ready
    with pytest.raises(DataError, match=r"^9123: got a projection and no flat field"):
        preparation.prepare(np.full(SHAPE, 500.0))


def test_normalised_data_need_no_flats():
    np.testing.assert_allclose(
        Preparation(*SHAPE, values="transmission").prepare(np.full(SHAPE, 0.5)), np.log(2), rtol=1e-6
    )
    raw = np.full(SHAPE, -0.25)
    raw[0, 3] = np.nan
    np.testing.assert_array_equal(Preparation(*SHAPE, values="line-integrals").prepare(raw), np.float32(-0.25))


@pytest.mark.parametrize("values", ["counts", "transmission", "line-integrals"])
def test_rows_in_which_nothing_is_finite_are_not_measured_whatever_pixels_stand_for(values):
    preparation = prepared() if values == "counts" else Preparation(*SHAPE, values=values)
    raw = np.full(SHAPE, 550.0 if values == "counts" else 0.5, np.float32)
    raw[1] = np.nan
    lines = preparation.prepare(raw)
    assert np.isnan(lines[1]).all()
    assert np.isfinite(np.delete(lines, 1, axis=0)).all()
    assert preparation.counts["dark_projections"] == 0
    raw[:] = np.inf
    assert np.isnan(preparation.prepare(raw)).all()
    assert preparation.counts["dark_projections"] == 1


def test_late_flat_changes_nothing_and_is_counted():
    preparation = prepared()
    raw = np.full(SHAPE, 550.0, np.float32)
    before = preparation.prepare(raw)
    preparation.add_reference("flat", np.full(SHAPE, 9.0))
    np.testing.assert_array_equal(preparation.prepare(raw), before)
    assert preparation.counts["late_flats_darks"] == 1


def test_later_flats_are_known_again_after_a_restart_and_each_counts_once():
    preparation, again = prepared(), prepared()
    raw = np.full(SHAPE, 550.0, np.float32)
    preparation.prepare(raw)
    flats = [(11, 1, 1.25 * GAIN + 100), (12, 1, 1.25 * GAIN + 100), (13, 5, 0.9 * GAIN + 100)]
    for index, after, flat in flats[:2]:
        preparation.add_reference("flat", flat, (index, after))
    again.restore(preparation.arrays(), preparation.counts)
    for index, after, flat in flats[1:]:
        again.add_reference("flat", flat, (index, after))
    assert again.counts["later_flats"] == 3
    warnings = []
    (first, grown), (second, fallen) = again.changes(warnings).light
    assert (first, second, warnings) == (1, 5, [])
    np.testing.assert_allclose(grown, np.log(1.25), rtol=1e-5)
    np.testing.assert_allclose(fallen, np.log(0.9), rtol=1e-5)


def test_darks_and_flats_in_between_and_afterwards_are_interpolated_and_known_again_after_a_restart():
    """The dark grows by 3 counts per projection and brighter columns, the light falls by a fortieth of itself."""
    number, rng = 8, np.random.default_rng(0)
    columns = rng.uniform(0.2, 1.0, SHAPE[1])
    truth = rng.uniform(0, 2, (number, *SHAPE)).astype(np.float32)

    def frame(after, lines=np.inf):
        return 100 + 3 * after * columns + GAIN * np.exp(-after / 40) * np.exp(-lines)

    def taken(preparation, first, stop):
        found.extend(preparation.prepare(frame(after + 0.5, truth[after])) for after in range(first, stop))
        preparation.add_reference("dark", frame(stop), (10 + stop, stop))
        preparation.add_reference("flat", frame(stop, 0.0), (10 + stop, stop))

    preparation, again, found = prepared(), prepared(), []
    taken(preparation, 0, 3)
    again.restore(preparation.arrays(), preparation.counts)
    taken(again, 3, number)
    corrected = np.stack(found)
    take_off(corrected, again.changes(again.warnings), slice(None))
    assert np.abs(np.stack(found) - truth).max() > 0.05
    np.testing.assert_allclose(corrected, truth, atol=2e-4)
    again.conclude(later=True)
    assert again.warnings == []
    assert [again.counts[name] for name in ("later_flats", "later_darks", "late_flats_darks")] == [2, 2, 0]


def test_later_darks_with_light_change_nothing_and_are_reported():
    preparation = prepared()
    preparation.prepare(np.full(SHAPE, 550.0, np.float32))
    preparation.add_reference("dark", np.full(SHAPE, 0.9 * GAIN + 100), (3, 1))
    preparation.conclude(later=True)
    (warning,) = preparation.warnings
    assert warning.startswith("darks: those after projection 1 differ from the first ones by 0.9 of the flats")
    ((_, change),) = preparation.changes([]).dark
    np.testing.assert_array_equal(change, 0)


def test_later_flats_without_light_change_nothing_and_are_reported():
    preparation = prepared()
    preparation.prepare(np.full(SHAPE, 550.0, np.float32))
    preparation.add_reference("flat", 1.2 * GAIN + 100, (11, 1))
    preparation.add_reference("flat", np.full(SHAPE, 101.0), (12, 2))
    preparation.conclude(later=True)
    (warning,) = preparation.warnings
    assert warning.startswith("flats: those after projection 2 are ")
    assert warning.endswith("; was something in the beam, or the shutter closed?")
    for _, change in preparation.changes([]).light:
        np.testing.assert_allclose(change, np.log(1.2), rtol=1e-5)


def test_frame_is_left_as_it_was():
    raw = np.full(SHAPE, 550.0, np.float32)
    raw[1, 1] = np.nan
    copy = raw.copy()
    prepared().prepare(raw)
    np.testing.assert_array_equal(raw, copy)


@pytest.mark.parametrize("kind", ["flat", "projection"])
def test_frame_of_another_shape_is_refused(kind):
    preparation = prepared()
    take = preparation.prepare if kind == "projection" else partial(preparation.add_reference, "flat")
    with pytest.raises(DataError, match=rf"got a {kind} of shape \(2, 2\), expected \(3, 64\)"):
        take(np.ones((2, 2)))


def test_unknown_pixel_values_are_refused():
    with pytest.raises(DataError, match="counts, transmission, line-integrals"):
        Preparation(*SHAPE, values="volts")
