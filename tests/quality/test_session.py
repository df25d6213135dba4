"""Decisions of the controller, without sockets: right pairs, nothing good said of garbage."""

from __future__ import annotations

import math
import re

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bluesky_streamrecon.coverage import largest_gap
from bluesky_streamrecon.errors import ConfigError, DataError
from bluesky_streamrecon.partition import RowBlock
from bluesky_streamrecon.quality import Verdict, ms_ssim, policy
from bluesky_streamrecon.quality.forecast import Forecast
from bluesky_streamrecon.quality.gain import Gain
from bluesky_streamrecon.quality.session import SteeringSession
from bluesky_streamrecon.selection import WHOLE_VIEW, Selection
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings
from bluesky_streamrecon.wire import ChangeRun, OpenRun, Preview, Score


def judge_all(session):
    judged = []
    while (answer := session.judge()) is not None:
        judged.append(answer)
    return judged


@pytest.fixture
def run_through(open_run, preview, image):
    """Run images 1 to `last` through a session of one rank, each judged as it comes."""

    def run(last=60, *, pixels=image, **steering):
        session = SteeringSession(open_run(**steering))
        judged = []
        for number in range(1, last + 1):
            session.accept(preview(number, pixels=pixels(number)))
            judged += judge_all(session)
        return judged, [score for score in judged if score.verdict == "enough"]

    return run


def test_score_of_a_region_is_that_of_images_cropped_to_it(open_run, preview, image):
    inside = SteeringSession(open_run(region=(6, 4, 40, 38), compare_to=4))
    cropped = SteeringSession(open_run(compare_to=4))
    for number in range(1, 9):
        whole = image(number, noise=9.0)
        whole[:, :, 41:] += number  # what happens outside is nothing to it
        inside.accept(preview(number, pixels=whole))
        cropped.accept(preview(number, pixels=np.ascontiguousarray(whole[:, 4:38, 6:40]), size=34))
    scores = [score.score for score in judge_all(inside)]
    assert scores == [score.score for score in judge_all(cropped)]
    assert None not in scores[4:]


SIDE, REGION = 44, (6, 4, 40, 38)  # of the images


def test_region_that_is_set_meanwhile_counts_from_the_next_image_on_and_is_taken_back(open_run, preview, image):
    session, inside, whole = (SteeringSession(open_run(compare_to=4, **told)) for told in ({}, {"region": REGION}, {}))
    scores = []
    for number in range(1, 16):
        if number in (6, 11):
            session.change(ChangeRun(run_uid="run-1", selection=Selection(REGION if number == 6 else None)))
        pixels = image(number, noise=9.0)
        pixels[:, :, 41:] += number
        for each in (session, inside, whole):
            each.accept(preview(number, pixels=pixels))
        scores.append([score for each in (session, inside, whole) for score in judge_all(each)])
    for number, (found, of_region, of_whole) in enumerate(scores, 1):
        expected = of_region if 6 <= number < 11 else of_whole
        assert (found.score, found.selection, found.size) == (expected.score, expected.selection, SIDE)
    assert scores[4][0].text == scores[4][2].text
    before = "what was predicted before does not count"
    assert scores[5][0].text.endswith(f"; judged by x 6 to 39, y 4 to 37 alone since 5 projections: {before}")
    assert scores[5][1].text.endswith("; judged by x 6 to 39, y 4 to 37 alone")
    assert scores[10][0].text.endswith(f"; judged by the whole view again since 10 projections: {before}")


def test_images_in_a_row_are_counted_anew_when_another_region_counts(open_run, preview, image):
    session = SteeringSession(open_run(compare_to=1, threshold=0.5, patience=3))
    verdicts = []
    for number in range(1, 7):
        if number == 4:
            session.change(ChangeRun(run_uid="run-1", selection=Selection(REGION)))
        session.accept(preview(number, pixels=image(number, noise=0.1)))
        verdicts += [score.verdict for score in judge_all(session)]
    assert verdicts == ["continue"] * 5 + ["enough"]


def test_prediction_of_another_region_does_not_count_even_if_it_was_being_made(open_run, preview, image):
    session = SteeringSession(open_run(policy="predicted-gain"))
    made = [Forecast(60, gain=Gain(0.0, 0.0, 0.0, 60, 180, 0.5, 0.0, 0.0, 0.0, 256))]
    session._forecaster.take = lambda: [made.pop()] if made else []
    session.change(ChangeRun(run_uid="run-1", selection=Selection(REGION)))
    session.accept(preview(60, pixels=image(60)))
    (score,) = judge_all(session)
    assert (score.verdict, "no prediction" in score.text) == ("continue", True)


