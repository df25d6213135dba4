"""The same work by the ASTRA toolbox, on one core, in turns with ours.

It is optional, and imported when it is measured. All run on one thread, with the whole square image and parallel
beams; images come out in this package's orientation. The cost of an iteration is the difference between a longer and a
shorter run, so that what a code does once per run is not counted. The unit is GUPS (`giga_updates`), angles are
radians.
"""

from __future__ import annotations

import importlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.bench.harness import check_repeats, take_turns
from bluesky_streamrecon.evaluation.bench.sample import disc_projections, giga_updates, scan_angles
from bluesky_streamrecon.evaluation.report import Report, Row
from bluesky_streamrecon.geometry import TomoGeometry

__all__ = ["Peer", "compare_peers", "one_thread", "open_peer"]

OURS = ("sirt", "mlem")
PROJECTORS = ("line", "linear")
"""Of ASTRA on the CPU, with SIRT."""

PACKAGE = "astra-toolbox"
SLICES = 16
LENGTHS = {"cpu": (1, 3), "cuda": (2, 42)}
GPU_SLICES = 100
LEAST_SECONDS = 0.1

GPU_METHOD = "sirt, GPU"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Peer:
    """One code and one of its methods, ready to iterate.

    Parameters
    ----------
    code, version, method : str
        Names.
    slices : int
        That it reconstructs.
    iterate : callable
        Makes so many iterations; what a run costs beside them may be included.
    image : callable
        Returns what the last run made, shape (slices, N, N), 1/pixel.
    """

    code: str
    version: str
    method: str
    slices: int
    iterate: Callable[[int], object]
    image: Callable[[], NDArray[np.float32]]


def compare_peers(
    *,
    columns: Sequence[int] = (512,),
    window: int = 24,
    repeats: int = 3,
    backend: str = "cpu",
) -> Report:
    """Measure ours and ASTRA in turns.

    Parameters
    ----------
    columns : sequence of int, optional
        Detector columns C; the image is C x C.
    window : int, optional
        Projections.
    repeats : int, optional
        Turns.
    backend : {"cpu", "cuda"}, optional
        ``"cuda"``: one GPU instead of one core, and ASTRA where it is installed.

    Returns
    -------
    Report
        ``rows``: for each number of columns our SIRT, our MLEM and ASTRA's, with ``gups``, its ``spread``, and
        ``ratio``, the speed of our SIRT over this one (median over turns).

    Raises
    ------
    ConfigError
        If ASTRA is not installed.
    """
    check_repeats(repeats)
    if window < 1:
        raise ConfigError(f"window: got {window}, expected at least 1")
    on_gpu = backend == "cuda"
    methods: tuple[str, ...] = PROJECTORS
    if on_gpu:
        methods = (GPU_METHOD,) if find_spec("astra") else ()
    else:
        _astra_module()
    with one_thread():
        rows = [row for c in columns for row in _compare(c, window, methods, repeats, backend)]
    return Report({"rows": rows})


def open_peer(
    code: str,
    method: str,
    geometry: TomoGeometry,
    angles: NDArray[np.float64],
    projections: NDArray[np.float32],
    backend: str = "cpu",
) -> AbstractContextManager[Peer]:
    """Return a peer as a context manager, which releases its memory and files in the end.

    Parameters
    ----------
    code, method : str
        ``"streamrecon"`` and one of our algorithms, or ``"astra"`` and one of `PROJECTORS`.
    geometry : TomoGeometry
        Detector and image; ASTRA has the axis in the middle.
    angles : ndarray of float64, shape (A,)
        Radians.
    projections : ndarray of float32, shape (A, slices, C)
        Line integrals.
    backend : {"cpu", "cuda"}, optional
        One core, or one GPU.

    Raises
    ------
    ConfigError
        When entered, if the code is not installed; the message says how to install it.
    """
    return (_ours if code == "streamrecon" else _astra)(method, geometry, angles, projections, backend)


