"""What a program imports is left out of the searches for garbage, and searching goes on afterwards."""

from __future__ import annotations

import gc
import pkgutil
from importlib import import_module

import pytest

import bluesky_streamrecon
from bluesky_streamrecon.cli._imports import imports_kept


@pytest.fixture(autouse=True)
def thawed():
    gc.unfreeze()
    yield
    gc.enable()
    gc.unfreeze()


def test_what_is_imported_is_never_looked_through_again():
    with imports_kept():
        assert not gc.isenabled()
        assert gc.get_freeze_count() == 0
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0


def test_an_import_that_fails_does_not_stop_the_search():
    with pytest.raises(ImportError), imports_kept():
        raise ImportError
    assert gc.isenabled()


def test_every_module_can_be_imported():
    names = {each.name for each in pkgutil.walk_packages(bluesky_streamrecon.__path__, "bluesky_streamrecon.")}
    ready = {name for name in names if ".recon.cuda." not in name and not name.endswith("__main__")}
    assert len(ready) > 200
    for name in ready:
        import_module(name)  # those of kernels for a GPU: tests/recon/cuda, in Numba's simulator
