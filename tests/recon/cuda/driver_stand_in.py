"""Stands in for the driver: streams do nothing until somebody waits, so a wait that is missing shows in the image.

Kernels are those of the simulator. Pinned memory is read when a copy is made, other memory when it is asked for.
"""

from __future__ import annotations

import ctypes
from collections import deque
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np


class Status(int):
    """What a call of the driver returns first."""

    name = ""


GOOD = Status(0)

_PASSES = 1
"""Handle of the stream that is made first."""


class Deallocations:
    """What Numba would give back later."""

    disabled = False

    @contextmanager
    def disable(self):
        self.disabled = True
        try:
            yield
        finally:
            self.disabled = False


class Driver:
    """Streams as queues.

    Parameters
    ----------
    eager : {"nothing", "copies", "beside"}
        What is done as soon as it may be: nothing, copies to the GPU, or all on streams beside the first. All the rest
        is done as late as it may be.
    """

    CUstream = CUevent = int
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_RELAXED=2)

    def __init__(self, *, eager):
        self.eager = eager
        self.queues, self.events, self.done = {}, {}, {}
        self.captured = None
        self.pinned = []
        self.graphs = self.launches = self.calls = 0
        self.failure = ""
        manager = SimpleNamespace(deallocations=Deallocations())
        self.context = SimpleNamespace(deallocations=Deallocations(), memory_manager=manager)

    # ------------------------------------------------------------------------------------- what streams.py calls

    def cuStreamWaitEvent(self, stream, event, _flags):
        if event in self.events and self.captured is None:
            source, number = self.events[event]
            self._ask(stream, lambda: self._reach(source, number))
        return self._answer()

    def cuEventRecord(self, event, stream):
        if self.captured is None:
            self.events[event] = stream, self._asked(stream)
        return self._answer()

    def cuEventSynchronize(self, event):
        if event in self.events:
            self._reach(*self.events[event])
        return self._answer()

    def cuStreamSynchronize(self, stream):
        self._reach(stream, self._asked(stream))
        return self._answer()

    def cuMemcpyHtoDAsync(self, target, source, count, stream):
        if not self._is_pinned(source):
            kept = ctypes.string_at(source, count)
            self._ask(stream, lambda: ctypes.memmove(target, kept, count), early=True)
        else:
            self._ask(stream, lambda: ctypes.memmove(target, source, count), early=True)
        return self._answer()

    def cuMemcpyDtoHAsync(self, target, source, count, stream):
        self._ask(stream, lambda: ctypes.memmove(target, source, count))
        if not self._is_pinned(target):
            self._reach(stream, self._asked(stream))
        return self._answer()

    def cuMemcpyDtoD(self, target, source, count):
        for stream in self.queues:
            self._reach(stream, self._asked(stream))
        ctypes.memmove(target, source, count)
        return self._answer()

    def cuMemsetD8(self, target, value, count):
        ctypes.memset(target, value, count)
        return self._answer()

    def cuStreamBeginCapture(self, _stream, _mode):
        self.captured = []
        return self._answer()

    def cuStreamEndCapture(self, _stream):
        captured, self.captured = self.captured, None
        return GOOD, captured

    def cuGraphInstantiate(self, graph, _flags):
        self.graphs += 1
        return GOOD, graph

    def cuGraphLaunch(self, graph, stream):
        self.launches += 1
        for work in graph:
            self._ask(stream, work)
        return self._answer()

    def cuGraphExecDestroy(self, _graph):
        return self._answer()

    def cuGraphDestroy(self, _graph):
        return self._answer()

    def cuCtxSynchronize(self):
        return self._answer()

    # --------------------------------------------------------------------------------------- what Numba stands for

    def current_context(self):
        return self.context

    def handle(self):
        self._made = getattr(self, "_made", 0) + 1
        return SimpleNamespace(handle=self._made)

    def pinned_array(self, shape, kind):
        array = np.zeros(shape, kind)
        self.pinned.append((array.ctypes.data, array.ctypes.data + array.nbytes, array))
        return array

    def launch(self, launcher, grid, stream, *args):
        self._ask(stream.handle, lambda: launcher._kernel[grid, launcher._threads, 0, launcher._shared](*args))

    # ------------------------------------------------------------------------------------------------------ queues

    def waiting(self):
        """Return how much has been asked for and not been done."""
        return sum(len(queue) for queue in self.queues.values())

    def _answer(self):
        self.calls += 1
        if self.failure:
            status = Status(1)
            status.name = self.failure
            return (status,)
        return (GOOD,)

    def _is_pinned(self, address):
        return any(first <= address < stop for first, stop, _ in self.pinned)

    def _asked(self, stream):
        return self.done.get(stream, 0) + len(self.queues.get(stream, ()))

    def _ask(self, stream, work, *, early=False):
        if self.captured is not None:
            self.captured.append(work)
            return
        self.queues.setdefault(stream, deque()).append(work)
        if (self.eager == "copies" and early) or (self.eager == "beside" and stream != _PASSES):
            self._reach(stream, self._asked(stream))

    def _reach(self, stream, number):
        while self.done.get(stream, 0) < number:
            work = self.queues[stream].popleft()
            self.done[stream] = self.done.get(stream, 0) + 1
            work()