def _compare(columns: int, window: int, methods: Sequence[str], repeats: int, backend: str) -> list[Row]:
    on_gpu = backend == "cuda"
    geometry = TomoGeometry(columns)
    angles = scan_angles(max(180, window))[:window]
    projections = disc_projections(geometry, angles, GPU_SLICES if on_gpu else SLICES)
    wanted = [*(("streamrecon", name) for name in OURS), *(("astra", method) for method in methods)]
    with ExitStack() as stack:
        peers: list[Peer] = []
        for code, method in wanted:
            logger.info("%d columns: %s %s warms up", columns, code, method)
            peers.append(stack.enter_context(open_peer(code, method, geometry, angles, projections, backend)))
            peers[-1].iterate(2 if on_gpu else 1)

        def turn() -> dict[str, float]:
            speeds = [
                giga_updates("", peer.slices, window, columns) / _extra_iteration(peer, *LENGTHS[backend])
                for peer in peers
            ]
            ratios = {f"ratio {i}": speeds[0] / speed for i, speed in enumerate(speeds)}
            return ratios | {f"gups {i}": speed for i, speed in enumerate(speeds)}

        found = take_turns(repeats, turn)
    return [
        {
            "code": peer.code,
            "version": peer.version,
            "method": peer.method,
            "columns": columns,
            "window": window,
            "slices": peer.slices,
            "threads": 0 if on_gpu else 1,
            "backend": backend,
            "gups": found[f"gups {i}"].median,
            "spread": found[f"gups {i}"].spread,
            "ratio": found[f"ratio {i}"].median,
        }
        for i, peer in enumerate(peers)
    ]


def _extra_iteration(peer: Peer, few: int, many: int) -> float:
    """Return the seconds that one iteration more costs."""
    runs = 0
    short = long = 0.0
    while long < LEAST_SECONDS or long <= short:
        start = time.perf_counter()
        peer.iterate(few)
        middle = time.perf_counter()
        peer.iterate(many)
        end = time.perf_counter()
        short, long, runs = short + middle - start, long + end - middle, runs + 1
    return (long - short) / (many - few) / runs


@contextmanager
def _ours(
    method: str, geometry: TomoGeometry, angles: NDArray[np.float64], projections: NDArray[np.float32], backend: str
) -> Iterator[Peer]:
    from bluesky_streamrecon import __version__
    from bluesky_streamrecon.recon import Engine

    slices = projections.shape[1]
    with Engine(geometry, slices, algorithm=method, window=None, planned=len(angles), backend=backend) as engine:
        for projection, angle in zip(projections, angles, strict=True):
            engine.append(projection, float(angle))

        def iterate(count: int) -> None:
            engine.update(count)
            engine.finish()

        yield Peer("streamrecon", __version__, method, slices, iterate, engine.image)


@contextmanager
def _astra(
    method: str, geometry: TomoGeometry, angles: NDArray[np.float64], projections: NDArray[np.float32], backend: str
) -> Iterator[Peer]:
    """Open SIRT of the ASTRA toolbox: of one slice on the CPU, with one of its projectors, or of all on a GPU."""
    astra = _astra_module()
    size, columns = geometry.size, geometry.columns
    with ExitStack() as held:
        # Its rows count upwards.
        if backend == "cuda":
            data, slices = astra.data3d, projections.shape[1]
            volume = astra.create_vol_geom(size, size, slices)
            beams = astra.create_proj_geom("parallel3d", 1.0, 1.0, slices, columns, -angles)
            settings = astra.astra_dict("SIRT3D_CUDA")
            integrals = projections.transpose(1, 0, 2)
        else:
            data, slices = astra.data2d, 1
            volume = astra.create_vol_geom(size, size)
            beams = astra.create_proj_geom("parallel", 1.0, columns, -angles)
            settings = astra.astra_dict("SIRT")
            settings["ProjectorId"] = astra.create_projector(method, beams, volume)
            held.callback(astra.projector.delete, settings["ProjectorId"])
            integrals = projections[:, 0]
        sinogram = data.create("-sino", beams, np.ascontiguousarray(integrals))
        held.callback(data.delete, sinogram)
        image = data.create("-vol", volume, 0)
        held.callback(data.delete, image)
        settings |= {"ProjectionDataId": sinogram, "ReconstructionDataId": image}
        algorithm = astra.algorithm.create(settings)
        held.callback(astra.algorithm.delete, algorithm)
        yield Peer(
            code="astra",
            version=str(astra.__version__),
            method=method if backend == "cuda" else f"sirt, {method}",
            slices=slices,
            iterate=lambda count: astra.algorithm.run(algorithm, count),
            image=lambda: np.asarray(data.get(image), np.float32).reshape(slices, size, size),
        )


def _astra_module() -> Any:
    """Import ASTRA."""
    try:
        return importlib.import_module("astra")
    except ImportError as error:
        try:
            found = f"{PACKAGE} {installed_version(PACKAGE)} is installed but can not be imported: {error}"
        except PackageNotFoundError:
            found = f"{PACKAGE} is not installed"
        how = "pip install 'bluesky-streamrecon[bench]'"
        raise ConfigError(f"{found}; expected for this comparison: {how}") from error


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit libraries that are loaded meanwhile, and processes that are started, to one thread each."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
