"""Detectors of ophyd-async whose frames come over PV Access, as NTNDArray, and are kept in a file that we write."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Any

from ophyd_async.core import (
    DetectorAcquireLogic,
    DetectorDataLogic,
    DetectorTriggerLogic,
    EnableDisable,
    PathProvider,
    SignalDict,
    SignalR,
    StandardDetector,
    StreamableDataProvider,
    StreamResourceDataProvider,
    StreamResourceInfo,
    soft_signal_r_and_setter,
)
from ophyd_async.epics.adcore import ADWriterFactory, NDPluginBaseIO
from ophyd_async.epics.core import PvSuffix

from bluesky_streamrecon.beamline.pva.numbering import Counts
from bluesky_streamrecon.beamline.pva.receiver import Receiver, first_image
from bluesky_streamrecon.errors import ConfigError, DeviceError
from bluesky_streamrecon.hdf5.frame_writer import DATASET, NUMBERS

__all__ = ["NDPvaIO", "NTNDArrayDataLogic", "PvaDetector", "pva_frames"]

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
BACK_SECONDS = 60.0
"""That an IOC may be away between two exposures."""
LOOK_SECONDS = 0.02


class NDPvaIO(NDPluginBaseIO):
    """areaDetector's plugin NDPva."""

    pv_name: Annotated[SignalR[str], PvSuffix("PvName_RBV")]


@dataclass(eq=False)
class NTNDArrayDataLogic(DetectorDataLogic):
    """Write the images of a PV to a new HDF5 file each time the detector is armed, and stream them from there.

    An image has its place in the file by its number: one that is lost leaves a gap, which is read as missing, so that
    all others keep the angle of their exposure.

    Parameters
    ----------
    pv : str or callable
        NTNDArray, or what returns its name when the detector is armed.
    path_provider : PathProvider
        Where files go; must give a new name each time.
    attributes : sequence of str, optional
        Attributes of the images that are numbers, such as the angle at which each was taken: a data key each.
    number_from : str, optional
        Attribute that numbers the images (such as a count of triggers), in place of ``uniqueId``.
    made : SignalR[int], optional
        Counts the images that the detector takes: what it has made and nobody got is lost, even at the end of a series.
    patience : float, optional
        Seconds of silence after which an image that must have been taken is lost.
    datakey_suffix : str, optional
        Of the data key, where a detector has several.
    takes_all : bool, optional
        Whatever comes once the detector is armed is its frame; else somebody tells `receiver` when to begin.
    """

    pv: str | Callable[[], Awaitable[str]]
    path_provider: PathProvider
    _: KW_ONLY
    attributes: Sequence[str] = ()
    number_from: str | None = None
    made: SignalR[int] | None = None
    patience: float = 2.0
    datakey_suffix: str = ""
    takes_all: bool = True

    def __post_init__(self) -> None:
        self.written, self._set_written = soft_signal_r_and_setter(int, 0)
        self.lost, self._set_lost = soft_signal_r_and_setter(int, 0)
        self.duplicates, self._set_duplicates = soft_signal_r_and_setter(int, 0)
        self.receiver: Receiver | None = None
        self._watch: asyncio.Task[None] | None = None

    async def prepare_unbounded(self, datakey_name: str) -> StreamableDataProvider:
        """Begin a new file.

        Raises
        ------
        DeviceError, DataError
            If the PV can not be reached, or has no image of a kind that can be used.
        """
        await self.stop()
        pv = (self.pv if isinstance(self.pv, str) else await self.pv()).removeprefix("pva://")
        first = await asyncio.to_thread(first_image, pv, CONNECT_SECONDS, tuple(self.attributes), self.number_from)
        info = self.path_provider(datakey_name)
        name = f"{info.filename}.h5"
        loop = asyncio.get_running_loop()

        def changed(counts: Counts) -> None:
            loop.call_soon_threadsafe(self._show, counts)

        self._show(Counts())
        path = Path(info.directory_path) / name
        receiver = await asyncio.to_thread(Receiver, pv, path, first, self.number_from, changed)
        if self.takes_all:
            receiver.begin()
        self.receiver = receiver
        if self.made is not None:
            before = await self.made.get_value()
            self._watch = asyncio.create_task(self.give_up_when_silent(self._images_made(self.made, before)))
        rows, columns = first.pixels.shape

        def resource(key: str, shape: tuple[int, ...], chunk: tuple[int, ...], dtype: str, dataset: str) -> Any:
            return StreamResourceInfo(
                data_key=key,
                shape=shape,
                chunk_shape=chunk,
                dtype_numpy=dtype,
                parameters={"dataset": dataset},
                source=f"pva://{pv}",
            )

        frames = resource(datakey_name, (rows, columns), (1, rows, columns), first.pixels.dtype.str, DATASET)
        numbers = [
            resource(f"{datakey_name}-{attribute}", (), (NUMBERS,), "<f8", f"/entry/data/{attribute}")
            for attribute in self.attributes
        ]
        return StreamResourceDataProvider(
            uri=f"{info.directory_uri}{name}",
            resources=[frames, *numbers],
            mimetype="application/x-hdf5",
            collections_written_signal=self.written,
        )

    async def give_up_when_silent(self, expected: Callable[[], Awaitable[int]]) -> None:
        """Count as lost, until cancelled, what was taken and does not come while the IOC is there."""
        while (receiver := self.receiver) is not None:
            before, wanted = receiver.arrived, await expected()
            await asyncio.sleep(self.patience)
            if receiver.connected and receiver.arrived == before and receiver is self.receiver:
                lost = await asyncio.to_thread(receiver.give_up, wanted)
                if lost:
                    logger.warning("PV %s: nothing for %g s; %d images are lost", receiver.pv, self.patience, lost)

    async def stop(self) -> None:
        """Close the file, if there is one; the log has what came."""
        receiver, self.receiver = self.receiver, None
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
            await asyncio.wait([watch])
        if receiver is not None:
            counts = await asyncio.to_thread(receiver.close)
            bad = counts.lost or counts.duplicates or counts.without_place
            logger.log(logging.WARNING if bad else logging.INFO, "PV %s: %s", receiver.pv, counts)

    def get_hinted_fields(self, datakey_name: str) -> Sequence[str]:
        """Return the image's data key."""
        return [datakey_name]

    def _show(self, counts: Counts) -> None:
        self._set_lost(counts.lost)
        self._set_duplicates(counts.duplicates)
        self._set_written(counts.places)

    @staticmethod
    def _images_made(made: SignalR[int], before: int) -> Callable[[], Awaitable[int]]:
        """Return what says how many images were made, over restarts of the counter."""
        newest, total = before, 0

        async def images() -> int:
            nonlocal newest, total
            now: int = await made.get_value()
            total += now - newest if now >= newest else now
            newest = now
            return total

        return images


