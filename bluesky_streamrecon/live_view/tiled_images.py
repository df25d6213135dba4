"""A run's images as a growing array in Tiled, which clients subscribe to while the scan runs.

The container ``live`` of the server, beside the catalogue of runs, has one array per run, by the run's uid: shape
(images, slices, N, N), newest last, 1/pixel. The slices are those that the score is taken from, four at most, and
coarser where they have more than `MOST_CUT_PIXELS` together.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from bluesky_streamrecon.beamline.slices import preview_slices
from bluesky_streamrecon.beamline.source import Source, Volume
from bluesky_streamrecon.cuts import Cut
from bluesky_streamrecon.errors import StorageError
from bluesky_streamrecon.exit_hooks import close_at_end
from bluesky_streamrecon.job_registration import own_name
from bluesky_streamrecon.storage import open_live_images
from bluesky_streamrecon.wire import Cuts, RunStatus

if TYPE_CHECKING:
    from bluesky_streamrecon.beamline import ReconJob
    from bluesky_streamrecon.config_file import ConfigFile

__all__ = ["LiveImageWriter", "store_live_images"]

log = logging.getLogger(__name__)

CLOSE_SECONDS: Final = 5.0
LONGEST_PAUSE: Final = 5.0


def store_live_images(job: ReconJob, configuration: ConfigFile, uri: str) -> LiveImageWriter:
    """Store the images of a job's runs while they are taken, from now on.

    Parameters
    ----------
    job : ReconJob
        Need not be staged yet.
    configuration : ConfigFile
        ``[storage] live_images`` says how many images of a run are kept.
    uri : str
        Of the Tiled server, with its key where it needs one.

    Returns
    -------
    LiveImageWriter
        To be closed.
    """
    return LiveImageWriter(Source(job.connect_operator, own_name()), uri, configuration.storage.live_images)


class LiveImageWriter:
    """Write the slices of each new image of a source to Tiled, in a thread, until it is closed.

    What comes faster than it can be written is left out. If the server does not take an image, that is reported in
    the log in one line, and the next run is tried again.

    Parameters
    ----------
    source : Source
        Closed with this writer.
    uri : str
        Of the Tiled server, with its key where it needs one.
    most : int
        Images of a run that are kept, spread over its planned projections; the last is always the newest. What it
        takes the place of was streamed to subscribers all the same.
    share : float, optional
        Largest share of the time in which images are written: an embedded server is in the RunEngine's process.
    """

    def __init__(self, source: Source, uri: str, most: int, *, share: float = 0.1) -> None:
        self._source = source
        self._uri = uri
        self._most = most
        self._pauses = 1.0 / share - 1.0
        self._container: Any = None
        self._array: Any = None
        self._run_uid = self._failed = ""
        self._images: list[dict[str, Any]] = []
        self._changed, self._ending = threading.Event(), threading.Event()
        self._newest: Cuts | None = None
        self._first: tuple[str | None, Volume] = (None, (1, 1, 1))  # run, and the volume of its first image
        self._unwatch = source.watch(self._wished, self._take)
        self._thread = threading.Thread(target=self._run, name="streamrecon-live-images", daemon=True)
        self._thread.start()
        close_at_end(self)

    def close(self) -> None:
        """Stop writing; a server that does not answer is not waited for. Closing twice does nothing."""
        self._unwatch()
        self._ending.set()
        self._changed.set()
        self._source.close()
        self._thread.join(CLOSE_SECONDS)

    def _wished(self, status: RunStatus, volume: Volume) -> list[Cut]:
        """Return the slices, as wide as in the run's first image: an array has one size, an image that of its axis."""
        if self._first[0] != status.run_uid:
            self._first = status.run_uid, volume
        _, *beyond = ((now - then) / 2 for now, then in zip(volume, self._first[1], strict=True))
        return [
            msgspec.structs.replace(
                cut, corner=(cut.corner[0], *(at + by for at, by in zip(cut.corner[1:], beyond, strict=True)))
            )
            for cut in preview_slices(status, self._first[1])
        ]

    def _take(self, cuts: Cuts) -> None:
        self._newest = cuts
        self._changed.set()

    def _run(self) -> None:
        while True:
            self._changed.wait()
            if self._ending.is_set():
                break
            self._changed.clear()
            cuts = self._newest
            if cuts is None or cuts.run_uid == self._failed:
                continue
            begun = time.monotonic()
            try:
                self._write(cuts, self._source.snapshot.status)
            except Exception as error:  # noqa: BLE001 - whatever it is, the scan goes on
                self._failed = cuts.run_uid
                why = " ".join(f"{type(error).__name__}: {error}".split())
                log.warning("run %s: no more live images go to Tiled (%s); the scan goes on", cuts.run_uid, why)
                self._disconnect()
            self._ending.wait(min(LONGEST_PAUSE, self._pauses * (time.monotonic() - begun)))
        self._disconnect()

    def _write(self, cuts: Cuts, status: RunStatus) -> None:
        values, run_uid, same = np.stack(cuts.values())[None], cuts.run_uid, status.run_uid == cuts.run_uid
        image = {
            "image_number": cuts.image_number,
            "projections": cuts.projections,
            "made": cuts.made,
            "axis": status.axis if same else None,
        }
        if run_uid != self._run_uid:
            self._disconnect()
            self._container = open_live_images(self._uri)
            self._run_uid = run_uid
            if run_uid not in self._container:
                rows = [int(cut.corner[0]) for cut in cuts.cuts]
                self._images = [image]
                self._array = self._container.write_array(
                    values,
                    key=run_uid,
                    metadata={
                        "run_uid": run_uid,
                        "units": "1/pixel",
                        "rows": rows,
                        "volume": list(self._first[1] if self._first[0] == run_uid else cuts.volume),
                        "images": self._images,
                    },
                    dims=["image", "slice", "y", "x"],
                )
                return
            self._array = self._container[run_uid]  # of a writer before this one
            self._images = [dict(each) for each in self._array.metadata["images"]]
            if cuts.image_number <= self._images[-1]["image_number"]:
                return
        if cuts.image_number == self._images[-1]["image_number"]:
            return
        if values.shape[1:] != self._array.shape[1:]:
            raise StorageError(f"got slices of shape {values.shape[1:]}, expected {self._array.shape[1:]} as before")
        kept, planned = len(self._images), status.total if same else 0
        if kept >= self._most or (cuts.projections * self._most < kept * planned):
            kept -= 1
        self._images = [*self._images[:kept], image]
        # First what is known of the image: subscribers look it up when the image arrives.
        self._array.update_metadata({"images": self._images}, drop_revision=True)
        self._array.patch(values, offset=(kept, 0, 0, 0), extend=True)

    def _disconnect(self) -> None:
        """End the run's stream of images, if the server still answers, and the connection."""
        container, array = self._container, self._array
        self._container = self._array = None
        self._run_uid = ""
        if container is None:
            return
        try:
            if array is not None and array.metadata["run_uid"] != self._failed:
                array.close_stream()
        except Exception as error:  # noqa: BLE001 - nothing is lost with it
            log.debug("live images: stream not ended (%s)", error)
        finally:
            container.context.close()
