"""Things found by name: ours, and those that other packages register by entry point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from bluesky_streamrecon.errors import ConfigError

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Generic[T]):
    """Names, and what they stand for; nothing is imported before it is asked for.

    Parameters
    ----------
    what : str
        What is registered, for error messages: ``"algorithm"``.
    group : str
        Entry-point group in which other packages register theirs.
    ours : mapping of str to str, optional
        Name to ``"module:attribute"`` of what comes with this package and is imported when it is asked for.
    """

    def __init__(self, what: str, group: str, ours: Mapping[str, str] | None = None) -> None:
        self._what = what
        self._group = group
        self._ours = dict(ours or {})
        self._added: dict[str, T] = {}

    def add(self, name: str, value: T) -> None:
        """Register `value` in this process, as a notebook or a test does.

        Raises
        ------
        ConfigError
            If the name is empty or one of ours.
        """
        if not name:
            raise ConfigError(f"{self._what}: got an empty name, expected one to find it by")
        if name in self._ours:
            raise ConfigError(f"{self._what} {name!r} comes with the package; expected a name of your own")
        self._added[name] = value

    def names(self) -> tuple[str, ...]:
        """Give all names, sorted."""
        return tuple(sorted({*self._ours, *self._added, *(entry.name for entry in self._installed())}))

    def get(self, name: str) -> T:
        """Give what `name` stands for.

        Raises
        ------
        ConfigError
            If nothing has that name, or what has it can not be imported.
        """
        if name in self._added:
            return self._added[name]
        if name in self._ours:
            module, attribute = self._ours[name].split(":")
            value: T = getattr(import_module(module), attribute)
            return value
        for entry in self._installed():
            if entry.name == name:
                return self._load(entry.load, name, entry.value)
        raise ConfigError(f"{self._what}: got {name!r}, expected one of {', '.join(self.names())}")

    def _installed(self) -> Iterator[EntryPoint]:
        yield from entry_points(group=self._group)

    def _load(self, load: Callable[[], T], name: str, target: str) -> T:
        try:
            return load()
        except Exception as error:
            raise ConfigError(
                f"{self._what} {name!r} is registered as {target} but can not be imported "
                f"({type(error).__name__}: {error}); "
                "is the package that provides it installed completely?"
            ) from error
