"""The same work by the ASTRA toolbox, on one core or one GPU, in turns with ours.

It is optional, and imported when it is measured. On the CPU all run on one thread, with the whole square image and
parallel beams; images come out in this package's orientation. The cost of an iteration is the difference between a
longer and a shorter run, so that what a code does once per run is not counted. The unit is GUPS (`giga_updates`),
angles are radians.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.bench.harness import take_turns
from bluesky_streamrecon.evaluation.bench.sample import sample_scan
from bluesky_streamrecon.evaluation.report import Report, Row
from bluesky_streamrecon.evaluation.scans import LineScan
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon.cost import giga_updates

__all__ = ["Peer", "astra", "compare_peers", "ours"]

OURS = ("sirt", "mlem")
PROJECTORS = ("line", "linear")
"""Of ASTRA on the CPU, with SIRT."""

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
    if backend == "cpu":
        _astra_module()
    return Report({"rows": [row for c in columns for row in _compare(c, window, repeats, backend)]})


def _compare(columns: int, window: int, repeats: int, backend: str) -> list[Row]:
    on_gpu = backend == "cuda"
    scan = sample_scan(columns, GPU_SLICES if on_gpu else SLICES, max(180, window)).first(window)
    methods = [(ours, name) for name in OURS]
    if on_gpu:
        methods += [(astra, GPU_METHOD)] if find_spec("astra") else []
    else:
        methods += [(astra, projector) for projector in PROJECTORS]
    with ExitStack() as stack:
        peers: list[Peer] = []
        for code, method in methods:
            logger.info("%d columns: %s %s warms up", columns, code.__name__, method)
            peers.append(stack.enter_context(code(method, scan, backend)))
            peers[-1].iterate(2 if on_gpu else 1)

        def turn() -> dict[tuple[str, int], float]:
            speeds = [
                giga_updates("", peer.slices, window, columns) / _extra_iteration(peer, *LENGTHS[backend])
                for peer in peers
            ]
            ratios = {("ratio", i): speeds[0] / speed for i, speed in enumerate(speeds)}
            return ratios | {("gups", i): speed for i, speed in enumerate(speeds)}

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
            "gups": found["gups", i].median,
            "spread": found["gups", i].spread,
            "ratio": found["ratio", i].median,
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
def ours(method: str, scan: LineScan, backend: str = "cpu") -> Iterator[Peer]:
    """Open one of our algorithms, by name, with all projections of a scan."""
    from bluesky_streamrecon import __version__
    from bluesky_streamrecon.recon import Engine

    geometry = TomoGeometry(scan.columns, scan.axis)
    with Engine(geometry, scan.rows, algorithm=method, window=None, planned=len(scan), backend=backend) as engine:
        for projection, angle in zip(scan.integrals, scan.angles, strict=True):
            engine.append(projection, float(angle))

        def iterate(count: int) -> None:
            engine.update(count)
            engine.finish()

        yield Peer("streamrecon", __version__, method, scan.rows, iterate, engine.image)


@contextmanager
def astra(method: str, scan: LineScan, backend: str = "cpu") -> Iterator[Peer]:
    """Open SIRT of the ASTRA toolbox: of one slice on the CPU, with one of `PROJECTORS`, or of all on a GPU.

    Raises
    ------
    ConfigError
        If it is not installed; the message says how to install it.
    """
    toolbox = _astra_module()
    columns, slices = scan.columns, scan.rows
    with ExitStack() as held:
        # Its rows count upwards.
        if backend == "cuda":
            data = toolbox.data3d
            volume = toolbox.create_vol_geom(columns, columns, slices)
            beams = toolbox.create_proj_geom("parallel3d", 1.0, 1.0, slices, columns, -scan.angles)
            settings = toolbox.astra_dict("SIRT3D_CUDA")
            integrals = scan.integrals.transpose(1, 0, 2)
        else:
            data, slices = toolbox.data2d, 1
            volume = toolbox.create_vol_geom(columns, columns)
            beams = toolbox.create_proj_geom("parallel", 1.0, columns, -scan.angles)
            settings = toolbox.astra_dict("SIRT")
            settings["ProjectorId"] = toolbox.create_projector(method, beams, volume)
            held.callback(toolbox.projector.delete, settings["ProjectorId"])
            integrals = scan.integrals[:, 0]
        sinogram = data.create("-sino", beams, np.ascontiguousarray(integrals))
        held.callback(data.delete, sinogram)
        image = data.create("-vol", volume, 0)
        held.callback(data.delete, image)
        settings |= {"ProjectionDataId": sinogram, "ReconstructionDataId": image}
        algorithm = toolbox.algorithm.create(settings)
        held.callback(toolbox.algorithm.delete, algorithm)
        yield Peer(
            code="astra",
            version=str(toolbox.__version__),
            method=method if backend == "cuda" else f"sirt, {method}",
            slices=slices,
            iterate=lambda count: toolbox.algorithm.run(algorithm, count),
            image=lambda: np.asarray(data.get(image), np.float32).reshape(slices, columns, columns),
        )


def _astra_module() -> Any:
    """Import ASTRA."""
    try:
        return importlib.import_module("astra")
    except ImportError as error:
        how = "pip install 'bluesky-streamrecon[bench]'"
        raise ConfigError(f"{error}; expected the ASTRA toolbox for this comparison: {how}") from error