@dataclass
class _AcquireLogic(DetectorAcquireLogic):
    """Says which of the images that come are asked for; sets nothing in the IOC."""

    data: NTNDArrayDataLogic
    skip: int
    num: int = 1
    by_edges: bool = False

    async def start_acquiring(self) -> None:
        receiver = self.data.receiver
        if receiver is None:
            raise DeviceError("armed without a file to write to")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BACK_SECONDS):
                while not receiver.connected:
                    await asyncio.sleep(LOOK_SECONDS)
        if not receiver.connected:
            raise DeviceError(f"PV {receiver.pv}: not there for {BACK_SECONDS:g} s; does its IOC run?")
        if not self.by_edges:
            receiver.begin_with_any(self.num, self.skip)
        else:
            receiver.begin()

    async def wait_for_idle(self) -> None:
        await self.ensure_stopped()

    async def ensure_stopped(self) -> None:
        if self.data.receiver is not None:
            self.data.receiver.end()


@dataclass
class _TriggerLogic(DetectorTriggerLogic):
    acquire: _AcquireLogic
    deadtime: float

    def get_deadtime(self, config_values: SignalDict) -> float:  # noqa: ARG002 - it is what was given
        return self.deadtime

    async def prepare_internal(self, num: int, livetime: float, deadtime: float) -> None:
        if livetime or deadtime:
            raise ConfigError(
                f"exposure: got {livetime:g} s and {deadtime:g} s between exposures, but nothing is set in an IOC of "
                "which only the images are known; set them there, or use pva_frames with the detector's own class"
            )
        self.acquire.num, self.acquire.by_edges = num, False

    async def prepare_edge(self, num: int, livetime: float) -> None:  # noqa: ARG002 - set at the detector
        self.acquire.num, self.acquire.by_edges = num, True


