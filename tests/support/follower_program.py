"""``streamrecon follow`` in a process of its own."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from typing import Any

BOUND = 90.0  # for a program to start, and for what it says


class Program:
    """``streamrecon follow`` in a process of its own."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "bluesky_streamrecon", "follow", *map(str, arguments), "--json"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._lines: queue.Queue[str] = queue.Queue()
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.put(line.rstrip())

    def wait_for(self, text: str) -> str:
        """Return the first line on stderr, of those not read yet, that has this in it."""
        while True:
            try:
                self.said.append(self._lines.get(timeout=BOUND))
            except queue.Empty:
                raise AssertionError(f"{text!r} was not said, but {self.said}") from None
            if text in self.said[-1]:
                return self.said[-1]

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> list[dict[str, Any]]:
        """Wait for the end, and return what was printed for each run."""
        assert self._process.stdout is not None
        try:
            assert self._process.wait(BOUND) == 0, self.said
            return [json.loads(line) for line in self._process.stdout]
        finally:
            self.close()

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(BOUND)
        self._reader.join(BOUND)
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()
