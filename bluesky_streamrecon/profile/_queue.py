"""What a queue server would find in a profile: the names that its startup files define, and the plans among them."""

from __future__ import annotations

import ast
import inspect
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bluesky.utils import is_plan

__all__ = ["queue_plans", "run_startup"]


def run_startup(path: Path, names: Mapping[str, Any]) -> dict[str, Any]:
    """Run a startup file and those after it in its profile, as IPython does; return what they define.

    Parameters
    ----------
    path : Path
        The first file to be run; outside of a directory ``startup`` the only one.
    names : mapping of str to object
        What the files before it have defined.
    """
    found = sorted(path.parent.glob("*.py")) if path.parent.name == "startup" else [path]
    defined = dict(names)
    for file in found:
        if file.name >= path.name:
            defined = runpy.run_path(str(file), init_globals=defined)
    return defined


def queue_plans(names: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the plans that a queue server lists, and what keeps it from opening its environment.

    Parameters
    ----------
    names : mapping of str to object
        What the startup files define.

    Returns
    -------
    plans, faults : list of str
        Names of plans; and for each plan that it would refuse, with all others, why.

    Examples
    --------
    >>> def scan(num: int = 3): yield
    >>> def wrong(show=print): yield
    >>> queue_plans({"scan": scan, "wrong": wrong, "_own": scan})
    (['scan'], ['wrong: the default of show, <built-in function print>, is not a number, text or list of such'])
    """
    plans, faults = [], []
    for name, plan in names.items():
        if name.startswith("_") or not is_plan(plan):
            continue
        wrong = [each for each in inspect.signature(plan).parameters.values() if not _literal(each.default)]
        faults += [
            f"{name}: the default of {each.name}, {each.default!r}, is not a number, text or list of such"
            for each in wrong
        ]
        plans += [] if wrong else [name]
    return plans, faults


def _literal(default: object) -> bool:
    """Return whether a queue server can keep this default: it writes it down, and reads it again."""
    if default is inspect.Parameter.empty:
        return True
    try:
        ast.literal_eval(repr(default))
    except (ValueError, SyntaxError):
        return False
    return True
