"""Order on the GPU: streams, events, launches, recorded graphs; in the simulator, where all is done at once, nothing.

A launch takes the host some 0.2 ms, a recorded graph of launches 0.1 ms however many there are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from bluesky_streamrecon.recon.cuda.toolkit import SIMULATED, cuda

__all__ = [
    "Event",
    "Graph",
    "Launcher",
    "Progress",
    "Stream",
    "address_of",
    "checked",
    "device_zeros",
    "download",
    "pinned",
    "upload",
]

log = logging.getLogger(__name__)

_PLAIN_SHARED = 48 * 1024


class Stream:
    """Work that is done in order.

    Attributes
    ----------
    own : object
        What Numba takes for a stream.
    handle : int
        What the driver does.
    """

    def __init__(self) -> None:
        self.own: Any = None if SIMULATED else cuda.stream()
        self.handle = 0 if self.own is None else int(self.own.handle)

    def wait_for(self, event: Event) -> None:
        """Do what follows on this stream only after `event`; the host does not wait."""
        if event.own is not None and event.recorded:
            event.own.wait(self.own)

    def synchronize(self) -> None:
        """Wait until all is done."""
        if not SIMULATED:
            self.own.synchronize()


class Event:
    """A moment on a stream."""

    def __init__(self) -> None:
        self.own: Any = None if SIMULATED else cuda.event(timing=False)
        self.recorded = False

    def record(self, stream: Stream) -> Event:
        """Mark what has been asked of `stream` so far."""
        self.recorded = True
        if self.own is not None:
            self.own.record(stream.own)
        return self

    def synchronize(self) -> None:
        """Wait for it."""
        if self.own is not None and self.recorded:
            self.own.synchronize()


class Progress:
    """Passes that were asked of a stream; the host is never more than so many ahead of the GPU.

    Parameters
    ----------
    stream : Stream
        That passes run on.
    most : int, optional
        Passes that may be under way.

    Attributes
    ----------
    asked : int
        Passes asked for so far.
    """

    def __init__(self, stream: Stream, most: int = 2) -> None:
        self._stream = stream
        self._events = [Event() for _ in range(most)]
        self.asked = 0

    def begin(self) -> None:
        """Wait until one more pass may be asked for."""
        self._events[self.asked % len(self._events)].synchronize()

    def end(self) -> None:
        """Note that a pass has been asked for."""
        self._events[self.asked % len(self._events)].record(self._stream)
        self.asked += 1

    def hold(self, stream: Stream, number: int) -> None:
        """Let what follows on `stream` wait until pass `number`, counted from 1, is done."""
        if number > self.asked - len(self._events):
            stream.wait_for(self._events[(number - 1) % len(self._events)])


class Launcher:
    """A kernel with its block size and its dynamic shared memory.

    Parameters
    ----------
    kernel : object
        Of Numba.
    threads : int
        Of a block.
    shared : int, optional
        Bytes; above 48 KiB the driver is asked for them, for which numba-cuda has no option.
    """

    def __init__(self, kernel: Any, threads: int, shared: int = 0) -> None:
        self._kernel, self._threads, self._shared = kernel, threads, shared
        self._ready = SIMULATED or shared <= _PLAIN_SHARED

    def __call__(self, grid: tuple[int, ...], stream: Stream, *args: Any) -> None:
        """Launch it."""
        if not self._ready:
            compiled = self._kernel.compile(tuple(self._kernel.typeof_pyval(arg) for arg in args))
            _allow_shared(compiled, self._shared)
            self._ready = True
        self._kernel[grid, self._threads, stream.own, self._shared](*args)


def _allow_shared(compiled: Any, count: int) -> None:
    from cuda.bindings import driver

    function = compiled._codelibrary.get_cufunc()
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    handle = int(function.handle)
    if hasattr(function, "kernel"):
        kernel, number = driver.CUkernel(handle), driver.CUdevice(cuda.get_current_device().id)
        checked("cuKernelSetAttribute", driver.cuKernelSetAttribute(attribute, count, kernel, number))
    else:
        checked("cuFuncSetAttribute", driver.cuFuncSetAttribute(driver.CUfunction(handle), attribute, count))


def checked(name: str, answer: Any) -> Any:
    """Return what a call of the driver returned beside its status.

    Raises
    ------
    RuntimeError
        If the status is an error.
    """
    status, *rest = answer if isinstance(answer, tuple) else (answer,)
    if int(status) != 0:
        raise RuntimeError(f"{name}: {getattr(status, 'name', status)}")
    return rest[0] if rest else None


class Graph:
    """Launches on a stream, recorded once and repeated at the cost of one.

    Parameters
    ----------
    stream : Stream
        That `run` launches on, directly or through events.
    run : callable
        Launches, with everything compiled already; it is recorded, not carried out.
    """

    def __init__(self, stream: Stream, run: Callable[[], None]) -> None:
        from cuda.bindings import driver

        self._driver = driver
        own = driver.CUstream(stream.handle)
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        checked("cuStreamBeginCapture", driver.cuStreamBeginCapture(own, mode))
        try:
            run()
        finally:
            graph = checked("cuStreamEndCapture", driver.cuStreamEndCapture(own))
        self._graph = graph
        self._made = checked("cuGraphInstantiate", driver.cuGraphInstantiate(graph, 0))

    def launch(self, stream: Stream) -> None:
        """Carry it out."""
        own = self._driver.CUstream(stream.handle)
        checked("cuGraphLaunch", self._driver.cuGraphLaunch(self._made, own))

    def close(self) -> None:
        """Release it to the driver."""
        self._driver.cuGraphExecDestroy(self._made)
        self._driver.cuGraphDestroy(self._graph)


def device_zeros(count: int, kind: Any = np.float32) -> Any:
    """Return a flat array of zeros on the GPU."""
    array = cuda.device_array(count, kind)
    if SIMULATED:
        array[:] = 0
    else:
        cuda.cudadrv.driver.device_memset(array, 0, array.nbytes)
    return array


def pinned(shape: tuple[int, ...], kind: Any = np.float32) -> Any:
    """Return an array of host memory that the GPU copies from and to by itself."""
    return np.zeros(shape, kind) if SIMULATED else cuda.pinned_array(shape, kind)


def address_of(array: Any) -> int:
    """Return where a flat array begins on the GPU; 0 in the simulator."""
    return 0 if SIMULATED else int(array.__cuda_array_interface__["data"][0])


def upload(target: Any, first: int, source: Any, stream: Stream, address: int | None = None) -> None:
    """Copy a contiguous host array to a flat array on the GPU, from element `first` on; does not wait if pinned.

    `address` is that of the array, where it is known already.
    """
    if SIMULATED:
        target[first : first + source.size] = source.reshape(-1)
        return
    from cuda.bindings import driver

    place = (address or address_of(target)) + first * source.itemsize
    answer = driver.cuMemcpyHtoDAsync(place, source.ctypes.data, source.nbytes, stream.handle)
    checked("cuMemcpyHtoDAsync", answer)


def download(source: Any, first: int, target: Any, stream: Stream) -> None:
    """Copy from element `first` of a flat array on the GPU to a contiguous host array; does not wait if pinned."""
    if SIMULATED:
        target.reshape(-1)[:] = source[first : first + target.size].copy_to_host()
        return
    from cuda.bindings import driver

    place = address_of(source) + first * target.itemsize
    answer = driver.cuMemcpyDtoHAsync(target.ctypes.data, place, target.nbytes, stream.handle)
    checked("cuMemcpyDtoHAsync", answer)
