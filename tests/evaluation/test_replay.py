"""A past run judged again, from a file and from a catalogue."""

from __future__ import annotations

import json
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from bluesky_streamrecon.errors import ConfigError, DataError
from bluesky_streamrecon.evaluation.replay import Recorded, recorded_file, replay
from bluesky_streamrecon.evaluation.scans import prepared
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.ordering import make_order
from bluesky_streamrecon.quality import metrics, ms_ssim, policy
from bluesky_streamrecon.recon import Engine
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings
from bluesky_streamrecon.sim_devices import Exposure, FrameKind, Noise, SheppLogan, SimulatedCamera
from bluesky_streamrecon.storage import TomoScan, write_dxfile

COLUMNS = 64
ROWS = 4


@pytest.fixture(scope="module")
def frames():
    noise = Noise(counts=1e5, dead=0, hot=0)
    camera = SimulatedCamera(SheppLogan().body(ROWS, 28), COLUMNS, 32.2, noise=noise)
    angles = np.asarray(make_order("optimized-interleaved", num=60).angles)

    def taken(kind, shown):
        return np.stack([camera.frame(Exposure(kind, float(angle), i)) for i, angle in enumerate(shown)])

    return TomoScan(
        taken(FrameKind.PROJECTION, angles), taken(FrameKind.FLAT, range(3)), taken(FrameKind.DARK, range(3)), angles
    )


def recorded(frames, **changes):
    given = {"name": "a-run", "frames": frames, "planned": 60, "recon": ReconSettings(axis=32.2)}
    return Recorded(**(given | changes))


def test_replay_tells_where_each_policy_would_have_stopped_and_what_would_have_been_lost(frames, tmp_path):
    report = replay(recorded(frames), SteeringSettings(policy="ms-ssim"))
    found = report.fields
    assert found["policy"] == "ms-ssim"
    assert found["planned"] == found["taken"] == 60
    assert found["stopped_at"] == 48
    assert 0 < found["lost"] < 0.2
    assert len(found["verdicts"]) == 60
    assert [row["verdict"] for row in found["verdicts"]].index("enough") == 47
    report.write(tmp_path / "deeper")
    assert (tmp_path / "deeper" / "replay.png").read_bytes().startswith(b"\x89PNG")
    never = replay(recorded(frames), SteeringSettings(policy="ms-ssim", threshold=1.0)).fields
    assert (never["stopped_at"], never["lost"]) == (None, 0.0)


OPTIONS = {"measurement": {"measure": "mean-attenuation", "within": "5%"}, "resolution": {"least_share": 0.5}}


@pytest.mark.parametrize(
    ("policy", "said"),
    [("predicted-gain", "are predicted to improve"), ("measurement", "mean-attenuation"), ("resolution", "resolution")],
)
def test_replay_says_in_the_words_of_each_policy_where_it_would_have_stopped(frames, policy, said):
    steering = SteeringSettings(policy=policy, tolerance=0.2, minimum_projections=24, options=OPTIONS.get(policy, {}))
    found = replay(recorded(frames), steering).fields
    assert found["policy"] == policy
    assert 24 <= found["stopped_at"] < 60
    assert 0 < found["lost"] < 0.2
    last = next(row for row in found["verdicts"] if row["verdict"] == "enough")
    assert (last["projections"], said in last["text"]) == (found["stopped_at"], True)


def test_replay_takes_the_settings_of_the_run_unless_told_otherwise(frames):
    steering = SteeringSettings(policy="ms-ssim", preview_rows=(1,), minimum_projections=55)
    assert replay(recorded(frames, steering=steering)).fields["stopped_at"] == 55


def test_replay_reduces_frames_as_the_run_did(frames):
    steering = SteeringSettings(policy="ms-ssim", preview_rows=(1,))

    def enlarged(stack):
        blocks = np.repeat(np.repeat(stack, 2, axis=1), 2, axis=2)
        return np.pad(blocks, ((0, 0), (3, 1), (0, 1)))  # rows that are not used, and a column that fills no block

    large = replace(frames, **{name: enlarged(getattr(frames, name)) for name in ("projections", "flats", "darks")})
    recon = ReconSettings(axis=32.2, bin=2, rows=(3, 3 + 2 * ROWS))
    found, same = (replay(each, steering).fields for each in (recorded(large, recon=recon), recorded(frames)))
    assert (found["stopped_at"], found["taken"]) == (same["stopped_at"], 60)
    assert found["lost"] == pytest.approx(same["lost"], rel=1e-3)


