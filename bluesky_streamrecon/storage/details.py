"""How a scan was taken, beside its frames and angles: what other programs have a place for in their files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bluesky_streamrecon.reduction import detector_axis

__all__ = ["UNKNOWN", "ScanDetails", "iso", "scan_details"]

UNITS: dict[str, dict[str, float]] = {
    "pixel_size_um": {"m": 1e6, "mm": 1e3, "um": 1.0, "µm": 1.0, "μm": 1.0, "micrometer": 1.0, "nm": 1e-3},
    "energy_kev": {"keV": 1.0, "eV": 1e-3},
    "distance_mm": {"m": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3},
    "exposure_s": {"s": 1.0, "ms": 1e-3},
}
"""What one of a device's units is in ours, for each number."""

NAMES: dict[str, tuple[str, ...]] = {
    "pixel_size_um": ("pixel_size",),
    "energy_kev": ("energy",),
    "distance_mm": ("distance",),
    "exposure_s": ("exposure", "exposure_time", "acquire_time"),
}
"""How the plan's metadata, a step of the preparation or a device name each number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanDetails:
    """How a scan was taken; what is not known is None, or empty.

    Parameters
    ----------
    title, sample : str
        Of the scan, and the sample's name.
    pixel_size_um : float or None
        Side of a detector's pixel at the sample, micrometres.
    energy_kev : float or None
        Of the photons.
    distance_mm : float or None
        From the sample to the detector.
    exposure_s : float or None
        Of a frame.
    started, ended : float or None
        Seconds since 1970.
    axis : float or None
        Rotation axis, column of the detector as it is, whatever the reconstruction's `bin`.
    """

    title: str = ""
    sample: str = ""
    pixel_size_um: float | None = None
    energy_kev: float | None = None
    distance_mm: float | None = None
    exposure_s: float | None = None
    started: float | None = None
    ended: float | None = None
    axis: float | None = None


UNKNOWN = ScanDetails()


def scan_details(run: Any, reconstruction: Any = None) -> ScanDetails:
    """Collect what a stored run says of how it was taken.

    Numbers come from the first of these that has them: the plan's metadata (`pixel_size` in micrometres, `energy` in
    keV, `distance` in mm, `exposure` in seconds), its arguments, the options of its preparation's steps, and the
    configuration of its devices, in the units that these state.

    Parameters
    ----------
    run : BlueskyRun
        Of a catalogue.
    reconstruction : BlueskyRun, optional
        Whose axis it is.
    """
    start = run.metadata["start"]
    steps = start.get("streamrecon", {}).get("recon", {}).get("preparation") or ()
    said = [start, start.get("plan_args") or {}, *(step for step in steps if isinstance(step, Mapping))]
    numbers: dict[str, float | None] = {}
    for field, names in NAMES.items():
        found = [_positive(place.get(name)) for place in said for name in names]
        numbers[field] = next((value for value in [*found, *_of_devices(run, field, names)] if value is not None), None)
    sample = start.get("sample", "")
    about = {} if reconstruction is None else reconstruction.metadata["start"].get("streamrecon", {})
    axis = None if about.get("axis") is None else detector_axis(about["axis"], about.get("recon", {}).get("bin", 1))
    return ScanDetails(
        title=str(start.get("plan_name", "")),
        sample=str(sample.get("name", "") if isinstance(sample, Mapping) else sample),
        started=start.get("time"),
        ended=(run.metadata.get("stop") or {}).get("time"),
        axis=axis,
        **numbers,
    )


def iso(seconds: float) -> str:
    """Return a time as NeXus and DXchange write it."""
    return datetime.fromtimestamp(seconds, tz=UTC).isoformat(timespec="seconds")


def _of_devices(run: Any, field: str, names: tuple[str, ...]) -> Iterator[float | None]:
    """Return the numbers of this name that the devices' configuration has, in our units."""
    for stream in run:
        for about in (run[stream].metadata.get("configuration") or {}).values():
            for key, value in (about.get("data") or {}).items():
                if any(key == name or key.endswith((f"-{name}", f"_{name}")) for name in names):
                    unit = str((about.get("data_keys") or {}).get(key, {}).get("units") or "")
                    factor = UNITS[field].get(unit, 1.0 if field == "exposure_s" and not unit else None)
                    yield None if factor is None else _positive(value, factor)


def _positive(value: Any, factor: float = 1.0) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        return None
    return float(value) * factor
