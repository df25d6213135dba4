"""Things found by name: ours, and those that other packages register by entry point."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import numpy as np

from bluesky_streamrecon.errors import ConfigError, StreamReconError

__all__ = ["Registry", "format_error", "made", "made_with"]

logger = logging.getLogger(__name__)

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
        self._looked = False

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
        """Return all names, sorted."""
        return tuple(sorted({*self._ours, *self._added, *(entry.name for entry in self._installed())}))

    def get(self, name: str) -> T:
        """Return what `name` stands for.

        Raises
        ------
        ConfigError
            If nothing has that name, or two packages have it, or what has it can not be imported.
        """
        if name in self._added:
            return self._added[name]
        if name in self._ours:
            self._look_for_our_names()
            module, attribute = self._ours[name].split(":")
            value: T = getattr(import_module(module), attribute)
            return value
        found = {entry.value: entry for entry in self._installed() if entry.name == name}
        if len(found) > 1:
            raise ConfigError(
                f"{self._what} {name!r}: got {len(found)} installed packages that register it, as "
                f"{' and '.join(sorted(found))}; expected one; uninstall the others, or rename theirs"
            )
        for target, entry in found.items():
            return self._load(entry.load, name, target)
        raise ConfigError(f"{self._what}: got {name!r}, expected one of {', '.join(self.names())}")

    def _look_for_our_names(self) -> None:
        """Log once which installed packages register a name of ours, which is not theirs to take."""
        if self._looked:
            return
        self._looked = True
        for entry in self._installed():
            if entry.name in self._ours:
                logger.warning(
                    "%s %r is registered as %s, too, which is not used: the name comes with bluesky_streamrecon; "
                    "expected a name of its own",
                    self._what,
                    entry.name,
                    entry.value,
                )

    def _installed(self) -> Iterator[EntryPoint]:
        yield from entry_points(group=self._group)

    def _load(self, load: Callable[[], T], name: str, target: str) -> T:
        try:
            return load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit, for instance
            raise ConfigError(
                f"{self._what} {name!r} is registered as {target} but can not be imported "
                f"({type(error).__name__}: {error}); "
                "is the package that provides it installed completely?"
            ) from error


def made(what: str, name: str, make: Callable[..., T], *given: Any, **options: Any) -> T:
    """Call what was registered as `name`; whatever goes wrong in it is reported as a setting that can not work.

    Raises
    ------
    ConfigError
        If it can not be called so, or raises. Errors of this package are let through.
    """
    try:
        return make(*given, **options)
    except (StreamReconError, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit, for instance
        raise ConfigError(f"{what} {name!r} can not be made with its settings: {format_error(error)}") from error


def made_with(what: str, name: str, kind: Any, base: type[T], options: Mapping[str, Any]) -> T:
    """Return an object of the dataclass that was registered as `name`, with options as its fields.

    Raises
    ------
    ConfigError
        If `kind` is no subclass of `base`, an option is unknown, or has a value that can not work or is not of the
        field's type, whose bounds (``Annotated[float, Meta(gt=0)]``) count.
    """
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise ConfigError(f"{what} {name!r}: got {kind!r}, expected a subclass of {base.__name__}")
    known = {field.name: field for field in fields(kind) if field.init}  # type: ignore[arg-type]
    for option in options:
        if option not in known:
            listed = ", ".join(
                f"{key}={field.default!r}" if field.default is not MISSING else key for key, field in known.items()
            )
            raise ConfigError(f"{what} {name!r}: got option {option!r}, expected one of: {listed or '(none)'}")
    hints: dict[str, Any] = {}
    for each in reversed(kind.__mro__):  # one that can not be read costs no more than its own fields their bounds
        try:
            hints |= get_type_hints(each, include_extras=True)
        except NameError:  # of something that only a type checker imports
            hints |= dict.fromkeys(vars(each).get("__annotations__", ()), Any)
    for option, given in options.items():
        hint = hints.get(option, Any)
        try:
            msgspec.convert(given.item() if isinstance(given, np.generic) else given, hint)
        except TypeError:  # a type that msgspec can not judge, such as one of two classes
            continue
        except msgspec.ValidationError as error:
            why = str(error)
            if get_origin(hint) is Literal:  # msgspec does not say which there are
                why = f"expected one of {', '.join(map(str, get_args(hint)))}"
            raise ConfigError(f"{what} {name!r}: {option}: got {given!r}; {why[:1].lower()}{why[1:]}") from None
    return made(what, name, kind, **options)


def format_error(error: BaseException) -> str:
    """Return an error in one line: its kind, what it says, and where it was raised."""
    where = traceback.extract_tb(error.__traceback__)[-1:]
    return f"{type(error).__name__}: {error}" + "".join(
        f" ({at.name}, line {at.lineno} of {at.filename})" for at in where
    )