def of_rows(rows, numbers, preview, image, *, rank=0, first=None):
    """Previews of these rows, each with the line integrals of its projection, or the first of them with all so far."""
    for number in numbers:
        have = number - 1 if number > numbers[0] or first is None else first
        shown = preview(number, rank=rank, rows=rows, pixels=image(number, len(rows)), angles=[0.1] * (number - have))
        lines = np.full((number - have, len(rows), SIDE), np.array(rows, np.float32)[:, None] / 10, np.float32)
        yield msgspec.structs.replace(shown, columns=SIDE, lines=lines, lines_first=have, axis=21.5)


def test_other_rows_are_judged_once_a_person_wants_them_and_scores_begin_anew(open_run, preview, image):
    session = SteeringSession(open_run(compare_to=2))
    for each in of_rows((3, 7), range(1, 5), preview, image):
        session.accept(each)
    assert [score.score is not None for score in judge_all(session)] == [False, False, True, True]
    early, *later = of_rows((5,), range(5, 9), preview, image, rank=1, first=0)
    session.accept(early)  # the rank has heard of it before we have
    assert judge_all(session) == []
    session.change(ChangeRun(run_uid="run-1", selection=Selection(rows=(5,))))
    late = list(of_rows((3, 7), range(5, 7), preview, image))  # and another one after us
    scores = []
    for each in (*late, *later):
        session.accept(each)
        scores += judge_all(session)
    assert [(score.image_number, score.score is None) for score in scores] == [(6, True), (7, True), (8, False)]
    assert {score.selection for score in scores} == {Selection(rows=(5,))}
    assert scores[1].text.endswith(
        "; judged by row 5 alone since 4 projections: what was predicted before does not count"
    )
    scan = session._lines.scan()
    assert (scan.rows, scan.projections, np.unique(scan.values).tolist()) == ((5,), 8, [0.5])
    session.change(ChangeRun(run_uid="run-1", selection=WHOLE_VIEW))
    for each in of_rows((3, 7), range(9, 11), preview, image, first=0):
        session.accept(each)
    assert [score.selection for score in judge_all(session)] == [WHOLE_VIEW] * 2
    assert (session._lines.scan().rows, session._lines.projections) == ((3, 7), 10)


def test_rows_of_several_ranks_are_put_together_whichever_rank_had_others_before(open_run, preview, image):
    session = SteeringSession(open_run(rows=(1, 3, 7), compare_to=1))
    for rank, rows in enumerate([(1, 3), (7,)]):
        for each in of_rows(rows, range(1, 3), preview, image, rank=rank):
            session.accept(each)
    session.change(ChangeRun(run_uid="run-1", selection=Selection(rows=(3, 7))))
    assert (session._lines.scan().rows, session._lines.projections) == ((3, 7), 2)  # these are here already
    judge_all(session)
    for rank, rows in enumerate([(3,), (7,)]):
        for each in of_rows(rows, range(3, 5), preview, image, rank=rank, first=0 if rank == 0 else None):
            session.accept(each)
    assert [score.image_number for score in judge_all(session)] == [3, 4]
    assert session._lines.projections == 4


def test_region_outside_the_image_never_ends_a_scan_and_says_so(open_run, preview, image):
    session = SteeringSession(open_run(region=(0, 0, 40, 60), threshold=1e-6, compare_to=1))
    for number in (1, 2):
        session.accept(preview(number, pixels=image(number)))
    assert [score.verdict for score in judge_all(session)] == ["invalid", "invalid"]
    session.accept(preview(3, pixels=image(3)))
    outside = "region: got (0, 0, 40, 60), which is outside the image of 44 x 44 pixels"
    assert session.judge().text == f"not judged at 3 of 180 projections: {outside}"


@pytest.mark.parametrize(("rule", "from_image"), [("ms-ssim", 1), ("ms-ssim", 40), ("predicted-gain", 1)])
def test_run_whose_job_doubts_its_images_is_never_ended_and_says_why(open_run, preview, image, rule, from_image):
    doubt = "rotation axis: column 60.00 ± 0.1 from 90 projections, not certain; give axis= in detector columns"
    told = {"threshold": 0.5} if rule == "ms-ssim" else {}
    session = SteeringSession(open_run(policy=rule, minimum_projections=120, **told))
    judged = []
    for number in range(1, 61):
        shown = preview(number, 3 * number, pixels=image(number))
        session.accept(msgspec.structs.replace(shown, doubt=doubt if number >= from_image else ""))
        judged += judge_all(session)
    assert all(score.verdict == "invalid" for score in judged[from_image - 1 :])
    assert judged[-1].text == f"not judged at 180 of 180 projections: {doubt}"


