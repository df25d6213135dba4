"""Soft IOCs in processes of their own, on ports of loopback that nobody else has, and devices that meet them."""

from __future__ import annotations

import asyncio
import atexit
import importlib.util
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from bluesky import RunEngine
from pva_camera import PvaCamera

HERE = Path(__file__).parent
collect_ignore = ["ioc.py"]  # a program, with an extra that other tests do without
BOUND = 30.0

LACKING = [name for name in ("aioca", "caproto", "epics", "p4p", "PIL") if importlib.util.find_spec(name) is None]
collect_ignore_glob = ["*.py"] if LACKING else []


def _free_port() -> int:
    """Return a port that neither TCP nor UDP uses."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            try:
                udp.bind(("127.0.0.1", tcp.getsockname()[1]))
            except OSError:
                continue
            return int(tcp.getsockname()[1])


# An IOC each: of those that listen at one address, only the last would get what clients search for.
ADDRESSES = [f"127.0.0.{number}" for number in range(1, 4)]

# Channel Access looks at loopback alone; libca reads this once in a process, when ophyd is imported.
# It starts a repeater, which would outlive the tests, unless somebody has the repeater's port.
_repeater = socket.socket(type=socket.SOCK_DGRAM)
_repeater.bind(("127.0.0.1", 0))
atexit.register(_repeater.close)
os.environ |= {
    "EPICS_CA_ADDR_LIST": " ".join(ADDRESSES),
    "EPICS_CA_AUTO_ADDR_LIST": "NO",
    "EPICS_CA_SERVER_PORT": str(_free_port()),
    "EPICS_CA_REPEATER_PORT": str(_repeater.getsockname()[1]),
    "EPICS_PVA_ADDR_LIST": "127.0.0.1",
    "EPICS_PVA_AUTO_ADDR_LIST": "NO",
    "EPICS_PVA_BROADCAST_PORT": str(_free_port()),
}


@dataclass
class Ioc:
    """A soft IOC that can be killed and started again."""

    directory: Path
    address: str
    options: tuple[str, ...] = ()
    prefix: str = field(default_factory=lambda: f"T{os.urandom(4).hex()}:")
    process: subprocess.Popen[str] | None = None

    def start(self) -> Ioc:
        """Start it, and wait until it answers."""
        command = [sys.executable, str(HERE / "ioc.py"), self.prefix, self.address, str(self.directory)]
        environment = {**os.environ, "PYTHONPATH": str(HERE.parent / "support")}
        self.process = subprocess.Popen([*command, *self.options], stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        while (line := self.process.stdout.readline()) != "ready\n":
            assert line, f"the IOC ended with {self.process.wait(BOUND)}"
        return self

    def put(self, name: str, value: Any) -> None:
        """Set one of its PVs, from outside."""
        from caproto.sync.client import write

        write(self.prefix + name, value, notify=True, repeater=False, timeout=BOUND)

    def killed_after(self, seconds: float) -> threading.Timer:
        """Return a timer that kills it."""
        return threading.Timer(seconds, self.kill)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate(timeout=BOUND)
            self.process = None


@pytest.fixture
def start_ioc(tmp_path: Path) -> Iterator[Callable[..., Ioc]]:
    """Start IOCs; all are gone at the end."""
    started: list[Ioc] = []

    def start(*options: str) -> Ioc:
        started.append(Ioc(tmp_path, ADDRESSES[len(started)], options))
        return started[-1].start()

    yield start
    for ioc in started:
        ioc.kill()


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Return ports that neither TCP nor UDP uses."""
    return _free_port


@pytest.fixture
def pva_camera() -> Iterator[PvaCamera]:
    """Return a camera over PV Access that is yet to be started; gone at the end."""
    camera = PvaCamera(f"T{os.urandom(4).hex()}:Pva1:Image")
    yield camera
    camera.die()


@dataclass(frozen=True)
class Devices:
    """What a plan takes."""

    stage: Any
    detector: Any
    shutter: Any
    table: Any

    @property
    def around(self) -> dict[str, Any]:
        """As arguments of a plan."""
        return {"shutter": self.shutter, "sample_table": self.table}


