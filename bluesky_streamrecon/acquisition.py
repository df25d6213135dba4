"""How a scan was taken, as its documents say: size of the pixels, energy, distance and exposure, and who says so.

One lookup for the live stream and for stored runs. Micrometres, keV, mm, seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import msgspec

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.preparation_steps import make_step
from bluesky_streamrecon.settings import TOMOGRAPHY, ReconSettings

__all__ = ["QUANTITIES", "Configurations", "Found", "Quantity", "find_quantity", "lacking", "with_found_options"]

Configurations = Iterable[Mapping[str, Mapping[str, Any]]]
"""What event descriptors have under ``configuration``: by device, ``data`` and ``data_keys``."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number that says how a scan was taken.

    Parameters
    ----------
    unit : str
        That of metadata and options.
    names : tuple of str
        How metadata name it, and at the end of a name, devices.
    factors : mapping of str to float
        What one of a device's units is in `unit`; without units a device is not understood, except for what has "".
    """

    unit: str
    names: tuple[str, ...]
    factors: Mapping[str, float]


QUANTITIES: Mapping[str, Quantity] = {
    "pixel_size": Quantity(
        "µm",
        ("pixel_size",),
        {"m": 1e6, "mm": 1e3, "um": 1.0, "µm": 1.0, "μm": 1.0, "micrometer": 1.0, "nm": 1e-3},
    ),
    "energy": Quantity("keV", ("energy",), {"keV": 1.0, "eV": 1e-3}),
    "distance": Quantity("mm", ("distance",), {"m": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3}),
    "exposure": Quantity("s", ("exposure", "exposure_time", "acquire_time"), {"s": 1.0, "ms": 1e-3, "": 1.0}),
}
"""By the name that options of preparation steps have for them, too."""


@dataclass(frozen=True, slots=True)
class Found:
    """A number and who says it.

    Parameters
    ----------
    value : float
        In the quantity's unit.
    source : str
        For people.
    """

    value: float
    source: str


def find_quantity(
    name: str, start: Mapping[str, Any], configurations: Configurations, doubts: list[str] | None = None
) -> Found | None:
    """Return what a run says of a quantity; None where it says nothing.

    It is that of the first that has a number above 0: the start document (what the plan was given as metadata, and
    ``RE.md``), the plan's arguments, options of the preparation's steps, and the devices' configuration.

    Parameters
    ----------
    name : str
        One of `QUANTITIES`.
    start : mapping
        Start document.
    configurations : iterable of mapping
        Of the run's event descriptors.
    doubts : list of str, optional
        Gets a text for each number of a device whose unit is not understood.

    Examples
    --------
    >>> known = {"mono": {"data": {"mono-energy": 24500}, "data_keys": {"mono-energy": {"units": "eV"}}}}
    >>> find_quantity("energy", {}, [known])
    Found(value=24.5, source='configuration of mono: mono-energy')
    """
    quantity = QUANTITIES[name]
    steps = (start.get("streamrecon") or {}).get("recon", {}).get("preparation") or ()
    places: list[tuple[str, Any]] = [("metadata", start), ("argument of the plan", start.get("plan_args"))]
    places += [(f"option of {step.get('step')}", step) for step in steps if isinstance(step, Mapping)]
    known = [(source, place) for source, place in places if isinstance(place, Mapping)]  # metadata may be anything
    for source, place in known:
        for key in quantity.names:
            if (value := _positive(place.get(key))) is not None:
                return Found(value, f"{source}: {key}")
    for configuration in configurations:
        for device, about in configuration.items():
            for key, given in (about.get("data") or {}).items():
                if not any(key == each or key.endswith((f"-{each}", f"_{each}")) for each in quantity.names):
                    continue
                unit = str((about.get("data_keys") or {}).get(key, {}).get("units") or "")
                if (value := _positive(given, quantity.factors.get(unit, math.nan))) is not None:
                    return Found(value, f"configuration of {device}: {key}")
                if doubts is not None:
                    doubts.append(f"{device} has {key} = {given!r} {unit or 'without units'}")
    return None


def lacking(setting: str | Mapping[str, Any]) -> tuple[str, ...]:
    """Return the options of a preparation step that are to be found; none of a step that is not installed here."""
    try:
        return make_step(setting).lacking
    except ConfigError:  # it may be installed where the job runs, and only there: that checks it
        return ()


def with_found_options(
    recon: ReconSettings, start: Mapping[str, Any], configurations: Sequence[Mapping[str, Mapping[str, Any]]]
) -> tuple[ReconSettings, str]:
    """Return settings whose preparation steps have the options that they lack and the run says.

    Parameters
    ----------
    recon : ReconSettings
        As people have chosen them.
    start, configurations
        See `find_quantity`.

    Returns
    -------
    recon : ReconSettings
        With steps that lack nothing; a step that is not installed here stays as it is.
    sources : str
        What was found, and where; empty if nothing was lacking.

    Raises
    ------
    ConfigError
        If a step lacks something that the run does not say, or what it says can not work.
    """
    if recon.analysis != TOMOGRAPHY:
        return recon, ""
    preparation: list[str | dict[str, Any]] = []
    sources: list[str] = []
    for setting in recon.preparation:
        wanted = lacking(setting)
        if not wanted:
            preparation.append(setting)
            continue
        options: dict[str, Any] = {"step": setting} if isinstance(setting, str) else dict(setting)
        missing, doubts = [], list[str]()
        for option in wanted:
            if (found := find_quantity(option, start, configurations, doubts)) is None:
                missing.append(option)
            else:
                options[option] = found.value
                sources.append(f"{option} {found.value:g} {QUANTITIES[option].unit} ({found.source})")
        if missing:
            named = ", ".join(f"{option} ({QUANTITIES[option].unit})" for option in missing)
            raise ConfigError(
                f"preparation step {options['step']!r}: got no {' and no '.join(missing)}; expected {named} as an "
                f"option of the step, in the metadata (RE.md or md=), or in the configuration of a device, with its "
                f"unit{'; not understood: ' + ', '.join(doubts) if doubts else ''}"
            )
        make_step(options)
        preparation.append(options)
    return msgspec.structs.replace(recon, preparation=tuple(preparation)), "; ".join(sources)


def _positive(value: Any, factor: float = 1.0) -> float | None:
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    number = float(value) * factor
    return number if 0 < number < math.inf else None
