"""Frames can be had again, within a bound of memory."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bluesky_streamrecon.beamline.serving.frames import FrameStore, Gone, QueuedFrame

SHAPE = (4, 8)
BYTES = 64
BOUND = 10.0


def frame(seq: int) -> np.ndarray:
    return np.full(SHAPE, seq, dtype="<u2")


def kept(pixels: np.ndarray) -> QueuedFrame:
    return QueuedFrame("projection", 1, pixels=pixels)


class Source(QueuedFrame):
    """A frame in a file, with a count of the readings."""

    def __init__(self, result: Any, in_file: bool = True) -> None:
        super().__init__("projection", 1, in_file=in_file)
        self.result = result
        self.readings = 0

    def read(self) -> np.ndarray:
        self.readings += 1
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class Store(FrameStore):
    """One that knows its frames by their numbers."""

    def __init__(self, **about: Any) -> None:
        super().__init__(**about)
        self.known: dict[int, QueuedFrame] = {}

    def add(self, seq: int, frame: QueuedFrame) -> None:
        self.known[seq] = frame
        super().add(seq, frame)

    def get(self, seq: int) -> np.ndarray | Gone | None:  # type: ignore[override]
        return super().get(self.known[seq])


class Bench:
    """Makes stores, and waits for what they fetch."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stores: list[Store] = []
        self._bell = threading.Condition()

    def store(self, limit: int) -> Store:
        made = Store(shape=SHAPE, dtype=np.dtype("<u2"), limit=limit, notify=self.ring, name="run-1")
        self.stores.append(made)
        return made

    def ring(self) -> None:
        with self._bell:
            self._bell.notify_all()

    def wait(self, ready: Callable[[], Any]) -> Any:
        with self._bell:
            result = self._bell.wait_for(ready, BOUND)
        assert result, "the store did not get there"
        return result

    def get(self, store: Store, seq: int) -> np.ndarray | Gone:
        found: list[Any] = []

        def ready() -> bool:
            got = store.get(seq)
            if got is not None:
                found.append(got)
            return bool(found)

        self.wait(ready)
        return found[0]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = Bench(tmp_path)
    yield made
    for store in made.stores:
        store.stop()
        store.join(BOUND)
        assert not store.alive


def test_inline_frame_is_kept_without_a_copy(bench: Bench) -> None:
    store, pixels = bench.store(limit=10 * BYTES), frame(1)
    store.add(1, kept(pixels))
    assert store.get(1) is pixels


def test_inline_frames_above_the_limit_spill_and_come_back(bench: Bench) -> None:
    store = bench.store(limit=3 * BYTES)
    for seq in range(1, 21):
        store.add(seq, kept(frame(seq)))
    bench.wait(lambda: store.memory <= 3 * BYTES)
    assert store.spilled >= 17
    for seq in (20, 1, 7, 7, 19, 2):
        np.testing.assert_array_equal(bench.get(store, seq), frame(seq))
    bench.wait(lambda: store.memory <= 3 * BYTES)


def test_frame_in_a_file_is_read_when_asked_for_and_not_spilled(bench: Bench) -> None:
    store = bench.store(limit=2 * BYTES)
    sources = {seq: Source(frame(seq)) for seq in range(1, 9)}
    for seq, source in sources.items():
        store.add(seq, source)
    assert [source.readings for source in sources.values()] == [0] * 8
    for seq in sources:
        np.testing.assert_array_equal(bench.get(store, seq), frame(seq))
    bench.wait(lambda: store.memory <= 2 * BYTES)
    np.testing.assert_array_equal(bench.get(store, 1), frame(1))
    assert sources[1].readings == 2
    assert store.spilled == 0


def test_source_that_is_not_in_a_file_is_read_once(bench: Bench) -> None:
    store = bench.store(limit=BYTES)
    sources = {seq: Source(frame(seq), in_file=False) for seq in (1, 2, 3)}
    for seq, source in sources.items():
        store.add(seq, source)
    for seq in (1, 2, 3, 1, 2, 3):
        np.testing.assert_array_equal(bench.get(store, seq), frame(seq))
    assert [source.readings for source in sources.values()] == [1, 1, 1]


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (OSError("gone with the wind"), "gone with the wind"),
        (np.zeros((4, 7), "<u2"), "expected <u2 \\(4, 8\\)"),
        (np.zeros(SHAPE, "<f4"), "got <f4"),
    ],
)
def test_frame_that_can_not_be_read_is_gone_and_says_why(bench: Bench, result: Any, told: str) -> None:
    store = bench.store(limit=10 * BYTES)
    store.add(1, Source(result))
    gone = bench.get(store, 1)
    assert isinstance(gone, Gone)
    with pytest.raises(OSError, match=told):
        raise OSError(gone.why)
    assert store.failures() == [gone.why]
    assert store.failures() == []


def test_full_disk_loses_only_what_does_not_fit_and_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    store = bench.store(limit=2 * BYTES)
    for seq in (1, 2, 3):
        store.add(seq, kept(frame(seq)))
    bench.wait(lambda: store.memory <= 2 * BYTES)
    gone = bench.get(store, 1)
    assert isinstance(gone, Gone)
    assert "No space left" in gone.why
    assert "raise memory_limit" in gone.why
    np.testing.assert_array_equal(bench.get(store, 3), frame(3))


def test_big_endian_and_strided_frames_are_made_fit_to_send(bench: Bench) -> None:
    store = bench.store(limit=10 * BYTES)
    store.add(1, kept(frame(7).astype(">u2")))
    store.add(2, kept(np.asfortranarray(np.arange(32, dtype="<u2").reshape(SHAPE))))
    first, second = store.get(1), store.get(2)
    assert isinstance(first, np.ndarray)
    assert isinstance(second, np.ndarray)
    assert first.dtype.str == "<u2"
    assert second.flags.c_contiguous
    np.testing.assert_array_equal(first, frame(7))


def test_temporary_file_is_gone_after_stop(bench: Bench) -> None:
    store = bench.store(limit=BYTES)
    for seq in range(1, 5):
        store.add(seq, kept(frame(seq)))
    bench.wait(lambda: store.spilled >= 3)
    assert list(bench.directory.iterdir()) == []
    store.stop()
    store.join(BOUND)
    assert store.memory == 0
    store.add(5, kept(frame(5)))
    assert isinstance(store.get(5), Gone)
