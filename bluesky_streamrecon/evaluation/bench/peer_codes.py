"""Other reconstruction codes behind one small interface: make so many iterations, and show the image.

Each is optional and imported when it is made. All run on one thread, with the whole square image and parallel beams;
images come out in this package's orientation. Angles are radians.
"""

from __future__ import annotations

import importlib
import tempfile
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.geometry import TomoGeometry

__all__ = [
    "PEERS",
    "AstraGpuPeer",
    "AstraPeer",
    "OurPeer",
    "Peer",
    "SvmbirPeer",
    "TomopyPeer",
    "astra_gpu",
    "importable",
    "make_peer",
]


class Peer(Protocol):
    """One code and one of its methods."""

    code: str
    method: str
    slices: int

    @property
    def version(self) -> str:
        """Of the code."""
        ...

    def iterate(self, count: int) -> None:
        """Make `count` iterations; what a run costs beside them may be included."""
        ...

    def image(self) -> NDArray[np.float32]:
        """Give what the last run made, shape (slices, N, N), 1/pixel."""
        ...

    def close(self) -> None:
        """Let go of memory."""
        ...


class OurPeer:
    """Our own code, with one of its algorithms."""

    code = "streamrecon"

    def __init__(
        self,
        algorithm: str,
        geometry: TomoGeometry,
        angles: NDArray[np.float64],
        projections: NDArray[np.float32],
        backend: str = "cpu",
    ) -> None:
        from bluesky_streamrecon.recon import Engine

        self.method = algorithm
        self.slices = projections.shape[1]
        self._engine = Engine(
            geometry, self.slices, algorithm=algorithm, window=None, planned=len(angles), backend=backend
        )
        for projection, angle in zip(projections, angles, strict=True):
            self._engine.append(projection, float(angle))

    @property
    def version(self) -> str:
        """Of this package."""
        from bluesky_streamrecon import __version__

        return __version__

    def iterate(self, count: int) -> None:
        """Go over the window `count` times."""
        self._engine.update(count)
        self._engine.finish()

    def image(self) -> NDArray[np.float32]:
        """Give the image, shape (slices, N, N)."""
        return self._engine.image()

    def close(self) -> None:
        """End its threads."""
        self._engine.close()


class AstraPeer:
    """SIRT of the ASTRA toolbox on the CPU, slice by slice, with one of its projectors."""

    code = "astra"

    def __init__(
        self, kind: str, geometry: TomoGeometry, angles: NDArray[np.float64], projections: NDArray[np.float32]
    ) -> None:
        astra = _need("astra", "astra-toolbox")
        self.method = f"sirt, {kind}"
        self.slices = 1
        self._astra = astra
        self._held = ExitStack()
        size = geometry.size
        volume = astra.create_vol_geom(size, size)
        # Its rows count upwards.
        beams = astra.create_proj_geom("parallel", 1.0, geometry.columns, -angles)
        projector = astra.create_projector(kind, beams, volume)
        self._held.callback(astra.projector.delete, projector)
        sinogram = astra.data2d.create("-sino", beams, np.ascontiguousarray(projections[:, 0]))
        self._held.callback(astra.data2d.delete, sinogram)
        self._image = astra.data2d.create("-vol", volume, 0)
        self._held.callback(astra.data2d.delete, self._image)
        settings = astra.astra_dict("SIRT")
        settings |= {"ProjectorId": projector, "ProjectionDataId": sinogram, "ReconstructionDataId": self._image}
        self._algorithm = astra.algorithm.create(settings)
        self._held.callback(astra.algorithm.delete, self._algorithm)

    @property
    def version(self) -> str:
        """Of the toolbox."""
        return str(self._astra.__version__)

    def iterate(self, count: int) -> None:
        """Make `count` more iterations."""
        self._astra.algorithm.run(self._algorithm, count)

    def image(self) -> NDArray[np.float32]:
        """Give the image, shape (1, N, N)."""
        return np.asarray(self._astra.data2d.get(self._image), np.float32)[None]

    def close(self) -> None:
        """Delete what the toolbox holds."""
        self._held.close()


class AstraGpuPeer:
    """SIRT of the ASTRA toolbox on a GPU, all slices together; the image stays there."""

    code = "astra"
    method = "sirt, GPU"

    def __init__(self, geometry: TomoGeometry, angles: NDArray[np.float64], projections: NDArray[np.float32]) -> None:
        astra = _need("astra", "astra-toolbox")
        self._astra = astra
        self.slices = projections.shape[1]
        self._held = ExitStack()
        size = geometry.size
        self._size = size
        volume = astra.create_vol_geom(size, size, self.slices)
        # Its rows count upwards.
        beams = astra.create_proj_geom("parallel3d", 1.0, 1.0, self.slices, geometry.columns, -angles)
        sinogram = astra.data3d.create("-sino", beams, np.ascontiguousarray(projections.transpose(1, 0, 2)))
        self._held.callback(astra.data3d.delete, sinogram)
        self._image = astra.data3d.create("-vol", volume, 0)
        self._held.callback(astra.data3d.delete, self._image)
        settings = astra.astra_dict("SIRT3D_CUDA")
        settings |= {"ProjectionDataId": sinogram, "ReconstructionDataId": self._image}
        self._algorithm = astra.algorithm.create(settings)
        self._held.callback(astra.algorithm.delete, self._algorithm)

    @property
    def version(self) -> str:
        """Of the toolbox."""
        return str(self._astra.__version__)

    def iterate(self, count: int) -> None:
        """Make `count` more iterations."""
        self._astra.algorithm.run(self._algorithm, count)

    def image(self) -> NDArray[np.float32]:
        """Give the image, shape (slices, N, N)."""
        return np.asarray(self._astra.data3d.get(self._image), np.float32)

    def close(self) -> None:
        """Delete what the toolbox holds."""
        self._held.close()


