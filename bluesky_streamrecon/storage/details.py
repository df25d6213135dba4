"""How a scan was taken, beside its frames and angles: what other programs have a place for in their files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bluesky_streamrecon.acquisition import find_quantity
from bluesky_streamrecon.reduction import detector_axis
from bluesky_streamrecon.storage.run_streams import RunStreams

__all__ = ["UNKNOWN", "ScanDetails", "configurations", "iso", "scan_details"]

FIELDS = {"pixel_size": "pixel_size_um", "energy": "energy_kev", "distance": "distance_mm", "exposure": "exposure_s"}
"""What each quantity is called here."""


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


def scan_details(run: RunStreams, reconstruction: RunStreams | None = None) -> ScanDetails:
    """Collect what a stored run says of how it was taken; for its numbers, see `acquisition.find_quantity`.

    Parameters
    ----------
    run : RunStreams
        Of a stored run.
    reconstruction : RunStreams, optional
        Whose axis it is.
    """
    start = run.metadata["start"]
    found = {name: find_quantity(name, start, configurations(run)) for name in FIELDS}
    numbers = {FIELDS[name]: None if each is None else each.value for name, each in found.items()}
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


def configurations(run: RunStreams) -> Iterator[Mapping[str, Any]]:
    """Yield the configuration of its devices that each stream of a stored run has."""
    for stream in run.values():
        yield stream.metadata.get("configuration") or {}
