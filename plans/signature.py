"""Signatures of plans that a running program can read: each setting by name, though it is listed in its struct alone.

IPython's ``?`` and completion, the queue server and blueapi look at `inspect.signature`, the annotations and the
docstring of a plan when it runs. Here all three are made, from what the plan says itself and from the settings.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import Parameter
from typing import Any, TypeVar, get_type_hints

import msgspec

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.plans.budget import with_deadline
from bluesky_streamrecon.plans.parts import checked_series
from bluesky_streamrecon.plans.reference_frames import ReferenceFrames
from bluesky_streamrecon.settings import Option, ReconSettings, SteeringSettings

__all__ = ["image_settings", "readable_signature", "with_image_settings"]

F = TypeVar("F", bound=Callable[..., Any])

DAILY = ("turns", "threshold", "tolerance", "algorithm", "axis", "window", "step", "pixel_values")
"""Settings that are changed often: they come first, after the angles; all others come last."""

AS_ARGUMENTS: Mapping[str, tuple[Any, Any]] = {
    "ranks": (int | None, None),  # the job's own number
    "options": (dict[str, Option] | None, None),
    "policy_options": (dict[str, Option] | None, None),
    "final_options": (dict[str, Option] | None, None),
}
"""Settings whose type or default is another one as an argument of a plan."""


def with_image_settings(plan: F) -> F:
    """Show how flats and darks are taken, and the settings of image and stopping rule, in place of ``**settings``.

    They become arguments of the plan, which is returned itself, so that a generator function remains one.

    Examples
    --------
    >>> @with_image_settings
    ... def scan(num: int = 180, order: str = "fixed", *, md: dict | None = None, **settings: Any) -> None:
    ...     "Scan."
    >>> list(inspect.signature(scan).parameters)[:4], list(inspect.signature(scan).parameters)[-1]
    (['num', 'order', 'turns', 'threshold'], 'policy_options')
    """
    hints = get_type_hints(plan)
    parameters = inspect.signature(plan).parameters.values()
    own = [each.replace(annotation=hints[each.name]) for each in parameters if each.kind is not each.VAR_KEYWORD]
    settings = {each.name: each for each in _settings()}
    place = next((number for number, each in enumerate(own, 1) if each.name == "order"), len(own))
    daily = [settings.pop(name) for name in DAILY]
    frames = _fields(ReferenceFrames, ((each.name, each.default) for each in dataclasses.fields(ReferenceFrames)))
    _publish(plan, [*own[:place], *daily, *frames, *own[place:], *settings.values()], hints.get("return"))
    return plan


def readable_signature(plan: F) -> F:
    """Show the types of a plan's arguments as types, not as text, and describe each argument in the docstring."""
    hints = get_type_hints(plan)
    own = [each.replace(annotation=hints[each.name]) for each in inspect.signature(plan).parameters.values()]
    _publish(plan, own, hints.get("return"))
    return plan


def image_settings(job_ranks: int, given: Mapping[str, Any]) -> tuple[ReconSettings, SteeringSettings]:
    """Make the settings of what a plan was called with.

    Parameters
    ----------
    job_ranks : int
        Ranks, where the call says nothing.
    given : mapping of str to object
        Keyword arguments.

    Raises
    ------
    ConfigError
        If an argument is unknown, or a value can not work.
    """
    known = {each.name for each in _settings()}
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(
                f"{name}: not an argument of this plan" + (f"; did you mean {near[0]!r}?" if near else "; see its help")
            )
    values = {name: value for name, value in given.items() if not (value is None and name in AS_ARGUMENTS)}
    for name in ("preview_rows", "rows", "region", "preparation"):  # lists, as forms and queues have them, or arrays
        if isinstance(values.get(name), Iterable) and not isinstance(values[name], str):
            values[name] = tuple(values[name])
    for name in ("options", "policy_options", "final_options"):
        if not isinstance(values.get(name, {}), Mapping):
            raise ConfigError(f"{name}: got {values[name]!r}, expected names and values, as in {name}={{'name': 1.0}}")
    policy_options = dict(values.pop("policy_options", {}))
    options = dict(values.pop("options", {}))
    steering = {name: values.pop(name) for name in SteeringSettings.__struct_fields__ if name in values}
    recon = {"ranks": job_ranks, **values}
    made = ReconSettings(**recon, options=options)
    return made, with_deadline(checked_series(made, SteeringSettings(**steering, options=policy_options)))


def _settings() -> Iterator[Parameter]:
    for kind in (ReconSettings, SteeringSettings):
        yield from _fields(kind, ((each.name, each.default) for each in msgspec.structs.fields(kind)))


def _fields(kind: type, defaults: Iterable[tuple[str, Any]]) -> Iterator[Parameter]:
    hints = get_type_hints(kind)  # without their limits, which forms do not know
    for field, default in defaults:
        name = _argument(kind, field)
        annotation, shown = AS_ARGUMENTS.get(name, (hints[field], default))
        yield Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=shown)


def _argument(kind: type, field: str) -> str:
    return "policy_options" if (kind, field) == (SteeringSettings, "options") else field


def _publish(plan: Callable[..., Any], parameters: list[Parameter], returns: Any) -> None:
    plan.__signature__ = inspect.Signature(parameters, return_annotation=returns)  # type: ignore[attr-defined]
    plan.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": returns}
    plan.__doc__ = _documented(inspect.cleandoc(plan.__doc__ or ""), [each.name for each in parameters])


def _documented(text: str, names: list[str]) -> str:
    """Return the docstring with an entry for each parameter, in their order: its own, or that of its class."""
    known = {name: entry for kind in (ReferenceFrames,) for name, entry in _entries(inspect.getdoc(kind) or "")}
    for kind in (ReconSettings, SteeringSettings):
        known |= {_argument(kind, name): entry for name, entry in _entries(inspect.getdoc(kind) or "")}
    known |= dict(_entries(text))
    listed = "\n".join(_named(name, known[name]) for name in names if name in known)
    head, _, rest = text.partition("Parameters\n----------\n")
    after = re.search(r"^\w+\n-{3,}\n", rest, re.MULTILINE)
    tail = rest[after.start() :] if after else ""
    return f"{head.rstrip()}\n\nParameters\n----------\n{listed}\n\n{tail}".rstrip() + "\n"


def _named(name: str, entry: str) -> str:
    first, *description = entry.splitlines()
    kind = first.partition(" : ")[2].removesuffix(", optional")
    return "\n".join([f"{name} : {kind}, optional" if kind else name, *description])


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """Yield name and lines of each entry below ``Parameters``."""
    section = text.partition("Parameters\n----------\n")[2]
    end = re.search(r"^\w+\n-{3,}\n", section, re.MULTILINE)
    section = section[: end.start()] if end else section
    for entry in re.split(r"\n(?=\S)", section.strip("\n")):
        name = re.match(r"\w+", entry)
        if name:
            yield name[0], entry.rstrip()