def test_scan_without_light_is_told_so_and_not_that_its_axis_is_unknown(open_run, preview, image):
    doubt = "rotation axis: column 21.50 from 30 projections, not certain; give axis= in detector columns"
    session = SteeringSession(open_run(planned=30))
    shown = preview(1, 30, pixels=image(30), angles=np.arange(30) * np.pi / 30)
    lines = np.full((30, 2, 44), np.nan, np.float32)
    session.close()
    session.accept(msgspec.structs.replace(shown, doubt=doubt, axis=21.5, lines=lines, columns=44))
    (score,) = judge_all(session)
    assert score.verdict == "invalid"
    assert score.text.startswith("not judged at 30 of 30 projections: no light in all 30 projections: the shutter is")


def test_doubt_that_is_over_is_not_held_against_later_images_and_predictions_for_another_axis_are_forgotten(
    open_run, preview, image
):
    session = SteeringSession(open_run(policy="predicted-gain", minimum_projections=60))
    judged = []
    for number in range(1, 61):
        shown = preview(number, 3 * number, pixels=image(number))
        doubtful = number <= 40
        doubt = "rotation axis: column 7.00 ± 3; images are provisional until it is certain" if doubtful else ""
        if number == 41:
            session._forecasts.append(Forecast(120))
        session.accept(msgspec.structs.replace(shown, doubt=doubt, axis=7.0 if doubtful else 5.0))
        judged += judge_all(session)
    assert {score.verdict for score in judged[:40]} == {"invalid"}
    assert "invalid" not in {score.verdict for score in judged[40:]}
    assert [score.axis for score in judged] == [7.0] * 40 + [5.0] * 20
    assert all(forecast.projections > 120 for forecast in session._forecasts)


def test_image_that_becomes_wider_with_another_axis_is_compared_with_those_of_its_width_only(open_run, preview, image):
    session = SteeringSession(open_run(threshold=0.9))
    judged = []
    for number in range(1, 61):
        pixels = image(number)
        if number > 30:
            pixels = np.pad(pixels, ((0, 0), (6, 6), (6, 6)))
        shown = preview(number, pixels=pixels, size=pixels.shape[1])
        session.accept(msgspec.structs.replace(shown, axis=7.0 if number > 30 else 5.0))
        judged += judge_all(session)
    assert [score.image_number for score in judged] == list(range(1, 61))
    compared = [score.image_number for score in judged if score.score is not None]
    assert compared == [*range(25, 31), *range(55, 61)]


def test_every_image_is_scored_and_the_first_that_is_enough_says_why(run_through, image):
    scores, finalized = run_through(60, threshold=0.9)
    assert [score.image_number for score in scores] == list(range(1, 61))
    assert {score.score for score in scores[:24]} == {None}
    assert scores[24].score == ms_ssim(image(25), image(1), scales=3, levels=3)
    first = next(score for score in scores if score.verdict == "enough")
    assert scores[-1].verdict == "enough"
    assert (finalized[0], first.run_uid) == (first, "run-1")
    assert first.text == f"at {first.projections} of 180 projections: MS-SSIM {first.score:.3f} >= 0.9"
    assert first.metrics == {"ms-ssim": first.score}
    assert first.policy == "ms-ssim"


def test_score_above_the_threshold_at_the_first_comparison_stops_at_once(run_through):
    scores, finalized = run_through(30, threshold=1e-6, compare_to=10)
    assert finalized[0].image_number == 11
    assert [score.verdict for score in scores[:10]] == ["continue"] * 10


def test_threshold_of_one_never_finalizes(run_through):
    assert run_through(60, threshold=1.0)[1] == []


def test_advisory_says_enough_as_such(run_through):
    scores, _ = run_through(60, threshold=0.9, advisory=True)
    assert scores[-1].verdict == "enough"
    assert re.match(r"advisory: at \d+ of 180 projections: MS-SSIM 0\.", scores[-1].text)
    assert "projections: MS-SSIM" in scores[25].text


