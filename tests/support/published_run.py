"""Documents of a run, written by hand for the publisher."""

from __future__ import annotations

import math

import h5py
import numpy as np
from event_model import compose_run

ROWS, COLUMNS = 3, 5


class Kept:
    """A sink that keeps everything."""

    def __init__(self):
        self.specs, self.items, self.closed = [], [], []
        self.fails = None

    def open_run(self, spec):
        self.specs.append(spec)

    def append(self, frame):
        if self.fails:
            raise self.fails
        self.items.append(frame)

    def close_run(self, exit_status="success", reason=""):
        self.closed.append((exit_status, reason))

    def frames(self):
        return [frame.read() if frame.pixels is None else frame.pixels for frame in self.items]

    def degrees(self):
        return [math.degrees(frame.angle) for frame in self.items]


def configuration(data):
    """What a descriptor says of a device's configuration."""
    keys = {key: {"source": "z", "dtype": "number", "shape": []} for key in data}
    return {"data": data, "timestamps": dict.fromkeys(data, 0.0), "data_keys": keys}


class Run:
    """Documents of a run as a detector with a file, or frames in events, would have them."""

    def __init__(self, publisher, tmp_path=None, *, block=None, metadata=None, hints=True):
        self.publisher = publisher
        self.path = tmp_path / "frames.h5" if tmp_path else None
        block = {"recon_uid": "r1", "projections": 4, "detector": "det", "angle": "rot"} if block is None else block
        self.run = compose_run(metadata={"streamrecon": block, **(metadata or {})} if block else metadata)
        self.hints = hints
        self.streams = {}
        publisher("start", self.run.start_doc)

    @property
    def uid(self):
        return self.run.start_doc["uid"]

    def describe(
        self,
        stream="primary",
        *,
        keys=None,
        angle=True,
        units="deg",
        shape=(1, ROWS, COLUMNS),
        dtype="<u2",
        configured=None,
    ):
        image = {"source": "x", "dtype": "array", "shape": list(shape)}
        if dtype:
            image["dtype_numpy"] = dtype
        if self.path:
            image["external"] = "STREAM:"
        data_keys = {"det": {**image, "object_name": "det"}}
        if angle:
            data_keys["rot"] = {"source": "y", "dtype": "number", "shape": [], "units": units, "object_name": "rot"}
        data_keys |= keys or {}
        objects = {}
        for key, value in data_keys.items():
            objects.setdefault(value["object_name"], []).append(key)
        bundle = self.run.compose_descriptor(
            name=stream,
            data_keys=data_keys,
            object_keys=objects,
            hints={"rot": {"fields": ["rot"]}} if self.hints else {},
            configuration={"det": configuration(configured)} if configured else {},
        )
        self.streams[stream] = bundle
        self.publisher("descriptor", bundle.descriptor_doc)
        return bundle

    def resource(self, stream="primary", data_key="det", **changes):
        self.files = self.run.compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=f"file://localhost{self.path}",
            data_key=data_key,
            parameters={"dataset": "/d", "chunk_shape": [1, ROWS, COLUMNS]},
        )
        doc = {**self.files.stream_resource_doc, **changes}
        self.publisher("stream_resource", doc)

    def datum(self, index, seq, count=1, stream="primary"):
        doc = self.files.compose_stream_datum(
            indices={"start": index, "stop": index + count},
            seq_nums={"start": seq, "stop": seq + count},
            descriptor=self.streams[stream].descriptor_doc,
        )
        self.publisher("stream_datum", doc)

    def event(self, seq, angle=None, stream="primary", **data):
        values = {**({} if angle is None else {"rot": angle}), **data}
        doc = {"descriptor": self.streams[stream].descriptor_doc["uid"], "seq_num": seq, "data": values}
        self.publisher("event", doc)

    def stop(self, exit_status="success", reason=""):
        self.publisher("stop", {"run_start": self.uid, "exit_status": exit_status, "reason": reason, "uid": "s"})


class FlownRun(Run):
    """Documents of a fly scan: angles are in a file, too."""

    def __init__(self, publisher, tmp_path, **given):
        super().__init__(publisher, tmp_path, **given)
        self.angles_path = tmp_path / "angles.h5"
        angle = {"source": "y", "dtype": "number", "shape": [1], "external": "STREAM:", "object_name": "rot"}
        self.describe(angle=False, keys={"rot": angle})
        self.resource()
        self.angles = self.run.compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=f"file://localhost{self.angles_path}",
            data_key="rot",
            parameters={"dataset": "/a", "chunk_shape": [1024]},
        )
        publisher("stream_resource", self.angles.stream_resource_doc)

    def write(self, *degrees):
        with h5py.File(self.angles_path, "w") as file:
            file["a"] = np.array(degrees)
        with h5py.File(self.path, "w") as file:
            file["d"] = np.stack([np.full((ROWS, COLUMNS), n, "<u2") for n in range(len(degrees))])

    def angle_datum(self, index, seq, count):
        doc = self.angles.compose_stream_datum(
            indices={"start": index, "stop": index + count},
            seq_nums={"start": seq, "stop": seq + count},
            descriptor=self.streams["primary"].descriptor_doc,
        )
        self.publisher("stream_datum", doc)
