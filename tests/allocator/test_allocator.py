"""Freed memory is given back where the C library can do so, and nothing happens where it can not."""

from __future__ import annotations

import ctypes

import pytest

from bluesky_streamrecon import allocator


@pytest.fixture(autouse=True)
def afresh():
    allocator._trim.cache_clear()
    yield
    allocator._trim.cache_clear()


def test_the_c_library_is_asked_for_all_that_is_free(monkeypatch):
    asked = []

    class Library:
        malloc_trim = staticmethod(asked.append)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library)
    allocator.trim_heap()
    assert asked == [0]


@pytest.mark.parametrize("error", [OSError, TypeError, AttributeError])
def test_another_c_library_is_left_alone(monkeypatch, error):
    def refuse(name):
        raise error

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    allocator.trim_heap()


def test_it_works_here():
    allocator.trim_heap()
