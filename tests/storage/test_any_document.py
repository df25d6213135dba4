"""Whatever people put into a run's documents, the run is stored, or kept whole in a file."""

from __future__ import annotations

import datetime as dt
import enum
import errno
import json
import math
import os
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from uuid import uuid4

import numpy as np
from event_model import compose_run
from hypothesis import given, settings
from hypothesis import strategies as st

from bluesky_streamrecon.storage import CatalogWriter
from bluesky_streamrecon.storage import writer as writing
from bluesky_streamrecon.storage.plain import plain


class Unspeakable:
    def __repr__(self):
        raise RuntimeError("no words")


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Hostile(dict):
    def items(self):
        raise RuntimeError("closed")


def endless():
    there = {"name": "a"}
    there["self"] = there
    return there


def deep():
    nested = "bottom"
    for _ in range(5000):
        nested = [nested]
    return nested


STRANGE = {
    "object": object,
    "function": len,
    "unspeakable": Unspeakable(),
    "endless": endless(),
    "deep": deep(),
    "hostile": Hostile(a=1),
    "nan": math.nan,
    "infinity": -math.inf,
    "huge": 2**80,
    "float32": np.float32(0.5),
    "longdouble": np.longdouble(0.25),
    "complex": 1 + 2j,
    "bool_": np.bool_(True),
    "array": np.arange(6, dtype=">u2").reshape(2, 3),
    "long array": np.ones(2, np.longdouble),
    "objects": np.array([object, None], dtype=object),
    "records": np.zeros(2, dtype=[("x", "<f4"), ("name", "S3")]),
    "dates": np.array(["2026-01-01"], "datetime64[D]"),
    "bytes": b"\x00\xff",
    "time": dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
    "path": Path("/data/a.h5"),
    "set": {"b", "a"},
    "decimal": Decimal("1.50"),
    "enum": Colour.RED,
    "level": Level.HIGH,
    "surrogate": "file-\udcff.h5",
    "proxy": MappingProxyType({"a": 1}),
    "keys": {1: "number", "1": "text", (2, 3): "tuple", None: "none"},
}


def test_values_that_json_has_not_become_the_nearest_that_it_has():
    kept = plain(STRANGE)
    assert kept["unspeakable"] == "<Unspeakable, whose repr raises RuntimeError>"
    assert kept["endless"] == {"name": "a", "self": "{'name': 'a', 'self': {...}}"}
    assert math.isnan(kept["nan"])
    assert (kept["float32"], kept["bool_"], kept["array"]) == (0.5, True, [[0, 1, 2], [3, 4, 5]])
    assert (kept["bytes"], kept["time"]) == ("data:application/octet-stream;base64,AP8=", "2026-01-02T03:04:05+00:00")
    assert (kept["set"], kept["enum"], kept["level"], kept["path"]) == (["a", "b"], "red", 3, "/data/a.h5")
    assert kept["dates"] == ["2026-01-01"]
    assert kept["surrogate"] == "file-\\udcff.h5"
    assert sorted(kept["keys"].values()) == ["none", "number", "text", "tuple"]
    assert kept["proxy"] == {"a": 1}


ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters()), st.binary(max_size=8),
        st.datetimes(), st.dates(), st.complex_numbers(), st.decimals(),
        st.sampled_from(sorted(STRANGE)).map(lambda name: STRANGE[name]),
        st.sampled_from([np.float16, np.int8, np.uint64, np.float64]).map(lambda kind: kind(3)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers(), st.none()), inner, max_size=4),
        st.lists(inner, max_size=3).map(lambda parts: np.array([*parts, None], dtype=object)),
        st.lists(inner, max_size=3).map(tuple),
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(ANYTHING)
def test_any_value_is_written_as_json_and_read_back_the_same(value):
    kept = plain(value)
    text = json.dumps(kept)
    assert json.dumps(json.loads(text)) == text
    if type(value) is dict:  # not one that can not be looked into
        assert len(kept) == len(value)


class Refusing:
    """A catalogue that takes nothing."""

    def include_data_sources(self):
        return self

    def create_container(self, **_):
        raise RuntimeError("no room")


