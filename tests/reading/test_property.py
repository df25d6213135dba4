"""Whatever a scan's file looks like, all who read it get what NumPy gets, or say what is wrong with it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from event_model import compose_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bluesky_streamrecon.beamline import Publisher
from bluesky_streamrecon.beamline.frames import FrameFile
from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.recon.preparation import Preparation
from bluesky_streamrecon.sim_devices import Exposure, FrameKind, RecordedCamera
from bluesky_streamrecon.storage import import_scan, read_scan

from .recordings import LAYOUTS, TYPES, UNITS, Recording, record

EXAMPLES = 2_000 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 30
SLOW = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)


@st.composite
def described(draw):
    return {
        "seed": draw(st.integers(0, 2**32 - 1)),
        "dtype": draw(st.sampled_from(TYPES)),
        "layout": draw(st.sampled_from(LAYOUTS)),
        "nxtomo": draw(st.booleans()),
        "number": (draw(st.integers(2, 6)), draw(st.integers(1, 3)), draw(st.integers(1, 2))),
        "shape": (draw(st.integers(1, 3)), draw(st.integers(3, 6))),
        "units": draw(st.sampled_from([None, *UNITS])),
        "flat_dtype": draw(st.sampled_from([None, "<f8"])),
    }


class Sink:
    """Keeps what the publisher would send."""

    def __init__(self):
        self.frames = {"projection": [], "flat": [], "dark": []}
        self.angles = []

    def open_run(self, spec):
        pass

    def close_run(self, exit_status="success", reason=""):
        pass

    def append(self, frame):
        self.frames[frame.kind].append(frame.read() if frame.pixels is None else frame.pixels)
        if frame.kind == "projection":
            self.angles.append(np.degrees(frame.angle))


class Late:
    """Keeps where frames are, as the wire does until a rank wants them."""

    def __init__(self):
        self.sources = []

    def open_run(self, spec):
        pass

    def close_run(self, exit_status="success", reason=""):
        pass

    def append(self, kind, index, angle, source, monitor):
        self.sources.append((kind, source))
        return index


def published(documents):
    sink, problems = Sink(), []
    publisher = Publisher(sink, on_problem=problems.append)
    for name, doc in documents:
        publisher(name, doc)
    assert problems == []
    return sink.angles, *(np.stack(sink.frames[kind]) for kind in ("projection", "flat", "dark"))


def live_documents(made: Recording, units):
    """Documents of a detector that writes such a file, with the types that it has."""
    block = {"recon_uid": "r", "projections": len(made.degrees), "detector": "det", "angle": "rot"}
    run = compose_run(metadata={"streamrecon": block}, validate=False)
    yield "start", run.start_doc
    with h5py.File(made.path) as file:
        types = [file[name].dtype for name in made.data]
    # One type for a run: of those that are told, the one that holds the others comes first.
    for key in sorted(range(3), key=lambda k: -np.dtype(types[k]).itemsize):
        stream, name = ("primary", "flat", "dark")[key], made.data[key]
        image = {"source": "x", "dtype": "array", "dtype_numpy": types[key].str, "external": "STREAM:"}
        keys = {"det": {**image, "shape": [1, *made.projections.shape[1:]], "object_name": "det"}}
        if key == 0:
            keys["rot"] = {"source": "y", "dtype": "number", "shape": [], "object_name": "rot"}
            if units:
                keys["rot"]["units"] = units
        bundle = run.compose_descriptor(name=stream, data_keys=keys, validate=False)
        yield "descriptor", bundle.descriptor_doc
        resource = run.compose_stream_resource(
            mimetype="application/x-hdf5", uri=f"file://localhost{made.path}", data_key="det",
            parameters={"dataset": name}, validate=False,
        )  # fmt: skip
        yield "stream_resource", resource.stream_resource_doc
        places = np.flatnonzero(made.keys == key) if made.keys is not None else range((*map(len, stacks(made)),)[key])
        for number, place in enumerate(places, 1):
            yield "stream_datum", {
                "uid": f"{stream}-{number}", "stream_resource": resource.stream_resource_doc["uid"],
                "descriptor": bundle.descriptor_doc["uid"],
                "indices": {"start": int(place), "stop": int(place) + 1},
                "seq_nums": {"start": number, "stop": number + 1},
            }  # fmt: skip
            data = {"rot": made.degrees[number - 1] / UNITS.get(units or "degrees", 1.0)} if key == 0 else {}
            yield "event", {"descriptor": bundle.descriptor_doc["uid"], "seq_num": number, "data": data}
    yield "stop", run.compose_stop()


def stacks(made: Recording):
    return made.projections, made.flats, made.darks


def from_demo(made: Recording):
    scan = read_scan(made.path).frames
    camera = RecordedCamera(scan)
    shown = {
        FrameKind.PROJECTION: [Exposure(FrameKind.PROJECTION, angle, 0) for angle in scan.angles_deg],
        FrameKind.FLAT: [Exposure(FrameKind.FLAT, 0.0, k) for k in range(len(scan.flats))],
        FrameKind.DARK: [Exposure(FrameKind.DARK, 0.0, k) for k in range(len(scan.darks))],
    }
    return scan.angles_deg, *(np.stack([camera.frame(e) for e in exposures]) for exposures in shown.values())


def from_import(made: Recording, folder: Path):
    """What the live path makes of an imported run: documents and the copied file."""
    documents = []
    storage = SimpleNamespace(
        catalog=(), detector_directory=folder / "imported",
        writer=SimpleNamespace(flush=lambda _: True, failed={}),
    )  # fmt: skip

    class Writer(SimpleNamespace):
        def __call__(self, name, doc):
            documents.append((name, doc))

    storage.writer = Writer(flush=lambda _: True, failed={})
    import_scan(storage, made.path)
    start = documents[0][1]
    start["streamrecon"] = {**start["streamrecon"], "recon_uid": "r"}
    return published(documents)


def integrals(projections, flats, darks):
    preparation = Preparation(*projections.shape[1:])
    for kind, stack in (("dark", darks), ("flat", flats)):
        for frame in stack:
            preparation.add_reference(kind, frame)
    return np.stack([preparation.prepare(frame) for frame in projections])


@SLOW
@given(described())
@pytest.mark.timeout(0 if EXAMPLES > 100 else 120)
def test_all_readers_get_the_line_integrals_that_numpy_gets(options):
    with tempfile.TemporaryDirectory() as folder:
        made = record(Path(folder), **options)
        for angles, projections, flats, darks in (
            from_demo(made),
            from_import(made, Path(folder)),
            published(live_documents(made, options["units"])),
        ):
            np.testing.assert_allclose(angles, made.degrees, atol=1e-9)
            for got, expected in zip((projections, flats, darks), stacks(made), strict=True):
                np.testing.assert_array_equal(got.astype(np.float64), expected.astype(np.float64))
            np.testing.assert_allclose(integrals(projections, flats, darks), made.integrals(), rtol=2e-5, atol=2e-5)


def never_written(made, which):
    """Make the file anew with frames that nobody wrote."""
    with h5py.File(made.path, "r+") as file:
        name = made.data[0]
        whole = file[name][()]
        del file[name]
        data = file.create_dataset(name, shape=whole.shape, dtype=whole.dtype, chunks=(1, *whole.shape[1:]))
        for i in set(range(len(whole))) - set(which):
            data[i] = whole[i]


def source_gone(made, which):
    for path in made.path.parent.glob("*data*"):
        path.unlink()


def cut_short(made, which):
    size = made.path.stat().st_size
    with made.path.open("r+b") as file:
        file.truncate(size - 64)


@SLOW
@given(described(), st.sampled_from([never_written, source_gone, cut_short]), st.data())
@pytest.mark.timeout(0 if EXAMPLES > 100 else 120)
def test_data_that_are_not_there_are_refused_with_file_and_dataset_and_never_read_as_zeros(options, fault, data):
    if fault is source_gone:
        options["layout"] = data.draw(st.sampled_from([name for name in LAYOUTS if name[:3] in ("vir", "ext")]))
    with tempfile.TemporaryDirectory() as folder:
        made = record(Path(folder), **options)
        count = len(made.keys) if made.keys is not None else len(made.degrees)
        # The last frame is written: what is missing before it is no scan that was cut short.
        which = data.draw(st.sets(st.integers(0, count - 2), min_size=1))
        documents = list(live_documents(made, options["units"]))
        fault(made, which)
        name = "" if fault is cut_short else made.data[0].rpartition("/")[2]
        with pytest.raises(DataError, match=rf"scan\.h5.*{name}"):
            read_scan(made.path)
        late, problems, shown = Late(), [], []
        publisher = Publisher(late, on_problem=problems.append)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FrameFile.__init__, "__kwdefaults__", {**FrameFile.__init__.__kwdefaults__, "patience": 0.0})
            for document in documents:
                publisher(*document)
        for kind, source in late.sources:
            try:
                frame = source if isinstance(source, np.ndarray) else source.read()
                shown += [frame] if kind == "projection" else []
            except DataError as error:
                problems.append(str(error))
        assert problems
        assert all(frame.any() for frame in shown)
