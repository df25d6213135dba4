"""How kernels are compiled, and where their machine code is kept.

Compiled code is kept on disk, so that only the first process on a machine compiles. The directory is
``$NUMBA_CACHE_DIR`` where set, else ``$XDG_CACHE_HOME/bluesky-streamrecon`` (``~/.cache/…``), else one below the
system's temporary directory: never the package itself, which may be read-only or on a slow file system.

Numba's own cache keeps one index per function and numbers the data files, so two processes that add different
signatures at once can give both the same number. Here every signature has an index of its own: processes that
start together write the same bytes to the same files, each by an atomic rename. The key covers the source
of all kernels in the same folder, since a kernel contains code of the others.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import llvmlite
import numba
from numba import njit
from numba.core import entrypoints
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile, _CacheLocator

__all__ = [
    "Dispensable",
    "Locator",
    "cache_directory",
    "helper",
    "kernel",
    "kernels_on_disk",
    "leave_extensions_out",
    "loops",
]

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

# Sums may be reordered, and NaN need not be looked after.
_FAST = frozenset({"contract", "reassoc", "nsz", "arcp", "nnan", "ninf"})


@cache
def cache_directory() -> Path | None:
    """Return the writable directory for compiled kernels; None if there is none, so that each process compiles."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    candidates = [Path(home) / "bluesky-streamrecon", Path(tempfile.gettempdir()) / f"bluesky-streamrecon-{_user()}"]
    if os.environ.get("NUMBA_CACHE_DIR"):
        candidates.insert(0, Path(os.environ["NUMBA_CACHE_DIR"]) / "bluesky-streamrecon")
    for candidate in candidates:
        try:
            candidate.mkdir(parents=True, exist_ok=True, mode=0o700)
            if candidate.stat().st_uid == _user():
                tempfile.TemporaryFile(dir=candidate).close()
                return candidate
        except OSError:
            continue
    return None


def kernels_on_disk(*, gpu: bool = False) -> bool:
    """Return whether kernels of these sources have been compiled on this computer, those for a GPU among them."""
    stamps = [_sources(Path(__file__).parent / "recon" / name)[:12] for name in ("kernels", *["cuda"] * gpu)]
    return (folder := cache_directory()) is not None and all(any(folder.glob(f"*-{stamp}*")) for stamp in stamps)


def kernel(function: F) -> F:
    """Compile `function` when it is first called, without holding the interpreter's lock, and keep the result."""
    return _kept(njit(nogil=True, error_model="numpy")(function), function)


def loops(function: F) -> F:
    """Compile plain loops as `kernel` does, for the vectoriser: sums may be reordered, and no value is NaN."""
    return _kept(njit(nogil=True, error_model="numpy", fastmath=set(_FAST))(function), function)


def helper(function: F) -> F:
    """Mark a small function that becomes part of the kernels that call it."""
    return njit(nogil=True, error_model="numpy", inline="always")(function)  # type: ignore[no-any-return]


def leave_extensions_out() -> None:
    """Keep Numba from importing other packages' extensions in this process; for processes that only run our kernels.

    Numba imports all of them before it compiles or loads its first function. Tiled brings two, awkward and sparse,
    which take longer to import than a rank's own kernels to load. It also imports SciPy's linear algebra, to learn that
    it is there; a function that uses it still imports it.
    """
    from numba.np import linalg

    entrypoints._already_initialized = True
    ensure, linalg.ensure_blas = linalg.ensure_blas, lambda: None
    try:
        import numba.np.arraymath  # noqa: F401
    finally:
        linalg.ensure_blas = ensure


def _kept(compiled: Any, function: F) -> F:
    if cache_directory() is not None:
        compiled._cache = _KernelCache(function)
    return compiled  # type: ignore[no-any-return]


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


@cache
def _sources(folder: Path) -> str:
    """Return a digest of everything that the machine code depends on, apart from signature and processor."""
    digest = hashlib.sha256(f"numba {numba.__version__} llvmlite {llvmlite.__version__}".encode())
    for path in (Path(__file__), *sorted(folder.glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class Locator(_CacheLocator):  # type: ignore[misc]
    """Our directory, and our sources' digest in place of a file's time."""

    target = ""
    """What machine code depends on besides, in a file's name."""

    def __init__(self, py_func: Callable[..., Any], py_file: str) -> None:
        self._folder = Path(py_file).parent
        self._line = py_func.__code__.co_firstlineno

    def get_cache_path(self) -> str:
        """Return where files lie."""
        return str(cache_directory())

    def get_source_stamp(self) -> str:
        """Return a stamp of the source: files of compiled code that have another one are out of date."""
        return _sources(self._folder) + self.target

    def get_disambiguator(self) -> str:
        """Return what tells a function's files from those of others."""
        return f"{self._line}-{_sources(self._folder)[:12]}{self.target}"

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> Locator:
        """Return the locator of a function."""
        return cls(py_func, py_file)


class _Impl(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = [Locator]  # noqa: RUF012


class Dispensable:
    """Mix-in for a cache of Numba's: kernels are compiled anew where its disk is full, or a file damaged."""

    def _load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super()._load_overload(sig, target_context)  # type: ignore[misc]
        except Exception as error:  # noqa: BLE001 - whatever is in a damaged file, the kernel can be compiled
            _say_once(cache_directory(), f"a file could not be read ({type(error).__name__})")
            with suppress(OSError):
                self._cache_file.flush()  # type: ignore[attr-defined]
            return None

    def _save_overload(self, sig: Any, data: Any) -> None:
        try:
            super()._save_overload(sig, data)  # type: ignore[misc]
        except OSError as error:
            _say_once(cache_directory(), f"a file could not be written ({error.strerror})")


@cache
def _say_once(directory: Path | None, why: str) -> None:
    logger.warning("compiled kernels in %s: %s; they are compiled anew", directory, why)


class _KernelCache(Dispensable, FunctionCache):  # type: ignore[misc]
    """Numba's function cache with one index file per signature and processor."""

    _impl_class = _Impl

    def _load_overload(self, sig: Any, target_context: Any) -> Any:
        self._choose(sig, target_context.codegen())
        return super()._load_overload(sig, target_context)

    def _save_overload(self, sig: Any, data: Any) -> None:
        self._choose(sig, data.codegen)
        super()._save_overload(sig, data)

    def _choose(self, sig: Any, codegen: Any) -> None:
        # The module is a part of machine code: one file may be imported under several names.
        key = (self._py_func.__module__, sig, codegen.magic_tuple())
        entry = hashlib.sha256(repr(key).encode()).hexdigest()[:12]
        self._cache_file = IndexDataCacheFile(
            cache_path=self._cache_path,
            filename_base=f"{self._impl.filename_base}-{entry}",
            source_stamp=self._impl.locator.get_source_stamp(),
        )
