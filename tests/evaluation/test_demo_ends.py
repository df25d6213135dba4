"""How the demo ends when its catalogue could not be opened."""

import pytest

from bluesky_streamrecon.errors import StorageError
from bluesky_streamrecon.evaluation import demo


def test_a_catalogue_that_did_not_start_is_reported(tmp_path):
    (tmp_path / "catalogue").write_text("a file in its place")
    with pytest.raises(StorageError, match="can not be made"):
        demo.store(tmp_path, [])


def test_a_catalogue_that_did_not_start_does_not_hide_what_else_is_wrong(tmp_path, monkeypatch):
    def refuse(**_):
        raise StorageError("the catalogue did not start")

    class Broken(Exception):
        pass

    def fail(*_, **__):
        raise Broken

    monkeypatch.setattr("bluesky_streamrecon.storage.open_storage", refuse)
    monkeypatch.setattr("bluesky_streamrecon.plans.stream_tomo_plan", fail)
    with pytest.raises(Broken):
        demo.run_demo(out=tmp_path, num=3)
