"""A run's images as a growing array in Tiled, which clients subscribe to while the scan runs.

The container ``live`` of the server, beside the catalogue of runs, has one array per run, by the run's uid: shape
(images, slices, N, N), newest last, 1/pixel. The slices are those that people are shown: what comes to the beamline's
computer has 8 bits, scaled between two percentiles of the image, and is at most 1024 pixels wide; so values have 256
steps, and those outside of the two limits are cut off there.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from bluesky_streamrecon.beamline.configured import operator_of
from bluesky_streamrecon.beamline.source import Source
from bluesky_streamrecon.errors import StorageError
from bluesky_streamrecon.exit_hooks import close_at_end
from bluesky_streamrecon.job_registration import own_name
from bluesky_streamrecon.storage import open_live_images
from bluesky_streamrecon.wire import Picture

if TYPE_CHECKING:
    from bluesky_streamrecon.beamline import ReconJob
    from bluesky_streamrecon.config_file import Configuration

__all__ = ["LiveImageWriter", "store_live_images"]

log = logging.getLogger(__name__)

CLOSE_SECONDS: Final = 5.0
LONGEST_PAUSE: Final = 5.0
FIELDS: Final = ("image_number", "projections", "low", "high", "axis", "made")
"""What the metadata have of each image; see `Picture`."""


def store_live_images(job: ReconJob, configuration: Configuration, uri: str) -> LiveImageWriter:
    """Store the images of a job's runs while they are taken, from now on.

    Parameters
    ----------
    job : ReconJob
        Need not be staged yet.
    configuration : Configuration
        ``[storage] live_images`` says how many images of a run are kept; where the job has keys, ours are
        ``[job] job_key`` and ``server_key``.
    uri : str
        Of the Tiled server, with its key where it needs one.

    Returns
    -------
    LiveImageWriter
        To be closed.

    Raises
    ------
    ConfigError
        If the job wants keys and there are none, or they can not be used.
    """
    return LiveImageWriter(Source(operator_of(job, configuration), own_name()), uri, configuration.storage.live_images)


class LiveImageWriter:
    """Write each new picture of a source to Tiled, in a thread, until it is closed.

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
        self._unlisten = source.listen(self._changed.set)
        self._thread = threading.Thread(target=self._run, name="streamrecon-live-images", daemon=True)
        self._thread.start()
        close_at_end(self)

    def close(self) -> None:
        """Write no more; a server that does not answer is not waited for. Closing twice does nothing."""
        self._unlisten()
        self._ending.set()
        self._changed.set()
        self._source.close()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        written = None
        while True:
            self._changed.wait()
            if self._ending.is_set():
                break
            self._changed.clear()
            now = self._source.snapshot
            picture = now.picture
            if picture is None or picture is written or picture.run_uid == self._failed:
                continue
            written = picture
            planned = now.status.total if now.status.run_uid == picture.run_uid else 0
            begun = time.monotonic()
            try:
                self._write(picture, planned)
            except Exception as error:  # noqa: BLE001 - whatever it is, the scan goes on
                self._failed = picture.run_uid
                why = " ".join(f"{type(error).__name__}: {error}".split())
                log.warning("run %s: no more live images go to Tiled (%s); the scan goes on", picture.run_uid, why)
                self._disconnect()
            self._ending.wait(min(LONGEST_PAUSE, self._pauses * (time.monotonic() - begun)))
        self._disconnect()

    def _write(self, picture: Picture, planned: int) -> None:
        values = picture.values()[None]
        image = {name: getattr(picture, name) for name in FIELDS}
        if picture.run_uid != self._run_uid:
            self._disconnect()
            self._container = open_live_images(self._uri)
            self._run_uid = picture.run_uid
            if picture.run_uid not in self._container:
                metadata = {"run_uid": picture.run_uid, "units": "1/pixel", "rows": list(picture.rows)}
                self._images = [image]
                self._array = self._container.write_array(
                    values,
                    key=picture.run_uid,
                    metadata={**metadata, "full_size": picture.full_size, "images": self._images},
                    dims=["image", "slice", "y", "x"],
                )
                return
            self._array = self._container[picture.run_uid]  # of a writer before this one
            self._images = [dict(each) for each in self._array.metadata["images"]]
            if picture.image_number <= self._images[-1]["image_number"]:
                return
        if values.shape[1:] != self._array.shape[1:]:
            raise StorageError(f"got slices of shape {values.shape[1:]}, expected {self._array.shape[1:]} as before")
        kept = len(self._images)
        if kept >= self._most or (picture.projections * self._most < kept * planned):
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