@pytest.fixture
def modern(run_engine: RunEngine, tmp_path: Path) -> Iterator[Callable[..., Devices]]:
    """Make the devices of an IOC by ophyd-async: its motor, and an areaDetector that writes HDF5 (or others)."""
    import aioca
    from ophyd_async.core import StaticPathProvider, StrictEnum, UUIDFilenameProvider, init_devices
    from ophyd_async.epics.adcore import ADWriterFactory
    from ophyd_async.epics.adsimdetector import SimDetector
    from ophyd_async.epics.core import epics_signal_rw
    from ophyd_async.epics.motor import Motor

    from bluesky_streamrecon.beamline.pva import pva_frames

    class Shutter(StrictEnum):
        OPEN, CLOSED = "Open", "Closed"

    class Table(StrictEnum):
        IN, OUT = "In", "Out"

    def make(ioc: Ioc, *writers: str) -> Devices:
        paths = StaticPathProvider(UUIDFilenameProvider(), tmp_path)
        made = {"pva": lambda paths, **options: pva_frames(paths, patience=0.5, **options)}
        suffixes = {each: "" if number == 0 else f"-{each}" for number, each in enumerate(writers or ["hdf"])}
        factories = [
            made.get(each, getattr(ADWriterFactory, each, None))(paths, datakey_suffix=suffix)
            for each, suffix in suffixes.items()
        ]

        async def connect() -> Devices:
            async with init_devices():
                rot = Motor(f"ca://{ioc.prefix}rot")
                camera = SimDetector(f"ca://{ioc.prefix}AD:", *factories)
                shutter = epics_signal_rw(Shutter, f"ca://{ioc.prefix}shutter")
                table = epics_signal_rw(Table, f"ca://{ioc.prefix}table")
            return Devices(rot, camera, shutter, table)

        return asyncio.run_coroutine_threadsafe(connect(), run_engine.loop).result(BOUND)

    async def forget() -> None:
        aioca.purge_channel_caches()  # whose loop is about to be closed

    yield make
    asyncio.run_coroutine_threadsafe(forget(), run_engine.loop).result(BOUND)


@pytest.fixture
def classic(tmp_path: Path) -> Iterator[Callable[..., Devices]]:
    """Make the devices of an IOC by classic ophyd."""
    from ophyd import (
        AreaDetector,
        Component,
        EpicsMotor,
        EpicsSignal,
        HDF5Plugin,
        SimDetectorCam,
        SingleTrigger,
        TIFFPlugin,
    )
    from ophyd.areadetector.filestore_mixins import FileStoreHDF5IterativeWrite, FileStoreTIFFIterativeWrite

    made: list[Any] = []

    class Hdf(HDF5Plugin, FileStoreHDF5IterativeWrite):
        pass

    class Tiff(TIFFPlugin, FileStoreTIFFIterativeWrite):
        pass

    def make(ioc: Ioc, writer: str = "hdf") -> Devices:
        class Camera(SingleTrigger, AreaDetector):
            cam = Component(SimDetectorCam, "cam1:")
            file = Component(
                {"hdf": Hdf, "tiff": Tiff}[writer],
                {"hdf": "HDF1:", "tiff": "TIFF1:"}[writer],
                write_path_template=str(tmp_path),
            )

        made[:] = [
            EpicsMotor(f"{ioc.prefix}rot", name="rot"),
            Camera(f"{ioc.prefix}AD:", name="camera", read_attrs=["file"]),
            EpicsSignal(f"{ioc.prefix}shutter", name="shutter", string=True),
            EpicsSignal(f"{ioc.prefix}table", name="table", string=True),
        ]
        for device in made:
            device.wait_for_connection(all_signals=True, timeout=BOUND) if device.name == "rot" else None
            device.wait_for_connection(timeout=BOUND)
        # SingleTrigger loses its status where an exposure is over before trigger() returns, as on a busy computer.
        made[1].cam.acquire_time.set(0.2).wait(BOUND)
        return Devices(*made)

    yield make
    for device in made:
        device.destroy()
