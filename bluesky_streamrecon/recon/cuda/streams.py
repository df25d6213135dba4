"""Order on the GPU: streams, events, launches, recorded graphs; in the simulator, where all is done at once, nothing.

All calls of the driver are made here, and what it reports is raised as `DeviceFailedError`. A launch takes the host
some 0.2 ms, a recorded graph of launches a tenth of that however many there are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from contextlib import ExitStack
from functools import wraps
from typing import Any, TypeVar

import numpy as np

from bluesky_streamrecon.errors import DeviceFailedError
from bluesky_streamrecon.recon.cuda.toolkit import SIMULATED, cuda

if not SIMULATED:
    from cuda.bindings import driver

__all__ = [
    "Event", "Graph", "Launcher", "Progress", "Recorder", "Stream", "address_of", "copy", "device_zeros", "download",
    "pinned", "upload",
]  # fmt: skip

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

_PLAIN_SHARED = 48 * 1024
_contexts: list[Any] = []
"""That streams were made in; once a GPU is lost, Numba can no longer be asked for them."""
_lost = ExitStack()
"""Never left: see `_leave_what_is_lost`."""


def _failed(why: object) -> DeviceFailedError:
    _leave_what_is_lost()
    return DeviceFailedError(
        f"the GPU failed: {' '.join(str(why).split())[:300]}; is its memory full, is it used by another program, or "
        "was it lost (nvidia-smi)?"
    )


def _leave_what_is_lost() -> None:
    """Release nothing on a GPU that is lost: each piece would end in a traceback of its own.

    A full memory is not such a case. What the process held there goes when it ends.
    """
    if SIMULATED:
        return
    status = driver.cuCtxSynchronize()[0]
    if not status or "CAPTURE" in getattr(status, "name", ""):  # not allowed while launches are recorded
        return
    while _contexts:
        context = _contexts.pop()
        for queue in (context.deallocations, context.memory_manager.deallocations):
            _lost.enter_context(queue.disable())


def _checked(answer: Any) -> Any:
    """Return what a call of the driver returned beside its status.

    Raises
    ------
    DeviceFailedError
        If the status is an error.
    """
    status = answer[0]
    if status:
        raise _failed(getattr(status, "name", status))
    return answer[1] if len(answer) > 1 else None


def _reported(function: F) -> F:
    """Raise what Numba reports of the driver, or of memory, as `DeviceFailedError`."""

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except DeviceFailedError:
            raise
        except Exception as error:
            # Numba's own errors and those of the library below it have no common root.
            if not isinstance(error, MemoryError) and not type(error).__name__.lower().startswith("cuda"):
                raise
            raise _failed(error) from error

    return call  # type: ignore[return-value]


class Stream:
    """Work that is done in order.

    Attributes
    ----------
    own : object
        What Numba takes for a stream.
    handle : object
        What the driver does.
    """

    @_reported
    def __init__(self) -> None:
        self.own: Any = None
        self.handle: Any = None
        if not SIMULATED:
            self.own = cuda.stream()
            context = cuda.current_context()
            if not any(known is context for known in _contexts):
                _contexts.append(context)
            self.handle = driver.CUstream(int(self.own.handle))

    def wait_for(self, event: Event) -> None:
        """Do what follows on this stream only after `event`; the host does not wait."""
        if event.recorded and not SIMULATED:
            _checked(driver.cuStreamWaitEvent(self.handle, event.handle, 0))

    def synchronize(self) -> None:
        """Wait until all is done."""
        if not SIMULATED:
            _checked(driver.cuStreamSynchronize(self.handle))


class Event:
    """A moment on a stream."""

    @_reported
    def __init__(self) -> None:
        self.handle: Any = None
        self.recorded = False
        if not SIMULATED:
            self._own = cuda.event(timing=False)
            self.handle = driver.CUevent(int(self._own.handle))

    def record(self, stream: Stream) -> Event:
        """Mark what has been asked of `stream` so far."""
        self.recorded = True
        if not SIMULATED:
            _checked(driver.cuEventRecord(self.handle, stream.handle))
        return self

    def synchronize(self) -> None:
        """Wait for it."""
        if self.recorded and not SIMULATED:
            _checked(driver.cuEventSynchronize(self.handle))


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

    @_reported
    def __call__(self, grid: tuple[int, ...], stream: Stream, *args: Any) -> None:
        """Launch it."""
        if not self._ready:
            compiled = self._kernel.compile(tuple(self._kernel.typeof_pyval(arg) for arg in args))
            _allow_shared(compiled, self._shared)
            self._ready = True
        self._kernel[grid, self._threads, stream.own, self._shared](*args)


def _allow_shared(compiled: Any, count: int) -> None:
    function = compiled._codelibrary.get_cufunc()
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    handle = int(function.handle)
    if hasattr(function, "kernel"):
        kernel, number = driver.CUkernel(handle), driver.CUdevice(cuda.get_current_device().id)
        _checked(driver.cuKernelSetAttribute(attribute, count, kernel, number))
    else:
        _checked(driver.cuFuncSetAttribute(driver.CUfunction(handle), attribute, count))


class Recorder:
    """Launches that come again are recorded the second time, and repeated as a graph from then on.

    Parameters
    ----------
    stream : Stream
        Of the launches.
    most : int, optional
        Graphs that are kept.
    """

    def __init__(self, stream: Stream, most: int = 64) -> None:
        self._stream, self._most = stream, most
        self._once: dict[Hashable, None] = {}
        self._graphs: dict[Hashable, Graph] = {}
        self._works = not SIMULATED

    def run(self, key: Hashable, launch: Callable[[], None]) -> None:
        """Carry out `launch`, which does the same whenever `key` is the same."""
        graph = self._graphs.get(key)
        if graph is None and self._works and key in self._once:
            try:
                graph = self._graphs[key] = Graph(self._stream, launch)
            except RuntimeError as error:
                log.warning("kernels are launched one by one, which takes the host longer: %s", error)
                self._works = False
            if len(self._graphs) > self._most:
                self._stream.synchronize()
                self._graphs.pop(next(iter(self._graphs))).close()
        if graph is not None:
            graph.launch(self._stream)
            return
        launch()
        self._once[key] = None
        if len(self._once) > 16 * self._most:
            self._once.pop(next(iter(self._once)))

    def close(self) -> None:
        """Release all graphs."""
        for graph in self._graphs.values():
            graph.close()
        self._graphs.clear()
        self._once.clear()


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
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        _checked(driver.cuStreamBeginCapture(stream.handle, mode))
        try:
            run()
        finally:
            self._graph = _checked(driver.cuStreamEndCapture(stream.handle))
        self._made = _checked(driver.cuGraphInstantiate(self._graph, 0))

    def launch(self, stream: Stream) -> None:
        """Carry it out."""
        _checked(driver.cuGraphLaunch(self._made, stream.handle))

    def close(self) -> None:
        """Release it."""
        driver.cuGraphExecDestroy(self._made)
        driver.cuGraphDestroy(self._graph)


@_reported
def device_zeros(count: int, kind: Any = np.float32) -> Any:
    """Return a flat array of zeros on the GPU."""
    array = cuda.device_array(count, kind)
    if SIMULATED:
        array[:] = 0
    else:
        _checked(driver.cuMemsetD8(address_of(array), 0, array.nbytes))
    return array


@_reported
def pinned(shape: tuple[int, ...], kind: Any = np.float32) -> Any:
    """Return an array of host memory that the GPU copies from and to by itself."""
    return np.zeros(shape, kind) if SIMULATED else cuda.pinned_array(shape, kind)


def address_of(array: Any) -> int:
    """Return where a flat array begins on the GPU; 0 in the simulator."""
    return 0 if SIMULATED else int(array.__cuda_array_interface__["data"][0])


def upload(target: Any, first: int, source: Any, stream: Stream, address: int = 0) -> None:
    """Copy a contiguous host array to a flat array on the GPU, from element `first` on; does not wait if pinned.

    `address` is that of the array, where it is known already.
    """
    if SIMULATED:
        target[first : first + source.size] = source.reshape(-1)
        return
    place = (address or address_of(target)) + first * source.itemsize
    _checked(driver.cuMemcpyHtoDAsync(place, source.ctypes.data, source.nbytes, stream.handle))


def download(source: Any, first: int, target: Any, stream: Stream) -> None:
    """Copy from element `first` of a flat array on the GPU to a contiguous host array; does not wait if pinned."""
    if SIMULATED:
        target.reshape(-1)[:] = source[first : first + target.size].copy_to_host()
        return
    place = address_of(source) + first * target.itemsize
    _checked(driver.cuMemcpyDtoHAsync(target.ctypes.data, place, target.nbytes, stream.handle))


def copy(source: Any, target: Any) -> None:
    """Copy an array on the GPU to the beginning of another."""
    if SIMULATED:
        target[: len(source)].copy_to_device(source)
    else:
        _checked(driver.cuMemcpyDtoD(address_of(target), address_of(source), source.nbytes))