def astra_gpu() -> bool:
    """Return whether ASTRA is installed and finds a GPU."""
    try:
        return bool(_need("astra", "astra-toolbox").use_cuda())
    except ConfigError:
        return False


class SvmbirPeer:
    """svmbir: coordinate descent over super-voxels; an iteration visits every pixel once, forward and back."""

    code = "svmbir"
    method = "mbir"

    def __init__(
        self, geometry: TomoGeometry, angles: NDArray[np.float64], projections: NDArray[np.float32], slices: int = 4
    ) -> None:
        self._svmbir = _need("svmbir", "svmbir")
        self.slices = min(slices, projections.shape[1])
        self._angles = angles
        self._projections = np.ascontiguousarray(projections[:, : self.slices])
        self._size = geometry.size
        self._directory = tempfile.TemporaryDirectory(prefix="streamrecon-bench-")
        self._made: Any = None

    @property
    def version(self) -> str:
        """Of the package."""
        return str(self._svmbir.__version__)

    def iterate(self, count: int) -> None:
        """Reconstruct anew, with `count` iterations; the system matrix is computed once and read from disk then."""
        self._made = self._svmbir.recon(
            self._projections,
            self._angles,
            num_rows=self._size,
            num_cols=self._size,
            roi_radius=float(self._size),
            sigma_y=0.1,
            sigma_x=0.01,
            positivity=False,
            max_resolutions=0,
            stop_threshold=0.0,
            max_iterations=count,
            num_threads=1,
            svmbir_lib_path=self._directory.name,
            verbose=0,
        )

    def image(self) -> NDArray[np.float32]:
        """Give the image, shape (slices, N, N)."""
        return np.asarray(np.rot90(self._made, axes=(1, 2)), np.float32)

    def close(self) -> None:
        """Delete its files."""
        self._directory.cleanup()


class TomopyPeer:
    """TomoPy's C code, one slice on one core."""

    code = "tomopy"

    def __init__(
        self, algorithm: str, geometry: TomoGeometry, angles: NDArray[np.float64], projections: NDArray[np.float32]
    ) -> None:
        self._tomopy = _need("tomopy", "tomopy", extra=False)
        self.method = algorithm
        self.slices = 1
        self._axis = geometry.axis
        self._angles = angles
        self._projections = np.ascontiguousarray(projections[:, :1])
        self._made: Any = None

    @property
    def version(self) -> str:
        """Of the package."""
        return str(self._tomopy.__version__)

    def iterate(self, count: int) -> None:
        """Reconstruct anew, with `count` iterations."""
        self._made = self._tomopy.recon(
            self._projections,
            self._angles,
            center=self._axis,
            sinogram_order=False,
            algorithm=self.method,
            num_iter=count,
            ncore=1,
        )

    def image(self) -> NDArray[np.float32]:
        """Give the image, shape (1, N, N)."""
        return np.asarray(self._made, np.float32)

    def close(self) -> None:
        """Nothing is held."""


PEERS = {
    "astra": ("astra", ("line", "linear")),
    "svmbir": ("svmbir", ("mbir",)),
    "tomopy": ("tomopy", ("sirt", "mlem")),
}
"""For each code, the module to import and the methods to measure."""


def importable(code: str) -> bool:
    """Tell whether a code is installed."""
    from importlib.util import find_spec

    return find_spec(PEERS[code][0]) is not None


def make_peer(
    code: str, method: str, geometry: TomoGeometry, angles: NDArray[np.float64], projections: NDArray[np.float32]
) -> Peer:
    """Make a peer ready to iterate.

    Parameters
    ----------
    code, method : str
        As in `PEERS`.
    geometry : TomoGeometry
        Detector and image; svmbir and ASTRA have the axis in the middle.
    angles : ndarray of float64, shape (A,)
        Radians.
    projections : ndarray of float32, shape (A, slices, C)
        Line integrals.

    Raises
    ------
    ConfigError
        If the code is unknown or not installed; the message says how to install it.
    """
    if code == "astra":
        return AstraPeer(method, geometry, angles, projections)
    if code == "svmbir":
        return SvmbirPeer(geometry, angles, projections)
    if code == "tomopy":
        return TomopyPeer(method, geometry, angles, projections)
    raise ConfigError(f"code: got {code!r}, expected one of {', '.join(PEERS)}")


def _need(module: str, package: str, *, extra: bool = True) -> Any:
    """Import an optional module."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        try:
            found = f"{package} {installed_version(package)} is installed but can not be imported: {error}"
        except PackageNotFoundError:
            found = f"{package} is not installed"
        how = "pip install 'bluesky-streamrecon[bench]'" if extra else "conda install -c conda-forge tomopy"
        raise ConfigError(f"{found}; expected for this comparison: {how}") from error