def test_replay_judges_the_region_of_the_run_also_where_its_slices_are_cut(frames):
    """The detector is cropped about the axis: the same part of the sample is at another place of a smaller slice."""
    steering = SteeringSettings(policy="ms-ssim", preview_rows=(1,), region=(14, 12, 50, 50))
    same = replay(recorded(frames), steering)
    wider = replace(
        frames,
        **{
            name: np.pad(getattr(frames, name), ((0, 0), (0, 0), (0, 12)), mode="edge")
            for name in ("projections", "flats", "darks")
        },
    )
    moved = tuple(edge + 6 for edge in (14, 12, 50, 50))
    found = replay(recorded(wider), SteeringSettings(policy="ms-ssim", preview_rows=(1,), region=moved))
    assert found.fields["stopped_at"] == same.fields["stopped_at"]
    assert found.fields["lost"] == pytest.approx(same.fields["lost"], rel=0.01)
    whole = msgspec.structs.replace(steering, region=None, policy="ms-ssim|predicted-gain")
    everything = replay(recorded(frames), whole)
    assert everything.fields["lost"] != found.fields["lost"]
    titles = [panel.get_title() for panel in everything.figures["replay"].axes]
    assert {"a patch of it", "0.02 MS-SSIM worse"} <= set(titles)


def test_images_of_a_time_series_are_replayed_from_its_newest_half_turn(frames):
    recon = ReconSettings(axis=32.2, turns=3, step=4)
    steering = SteeringSettings(policy="ms-ssim", threshold=1.0, preview_rows=(1,))
    found = [row["score"] for row in replay(recorded(frames, recon=recon), steering).fields["verdicts"]]
    within = ReconSettings(axis=32.2, step=4, window=20, window_policy="newest")
    same = replay(recorded(frames, recon=within), msgspec.structs.replace(steering, compare_to=24)).fields["verdicts"]
    assert found == [row["score"] for row in same]


def test_replay_bridges_what_was_saturated_by_the_detectors_configuration_as_the_job_did(frames):
    glaring = frames.projections.copy()
    usual, glaring[7, 1, 30] = glaring[7, 1, 30], 60_000
    lines, mended, good = (
        prepared(replace(frames, projections=shown, saturation=level), "scan", ReconSettings(axis=32.2)).integrals
        for shown, level in ((glaring, None), (glaring, 50_000.0), (frames.projections, 50_000.0))
    )
    assert usual < 50_000
    assert lines[7, 1, 30] < 0 < mended[7, 1, 30] == pytest.approx(good[7, 1, 30], rel=0.1)
    np.testing.assert_array_equal(np.delete(mended, 7, 0), np.delete(good, 7, 0))


def test_scores_of_a_replay_are_those_of_the_images_that_the_job_has_shown(frames):
    """Whole images, corners and all, of a detector that is not cropped, of the rows that a job shows."""
    stacks = {name: np.tile(getattr(frames, name), (1, 3, 1))[:, :10] for name in ("projections", "flats", "darks")}
    tall = replace(frames, **stacks)
    recon = ReconSettings(axis=28.0)
    found = replay(recorded(tall, recon=recon), SteeringSettings(policy="ms-ssim", threshold=1.0)).fields["verdicts"]
    shown, images = [2, 5, 8], []
    lines = prepared(tall, "tall", recon).integrals[:, shown]
    with Engine(TomoGeometry(COLUMNS, 28.0), len(shown)) as engine:
        for line, angle in zip(lines, tall.angles, strict=True):
            engine.append(line, angle)
            engine.update()
            images.append(engine.image())
    levels = metrics.deepest_pyramid(images[0].shape)
    for last in (24, 40, 59):
        score = ms_ssim(images[last], images[last - 24], scales=levels, levels=levels)
        assert found[last]["score"] == pytest.approx(score, abs=1e-6)


