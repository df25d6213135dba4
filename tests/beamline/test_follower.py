"""What is followed of another RunEngine's runs, what is reported, and what is refused. The job is pretended."""

from __future__ import annotations

import asyncio
import pickle

import h5py
import numpy as np
import pytest
from published_run import COLUMNS, ROWS, Run

from bluesky_streamrecon.beamline.follower import Follower
from bluesky_streamrecon.beamline.remote_documents import read_document
from bluesky_streamrecon.config_file import FollowSection
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings

RULE = FollowSection(plans=("tomo",), detector="det", angle="rot")


class Heard(list):
    """Documents of a run of another RunEngine."""

    def __call__(self, name, doc):
        self.append((name, doc))


def scan(tmp_path, count=4, *, written=True, **metadata):
    """Return the documents of a scan, and write its frames."""
    heard = Heard()
    about = {"plan_name": "tomo", "detectors": ["det"], "motors": ["rot"], "num_points": count}
    run = Run(heard, tmp_path, block={}, metadata={**about, **metadata})
    if written:
        with h5py.File(run.path, "w") as file:
            file["d"] = np.ones((count, ROWS, COLUMNS), "<u2")
    run.describe()
    run.resource()
    for number in range(count):
        run.datum(number, number + 1)
        run.event(number + 1, 10.0 * number)
    run.stop()
    heard[-1][1]["num_events"] = {"primary": count}
    return heard


@pytest.fixture
def followed(pretend_job, script):
    """Let a follower take documents; return what it has found and reported."""
    script.score = lambda projections: 0.5 + projections / 6

    def take(documents, rule=RULE, **settings):
        reported = []
        recon = ReconSettings(**{"pixel_values": "line-integrals", "axis": 2.0, **settings})
        follower = Follower(pretend_job, rule, recon, SteeringSettings(threshold=0.9), reported.append)

        async def take_all():
            found = [await follower.take(*each) for each in documents]
            await follower.give_up()
            return [each for each in found if each is not None]

        pretend_job.options.keep_alive = True
        return asyncio.run(take_all()), reported

    return take


def test_run_that_fits_is_followed_to_the_image_that_is_good_enough_and_never_ended(followed, script, tmp_path):
    (found,), reported = followed(scan(tmp_path))
    assert (found.verdict, found.projections, found.taken) == ("enough", 3, 4)
    assert found.score == pytest.approx(1.0)
    assert found.problems == ()
    assert [text for text in reported if "3 of 4 projections: enough" in text]
    (spec,) = script.specs
    assert (spec.planned, spec.steering.advisory, spec.recon.coalesce) == (4, True, False)
    assert [round(np.degrees(angle)) for _, _, angle, _ in script.frames] == [0, 10, 20, 30]


def test_frames_are_binned_and_cut_as_the_configuration_says(followed, script, tmp_path):
    documents = scan(tmp_path)
    frames = np.arange(4 * ROWS * COLUMNS, dtype="<u2").reshape(4, ROWS, COLUMNS)
    with h5py.File(tmp_path / "frames.h5", "r+") as file:
        file["d"][:] = frames
    ((found,), _) = followed(documents, bin=2, rows=(1, 3), axis=0.5)
    assert (found.taken, found.problems) == (4, ())
    (spec,) = script.specs
    assert spec.detector_shape == (1, 2)
    sent = np.stack([pixels for *_, pixels in script.frames])
    np.testing.assert_array_equal(sent, frames[:, 1:3, :4].reshape(4, 1, 2, 2, 2).mean(axis=(2, 4)))


def test_runs_that_do_not_fit_are_passed_over(followed, script, tmp_path):
    assert followed(scan(tmp_path, plan_name="count")) == ([], [])
    assert followed(scan(tmp_path, detectors=["another"])) == ([], [])
    assert followed(scan(tmp_path, motors=["x"])) == ([], [])
    assert script.specs == []


def test_rule_that_fits_every_run_is_refused(followed):
    with pytest.raises(ConfigError, match=r"expected a table \[follow\]"):
        followed([], FollowSection())


def test_run_without_a_rotation_axis_is_refused_by_name(followed, tmp_path):
    found, (reported,) = followed(scan(tmp_path, motors=["x", "y"]), FollowSection(plans=("tomo",)))
    assert found == []
    assert "no rotation axis: its plan 'tomo' moves x, y; expected its name as angle in the table [follow]" in reported


def test_axis_that_the_run_does_not_read_is_reported(followed, tmp_path):
    documents = scan(tmp_path, motors=[])
    (found,), _ = followed(documents, FollowSection(plans=("tomo",), angle="theta"))
    assert found.verdict == ""
    assert "angle 'theta' not found among the data keys 'det', 'rot'" in found.problems[0]


def test_run_whose_start_was_missed_is_reported_once_and_the_next_is_followed(followed, tmp_path):
    missed = [each for each in scan(tmp_path) if each[0] != "start"]
    (found,), reported = followed([*missed, *scan(tmp_path)])
    assert found.taken == 4
    assert len([text for text in reported if "its start document was missed" in text]) == 1


def test_files_that_are_not_on_this_computer_are_named_at_once(followed, tmp_path):
    documents = scan(tmp_path)
    for name, doc in documents:
        if name == "stream_resource":
            doc["uri"] = "file://ioc/nowhere/at/all/frames.h5"
    (found,), reported = followed(documents)
    assert (found.verdict, found.taken) == ("", 0)
    assert "/nowhere/at/all is not there on this computer; is the detector's file system mounted" in found.problems[0]
    assert any("/nowhere/at/all" in text for text in reported)


def test_projections_that_have_not_come_are_counted(followed, tmp_path):
    documents = scan(tmp_path)
    lost = [name for name, _ in documents].index("event")
    (found,), _ = followed(documents[:lost] + documents[lost + 1 :])
    assert found.taken == 3
    assert any("events [1] had a frame and no angle" in problem for problem in found.problems)
    (found,), _ = followed([*documents[:3], *documents[5:]])
    assert "1 of 4 projections of the run have not come here" in found.problems


def test_run_that_begins_while_another_is_followed_is_reported(followed, tmp_path):
    first, second = scan(tmp_path), scan(tmp_path)
    (found,), reported = followed([*first[:3], *second, *first[3:]])
    assert found.run_uid == first[0][1]["uid"]
    assert any("not followed, since run" in text for text in reported)


class Trap:
    """Runs something when it is unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('ran')",)


def test_documents_from_the_network_make_values_and_run_nothing():
    doc = {"uid": "u", "data": {"det": np.arange(6, dtype="<u2").reshape(2, 3), "x": np.float64(0.5)}, "what": Trap()}
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        read = read_document(pickle.dumps(doc, protocol))
        assert read["uid"] == "u"
        assert np.array_equal(read["data"]["det"], doc["data"]["det"])
        assert read["data"]["x"] == 0.5
