"""GPUs are told apart by what they are, not by the number that a process sees."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bluesky_streamrecon import gpus
from bluesky_streamrecon.errors import DeviceError


@pytest.fixture
def seen(monkeypatch):
    """What the driver would say."""
    gpus.visible_gpus.cache_clear()
    yield lambda driver: monkeypatch.setattr(gpus, "open_driver", driver)
    gpus.visible_gpus.cache_clear()


def driver(names, *, status=0):
    def count(target):
        target._obj.value = len(names)
        return 0

    def uuid(target, number):
        target.raw = names[number]
        return 0

    return lambda: SimpleNamespace(cuInit=lambda _: status, cuDeviceGetCount=count, cuDeviceGetUuid_v2=uuid)


def test_gpus_are_known_by_their_identifiers(seen):
    names = [bytes([number] * 16) for number in (7, 9)]
    seen(driver(names))
    assert gpus.visible_gpus() == tuple(names)


def test_none_is_computed_on_without_numba_cuda(seen, monkeypatch):
    seen(driver([b"x" * 16]))
    assert gpus.usable_gpus() == 1
    monkeypatch.setattr(gpus, "find_spec", lambda _: None)
    assert gpus.usable_gpus() == 0


def test_there_is_none_without_a_driver_or_where_it_does_not_start(seen):
    def missing():
        raise DeviceError("there is no NVIDIA driver here")

    seen(missing)
    assert gpus.visible_gpus() == ()
    gpus.visible_gpus.cache_clear()
    seen(driver([b"x" * 16], status=100))
    assert gpus.visible_gpus() == ()
