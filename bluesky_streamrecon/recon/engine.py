"""The reconstruction of one block of rows: window, slabs, threads. It knows no rank and no network.

Line integrals are unitless, images 1/pixel, angles radians.

Memory, with the fast projector: 4 bytes per voxel (rows x N x N) and a margin of zeros around each slice, at least
28 pixels wide: 10 % at 1024 columns and 41 % at 256, about half of which is never touched; penalised algorithms 1
byte per voxel more, for edge slices. Once, not per slice: 4 bytes x N x N for each subset in use (at most 8). A
projection takes 4 bytes x rows x C; those of the window are kept, and with a spread one up to pi / 2 x C of them
(`kept_views`), which are 6.3 bytes x rows x C x C. Each thread takes 64 bytes x (4 N + C) per projection of a pass,
but nothing that grows with the image's area; except that FBP, shared rows and a user's algorithm that asks for a
whole back projection take that of one slab (at most 16 slices) per thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError, DataError, GeometryError
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon.backends import Demand, choose_backend, make_backend, projector_of
from bluesky_streamrecon.recon.communicator import Group
from bluesky_streamrecon.recon.options import understood
from bluesky_streamrecon.recon.slab import Slab, ThreadTeam
from bluesky_streamrecon.recon.slab_update import Measurement, Operators
from bluesky_streamrecon.recon.window import Spread, Window

__all__ = ["Engine"]

_DARK = 1e-6
_KEPT_PASSES = 8


class Engine:
    """Reconstructs a block of rows from a window of its projections.

    The result depends only on the projections appended and the updates made: not on how rows are dealt to
    engines, nor on the number of threads.

    Parameters
    ----------
    geometry : TomoGeometry
        Detector, axis, image size and mask, shared by all rows.
    rows : int
        Rows of the block.
    algorithm : str, optional
        Registered name.
    window : int or None, optional
        Projections of an update (l); None: all.
    window_policy : str or Spread, optional
        ``"spread"``: the window holds the newest half, and others from all angles, see `Spread`; up to
        `kept_views` projections are kept for it. ``"newest"``: the newest projections only, as in the paper.
    planned : int, optional
        Projections that are expected; memory for those that are kept is set aside at once.
    threads : int, optional
        Threads that compute.
    options : mapping, optional
        Options of the algorithm, and of the engine: ``projector`` (registered name, ``"shear"``) and ``initial``
        (attenuation at the start, 1/pixel; by default the uniform image with the mass of the first window's
        line integrals, slice by slice, for multiplicative algorithms, and zero for others).
    group : Group, optional
        Other engines, for the slices above and below the block, and to sum back-projections with those that share
        these rows: each is given all projections and uses its share of them.
    backend : {"cpu", "auto", "cuda"}, optional
        What computes, see `choose_backend`.
    host : (int, int), optional
        Number of this rank among those of its host, which take GPUs in turn, and how many these are.

    Attributes
    ----------
    choice : Choice
        What computes, and its description.

    Raises
    ------
    ConfigError
        If the algorithm, the projector or an option is unknown or can not work.
    DeviceError
        If `backend` is ``"cuda"``, and that can not be.
    GeometryError
        If there are no rows.
    """

    def __init__(
        self,
        geometry: TomoGeometry,
        rows: int,
        *,
        algorithm: str = "mlem",
        window: int | None = 24,
        window_policy: str | Spread = "spread",
        planned: int = 0,
        threads: int = 1,
        options: Mapping[str, Any] | None = None,
        group: Group | None = None,
        backend: str = "cpu",
        host: tuple[int, int] = (0, 1),
    ) -> None:
        if rows < 1:
            raise GeometryError(f"rows: got {rows}, expected at least 1")
        if threads < 1:
            raise ConfigError(f"threads: got {threads}, expected at least 1")
        self._algorithm, self._initial = understood(algorithm, options)
        self._name = algorithm
        self._geometry = geometry
        self._rows = rows
        self._group = group
        self._reducer = group if group is not None and group.members > 1 else None
        demand = Demand(
            geometry,
            rows,
            self._algorithm,
            projector_of(options),
            window,
            window_policy,
            planned,
            self._reducer is not None,
            host,
        )
        self.choice = choose_backend(backend, demand)
        self._backend = make_backend(self.choice.name, demand)
        layout = self._backend.layout(rows)
        self._slabs: list[Slab] = [self._backend.slab(part) for part in layout]
        self._window = Window(
            window,
            geometry.columns,
            layout,
            policy=window_policy,
            planned=planned,
            store=self._backend.store,
            spare=self._backend.spare,
        )
        self._executor = ThreadPoolExecutor(threads, "recon") if threads > 1 else None
        self._solo = [ThreadTeam() for _ in range(threads)]
        self._team = ThreadTeam(threads, self._executor) if threads > 1 else self._solo[0]
        self._operators: dict[tuple[int, int], Operators] = {}
        self._seen = np.zeros(rows, bool)  # slices of which something was measured
        self._typical: NDArray[np.float32] | None = None
        self._image_number = 0
        self._fresh = 0
        self._blank = True

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the threads, and release what the backend holds."""
        self._release()
        self._backend.close()
        if self._executor is not None:
            self._executor.shutdown()

    @property
    def asynchronous(self) -> bool:
        """Whether `update` returns before the image is made: `begin_slices` then saves the caller waiting for it."""
        return self._backend.asynchronous

    @property
    def image_number(self) -> int:
        """Updates made, counting those before `load`."""
        return self._image_number

    @property
    def projections(self) -> int:
        """Projections appended."""
        return self._window.total

    @property
    def typical(self) -> NDArray[np.float32] | None:
        """Scale of each slice, shape (rows,), 1/pixel: part of the state, for `load`; None before an update.

        It is 0 for a slice of which nothing was measured yet.
        """
        return self._typical

    def append(self, projection: NDArray[np.float32], angle: float, weight: float = 1.0) -> None:
        """Append a projection.

        Parameters
        ----------
        projection : ndarray of float32, shape (rows, C)
            Line integrals, unitless. What is not finite counts as not measured.
        angle, weight : float
            Radians, and how much the view counts (in MLEM and OSEM).

        Raises
        ------
        DataError
            If the projection has another shape.
        GeometryError
            If the angle is not finite.
        """
        self._window.append(projection if weight == 1 else projection * np.float32(weight), angle, weight)
        if not self._seen.all():
            self._seen[~self._seen] = np.isfinite(projection[~self._seen]).any(axis=1)
        self._fresh += 1
        self._release()

    def update(self, iterations: int = 1) -> None:
        """Make the next image from the whole window, starting from the last one.

        Parameters
        ----------
        iterations : int, optional
            Times the algorithm goes over the window.

        Raises
        ------
        DataError
            If there is no projection yet.
        """
        if len(self._window) == 0:
            raise DataError("update: got no projection yet, expected at least one; append projections first")
        if self._window.choose(self._image_number, self._fresh):
            self._release()
        self._start()
        passes: Any = self._algorithm.passes(len(self._window))
        if not isinstance(passes, int) or not 1 <= passes <= len(self._window):
            raise ConfigError(
                f"algorithm {self._name!r}: passes({len(self._window)}) gave {passes!r}, expected an integer from 1 to "
                f"{len(self._window)}, the number of projections"
            )
        for _ in range(iterations):
            for number in range(passes):
                self._take(number, passes)
        self._image_number += 1
        self._fresh = 0

    def finish(self) -> None:
        """Wait until all that was asked for is done: a GPU may be two passes behind."""
        self._backend.finish()

    def slices(self, local_rows: Iterable[int]) -> NDArray[np.float32]:
        """Return a copy of some slices.

        Parameters
        ----------
        local_rows : iterable of int
            Rows, counted within the block.

        Returns
        -------
        ndarray of float32, shape (k, N, N)
            Attenuation, 1/pixel.

        Raises
        ------
        GeometryError
            If a row is not in the block.
        """
        return np.stack([self.view(row) for row in local_rows])

    def view(self, row: int) -> NDArray[np.float32]:
        """Return the slice of a row, shape (N, N), without a copy where it is in the host's memory."""
        slab = self._slab_of(row)
        return slab.read(row - slab.rows.first)

    def begin_slices(self, local_rows: Iterable[int]) -> Callable[[], NDArray[np.float32]]:
        """Ask for what `slices` returns; what is returned here waits for it, and may be called after later updates."""
        begun = [
            slab.begin_read([row - slab.rows.first for row in rows])
            for slab, rows in groupby(local_rows, self._slab_of)
        ]
        # Some megabytes for each image: they are copied again only where they come from several slabs.
        return begun[0] if len(begun) == 1 else lambda: np.concatenate([read() for read in begun])

    def image(self) -> NDArray[np.float32]:
        """Return a copy of all slices, shape (rows, N, N), 1/pixel."""
        return self.slices(range(self._rows))

    def kept(self) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return a copy of the projections that later updates may use, oldest first: part of the state, for `load`.

        Returns
        -------
        angles : ndarray of float64, shape (A,)
            Radians.
        projections : ndarray of float32, shape (A, rows, C)
            Line integrals, unitless.
        """
        return self._window.kept()

    def load(
        self,
        image: NDArray[np.float32],
        image_number: int,
        *,
        typical: NDArray[np.float32] | None = None,
    ) -> None:
        """Continue from an image made earlier. The window is left as it is, and none of it counts as fresh.

        Append all projections of before, or what `kept` returned at that time, first.

        Parameters
        ----------
        image : ndarray of float32, shape (rows, N, N)
            Attenuation, 1/pixel.
        image_number : int
            What had been reached.
        typical : ndarray of float32, shape (rows,), optional
            `Engine.typical` at that time; without it penalised algorithms take their scale from the window
            of the next update.

        Raises
        ------
        DataError
            If the image has another shape or is not finite.
        """
        size = self._geometry.size
        if image.shape != (self._rows, size, size):
            raise DataError(f"image: got shape {image.shape}, expected {(self._rows, size, size)} (rows, N, N)")
        if not np.isfinite(image).all():
            raise DataError("image: got values that are not finite; is the checkpoint complete?")
        for row in range(self._rows):
            slab = self._slab_of(row)
            slab.write(row - slab.rows.first, image[row])
        self._typical = None if typical is None else np.asarray(typical, np.float32)
        self._image_number = image_number
        self._fresh = 0
        self._blank = False

    def _slab_of(self, row: int) -> Slab:
        if not 0 <= row < self._rows:
            raise GeometryError(f"row: got {row}, expected 0 to {self._rows - 1}, counted within this block")
        return next(slab for slab in self._slabs if slab.rows.first <= row < slab.rows.first + slab.rows.count)

    def _start(self) -> None:
        """Fix the scale of slices that are measured for the first time, and fill those that are still blank."""
        before = self._typical
        typical = np.zeros(self._rows, np.float32) if before is None else before
        new = self._seen & (typical == 0)
        if new.any():
            typical = np.where(new, self._uniform(), typical)
        self._typical = typical
        # A slice that was lost so far begins anew; of an image that was loaded without a scale nothing is known.
        blank = np.ones(self._rows, bool) if self._blank else new & (before is not None)
        self._blank = False
        if self._initial is not None:
            start = np.full(self._rows, self._initial, np.float32)
        else:
            start = np.maximum(typical, _DARK) if self._algorithm.positive else np.zeros(self._rows, np.float32)
        for slab in self._slabs:
            rows = slice(slab.rows.first, slab.rows.first + slab.rows.count)
            if blank[rows].all():
                slab.fill(start[rows])
                continue
            for row in np.flatnonzero(blank[rows]).tolist():
                slab.write(row, np.full((self._geometry.size,) * 2, start[rows][row]))

    def _uniform(self) -> NDArray[np.float32]:
        """Return the attenuation of the uniform image with the window's mass, shape (rows,); 0 where it has nothing."""
        subset = self._window.subset(0, 1, 0, 1)
        operators = self._backend.operators(subset)
        lengths = operators.ray_lengths.astype(np.float64)[:, :, None]
        operators.release()
        typical = np.empty(self._rows, np.float32)
        for number, slab in enumerate(self._slabs):
            first, count = slab.rows.first, slab.rows.count
            measured = self._window.store.read(number, subset.slots).astype(np.float64)
            known = np.isfinite(measured) & (lengths > 0)
            mass = np.where(known, np.maximum(measured, 0), 0).sum(axis=(0, 1))
            path = np.where(known, lengths, 0).sum(axis=(0, 1))
            uniform = np.maximum(mass / np.maximum(path, 1), _DARK)
            typical[first : first + count] = np.where(known.any(axis=(0, 1)), uniform, 0)
        return typical

    def _neighbours(self) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]] | None:
        """Return the slices above and below each slab, its own outermost where the sample ends; None if it is alone."""
        if self._group is None and len(self._slabs) == 1:
            return None
        edges = [slab.edges() for slab in self._slabs]
        above, below = self._group.exchange(edges[0][0], edges[-1][1]) if self._group is not None else (None, None)
        firsts = [first for first, _ in edges[1:]] + [edges[-1][1] if below is None else below]
        lasts = [edges[0][0] if above is None else above] + [last for _, last in edges[:-1]]
        return list(zip(lasts, firsts, strict=True))

    def _take(self, number: int, passes: int) -> None:
        """Take pass `number` of `passes` on every slab."""
        operators = self._prepared(number, passes)
        neighbours = self._neighbours() if self._algorithm.coupled else None
        assert self._typical is not None  # noqa: S101
        typical = np.maximum(self._typical, np.float32(_DARK))

        def work(index: int, team: ThreadTeam) -> None:
            slab = self._slabs[index]
            first, count = slab.rows.first, slab.rows.count
            measurement = Measurement(
                self._window.store,
                index,
                typical[first : first + count],
                None if neighbours is None else neighbours[index],
                self._reducer,
            )
            self._algorithm.step(self._backend.slab_update(slab, operators, measurement, team))

        threads = len(self._solo)
        alone = 0 if self._reducer is not None or threads == 1 else len(self._slabs) // threads * threads
        if alone:

            def share(thread: int) -> None:
                for index in range(thread, alone, threads):
                    work(index, self._solo[thread])

            self._team.run(share)
        for index in range(alone, len(self._slabs)):
            work(index, self._team)

    def _prepared(self, number: int, passes: int) -> Operators:
        """Return the operators of a pass; they are kept until the window changes, unless there are many."""
        key = (number, passes)
        if key not in self._operators:
            if len(self._operators) >= _KEPT_PASSES:
                self._release()
            member, members = (self._reducer.member, self._reducer.members) if self._reducer is not None else (0, 1)
            self._operators[key] = self._backend.operators(self._window.subset(number, passes, member, members))
        return self._operators[key]

    def _release(self) -> None:
        for operators in self._operators.values():
            operators.release()
        self._operators.clear()