class PvaDetector(StandardDetector):
    """A detector of which only a PV with its images is known (NTNDArray), as areaDetector's NDPva or pvapy serve it.

    Triggered by a plan, it uses the next image that was begun afterwards: its IOC is taking images all the time.
    Prepared for external edges, as in a flight, it uses each image that follows: its IOC takes one for each pulse, and
    their numbers tell those that are lost. Where a detector's class is known, `pva_frames` is better: it is armed then.

    Parameters
    ----------
    pv : str
        NTNDArray.
    path_provider : PathProvider
        Where files go; must give a new name each time.
    attributes : sequence of str, optional
        Attributes of the images that are numbers, such as the angle at which each was taken: a data key each,
        ``NAME-ATTRIBUTE``, which can be the `angle` of `streaming_wrapper`.
    number_from : str, optional
        Attribute that numbers the images, in place of ``uniqueId``.
    deadtime : float, optional
        Seconds that the detector needs between two exposures of a flight.
    skip : int, optional
        Images after a trigger that may have been begun before it.
    patience : float, optional
        Seconds of silence, after all pulses, until an image is lost.
    name : str, optional
        Of the device and its data key.

    Examples
    --------
    ``PvaDetector("BL:Pva1:Image", UUIDFilenameProvider…, name="camera")``; its angle from the images themselves:
    ``RE(streaming_wrapper(plan, detector="camera", angle="camera-Angle", references="last"))`` with
    ``attributes=["Angle"]``.
    """

    def __init__(
        self,
        pv: str,
        path_provider: PathProvider,
        *,
        attributes: Sequence[str] = (),
        number_from: str | None = None,
        deadtime: float = 0.0,
        skip: int = 1,
        patience: float = 2.0,
        name: str = "",
    ) -> None:
        self._data = NTNDArrayDataLogic(
            pv, path_provider, attributes=attributes, number_from=number_from, patience=patience, takes_all=False
        )
        self.frames_written, self.frames_lost = self._data.written, self._data.lost
        self.frames_duplicate = self._data.duplicates
        acquire = _AcquireLogic(self._data, skip)
        self.add_detector_logics(_TriggerLogic(acquire, deadtime), acquire, self._data)
        super().__init__(name=name)

    numbers_frames = True
    """Each frame has its place, so that a flight that is cut short may end with frames that were lost."""

    def complete(self) -> Any:
        """Wait for the images of a flight once all its pulses were sent; those that do not come are lost."""
        status = super().complete()
        kicked = self._kickoff_ctx
        receiver = self._data.receiver
        if kicked is not None and receiver is not None:
            target = kicked.collections_written + kicked.collections_requested

            async def expected() -> int:
                return target if receiver.counts.used else 0  # nothing at all is no loss, but a detector that is off

            watch = asyncio.ensure_future(self._data.give_up_when_silent(expected))

            def over(_: object) -> None:
                watch.cancel()

            status.add_callback(over)
        return status


def pva_frames(
    path_provider: PathProvider, *, plugin: str = "Pva1:", datakey_suffix: str = "", **options: Any
) -> ADWriterFactory[Any]:
    """Return a writer that takes an areaDetector's frames over PV Access, in the place of a file plugin, or beside one.

    Parameters
    ----------
    path_provider : PathProvider
        Where our file goes; must give a new name each time.
    plugin : str, optional
        Suffix of the plugin NDPva.
    datakey_suffix : str, optional
        Of the data key; it must differ from that of another writer.
    **options
        `attributes`, `number_from` and `patience`, as for `PvaDetector`.

    Returns
    -------
    ADWriterFactory
        For `AreaDetector` and its kin: ``SimDetector("BL:AD:", pva_frames(paths), name="camera")``.
    """

    def data_logic(writer: NDPvaIO, _: Any, driver: Any, __: Any) -> NTNDArrayDataLogic:
        async def pv() -> str:
            await writer.enable_callbacks.set(EnableDisable.ENABLE)
            return str(await writer.pv_name.get_value())

        return NTNDArrayDataLogic(
            pv, path_provider, made=driver.array_counter, datakey_suffix=datakey_suffix, **options
        )

    factory: type[Any] = ADWriterFactory  # its types know file plugins alone
    made: ADWriterFactory[Any] = factory(
        writer_cls=NDPvaIO,
        writer_suffix=plugin,
        writer_name="pva",
        datakey_suffix=datakey_suffix,
        array_description=None,
        data_logic_factory=data_logic,
    )
    return made