@pytest.mark.parametrize(
    ("garbage", "said"),
    [
        (lambda number: np.zeros((2, 44, 44), np.float32), "is empty"),
        (lambda number: np.full((2, 44, 44), number, np.float32), "is empty"),
        (lambda number: np.full((2, 44, 44), np.nan, np.float32), "detector row 3 .* 1936 values that are not finite"),
        (lambda number: np.full((2, 44, 44), np.inf, np.float32), "not finite"),
        (
            lambda number: np.mgrid[:2, :44, :44].sum(0).astype(np.float32),
            "projections changed nothing; is the beam on",
        ),
    ],
    ids=["dark", "constant", "nan", "inf", "frozen"],
)
def test_garbage_is_never_enough_and_says_why(run_through, garbage, said):
    scores, finalized = run_through(40, pixels=garbage, threshold=0.01)
    assert finalized == []
    assert {score.verdict for score in scores} <= {"continue", "invalid"}
    assert scores[-1].verdict == "invalid"
    assert {score.score for score in scores} == {None}
    assert re.match(f"not judged at 40 of 180 projections: .*{said}", scores[-1].text)


def test_one_broken_image_begins_patience_anew(run_through, image):
    broken = image(50)
    broken[1, 2, 3] = np.nan
    _, finalized = run_through(
        60, pixels=lambda number: broken if number == 35 else image(number), threshold=1e-6, patience=12
    )
    assert finalized[0].image_number == 47


def test_slices_of_several_ranks_make_one_image_in_the_order_of_the_run(open_run, preview, image):
    session = SteeringSession(open_run(rows=(3, 7, 9), compare_to=1, threshold=1.0))
    stacks = {number: image(number, rows=3) for number in (1, 2)}
    for number, stack in stacks.items():
        session.accept(preview(number, rank=1, rows=(9, 7), pixels=stack[[2, 1]]))
        assert session.waiting == number - 1
        session.accept(preview(number, rank=0, rows=(3,), pixels=stack[:1]))
    scores = judge_all(session)
    assert scores[1].score == ms_ssim(stacks[2], stacks[1], scales=3, levels=3)


def test_slices_that_come_again_change_nothing(open_run, preview, image):
    session = SteeringSession(open_run())
    for number in (1, 2, 1, 2, 2):
        session.accept(preview(number, pixels=image(number)))
    assert session.waiting == 2
    assert [score.image_number for score in judge_all(session)] == [1, 2]


def test_images_are_judged_in_order_when_a_rank_is_ahead(open_run, preview, image):
    session = SteeringSession(open_run())
    for number in (1, 2, 3):
        session.accept(preview(number, rank=0, rows=(3,), pixels=image(number)[:1]))
    for number in (1, 2, 3):
        session.accept(preview(number, rank=1, rows=(7,), pixels=image(number)[1:]))
    assert [score.image_number for score in judge_all(session)] == [1, 2, 3]


def test_image_that_a_rank_leaves_out_is_given_up_when_the_next_is_complete(open_run, preview, image):
    session = SteeringSession(open_run())
    session.accept(preview(1, rank=0, rows=(3,), pixels=image(1)[:1]))
    session.accept(preview(2, pixels=image(2)))
    session.accept(preview(1, rank=1, rows=(7,), pixels=image(1)[1:]))
    assert [score.image_number for score in judge_all(session)] == [2]


def test_slices_of_a_rank_that_is_alone_do_not_pile_up(open_run, preview, image, caplog):
    session = SteeringSession(open_run())
    for number in range(1, 200):
        session.accept(preview(number, rank=0, rows=(3,), pixels=image(1)[:1]))
    assert len(session._assembly._pieces) <= 64
    assert "image 1 is given up: rows [7] have not come; is a rank stuck?" in caplog.text


def test_coalesced_steps_are_compared_with_the_newest_image_at_least_k_back(open_run, preview, image):
    session = SteeringSession(open_run(window=24, step=3, threshold=1.0))
    for number, projections in ((2, 6), (4, 12), (9, 27), (12, 36)):
        session.accept(preview(number, projections, pixels=image(projections)))
    scores = judge_all(session)
    assert [score.score for score in scores] == [
        None,
        None,
        None,
        ms_ssim(image(36), image(12), scales=3, levels=3),
    ]


