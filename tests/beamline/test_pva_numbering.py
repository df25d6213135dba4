"""Whatever an IOC sends: each image has one place or a reason, and what is missing is counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bluesky_streamrecon.beamline.pva.numbering import Counts, Numbering

FATES = st.lists(st.sampled_from(["comes", "is lost", "comes twice", "comes again later"]), min_size=1, max_size=60)


def began_after(number: int, time: float) -> Numbering:
    numbering = Numbering()
    assert numbering.take(number, time) == "not asked for"
    numbering.begin()
    return numbering


@given(FATES, st.integers(0, 10_000))
def test_each_image_that_comes_has_the_place_of_its_exposure(fates, before):
    numbering = began_after(before, 0.0)
    later, used, copies = [], [], 0
    for place, fate in enumerate(fates):
        if fate == "is lost":
            continue
        image = (before + 1 + place, 1.0 + place)
        assert numbering.take(*image) == place
        used.append(place)
        if fate != "comes":
            copies += 1
            later += [image] * (fate == "comes again later")
        if fate == "comes twice":
            assert numbering.take(*image) == "duplicate"
    assert [numbering.take(*image) for image in later] == ["duplicate"] * len(later)
    assert numbering.counts == Counts(max(used, default=-1) + 1, len(used), copies)
    numbering.leave(len(fates))
    assert numbering.counts.lost == fates.count("is lost")


@given(st.integers(1, 30), st.integers(0, 5))
def test_counter_that_is_set_back_in_mid_series_gives_no_place_until_the_next_series(before, first):
    numbering = began_after(100, 0.0)
    for place in range(before):
        assert numbering.take(101 + place, 1.0 + place) == place
    assert {numbering.take(first + n, 1000.0 + n) for n in range(200)} == {"without place"}
    assert numbering.counts == Counts(before, before, 0, 200)
    numbering.begin()
    assert numbering.take(first + 200, 1300.0) == before


def test_counter_that_is_set_back_when_the_detector_is_armed_does_no_harm():
    numbering = began_after(100, 0.0)
    assert [numbering.take(n, float(n)) for n in (1, 2, 4)] == [0, 1, 3]


def test_image_that_was_given_up_has_its_place_when_it_comes_after_all():
    numbering = began_after(0, 0.0)
    assert numbering.take(1, 1.0) == 0
    numbering.leave(3)
    assert numbering.take(3, 3.0) == 2
    assert numbering.counts == Counts(3, 2)


def test_sweeps_go_on_with_the_numbers_of_the_one_before_whose_end_was_lost():
    numbering = began_after(0, 0.0)
    assert numbering.take(1, 1.0) == 0
    numbering.leave(3)  # 2 and 3 were lost
    numbering.end()
    numbering.begin()
    assert numbering.take(4, 4.0) == 3


def test_last_image_that_a_server_repeats_to_those_who_connect_is_not_one_of_the_series():
    numbering = began_after(7, 7.0)
    assert numbering.take(7, 7.0) == "not asked for"
    assert numbering.counts == Counts()


def test_detector_that_runs_freely_gives_the_images_that_are_asked_for():
    numbering = Numbering()
    taken = []
    for trigger in range(3):
        numbering.begin_with_any(most=2, skip=1)
        start = 100 * trigger
        taken += [numbering.take(start + n, float(start + n)) for n in range(5)]
    skipped = "not asked for"
    assert taken == [skipped, 0, 1, skipped, skipped, skipped, 2, 3, skipped, skipped, skipped, 4, 5, skipped, skipped]
    assert numbering.counts == Counts(6, 6)