def test_region_of_a_run_whose_sample_turned_clockwise_is_that_of_its_mirror_image(frames):
    steering = SteeringSettings(policy="ms-ssim|predicted-gain", threshold=1.0, preview_rows=(1,))

    def judged(rotation, region):
        told = recorded(frames, recon=ReconSettings(axis=32.2, rotation=rotation, step=4))
        found = replay(told, msgspec.structs.replace(steering, region=region)).fields["verdicts"]
        return [row["score"] for row in found[8:]], [row["metrics"].get("predicted-gain") for row in found[8:]]

    (scores, gains), (same_scores, same_gains) = (
        judged("clockwise", (14, 6, 50, 40)),
        judged("counterclockwise", (14, COLUMNS - 40, 50, COLUMNS - 6)),
    )
    assert scores == pytest.approx(same_scores, abs=1e-4)
    assert gains == pytest.approx(same_gains, abs=1e-4)
    assert scores != pytest.approx(judged("clockwise", (14, COLUMNS - 40, 50, COLUMNS - 6))[0], abs=1e-3)


def test_run_that_was_cut_short_is_judged_as_far_as_it_is_stored(frames):
    part = replace(frames, projections=frames.projections[:30], angles_deg=frames.angles_deg[:30])
    found = replay(recorded(part), SteeringSettings(policy="ms-ssim")).fields
    assert (found["stopped_at"], found["planned"], found["taken"]) == (None, 60, 30)


def test_file_is_replayed_as_stored_or_in_another_order(frames, tmp_path):
    path = tmp_path / "scan.h5"
    write_dxfile(path, frames)
    assert np.array_equal(recorded_file(path).frames.angles_deg, frames.angles_deg)
    again = recorded_file(path, order="fixed")
    assert np.array_equal(again.frames.angles_deg, np.sort(frames.angles_deg))
    assert again.span == (0.0, 180.0)
    assert np.array_equal(again.frames.projections[1], frames.projections[np.argsort(frames.angles_deg)[1]])


def test_run_without_flats_says_so(frames):
    with pytest.raises(DataError, match="no flat field"):
        replay(recorded(replace(frames, flats=frames.flats[:0])))


def test_rows_that_the_detector_does_not_have_are_refused(frames):
    with pytest.raises(ConfigError, match="frames of a-run have 4 rows"):
        replay(recorded(frames), SteeringSettings(preview_rows=(4,)))


@pytest.fixture
def program():
    import typer

    from bluesky_streamrecon.cli import _commands

    app = typer.Typer()
    _commands.register(app)
    return app


