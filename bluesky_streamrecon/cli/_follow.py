"""``streamrecon follow``: reconstruct and judge the scans of another RunEngine, in which nothing is installed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bluesky_streamrecon.cli._check import Config
from bluesky_streamrecon.cli._options import Json
from bluesky_streamrecon.cli._output import console, print_answer
from bluesky_streamrecon.cli._pvs import Pvs, PvsAllow, PvsInterface, open_source, serve_pvs

if TYPE_CHECKING:
    from bluesky_streamrecon.beamline.follower import FollowedRun, Follower
    from bluesky_streamrecon.beamline.recon_job import ReconJob
    from bluesky_streamrecon.beamline.remote_documents import RemoteDocuments
    from bluesky_streamrecon.storage.following import TiledDocuments

    Documents = RemoteDocuments | TiledDocuments

__all__ = ["follow"]

LOOK_SECONDS = 0.2


def follow(
    tiled: Annotated[
        str | None, typer.Option(metavar="URI", help="Of a Tiled server to which the scans are written.")
    ] = None,
    zmq: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Of bluesky-0MQ-proxy: where it publishes documents.")
    ] = None,
    config: Config = None,
    count: Annotated[int, typer.Option(min=0, help="End after so many runs; 0: never.")] = 0,
    pvs: Pvs = None,
    pvs_interface: PvsInterface = "127.0.0.1",
    pvs_allow: PvsAllow = None,
    json: Json = False,
) -> None:
    """Reconstruct and judge the scans of another RunEngine. It only reports: nothing is sent back to the scan.

    Which runs, the table [follow] of the configuration file says; what is made of them, [recon] and [steering]. Each
    verdict is printed as it comes, and a line per run at its end. `streamrecon view` shows the images, and
    `--pvs` serves them and the verdict as PVs.

    Example: `streamrecon follow --zmq localhost:5568 --config beamline.toml`
    """
    from bluesky_streamrecon.beamline.configured import make_job
    from bluesky_streamrecon.beamline.follower import Follower
    from bluesky_streamrecon.beamline.remote_documents import RemoteDocuments
    from bluesky_streamrecon.config_file import load_config_file
    from bluesky_streamrecon.errors import ConfigError
    from bluesky_streamrecon.storage.following import TiledDocuments

    if (tiled is None) == (zmq is None):
        raise ConfigError("follow: got " + ("neither" if tiled is None else "both") + ", expected --tiled or --zmq")
    configuration = load_config_file(config)
    job = make_job(configuration, "follow_job", keep_alive=True)
    recon, steering = configuration.recon, configuration.steering
    follower = Follower(
        job,
        configuration.follow,
        recon,
        steering,
        partial(console().print, markup=False, highlight=False, soft_wrap=True),
    )
    source: Documents
    source = RemoteDocuments(zmq) if zmq is not None else TiledDocuments(str(tiled), configuration.follow.fits)

    def done(run: FollowedRun) -> None:
        what = f"{run.verdict} at {run.projections} projections" if run.verdict else "no image was judged"
        text = f"run {run.run_uid}: {what}; {'; '.join((run.text, *run.problems)).strip('; ')}"
        print_answer(run, text, json=json)

    with contextlib.ExitStack() as around:
        around.enter_context(contextlib.closing(job))
        if pvs is not None:
            operated = around.enter_context(open_source(job.connect_operator, None))
            around.enter_context(serve_pvs(operated, pvs, pvs_interface, pvs_allow))
        asyncio.run(_follow(job, follower, source, count, done))


async def _follow(job: ReconJob, follower: Follower, source: Documents, count: int, done: Any) -> None:
    """Feed the follower until the source ends, `count` runs are over, or the program is asked to end."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    documents: asyncio.Queue[tuple[str, Mapping[str, Any]] | Exception] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(ValueError):  # not the main thread
            loop.add_signal_handler(number, ended.set)

    def put(*item: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(documents.put_nowait, item[0] if len(item) == 1 else item)

    def read() -> None:
        try:
            source.run(put)
        except Exception as error:  # noqa: BLE001 - raised where it can be reported
            put(error)

    async def feed() -> None:
        runs = 0
        await job.stage()
        console().print(f"ready: {job.wanted_ranks} ranks; waiting for runs (Ctrl-C ends it)", highlight=False)
        threading.Thread(target=read, name="streamrecon-documents", daemon=True).start()
        while not (count and runs == count):
            try:
                item = await asyncio.wait_for(documents.get(), LOOK_SECONDS)
            except TimeoutError:
                follower.show_progress()
                continue
            if isinstance(item, Exception):
                raise item
            if (found := await follower.take(*item)) is not None:
                done(found)
                runs += 1

    feeding = asyncio.ensure_future(feed())
    stopping = asyncio.ensure_future(ended.wait())
    try:
        await asyncio.wait({feeding, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if feeding.done():
            feeding.result()
    finally:
        source.close()
        for task in (feeding, stopping):
            task.cancel()
        await asyncio.gather(feeding, stopping, return_exceptions=True)
        await follower.give_up()
