"""The documents that a RunEngine would send to its callbacks in a scan, for both kinds of detectors.

Angles are radians here and degrees in the documents.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from event_model import ComposeDescriptorBundle, ComposeStreamResourceBundle, compose_run, compose_stream_resource
from numpy.typing import NDArray

from bluesky_streamrecon.settings import ReconSettings, SteeringSettings

__all__ = ["ScanDocuments"]

DETECTOR, STAGE = "detector", "stage"


class ScanDocuments:
    """Documents of one run, each handed to a callback, as a RunEngine does.

    Parameters
    ----------
    callback : callable
        Takes the kind of a document, and the document.
    shape : (int, int)
        Detector rows and columns.
    planned : int
        Projections.
    recon, steering : ReconSettings, SteeringSettings
        For the ``streamrecon`` block.
    file : tuple of str, optional
        URI and dataset of the detector's HDF5 file; None for a detector that puts frames of uint16 into events.

    Attributes
    ----------
    uid : str
        Of the run.
    """

    def __init__(
        self,
        callback: Callable[[str, dict[str, Any]], object],
        shape: tuple[int, int],
        planned: int,
        recon: ReconSettings,
        steering: SteeringSettings,
        *,
        file: tuple[str, str] | None = None,
    ) -> None:
        block = {
            "recon_uid": uuid.uuid4().hex,
            "projections": planned,
            "detector": DETECTOR,
            "angle": STAGE,
            "recon": msgspec.to_builtins(recon),
            "steering": msgspec.to_builtins(steering),
        }
        self._run = compose_run(metadata={"plan_name": "benchmark", "streamrecon": block})
        self.uid: str = self._run.start_doc["uid"]
        self._callback = callback
        self._shape = shape
        self._file = file
        self._streams: dict[str, ComposeDescriptorBundle] = {}
        self._resources: dict[str, ComposeStreamResourceBundle] = {}

    def start(self) -> None:
        """Emit the start document."""
        self._callback("start", dict(self._run.start_doc))

    def stream(self, name: str) -> None:
        """Emit the descriptor of a stream and, where frames are in a file, its StreamResource."""
        image = {"source": "benchmark", "dtype": "array", "shape": [1, *self._shape], "dtype_numpy": "<u2"}
        if self._file is not None:
            image["external"] = "STREAM:"
        angle = {"source": "benchmark", "dtype": "number", "shape": [], "units": "deg"}
        self._streams[name] = made = self._run.compose_descriptor(
            name=name,
            data_keys={DETECTOR: image, STAGE: angle},
            object_keys={DETECTOR: [DETECTOR], STAGE: [STAGE]},
            hints={STAGE: {"fields": [STAGE]}},
            configuration={},
        )
        self._callback("descriptor", dict(made.descriptor_doc))
        if self._file is not None:
            uri, dataset = self._file
            self._resources[name] = resource = compose_stream_resource(
                start=self._run.start_doc,
                mimetype="application/x-hdf5",
                uri=uri,
                data_key=DETECTOR,
                parameters={"dataset": dataset},
            )
            self._callback("stream_resource", dict(resource.stream_resource_doc))

    def frame(self, stream: str, angle: float, source: NDArray[np.uint16] | int) -> None:
        """Emit the documents of one frame: its event and, before it, its StreamDatum.

        Parameters
        ----------
        stream : str
            ``flat``, ``dark`` or ``primary``.
        angle : float
            Radians.
        source : ndarray of uint16, shape (rows, columns), or int
            The frame, or its place in the file.
        """
        made = self._streams[stream]
        data: dict[str, Any] = {STAGE: math.degrees(angle)}
        if not isinstance(source, int):
            data[DETECTOR] = source[None]
        event = made.compose_event(data=data, timestamps=dict.fromkeys(data, time.time()), validate=False)
        if isinstance(source, int):
            number = event["seq_num"]
            datum = self._resources[stream].compose_stream_datum(
                {"start": source, "stop": source + 1},
                {"start": number, "stop": number + 1},
                made.descriptor_doc,
                validate=False,
            )
            self._callback("stream_datum", dict(datum))
        self._callback("event", dict(event))

    def stop(self) -> None:
        """Emit the stop document."""
        self._callback("stop", dict(self._run.compose_stop()))
