"""Hosts made of network namespaces, and a scan on one of them."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bluesky_streamrecon.wire import generate_keys

HERE = Path(__file__).parent
BOUND = 50.0


@pytest.fixture(scope="session")
def hosts() -> ModuleType:
    """The module beside this file."""
    spec = importlib.util.spec_from_file_location("streamrecon_test_hosts", HERE / "hosts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def two_hosts(hosts: ModuleType) -> Iterator[Callable[..., Any]]:
    """Make the hosts, or skip the test and say why; they are gone afterwards."""
    with contextlib.ExitStack() as stack:

        def make(kind: str, **link: float) -> Any:
            refused = hosts.why_not(kind)
            if refused is not None:
                pytest.skip(refused)
            return stack.enter_context(hosts.TwoHosts(kind, **link))

        yield make


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys of both hosts."""
    directory = tmp_path_factory.mktemp("keys")
    for name in ("beamline", "cluster"):
        generate_keys(directory, name)
    return directory


class FarScan:
    """A scan on one host, reconstructed on the other; `line` gives what it says."""

    def __init__(self, hosts: ModuleType, pair: Any, keys: Path, directory: Path, options: list[str]) -> None:
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._stack = contextlib.ExitStack()
        command = [sys.executable, str(HERE / "scan_host.py"), "--address", f"tcp://{hosts.BEAMLINE}:*"]
        command += ["--directory", str(directory), "--keys", str(keys), *options]
        self._errors = (directory / "beamline.log").open("w+")
        self._process = subprocess.Popen(
            pair.on(pair.beamline, command), stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        address = self.line("address")["address"]
        self._stack.enter_context(hosts.job_processes(pair, address, "far-away", keys, 2, directory))

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(json.loads(line))
        self._lines.put(None)

    def line(self, key: str, at_least: int = 0) -> dict[str, Any]:
        """Wait for a line that has this key, with a value of at least so much."""
        while (found := self._lines.get(timeout=BOUND)) is not None:
            if key in found and (not at_least or found[key] >= at_least):
                return found
        self._errors.seek(0)
        raise AssertionError(f"the scan ended: {self._errors.read()[-3000:]}")

    def close(self) -> None:
        try:
            self._process.wait(BOUND)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stack.close()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()


@pytest.fixture
def far_scan(hosts: ModuleType, keys: Path, tmp_path: Path) -> Iterator[Callable[..., FarScan]]:
    """Begin scans."""
    with contextlib.ExitStack() as stack:

        def begin(pair: Any, *options: str) -> FarScan:
            scan = FarScan(hosts, pair, keys, tmp_path, list(options))
            stack.callback(scan.close)
            return scan

        yield begin
