"""A soft IOC of a tomography beamline on loopback: a motor record, shutter, sample table, and a small areaDetector.

Run as a program: ``python ioc.py PREFIX ADDRESS DIRECTORY [--no-swmr] [--bytes] [--pva [--loses N]]``; it prints
``ready`` when it answers. The detector's frames are projections of discs at the angle that the motor has, flats where
the table is out, darks where the shutter is closed; with ``--bytes`` of 8 bits. With ``--pva`` each frame is sent over
PV Access, too, but for that of number N. ``PREFIXfault`` set to ``stall`` has the motor stand still; set to ``disk
full`` the HDF5 plugin writes nothing more, and with ``disk full, counted`` it counts on all the same. PVs that nobody
has described are made when a client asks for them, so that classic ophyd finds every record of an areaDetector that it
knows.

It shows that protocols, types, files and put completion fit; it shows nothing about the timing of real hardware.
"""

from __future__ import annotations

import argparse
import asyncio
import enum
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tifffile
from caproto import ChannelChar, ChannelDouble, ChannelEnum, ChannelInteger, ChannelString, ChannelType
from caproto.server import PVGroup, pvproperty, run
from ophyd_async.core import Device, Signal, StaticPathProvider, UUIDFilenameProvider
from ophyd_async.epics.adcore import ADWriterFactory
from ophyd_async.epics.adsimdetector import SimDetector
from PIL import Image
from pva_camera import PvaCamera, image

from bluesky_streamrecon.beamline.pva import pva_frames

ROWS, COLUMNS = 16, 64
COUNTS = 20_000.0
STEP = 0.01  # seconds between two looks at a moving motor
LONGEST = 256  # characters of a path
BYTE = 128  # counts in one of 8 bits
SERIES: dict[str, Callable[[str, np.ndarray], object]] = {
    "TIFF1": tifffile.imwrite,
    "JPEG1": lambda path, pixels: Image.fromarray(pixels).save(path, quality=100),
}
"""Plugins that write a file per frame, and how."""


def frame(degrees: float, kind: str) -> np.ndarray:
    """Return what the camera sees: discs of different attenuation, behind each other along the beam."""
    random = np.random.default_rng(5)
    u, middle = np.arange(COLUMNS), (COLUMNS - 1) / 2 + 1.5
    discs = [(0.0, 0.0, 26.0, 0.02), *random.uniform((-14, -14, 1.5, -0.02), (14, 14, 5.0, 0.04), (10, 4))]
    path = np.zeros(COLUMNS)
    for x, y, radius, attenuation in discs:
        seen = middle + x * np.cos(np.radians(degrees)) + y * np.sin(np.radians(degrees))
        path += 2 * attenuation * np.sqrt(np.clip(radius**2 - (u - seen) ** 2, 0, None))
    mean = {"dark": 0 * path, "flat": 0 * path + COUNTS}.get(kind, COUNTS * np.exp(-path))
    turned = round(1000 * degrees) if kind == "projection" else 0
    noisy = np.random.default_rng(turned % 2**31).poisson(np.tile(mean, (ROWS, 1)))
    return (noisy + 100).clip(0, 65535).astype("<u2")


class Motor(PVGroup):
    """One motor record, whose put completes when the move is over, and the two devices in the beam."""

    motor = pvproperty(value=0.0, name="rot", record="motor", precision=4, units="deg")
    fault = pvproperty(value="none", name="fault", dtype=ChannelType.STRING)
    shutter = pvproperty(value="Open", name="shutter", dtype=ChannelType.ENUM, enum_strings=["Open", "Closed"])
    table = pvproperty(value="In", name="table", dtype=ChannelType.ENUM, enum_strings=["In", "Out"])
    abort = pvproperty(value="No", name="TS:AbortScan", dtype=ChannelType.ENUM, enum_strings=["No", "Yes"])
    done = pvproperty(value="No", name="done", dtype=ChannelType.ENUM, enum_strings=["No", "Yes"])

    @motor.startup
    async def motor(self, instance: Any, async_lib: Any) -> None:
        fields = instance.field_inst

        async def write(_: Any, value: float) -> None:
            if fields.user_low_limit.value <= value <= fields.user_high_limit.value:
                await self._move(value)
            else:
                await fields.limit_violation.write(1)

        fields.value_write_hook = write
        await instance.write_metadata(lower_ctrl_limit=-10.0, upper_ctrl_limit=400.0)
        values = {
            "velocity": 360.0,
            "max_velocity": 720.0,
            "seconds_to_velocity": 0.05,
            "engineering_units": "deg",
            "motor_step_size": 0.001,
        }
        values |= {f"{kind}_low_limit": -10.0 for kind in ("user", "dial")}
        values |= {f"{kind}_high_limit": 400.0 for kind in ("user", "dial")}
        for name, value in values.items():
            await getattr(fields, name).write(value)

    async def _move(self, target: float) -> None:
        fields = self.motor.field_inst
        await fields.stop.write(0)
        await fields.done_moving_to_value.write(0)
        await fields.motor_is_moving.write(1)
        at = fields.user_readback_value.value
        while at != target and fields.stop.value == 0:
            if self.fault.value != "stall":
                step = fields.velocity.value * STEP
                at = target if abs(target - at) <= step else at + np.copysign(step, target - at)
                await fields.user_readback_value.write(at)
            await asyncio.sleep(STEP)
        await fields.motor_is_moving.write(0)
        await fields.done_moving_to_value.write(1)