def test_controller_that_is_behind_judges_the_newest_and_says_so(open_run, preview, image):
    session = SteeringSession(open_run(threshold=1.0), backlog=4)
    for number in range(1, 41):
        session.accept(preview(number, pixels=image(number)))
    score, *rest = judge_all(session)
    assert rest == []
    assert score.image_number == 40
    assert score.score == ms_ssim(image(40), image(16), scales=3, levels=3)
    assert "(39 images before it were not judged: the controller is behind)" in score.text
    session.accept(preview(41, pixels=image(41)))
    assert "not judged" not in session.judge().text


def test_memory_stays_bounded_however_long_the_run(open_run, preview, image):
    limit = 10 * image(1).nbytes
    session = SteeringSession(open_run(threshold=1.0, compare_to=50), memory_limit=limit, backlog=4)
    for number in range(1, 201):
        session.accept(preview(number, pixels=image(number)))
        if number % 3 == 0:
            session.judge()
        assert len(session._history) <= 10
    assert session.judge().score is not None


def test_history_without_a_short_memory_is_the_window_long(run_through, open_run, preview, image):
    session = SteeringSession(open_run())
    for number in range(1, 100):
        session.accept(preview(number, pixels=image(number)))
        session.judge()
    assert len(session._history) == 25


def test_restarted_controller_goes_on_with_the_previews_that_are_left(open_run, preview, image):
    session = SteeringSession(open_run(threshold=0.9))
    scores = []
    for number in range(100, 140):  # what ranks still have, from the middle of the run
        session.accept(preview(number, pixels=image(number)))
        scores += judge_all(session)
    assert next(score.image_number for score in scores if score.verdict == "enough") == 124


def test_last_image_after_the_run_is_closed_is_scored_but_ends_nothing(open_run, preview, image):
    session = SteeringSession(open_run(threshold=1e-6, compare_to=1))
    session.accept(preview(1, pixels=image(1)))
    session.close()
    session.accept(preview(2, final=True, pixels=image(2)))
    judged = judge_all(session)
    assert judged[-1].verdict == "enough"
    assert len(judged) == 2


def test_minimum_coverage_counts_the_angles_of_all_previews(open_run, preview, image):
    session = SteeringSession(open_run(threshold=1e-6, compare_to=1, minimum_coverage=45))
    said = []
    for number, degrees in enumerate((0, 90, 45, 315), start=1):
        session.accept(preview(number, angles=[math.radians(degrees)], pixels=image(number)))
        said += [score.verdict for score in judge_all(session)]
    assert said == ["continue", "continue", "continue", "enough"]


@pytest.mark.parametrize(
    ("degrees", "gap"), [([], None), ([10], 180), ([0, 90], 90), ([0, 180], 180), ([-30, 30, 90], 60), ([1, 179], 178)]
)
def test_largest_gap_is_that_of_parallel_views(degrees, gap):
    assert largest_gap(np.radians(degrees)) == (None if gap is None else pytest.approx(gap))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"size": 43}, "got pixels"),
        ({"rows": (3,)}, "got pixels"),
    ],
)
def test_previews_that_do_not_fit_are_refused_and_the_next_is_judged(open_run, preview, image, wrong, said):
    session = SteeringSession(open_run())
    with pytest.raises(DataError, match=said):
        session.accept(preview(1, **wrong, pixels=image(1)))
    session.accept(preview(2, pixels=image(2)))
    assert len(judge_all(session)) == 1


def test_ranks_that_disagree_about_an_image_are_told_apart(open_run, preview, image):
    session = SteeringSession(open_run())
    session.accept(preview(5, 10, rank=0, rows=(3,), pixels=image(1)[:1]))
    with pytest.raises(DataError, match=r"image 5 from rank 1: got 11 projections .* expected 10"):
        session.accept(preview(5, 11, rank=1, rows=(7,), pixels=image(1)[:1]))


def test_run_that_can_not_be_judged_is_refused_when_it_opens(open_run):
    with pytest.raises(ConfigError, match="got 'no-such', expected one of change, measurement, ms-ssim"):
        SteeringSession(open_run(policy="no-such"))
    with pytest.raises(ConfigError, match="no preview rows"):
        SteeringSession(open_run(rows=()))


