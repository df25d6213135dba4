"""Half turns of a stored time series: which projections are of which volume, and that volume, finished on demand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.acquisition import with_found_options
from bluesky_streamrecon.beamline.documents import BLOCK, carried
from bluesky_streamrecon.beamline.frames import wire_dtype
from bluesky_streamrecon.data_keys import FrameLayout
from bluesky_streamrecon.errors import ConfigError, StorageError
from bluesky_streamrecon.recon.past_volume import PastFrame, finished_volume
from bluesky_streamrecon.reduction import Reduction
from bluesky_streamrecon.settings import TOMOGRAPHY, ReconSettings, settings_from
from bluesky_streamrecon.storage import find_reconstruction, load_run
from bluesky_streamrecon.storage.details import configurations
from bluesky_streamrecon.storage.run_streams import RunStreams
from bluesky_streamrecon.storage.runs import find_raw_run, first_references, recorded_angles, scan_of
from bluesky_streamrecon.storage.scan import Frames, TomoScan
from bluesky_streamrecon.wire import OpenRunSpec
from bluesky_streamrecon.wire.messages import ItemKind

__all__ = ["finished_half_turn", "projections_of"]


def projections_of(catalog: Any, uid: str, volume: int) -> tuple[int, int]:
    """Return the projections ``[first, stop)``, from 0, of a volume of a time series.

    Parameters
    ----------
    catalog : CatalogOfBlueskyRuns
        From `open_catalog`.
    uid : str
        Of the raw run or of its reconstruction.
    volume : int
        From 1.

    Raises
    ------
    ConfigError
        If the run is no time series, or has no such volume.
    """
    run = find_raw_run(catalog, uid)
    taken = ((run.metadata.get("stop") or {}).get("num_events") or {}).get("primary")
    if taken is None:
        taken = _taken(load_run(catalog, run.metadata["start"]["uid"]))
    return _part(run.metadata["start"], uid, volume, taken)


def _taken(scan: TomoScan) -> int:
    """Return how many projections a run has; those that were lost among them count, too."""
    return max(scan.places, default=-1) + 1


def _part(start: Mapping[str, Any], uid: str, volume: int, taken: int) -> tuple[int, int]:
    each = int(start.get(BLOCK, {}).get("per_volume") or 0)
    if not each:
        raise ConfigError(f"volume: got {volume}, but run {uid} is no time series: it has one volume, without --volume")
    if not 1 <= volume <= taken // each:
        raise ConfigError(
            f"volume: got {volume}, expected 1 to {taken // each}: run {uid} has {taken} projections, {each} in each "
            "volume, and only complete ones can be finished"
        )
    return (volume - 1) * each, volume * each


def finished_half_turn(catalog: Any, uid: str, volume: int) -> NDArray[np.float32]:
    """Return the finished volume of one half turn, made now from the frames that are stored.

    It is what the job would have finished if the run had ended with that half turn: by the run's settings, about the
    axis and as wide as its reconstruction, where there is one.

    Parameters
    ----------
    catalog, uid, volume
        See `projections_of`.

    Returns
    -------
    ndarray of float32, shape (rows, N, N)
        Attenuation, 1/pixel.

    Raises
    ------
    ConfigError
        Also if the run has another analysis than tomography.
    DataError
        If the frames can not be used.
    """
    run = RunStreams(find_raw_run(catalog, uid))
    start: Mapping[str, Any] = run.metadata["start"]
    scan = scan_of(run, catalog, start["uid"])
    first, stop = _part(start, uid, volume, _taken(scan))
    block = start[BLOCK]
    recon = settings_from(ReconSettings, block.get("recon", {}))
    if recon.analysis != TOMOGRAPHY:
        raise ConfigError(f"volume: run {uid} has the analysis {recon.analysis!r}, expected {TOMOGRAPHY!r}")
    recon, _ = with_found_options(recon, start, list(configurations(run)))
    reduction = Reduction.wanted(FrameLayout(1, *scan.projections.shape[1:]), recon)
    dtype = wire_dtype(scan.projections.dtype, averaged=reduction.averages)
    metadata = carried(start)
    if scan.saturation is not None:
        metadata["saturation"] = f"{scan.saturation:.12g}"
    spec = OpenRunSpec(
        run_uid=start["uid"],
        recon_uid=str(block["recon_uid"]),
        planned=stop - first,
        detector_shape=reduction.shape,
        dtype=dtype,
        recon=_as_reconstructed(catalog, uid, recon),
        preview_rows=(0,),
        metadata=metadata,
    )
    flats, darks = first_references(start, scan)

    places, angles = scan.places, np.radians(recorded_angles(run, uid)[0])

    def reduced(kind: ItemKind, frames: Frames, numbers: range, readings: Any) -> Iterator[PastFrame]:
        for number in numbers:
            angle = float(angles[number]) if kind == "projection" else 0.0
            place = places.get(number) if kind == "projection" else number
            if place is None:
                yield kind, number + 1, None, angle, 1.0
                continue
            frame = reduction.of_event(np.asarray(frames[place]), dtype, f"run {uid}, {kind} {number + 1}")
            yield kind, number + 1, frame, angle, 1.0 if readings is None else float(readings[place])

    def taken() -> Iterator[PastFrame]:
        yield from reduced("dark", scan.darks, range(darks), None)
        yield from reduced("flat", scan.flats, range(flats), scan.flat_monitor)
        yield from reduced("projection", scan.projections, range(first, stop), scan.monitor)
        if stop < _taken(scan):  # what follows has come after all of them
            yield "projection", _taken(scan), None, 0.0, 1.0
        yield from reduced("dark", scan.darks, range(darks, len(scan.darks)), None)
        yield from reduced("flat", scan.flats, range(flats, len(scan.flats)), scan.flat_monitor)

    return finished_volume(spec, taken(), before=first)


def _as_reconstructed(catalog: Any, uid: str, recon: ReconSettings) -> ReconSettings:
    """Return settings with the axis and the size that the run's reconstruction has; a scan that failed has none."""
    try:
        found = find_reconstruction(catalog, uid)
    except StorageError:
        return recon
    axis = found.metadata["start"].get(BLOCK, {}).get("axis")
    size = int(found["image"]["image"].shape[-1])
    return msgspec.structs.replace(recon, axis=recon.axis if axis is None else float(axis), size=size)