def kept_in(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def count(writer, **md):
    """Hand the documents of a run with three events to a writer, as the RunEngine does."""
    run = compose_run(metadata=md, validate=False)
    keys = {"x": {"source": "sim", "dtype": "number", "shape": []}}
    stream = run.compose_descriptor(name="primary", data_keys=keys, configuration={}, validate=False)
    writer("start", run.start_doc)
    writer("descriptor", stream.descriptor_doc)
    for number in range(1, 4):
        writer("event", stream.compose_event(data={"x": number}, timestamps={"x": 0.0}, seq_num=number, validate=False))
    writer("stop", run.compose_stop(validate=False))
    return run.start_doc["uid"]


def test_backup_keeps_every_document_whatever_is_in_it(tmp_path):
    writer = CatalogWriter(Refusing(), backup_directory=tmp_path)
    uid = count(writer, sample=STRANGE)
    writer.close()
    kept = kept_in(tmp_path / f"{uid}.jsonl")
    assert [entry["name"] for entry in kept] == ["start", "descriptor", "event", "event", "event", "stop"]
    assert kept[0]["doc"]["sample"]["array"] == [[0, 1, 2], [3, 4, 5]]
    assert kept[0]["doc"]["sample"].keys() == STRANGE.keys()
    assert [path.name for path in tmp_path.iterdir()] == [f"{uid}.jsonl"]


def test_run_with_objects_in_its_metadata_is_in_the_catalogue(storage):
    uid = count(storage.writer, sample=STRANGE)
    assert storage.writer.failed.get(uid) is None
    stored = storage.catalog[uid].metadata["start"]["sample"]
    assert stored["object"] == "<class 'object'>"
    assert stored["set"] == ["a", "b"]


def test_run_that_never_ends_and_was_refused_is_kept_when_the_writer_is_closed(tmp_path):
    writer = CatalogWriter(Refusing(), backup_directory=tmp_path)
    uid = str(uuid4())
    writer("start", {"uid": uid, "time": 0.0})
    writer("descriptor", {"uid": "d", "run_start": uid, "data_keys": {}, "name": "primary"})
    writer.close()
    assert [entry["name"] for entry in kept_in(tmp_path / f"{uid}.jsonl")] == ["start", "descriptor"]


def test_document_that_is_none_ends_no_writer(tmp_path, caplog):
    writer = CatalogWriter(Refusing(), backup_directory=tmp_path)
    writer("descriptor", {"run_start": "x"})  # no uid
    writer("start", {"uid": "good", "time": 0.0})
    writer("stop", {"uid": "s", "run_start": "good", "time": 0.0})
    writer.close()
    assert "a descriptor document belongs to no run that is known" in caplog.text
    assert [entry["name"] for entry in kept_in(tmp_path / "good.jsonl")] == ["start", "stop"]


def test_backup_goes_elsewhere_where_its_directory_can_not_be_written(tmp_path, monkeypatch, caplog):
    (tmp_path / "taken").write_text("a file, not a directory")
    monkeypatch.setattr(writing.tempfile, "gettempdir", lambda: str(tmp_path))
    writer = CatalogWriter(Refusing(), backup_directory=tmp_path / "taken")
    writer("start", {"uid": "../one", "time": 0.0})
    writer("stop", {"uid": "s", "run_start": "../one", "time": 0.0})
    writer.close()
    (path,) = (tmp_path / f"streamrecon-not-stored-{os.getuid()}").iterdir()
    assert len(kept_in(path)) == 2
    assert f"its documents are in {path}; `streamrecon resubmit {path}` stores them" in caplog.text


def test_backup_that_a_full_disk_cuts_short_does_not_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(writing.tempfile, "gettempdir", lambda: str(tmp_path))
    write = Path.write_text

    def full(path, text, **kwargs):
        write(path, text[:5], **kwargs)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    writer = CatalogWriter(Refusing(), backup_directory=tmp_path / "not_stored")
    writer("start", {"uid": "one", "time": 0.0})
    writer.close()
    assert list((tmp_path / "not_stored").iterdir()) == []