class Strange:
    name = "strange"
    metrics = ("ms-ssim",)

    def __init__(self, answer):
        self.answer = answer

    def judge(self, evidence):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (RuntimeError("boom"), "policy 'strange' failed at 1 of 180 projections: RuntimeError: boom"),
        (SystemExit(3), "policy 'strange' failed at 1 of 180 projections: SystemExit: 3"),
        (Verdict("enough", math.nan, "x"), "got score nan"),
        (Verdict("perhaps", None, "x"), "expected 'continue' or 'enough'"),
        (Verdict("enough", 1.0, None), "got text None"),
        (Verdict("enough", "0.99", "x"), "TypeError"),
        (None, "AttributeError"),
    ],
)
def test_policy_that_fails_never_stops_the_scan(monkeypatch, open_run, preview, image, answer, said):
    monkeypatch.setitem(policy.policies._added, "strange", lambda settings: Strange(answer))
    session = SteeringSession(open_run(policy="strange"))
    session.accept(preview(1, pixels=image(1)))
    score = session.judge()
    assert (score.verdict, score.score) == ("continue", None)
    assert said in score.text


def test_text_that_can_not_be_sent_is_sent_without_what_is_wrong(monkeypatch, open_run, preview, image):
    monkeypatch.setitem(
        policy.policies._added, "strange", lambda settings: Strange(Verdict("continue", None, "file \udcff"))
    )
    session = SteeringSession(open_run(policy="strange"))
    session.accept(preview(1, pixels=image(1)))
    assert session.judge().text == "file ?"


def test_text_of_a_policy_always_fits_the_wire(monkeypatch, open_run, preview, image):
    monkeypatch.setitem(policy.policies._added, "strange", lambda settings: Strange(Verdict("enough", 1.0, "x" * 9999)))
    session = SteeringSession(open_run(policy="strange"))
    session.accept(preview(1, pixels=image(1)))
    score = session.judge()
    assert len(score.text) < 4096
    assert len(score.text) <= 4096


OPEN = OpenRun(
    run_uid="run-1",
    recon_uid="recon-1",
    planned=40,
    detector_shape=(3, 11),
    dtype="<u2",
    block=RowBlock(0, 3, 0, 0, 1),
    recon=ReconSettings(window=4),
    steering=SteeringSettings(threshold=0.2, compare_to=3),
    preview_rows=(0, 1),
)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_scores_are_in_order_whatever_the_interleaving(data):
    numbers = data.draw(st.lists(st.integers(1, 40), unique=True, max_size=20).map(sorted))
    queues = {rank: list(numbers) for rank in (0, 1)}
    session = SteeringSession(OPEN, backlog=3)
    scores: list[Score] = []
    while any(queues.values()):
        rank = data.draw(st.sampled_from([rank for rank in (0, 1) if queues[rank]]))
        number = queues[rank][0]
        if not data.draw(st.booleans()):  # else it is sent again later
            queues[rank].pop(0)
        pixels = (
            np.random.default_rng([number, rank]).random((1, 11, 11), np.float32) + np.eye(11, dtype=np.float32) * 9
        )
        header = Preview(
            run_uid="run-1", seq=1, rank=rank, image_number=number, projections=number, rows=(rank,), shape=(11, 11)
        )
        session.accept(msgspec.structs.replace(header, pixels=pixels))
        if data.draw(st.booleans()) and (judged := session.judge()):
            scores.append(judged)
    scores += judge_all(session)
    judged_numbers = [score.image_number for score in scores]
    assert judged_numbers == sorted(set(judged_numbers))
    left_out = [re.search(r"\((\d+) images before it were not judged", score.text) for score in scores]
    assert len(scores) + sum(int(found[1]) for found in left_out if found) == len(numbers)


@pytest.mark.parametrize("projections", [8, 7], ids=["as many projections", "one less"])
def test_no_image_is_put_together_from_before_and_after_a_restart_that_changed_the_axis(
    open_run, preview, image, projections
):
    """A job that is started again makes no image of its own for a correction, so those after it have other numbers."""
    session = SteeringSession(open_run())

    def sent(rank, row, axis, of, value):
        pixels = np.full((1, SIDE, SIDE), value, np.float32)
        session.accept(msgspec.structs.replace(preview(8, of, rank=rank, rows=(row,), pixels=pixels), axis=axis))

    sent(0, 3, 20.0, projections, 1)
    with pytest.raises(DataError, match=r"axis 22.0, expected . in .* about 20.0 .* started again"):
        sent(1, 7, 22.0, 8, 2)
    assert judge_all(session) == []
    sent(0, 3, 22.0, 8, 2)
    (score,) = judge_all(session)
    assert (score.projections, score.axis) == (8, 22.0)
    assert (session._history.newest.stack == 2).all()