def last_line(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def test_replay_command_prints_the_contracts_fields(program, frames, tmp_path):
    path = tmp_path / "scan.h5"
    write_dxfile(path, frames)
    out = tmp_path / "replay.png"
    found = last_line(
        CliRunner().invoke(program, ["replay", str(path), "--policy", "ms-ssim", "--out", str(out), "--json"])
    )
    assert {"stopped_at", "planned", "verdicts"} <= set(found)
    assert out.exists()


@pytest.mark.parametrize(
    ("of_the_run", "other"),
    [
        (SteeringSettings(threshold=0.9), "predicted-gain"),
        (SteeringSettings(policy="mine", options={"images": 3.0}), "ms-ssim"),
    ],
)
def test_replay_by_another_policy_leaves_the_threshold_and_options_of_the_runs_own(
    program, frames, monkeypatch, tmp_path, of_the_run, other
):
    taken = recorded(frames, steering=of_the_run)
    monkeypatch.setattr("bluesky_streamrecon.evaluation.replay.recorded_run", lambda *a, **kw: nullcontext(taken))
    arguments = ["replay", "1234", "--policy", other, "--out", str(tmp_path / "replay.png"), "--json"]
    assert last_line(CliRunner().invoke(program, arguments))["policy"] == other


class Blind:
    """A policy, and the metric that it goes by."""

    name = "blind"
    metrics = ("blind",)
    reach = 0

    def __call__(self, history):
        raise RuntimeError("boom")

    def judge(self, evidence):
        raise AssertionError("there is nothing to judge")


def test_replay_in_which_nothing_could_be_measured_is_drawn(frames, tmp_path, monkeypatch):
    monkeypatch.setitem(policy.policies._added, "blind", lambda settings: Blind())
    monkeypatch.setitem(metrics.metrics._added, "blind", lambda settings, compare_to: Blind())
    report = replay(recorded(frames), SteeringSettings(policy="blind"))
    assert report.fields["stopped_at"] is None
    report.write(tmp_path)
    assert (tmp_path / "replay.png").exists()


def test_advise_command_prints_the_contracts_fields(program):
    arguments = ["advise", "--rows", "2048", "--columns", "2048", "--rate", "5", "--ranks", "64", "--gups", "10"]
    found = last_line(CliRunner().invoke(program, [*arguments, "--json"]))
    assert {"window", "step", "ranks", "sustained", "feasible"} <= set(found)
    assert "sustains" in CliRunner().invoke(program, arguments).stdout


def test_evaluate_orders_command_prints_its_rows(program, tmp_path):
    small = ["--columns", "64", "--num", "40", "--out", str(tmp_path), "--json"]
    found = last_line(CliRunner().invoke(program, ["evaluate", "orders", *small]))
    assert {"sample", "order", "projections", "ms_ssim", "rmse"} <= set(found["rows"][0])


def test_stored_run_is_replayed_from_its_catalogue(frames, tmp_path):
    """The catalogue itself is tested in its own room: here a stand-in that answers like it."""
    from bluesky_streamrecon.evaluation import replay as module

    start = {
        "streamrecon": {
            "projections": 90, "start": 0.0, "stop": 180.0, "recon": {"window": 12, "axis": 32.2},
            "steering": {"policy": "ms-ssim", "threshold": 0.9, "preview_rows": [0, 2]},
        }
    }  # fmt: skip
    closed = []

    @contextmanager
    def opened(uri, directory, readable):
        run = MagicMock(metadata={"start": start})  # which has no streams
        yield SimpleNamespace(catalog={"1234": run})
        closed.append(True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "open_storage", opened)
        patch.setattr(module, "scan_of", lambda run, catalog, uid, **_: frames)
        with module.recorded_run("1234", directory=Path(tmp_path)) as found:
            assert (found.planned, found.span) == (90, (0.0, 180.0))
            assert (found.recon.window, found.steering.threshold) == (12, 0.9)
            assert replay(found).fields["stopped_at"] is not None
            assert closed == []
    assert closed == [True]


@pytest.mark.parametrize(
    ("rows", "stored", "expected"),
    [([2], {"who": "anna"}, (2,)), ([], {"who": "anna"}, (0, 1)), ([2], None, (0, 1))],
)
def test_stored_run_is_judged_by_what_counted_in_the_end(frames, monkeypatch, rows, stored, expected):
    from bluesky_streamrecon.evaluation import replay as module

    steering = {"region": [0, 0, 40, 40], "preview_rows": [0, 1]}
    run = MagicMock(metadata={"start": {"streamrecon": {"recon_uid": "abcd", "steering": steering}}})
    selection = {"region": [1, 2, 40, 50], "rows": rows}
    made = MagicMock(metadata={"start": {"streamrecon": {"selection": selection, "selected_by": stored}}})
    catalog = SimpleNamespace(catalog={"1234": run, "abcd": made})
    monkeypatch.setattr(module, "open_storage", lambda *_, **__: nullcontext(catalog))
    monkeypatch.setattr(module, "scan_of", lambda *_, **__: frames)
    with module.recorded_run("1234") as found:
        region = (1, 2, 40, 50) if stored else (0, 0, 40, 40)
        assert (found.steering.region, found.steering.preview_rows) == (region, expected)


def test_stored_run_is_judged_with_the_flats_and_darks_that_its_images_were_made_with(frames, monkeypatch):
    """Of later ones, taken in another beam, live images know nothing."""
    from bluesky_streamrecon.evaluation import replay as module

    later = replace(
        frames,
        flats=np.concatenate([frames.flats, frames.flats[:2] // 2]),
        darks=np.concatenate([frames.darks, frames.darks[:1] + 9]),
        monitor=np.ones(60),
        flat_monitor=np.array([1.0, 1.0, 1.0, 0.5, 0.5]),
    )
    run = MagicMock(metadata={"start": {"streamrecon": {"flats": 3, "darks": 3, "flats_after": 2, "darks_after": 1}}})
    monkeypatch.setattr(module, "open_storage", lambda *_, **__: nullcontext(SimpleNamespace(catalog={"1234": run})))
    monkeypatch.setattr(module, "scan_of", lambda *_, **__: later)
    with module.recorded_run("1234") as found:
        np.testing.assert_array_equal(found.frames.flats, frames.flats)
        np.testing.assert_array_equal(found.frames.darks, frames.darks)
        np.testing.assert_array_equal(found.frames.flat_monitor, [1.0, 1.0, 1.0])


def test_frames_by_whose_beam_light_can_not_be_divided_are_left_out(frames):
    unread = [0.0, -2.0, np.nan, np.inf]
    readings, with_flats = np.ones(60), np.ones(3)
    readings[:4], with_flats[0] = unread, np.inf
    read = replace(frames, monitor=readings, flat_monitor=with_flats)
    lines = prepared(read, "a-run", ReconSettings(axis=32.2, monitor="i0")).integrals
    assert np.isnan(lines[:4]).all()
    assert np.isfinite(lines[4:]).all()


def test_replay_refuses_an_unknown_policy_before_it_looks_for_the_run(program, monkeypatch):
    looked = []
    monkeypatch.setattr("bluesky_streamrecon.evaluation.replay.recorded_run", lambda *a, **kw: looked.append(a))
    done = CliRunner().invoke(program, ["replay", "1234", "--policy", "ms-sim"])
    assert isinstance(done.exception, ConfigError)
    assert "'ms-sim', expected one of change, measurement" in str(done.exception)
    assert looked == []


def off_centre(axis, turn, num=72):
    """A scan around an axis near the end of the detector, or of a sample wider than that, as a DXfile has it."""
    reach = max(axis, COLUMNS - axis) - 5 if turn == 360 else 0.75 * COLUMNS
    sample = SheppLogan().body(ROWS, reach)
    angles = np.asarray(make_order("optimized-interleaved", num=num, start=0, stop=turn).angles)
    lines = np.stack([sample.projection(np.radians(angle), COLUMNS, axis) for angle in angles])
    rng = np.random.default_rng(0)
    taken = rng.poisson(3e4 * np.exp(-lines)).astype(np.uint16)
    return TomoScan(taken, rng.poisson(3e4, (3, *taken.shape[1:])).astype(np.uint16), np.zeros_like(taken[:2]), angles)


@pytest.mark.parametrize("axis", [30.0, 40.0, 26.5])
@pytest.mark.parametrize("policy", ["ms-ssim", "predicted-gain", "measurement", "resolution"])
def test_replay_never_has_enough_of_a_scan_whose_axis_nobody_knows_and_says_why(axis, policy):
    scan = off_centre(axis, 180, num=36)  # too few for the double wedge to confirm what opposite views find
    steering = SteeringSettings(policy=policy, minimum_coverage=0, options=OPTIONS.get(policy, {}))
    found = replay(recorded(scan, planned=36, recon=ReconSettings()), steering).fields
    assert found["stopped_at"] is None
    problem, view = found["problems"]
    assert view.startswith("field of view: the sample reaches out of view at ")
    assert problem.startswith("rotation axis: column ")
    assert "the sample reaches out of view" in problem
    assert all(verdict["verdict"] == "invalid" for verdict in found["verdicts"])
    assert found["verdicts"][-1]["text"] == f"not judged at 36 of 36 projections: {problem}"


@pytest.mark.parametrize("axis", [10.0, 20.0, 47.5])
def test_replay_finds_the_axis_of_a_full_turn_near_the_edge_and_reports_half_acquisition(axis):
    scan = off_centre(axis, 360)
    found = replay(
        recorded(scan, planned=72, span=(0.0, 360.0), recon=ReconSettings()), SteeringSettings(policy="ms-ssim")
    ).fields
    (problem,) = found["problems"]
    assert problem.startswith("field of view: half acquisition: the sample reaches out of view at the ")


def test_file_of_half_acquisition_is_replayed_as_a_full_turn(tmp_path):
    """The second half turn sees what the first does not: a scan from end to end has not enough in the middle."""
    path = tmp_path / "half.h5"
    write_dxfile(path, off_centre(10.0, 360, num=180))
    scan = recorded_file(path, order="fixed")
    assert scan.span == (0.0, 360.0)
    stopped = replay(scan, SteeringSettings()).fields["stopped_at"]
    assert stopped is None or stopped > 135


def test_replay_reports_what_the_preparation_has_left_out(frames, program, tmp_path):
    flats, path = frames.flats.copy(), tmp_path / "scan.h5"
    flats[1] = frames.darks[0]
    write_dxfile(path, replace(frames, flats=flats))
    line = "flats: of 3, flat 2 is left out: no brighter than the darks; was the shutter closed?"
    arguments = ["replay", str(path), "--policy", "ms-ssim", "--out", str(tmp_path / "replay.png")]
    assert f"problem: {line}" in CliRunner().invoke(program, arguments).stdout