class Records(dict[str, Any]):
    """PVs by name; one of the detector that is not known yet is made of what its name says."""

    def __init__(self, prefix: str, make: Callable[[str, Any], Any]) -> None:
        super().__init__()
        self._prefix, self._make = prefix, make
        self.types: dict[str, Any] = {}

    def __contains__(self, name: object) -> bool:
        field = str(name).removeprefix(self._prefix).partition(".")[2]
        return super().__contains__(name) or (str(name).startswith(self._prefix) and field in ("", "DISA", "DISV"))

    def __missing__(self, name: str) -> Any:
        if name not in self:
            raise KeyError(name)
        setpoint = name.removesuffix("_RBV")
        text = re.search(r"Name|Path|Template|Message|Type|Manufacturer|Model|Version|Port|Dim.$", setpoint)
        like = self.types.get(setpoint, self.types.get(f"{setpoint}_RBV"))
        words = re.search(r"AutoSave|Callbacks$", setpoint)  # which are set by Yes and No
        self.add(name, (str if text else bool if words else int) if like is None else like)
        return self[name]

    def add(self, name: str, datatype: Any) -> None:
        """Make a PV."""
        self.types[name] = datatype
        self[name] = self._make(name, datatype)


class Detector:
    """cam1, HDF1, TIFF1 and JPEG1 of an areaDetector; `beam` tells angle and kind of the next frame."""

    def __init__(
        self,
        prefix: str,
        directory: Path,
        beam: Callable[[], tuple[float, str]],
        *,
        swmr: bool,
        wide: bool,
        fault: Callable[[], str],
    ) -> None:
        self.prefix, self.directory, self.beam, self.swmr = prefix, directory, beam, swmr
        self.wide, self.fault = wide, fault
        self.records = Records(prefix, self._channel)
        self._file: h5py.File | None = None
        self.loses = 0
        self.pva = PvaCamera(f"{prefix}Pva1:Image")
        paths = StaticPathProvider(UUIDFilenameProvider(), directory)
        writers = (
            ADWriterFactory.hdf(paths),
            ADWriterFactory.tiff(paths),
            ADWriterFactory.jpeg(paths),
            pva_frames(paths),
        )
        device = SimDetector(f"ca://{prefix}", *writers)
        for backend in _backends(device):
            for name in {backend.read_pv, backend.write_pv} - {"", None}:
                self.records.add(name, backend.datatype)

    async def begin(self) -> None:
        """Set what records have when an areaDetector has been switched on."""
        size = {"SizeX_RBV": COLUMNS, "SizeY_RBV": ROWS, "SizeZ_RBV": 0, "Size0_RBV": COLUMNS, "Size1_RBV": ROWS}
        values: dict[str, Any] = {f"cam1:Array{name}": value for name, value in size.items()}
        values |= {"cam1:MaxSizeX_RBV": COLUMNS, "cam1:MaxSizeY_RBV": ROWS, "cam1:AcquireTime": 0.05}
        values |= {"Pva1:PvName_RBV": self.pva.pv, "Pva1:PluginType_RBV": "NDPluginPva"}
        values |= {"cam1:NumImages": 1, "cam1:ImageMode": "Multiple", "cam1:DetectorState_RBV": "Idle"}
        values |= {"cam1:DataType_RBV.DISV": 1, "cam1:PortName_RBV": "CAM", "cam1:PluginType_RBV": "SimDetector"}
        for plugin, kind in (("HDF1:", "NDFileHDF5"), ("TIFF1:", "NDFileTIFF"), ("JPEG1:", "NDFileJPEG")):
            values |= {f"{plugin}Array{name}": value for name, value in size.items()}
            values |= {f"{plugin}PluginType_RBV": kind, f"{plugin}NDArrayPort": "CAM", f"{plugin}NDimensions_RBV": 2}
            values |= {f"{plugin}PortName_RBV": kind, f"{plugin}FilePathExists_RBV": 1}
            values |= {f"{plugin}FilePath": f"{self.directory}/", f"{plugin}FileName": "x"}
            values |= {f"{plugin}FileTemplate": "%s%s_%6.6d.dat"}
        for plugin in ("cam1:", "HDF1:", "TIFF1:", "JPEG1:"):
            values |= {f"{plugin}DataType_RBV": "UInt16" if self.wide else "UInt8", f"{plugin}ColorMode_RBV": "Mono"}
        for name, value in values.items():
            await self.put(name, value)
            if "_RBV" not in name:
                await self.put(f"{name}_RBV", value)

    def value(self, name: str) -> Any:
        """Return what a record has, text without its padding."""
        channel = self.records[self.prefix + name]
        found = channel.value
        if isinstance(channel, ChannelChar):
            text = found if isinstance(found, str) else bytes(bytearray(found)).decode()
            return text.split("\0")[0]
        return found[0] if isinstance(found, list | tuple | np.ndarray) and len(found) == 1 else found

    def on(self, name: str) -> bool:
        """Return whether a record is 1, or the second word of its choices."""
        found = self.value(name)
        channel = self.records[self.prefix + name]
        return bool(list(channel.enum_strings).index(found) if isinstance(found, str) else found)

    async def put(self, name: str, value: Any) -> None:
        """Set a record, from here."""
        await self.records[self.prefix + name].write(value)

    async def written(self, name: str) -> None:
        """Do what a client wants that has set a record; the put completes when this returns, as in ADCore."""
        plugin, _, what = name.partition(":")
        if (
            what not in ("Acquire", "Capture")
            and (readback := self.records.get(f"{self.prefix}{name}_RBV")) is not None
        ):
            await readback.write(self.records[self.prefix + name].value)
        if what == "FilePath":
            if int(self.value(f"{plugin}:CreateDirectory")):
                Path(self.value(name)).mkdir(parents=True, exist_ok=True)
            await self.put(f"{name}Exists_RBV", int(Path(self.value(name)).is_dir()))
        elif what == "Acquire":
            await (self._acquire() if self.on(name) else self.put("cam1:DetectorState_RBV", "Idle"))
        elif what == "Capture":
            await (self._capture if self.on(name) else self._close)(plugin)

    async def _acquire(self) -> None:
        await self.put("cam1:DetectorState_RBV", "Acquire")
        await self.put("cam1:Acquire_RBV", 1)
        try:
            for _ in range(1 if self.value("cam1:ImageMode") == "Single" else int(self.value("cam1:NumImages"))):
                await asyncio.sleep(float(self.value("cam1:AcquireTime")))
                if not self.on("cam1:Acquire"):
                    break
                await self._take(frame(*self.beam()))
        finally:
            await self.put("cam1:DetectorState_RBV", "Idle")
            await self.put("cam1:Acquire", 0)
            await self.put("cam1:Acquire_RBV", 0)

    async def _take(self, pixels: np.ndarray) -> None:
        counted = int(self.value("cam1:ArrayCounter_RBV")) + 1
        await self.put("cam1:ArrayCounter_RBV", counted)
        pixels = pixels if self.wide else (pixels // BYTE).clip(0, 255).astype("u1")
        if self.pva.serves and counted != self.loses and self.value("Pva1:EnableCallbacks") in ("Enable", 1):
            self.pva.post(image(pixels, counted))
        fault = self.fault()
        if self._file is not None:
            data = self._file["/entry/data/data"]
            if not fault.startswith("disk full"):
                data.resize(len(data) + 1, 0)
                data[-1] = pixels
                if self.swmr:
                    data.flush()  # as ADCore: only in SWMR mode
            if fault != "disk full":
                await self.put("HDF1:NumCaptured_RBV", int(self.value("HDF1:NumCaptured_RBV")) + 1)
        for plugin, write in SERIES.items():
            single = self.value(f"{plugin}:FileWriteMode") == "Single" and self.on(f"{plugin}:AutoSave")
            if self.on(f"{plugin}:Capture_RBV") or (single and self.on(f"{plugin}:EnableCallbacks")):
                number = int(self.value(f"{plugin}:FileNumber"))
                write(self._path(plugin, number), pixels)
                await self.put(f"{plugin}:FileNumber", number + 1)
                await self.put(f"{plugin}:FileNumber_RBV", number + 1)
                await self.put(f"{plugin}:NumCaptured_RBV", int(self.value(f"{plugin}:NumCaptured_RBV")) + 1)

    def _path(self, plugin: str, number: int) -> str:
        template = self.value(f"{plugin}:FileTemplate")
        parts = (self.value(f"{plugin}:FilePath"), self.value(f"{plugin}:FileName"), number)
        return str(template % parts[: template.count("%")])

    async def _capture(self, plugin: str) -> None:
        await self.put(f"{plugin}:NumCaptured_RBV", 0)
        if plugin == "HDF1":
            number = int(self.value("HDF1:FileNumber"))
            path = self._path(plugin, number)
            self._file = h5py.File(path, "w", libver="latest" if self.swmr else "earliest")
            kind = "<u2" if self.wide else "u1"
            self._file.create_dataset("/entry/data/data", (0, ROWS, COLUMNS), kind, maxshape=(None, ROWS, COLUMNS))
            if self.swmr:
                self._file.swmr_mode = True
            await self.put("HDF1:FullFileName_RBV", path)
            await self.put("HDF1:FileNumber", number + 1)
            await self.put("HDF1:FileNumber_RBV", number + 1)
        await self.put(f"{plugin}:Capture_RBV", 1)
        while self.on(f"{plugin}:Capture_RBV"):  # the put completes when the capture is over
            await asyncio.sleep(STEP)

    async def _close(self, plugin: str) -> None:
        if plugin == "HDF1" and self._file is not None:
            self._file.close()
            self._file = None
        await self.put(f"{plugin}:Capture_RBV", 0)

    def _channel(self, name: str, datatype: Any) -> Any:
        """Make a PV whose writing by a client is followed."""
        detector = self

        class Followed:
            async def write_from_dbr(self, *arguments: Any, **options: Any) -> Any:
                result = await super().write_from_dbr(*arguments, **options)  # type: ignore[misc]
                await detector.written(name.removeprefix(detector.prefix))
                return result

        kind: type = ChannelString
        options: dict[str, Any] = {"value": ""}
        if datatype is bool:
            kind, options = ChannelEnum, {"value": 0, "enum_strings": ["No", "Yes"]}
        elif isinstance(datatype, type) and issubclass(datatype, enum.Enum):
            kind, options = ChannelEnum, {"value": 0, "enum_strings": [each.value for each in datatype if each.value]}
        elif datatype in (int, float):
            kind, options = (ChannelInteger if datatype is int else ChannelDouble), {"value": datatype()}
        elif re.search(r"FilePath|FileName|FileTemplate|File$", name.removesuffix("_RBV")):
            kind, options = ChannelChar, {"value": "", "max_length": LONGEST}
        return type("Followed", (Followed, kind), {})(**options)


def _backends(device: Device) -> Iterator[Any]:
    for _, child in device.children():
        if isinstance(child, Signal):
            yield child._connector.backend  # type: ignore[attr-defined] # it knows the PV and its type
        else:
            yield from _backends(child)


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("prefix")
    parser.add_argument("address")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--no-swmr", action="store_true")
    parser.add_argument("--bytes", action="store_true")
    parser.add_argument("--pva", action="store_true")
    parser.add_argument("--loses", type=int, default=0)
    given = parser.parse_args()
    motor = Motor(prefix=given.prefix)

    def beam() -> tuple[float, str]:
        kind = "dark" if motor.shutter.value == "Closed" else "flat" if motor.table.value == "Out" else "projection"
        return motor.motor.field_inst.user_readback_value.value, kind

    options = {"swmr": not given.no_swmr, "wide": not given.bytes, "fault": lambda: motor.fault.value}
    detector = Detector(f"{given.prefix}AD:", given.directory, beam, **options)
    detector.records.update(motor.pvdb)

    async def started(_: Any) -> None:
        await detector.begin()
        detector.loses = given.loses
        if given.pva:
            detector.pva.start(image(frame(0.0, "dark"), 0))
        print("ready", flush=True)

    run(detector.records, interfaces=[given.address], startup_hook=started)


if __name__ == "__main__":
    main()
