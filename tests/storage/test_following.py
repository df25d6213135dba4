"""What is read of a run from a Tiled server while it is written: as much as its RunEngine emits, from its beginning."""

from __future__ import annotations

import asyncio
import queue

import bluesky.plans as bp
import numpy as np
import pytest

from bluesky_streamrecon.beamline.follower import Follower
from bluesky_streamrecon.config_file import FollowSection
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings
from bluesky_streamrecon.sim_devices import sim_beamline
from bluesky_streamrecon.storage import following
from bluesky_streamrecon.storage.following import TiledDocuments

BOUND = 40.0


@pytest.fixture
def run(run_engine, documents, storage):
    """The documents of a scan, which are not stored yet."""
    beamline = sim_beamline(rows=3, columns=16, directory=storage.detector_directory, instant=True)
    run_engine(bp.list_scan([beamline.detector], beamline.stage, [0, 10, 20, 30, 40, 50]))
    return documents


@pytest.fixture
def listen(storage, in_thread, monkeypatch):
    """Read the runs of these uids in a thread: return where its documents come, and what ends that."""
    monkeypatch.setattr(following, "LOOK_SECONDS", 0.02)

    def start(*uids):
        source = TiledDocuments(storage.uri, lambda start: start["uid"] in uids)
        came = queue.Queue()
        thread = in_thread(lambda: source.run(lambda *each: came.put(each)))

        def close():
            source.close()
            thread.join(BOUND)

        return came, close

    return start


def take_until(came, name, number=None):
    """Return the documents up to one of this name (and number)."""
    taken = [came.get(timeout=BOUND)]
    while taken[-1][0] != name or taken[-1][1].get("seq_num") != number:
        taken.append(came.get(timeout=BOUND))
    return taken


@pytest.fixture
def found(pretend_job, script):
    """Return what a follower finds out by documents, and the frames that its job was given."""
    script.score = lambda projections: 0.4 + projections / 6
    pretend_job.options.keep_alive = True
    rule = FollowSection(plans=("list_scan",), detector="detector", angle="stage")
    recon = ReconSettings(pixel_values="line-integrals", axis=8.0)

    def take(documents):
        follower = Follower(pretend_job, rule, recon, SteeringSettings(threshold=0.9), lambda _: None)
        script.frames.clear()

        async def take_all():
            done = [await follower.take(*each) for each in documents]
            await follower.give_up()
            return [each for each in done if each is not None]

        (run,) = asyncio.run(take_all())
        return run, [(kind, index, angle, np.array(pixels)) for kind, index, angle, pixels in script.frames]

    return take


@pytest.mark.parametrize("batch_size", [1, 10000])
def test_follower_that_is_closed_and_started_in_mid_run_finds_what_the_documents_themselves_say(
    run, listen, found, storage, batch_size
):
    from bluesky_tiled_plugins import TiledWriter

    uid, middle = run[0][1]["uid"], [each[0] for each in run].index("event") + 5
    writer = TiledWriter(storage.catalog, batch_size=batch_size)
    for each in run[:middle]:
        writer(*each)
    told = sum(name == "event" for name, _ in run[:middle]) if batch_size == 1 else None
    first, close = listen(uid)
    begun = take_until(first, "event", told) if told else take_until(first, "descriptor")
    close()
    again, close = listen(uid)
    followed = take_until(again, "event", told) if told else take_until(again, "descriptor")
    assert followed[0] == begun[0]
    for each in run[middle:]:
        writer(*each)
    followed += take_until(again, "stop")
    close()
    assert [doc["seq_num"] for name, doc in followed if name == "event"] == [1, 2, 3, 4, 5, 6]
    (by_tiled, frames), (emitted, expected) = found(followed), found(run)
    assert by_tiled == emitted
    assert (by_tiled.verdict, by_tiled.projections, by_tiled.taken, by_tiled.problems) == ("enough", 3, 6, ())
    for one, other in zip(frames, expected, strict=True):
        assert one[:3] == other[:3]
        assert np.array_equal(one[3], other[3])


def test_run_that_was_over_before_is_not_passed_on_and_the_one_that_begins_next_is(run, listen, storage, run_engine):
    from bluesky_tiled_plugins import TiledWriter

    over, writer = run[:], TiledWriter(storage.catalog, batch_size=1)
    for each in over:
        writer(*each)
    run.clear()
    run_engine(bp.count([], num=1))
    came, close = listen(over[0][1]["uid"], run[0][1]["uid"])
    for each in run:
        writer(*each)
    followed = take_until(came, "stop")
    close()
    assert came.empty()
    assert [doc["uid"] for name, doc in followed if name == "start"] == [run[0][1]["uid"]]
