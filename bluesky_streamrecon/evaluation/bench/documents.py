"""The documents of a scan, without a scan: what a RunEngine would give its callbacks, for both kinds of detectors.

Angles are radians here and degrees in the documents.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.config import ReconSettings, SteeringSettings

__all__ = ["Document", "ScanDocuments"]

Document = tuple[str, dict[str, Any]]

DETECTOR, STAGE = "detector", "stage"


class ScanDocuments:
    """Makes the documents of one run.

    Parameters
    ----------
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
        shape: tuple[int, int],
        planned: int,
        recon: ReconSettings,
        steering: SteeringSettings,
        *,
        file: tuple[str, str] | None = None,
    ) -> None:
        self.uid = uuid.uuid4().hex
        self._shape = shape
        self._planned = planned
        self._settings = (recon, steering)
        self._file = file
        self._descriptors: dict[str, str] = {}
        self._resource = uuid.uuid4().hex
        self._counts: dict[str, int] = {}

    def start(self) -> list[Document]:
        """Give the start document."""
        recon, steering = self._settings
        block = {
            "recon_uid": uuid.uuid4().hex,
            "projections": self._planned,
            "detector": DETECTOR,
            "angle": STAGE,
            "recon": msgspec.to_builtins(recon),
            "steering": msgspec.to_builtins(steering),
        }
        return [("start", {"uid": self.uid, "time": time.time(), "plan_name": "benchmark", "streamrecon": block})]

    def stream(self, name: str) -> list[Document]:
        """Give the descriptor of a stream and, where frames are in a file, its StreamResource."""
        self._descriptors[name] = uuid.uuid4().hex
        self._counts[name] = 0
        image = {"source": "benchmark", "dtype": "array", "shape": [1, *self._shape], "dtype_numpy": "<u2"}
        if self._file is not None:
            image["external"] = "STREAM:"
        descriptor = {
            "uid": self._descriptors[name],
            "run_start": self.uid,
            "name": name,
            "time": time.time(),
            "data_keys": {
                DETECTOR: image,
                STAGE: {"source": "benchmark", "dtype": "number", "shape": [], "units": "deg"},
            },
            "object_keys": {DETECTOR: [DETECTOR], STAGE: [STAGE]},
            "hints": {STAGE: {"fields": [STAGE]}},
            "configuration": {},
        }
        if self._file is None:
            return [("descriptor", descriptor)]
        uri, dataset = self._file
        resource = {
            "uid": self._resource,
            "run_start": self.uid,
            "data_key": DETECTOR,
            "mimetype": "application/x-hdf5",
            "uri": uri,
            "parameters": {"dataset": dataset},
        }
        return [("descriptor", descriptor), ("stream_resource", resource)]

    def frame(self, stream: str, angle: float, source: NDArray[np.uint16] | int) -> list[Document]:
        """Give what comes with one frame: its event and, before it, its StreamDatum.

        Parameters
        ----------
        stream : str
            ``flat``, ``dark`` or ``primary``.
        angle : float
            Radians.
        source : ndarray of uint16, shape (rows, columns), or int
            The frame, or its place in the file.
        """
        self._counts[stream] = number = self._counts[stream] + 1
        descriptor = self._descriptors[stream]
        data: dict[str, Any] = {STAGE: math.degrees(angle)}
        documents: list[Document] = []
        if isinstance(source, int):
            datum = {
                "uid": f"{self._resource}/{stream}/{number}",
                "descriptor": descriptor,
                "stream_resource": self._resource,
                "indices": {"start": source, "stop": source + 1},
                "seq_nums": {"start": number, "stop": number + 1},
            }
            documents.append(("stream_datum", datum))
        else:
            data[DETECTOR] = source[None]
        now = time.time()
        event = {
            "uid": uuid.uuid4().hex,
            "descriptor": descriptor,
            "seq_num": number,
            "time": now,
            "data": data,
            "timestamps": dict.fromkeys(data, now),
            "filled": {},
        }
        return [*documents, ("event", event)]

    def stop(self) -> list[Document]:
        """Give the stop document."""
        events: Mapping[str, int] = self._counts
        stop = {"uid": uuid.uuid4().hex, "run_start": self.uid, "time": time.time(), "exit_status": "success"}
        return [("stop", stop | {"reason": "", "num_events": dict(events)})]
