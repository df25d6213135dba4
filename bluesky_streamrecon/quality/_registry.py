"""Things that are found by name: those registered here, and those that installed packages offer as entry points."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar, cast

from bluesky_streamrecon.errors import ConfigError

__all__ = ["Registry"]

logger = logging.getLogger(__name__)

Factory = TypeVar("Factory", bound=Callable[..., object])


class Registry(Generic[Factory]):
    """Factories by name.

    Parameters
    ----------
    kind : str
        What is registered, in the words of an error message: ``"stopping policy"``.
    group : str
        Entry-point group in which other packages offer more of them.
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._factories: dict[str, Factory] = {}

    def register(self, name: str, factory: Factory) -> None:
        """Add a factory, or replace the one of this name.

        Raises
        ------
        ConfigError
            If the name is empty or `factory` can not be called.
        """
        if not name or not callable(factory):
            raise ConfigError(f"{self.kind}: got name {name!r} and {factory!r}, expected a name and a callable")
        self._factories[name] = factory

    def names(self) -> tuple[str, ...]:
        """Every known name, in alphabetical order."""
        return tuple(sorted({*self._factories, *self._offered()}))

    def get(self, name: str) -> Factory:
        """Give the factory of this name; what is registered here comes before entry points.

        Raises
        ------
        ConfigError
            If there is none (the message lists the names), or the package that offers it can not be imported.
        """
        if name in self._factories:
            return self._factories[name]
        offered = self._offered().get(name)
        if offered is None:
            raise ConfigError(f"{self.kind}: got {name!r}, expected one of {', '.join(self.names())}")
        try:
            factory = offered.load()
        except Exception as error:  # a foreign package can raise anything while it is imported
            package = offered.dist.name if offered.dist else "an unknown package"
            raise ConfigError(
                f"{self.kind} {name!r} of {package} ({offered.value}) can not be imported: "
                f"{type(error).__name__}: {error}"
            ) from error
        self.register(name, cast("Factory", factory))
        return self._factories[name]

    def _offered(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group)}
