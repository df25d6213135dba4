"""Documents of a reconstruction, without a server."""

from __future__ import annotations

import math
from types import SimpleNamespace

import event_model
import h5py
import numpy as np
import pytest

from bluesky_streamrecon.errors import DataError, StorageError
from bluesky_streamrecon.run_record import Ledger
from bluesky_streamrecon.selection import Selection
from bluesky_streamrecon.storage import compose_reconstruction, reconstruction_documents
from bluesky_streamrecon.wire.messages import OpenRunSpec, Score
from bluesky_streamrecon.wire.operator_messages import Check, Order

UID = "11111111-2222-3333-4444-555555555555"


def documents_of(tmp_path, **more):
    values = {"recon_uid": UID, "raw_run_uid": "raw", "file": tmp_path / "r.h5", "shape": (2, 4, 4)} | more
    return list(reconstruction_documents(**values))


def test_documents_are_valid_and_in_order(tmp_path):
    rows = [
        {"image_number": 1, "score": None, "verdict": "continue"},
        {"image_number": 2, "score": 0.5, "verdict": "enough"},
    ]
    documents = documents_of(tmp_path, scores=rows, reason="quality")
    for name, doc in documents:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)
    assert [name for name, _ in documents] == [
        *["start", "descriptor", "stream_resource", "stream_datum", "event", "event"],
        *["descriptor", "event", "event", "stop"],
    ]
    start, stop = documents[0][1], documents[-1][1]
    assert (start["uid"], start["raw_run_uid"]) == (UID, "raw")
    assert (stop["exit_status"], stop["reason"], stop["num_events"]) == (
        "success",
        "quality",
        {"image": 2, "scores": 2},
    )
    keys = documents[6][1]["data_keys"]
    assert {name: key["dtype"] for name, key in keys.items()} == {
        "image_number": "integer",
        "score": "number",
        "verdict": "string",
    }
    scores = [doc["data"]["score"] for name, doc in documents[7:9]]
    assert math.isnan(scores[0])
    assert scores[1] == 0.5


def test_reconstruction_that_does_not_fit_together_is_refused(tmp_path):
    with pytest.raises(StorageError, match=r"got shape \(4, 4\)"):
        documents_of(tmp_path, shape=(4, 4))
    with pytest.raises(StorageError, match="different columns"):
        documents_of(tmp_path, scores=[{"a": 1}, {"b": 1}])
    with pytest.raises(StorageError, match="mixes numbers"):
        documents_of(tmp_path, scores=[{"a": 1}, {"a": "one"}])
    with pytest.raises(StorageError, match="'time'"):
        documents_of(tmp_path, scores=[{"time": 1}])


CHECK = Check(name="axis", state="look", number="7", text="off")
SELECTED = Selection((0, 1, 33, 40), (1,))
ANNA = Order(action="region", who="anna", selection=SELECTED)


def record(tmp_path, **more) -> SimpleNamespace:
    spec = OpenRunSpec(run_uid="raw", recon_uid=UID, planned=9, detector_shape=(2, 4), dtype="<u2")
    verdicts = [
        Score(run_uid="raw", image_number=1, projections=5),
        Score(run_uid="raw", image_number=2, projections=6, score=0.9, metrics={"residual": 0.1}, checks=(CHECK,)),
        Score(run_uid="raw", image_number=3, projections=6, verdict="enough", selection=SELECTED),
    ]
    values = {"run_uid": "raw", "recon_uid": UID, "exit_status": "success", "reason": "quality: 0.9", "used": 6}
    values |= {"axis": 1.5, "ledger": {0: Ledger(items=6)}, "verdicts": verdicts, "spec": spec}
    values |= {"finishing": False, "selection": SELECTED, "selected_by": ANNA}
    return SimpleNamespace(**(values | {"result": str(tmp_path / "recon.h5")} | more))


def test_finished_run_becomes_documents(tmp_path):
    with h5py.File(tmp_path / "recon.h5", "w") as file:
        file["/exchange/data"] = np.zeros((2, 4, 4), np.float32)
    documents = list(compose_reconstruction(record(tmp_path)))
    start = documents[0][1]
    assert start["streamrecon"]["recon"]["algorithm"] == "mlem"
    assert start["streamrecon"]["ledger"]["0"]["items"] == 6
    assert start["streamrecon"]["checks"] == [{"name": "axis", "state": "look", "number": "7", "text": "off"}]
    assert start["streamrecon"]["selection"] == {"region": (0, 1, 33, 40), "rows": (1,)}
    assert start["streamrecon"]["selected_by"]["who"] == "anna"
    (scores,) = (doc for name, doc in documents if name == "descriptor" and doc["name"] == "scores")
    names = {"image_number", "projections", "score", "verdict", "policy", "text", "residual", "region", "rows"}
    assert set(scores["data_keys"]) == names
    rows = [doc["data"] for name, doc in documents if name == "event" and "residual" in doc["data"]]
    assert [(row["region"], row["rows"]) for row in rows] == [("", ""), ("", ""), ("0 1 33 40", "1")]
    for name, doc in documents:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)


def test_finished_volume_is_a_stream_beside_the_live_image(tmp_path):
    with h5py.File(tmp_path / "recon.h5", "w") as file:
        file["/exchange/data"] = file["/exchange/volume"] = np.zeros((2, 4, 4), np.float32)
    documents = list(compose_reconstruction(record(tmp_path, finishing=True)))
    datasets = {doc["data_key"]: doc["parameters"]["dataset"] for name, doc in documents if name == "stream_resource"}
    assert datasets == {"image": "/exchange/data", "volume": "/exchange/volume"}


def test_finished_run_without_an_image_is_refused(tmp_path):
    with pytest.raises(StorageError, match="left no file"):
        list(compose_reconstruction(record(tmp_path, result=None)))
    with h5py.File(tmp_path / "recon.h5", "w") as file:
        file["/exchange/data"] = np.zeros(3)
    with pytest.raises(DataError, match=r"shape \(3,\)"):
        list(compose_reconstruction(record(tmp_path)))
