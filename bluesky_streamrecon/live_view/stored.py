"""A stored run on the page: its status and verdicts from the catalogue, its images from where they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.beamline.documents import carried
from bluesky_streamrecon.beamline.operator_status import described
from bluesky_streamrecon.beamline.source import Snapshot, Source
from bluesky_streamrecon.errors import StorageError
from bluesky_streamrecon.hdf5 import find_dataset, open_hdf5
from bluesky_streamrecon.hdf5.results import mapped
from bluesky_streamrecon.live_view.images import Images, Kept
from bluesky_streamrecon.run_record import how_it_ended
from bluesky_streamrecon.selection import Selection
from bluesky_streamrecon.storage import (
    find_reconstruction,
    finished_images,
    load_scores,
    open_storage,
    scan_details,
    stored_dataset,
)
from bluesky_streamrecon.storage.catalog import LIVE, find_catalog
from bluesky_streamrecon.storage.run_streams import RunStreams
from bluesky_streamrecon.storage.runs import find_raw_run
from bluesky_streamrecon.wire import Check, Judged, Order, RunStatus

__all__ = ["open_stored_run"]

MOST_BYTES: Final = 2**30
"""Of an image that has to be fetched: on another computer, or in chunks."""


def open_stored_run(
    run: str, uri: str | None = None, *, directory: Path | None = None, readable: Sequence[Path] = ()
) -> tuple[Source, Images]:
    """Read a stored run for the page. The catalogue is closed again; images stay in their file until they are cut.

    Parameters
    ----------
    run : str
        As `find_run` takes it.
    uri, directory, readable
        Of the catalogue; see `open_storage`.

    Raises
    ------
    StorageError
        If there is no such run, or nothing to see of it.
    """
    with open_storage(uri, directory=directory, readable=readable) as storage:
        raw = find_raw_run(storage.catalog, run)
        uid = raw.metadata["start"]["uid"]
        kept = _kept(storage.uri, uid)
        try:
            reconstruction = find_reconstruction(storage.catalog, uid)
        except StorageError:
            if not kept:
                raise
            stored, judged, about = {}, _judged({}), {}
        else:
            stored, judged = _stored(RunStreams(reconstruction), uid), _judged(load_scores(storage.catalog, uid))
            about = reconstruction.metadata["start"].get("streamrecon", {})
        snapshot = Snapshot(unlinked="a stored run", status=_status(raw, about, judged, len(stored) > 1), judged=judged)
    source = Source(None, snapshot=snapshot)
    return source, Images(source, kept, stored)


def _status(raw: Any, about: Mapping[str, Any], judged: Sequence[Judged], finished: bool) -> RunStatus:
    start, stop = raw.metadata["start"], raw.metadata.get("stop") or {}
    newest = judged[-1] if judged else None
    taken = int((stop.get("num_events") or {}).get("primary") or about.get("used") or 0)
    pixel = scan_details(RunStreams(raw)).pixel_size_um
    steering = about.get("steering", {})
    rule = str(steering.get("policy", ""))
    return RunStatus(
        state="stored",
        run_uid=start["uid"],
        taken=taken,
        planned=int(about.get("planned") or start.get("streamrecon", {}).get("projections") or 0),
        used=int(about.get("used") or taken),
        image_number=newest.image_number if newest else 0,
        score=newest.score if newest else None,
        tolerance=steering.get("tolerance") if "predicted-gain" in rule else None,
        axis=about.get("axis"),
        selection=msgspec.convert(about.get("selection", {"region": steering.get("region")}), Selection),
        selected_by=msgspec.convert(about.get("selected_by"), Order | None),
        checks=tuple(Check(**check) for check in about.get("checks", ())),
        **described(carried(start)),
        pixel_size=None if pixel is None else pixel * about.get("recon", {}).get("bin", 1),
        ended=how_it_ended(stop.get("exit_status"), stop.get("reason")),
        volume="is finished" if finished else "",
    )


def _judged(scores: Mapping[str, NDArray[Any]]) -> tuple[Judged, ...]:
    names = {"score": "score", "gain": "predicted-gain", "gain_low": "predicted-gain-low"}
    names |= {"gain_high": "predicted-gain-high", "gain_at": "predicted-gain-at"}
    rows = [dict(zip(scores, row, strict=True)) for row in zip(*scores.values(), strict=True)]

    def number(row: Mapping[str, Any], name: str) -> float | None:
        value = row.get(names[name])
        return None if value is None or not np.isfinite(value) else float(value)

    return tuple(
        Judged(
            image_number=int(row["image_number"]),
            projections=int(row["projections"]),
            score=number(row, "score"),
            gain=number(row, "gain"),
            gain_low=number(row, "gain_low"),
            gain_high=number(row, "gain_high"),
            gain_at=None if (at := number(row, "gain_at")) is None else int(at),
            verdict=str(row["verdict"]),
            selection=_selection(str(row.get("region", "")), str(row.get("rows", ""))),
        )
        for row in rows
    )


def _selection(region: str, rows: str) -> Selection:
    """Return what was judged, as it was stored; no region stands for the whole view."""
    corners, selected = (tuple(map(int, words.split())) for words in (region, rows))
    return Selection(corners or None, selected)  # type: ignore[arg-type]


def _stored(run: RunStreams, uid: str) -> dict[str, NDArray[np.float32]]:
    """Return the images of a reconstruction: mapped where their file is on this computer, else fetched."""
    found = {}
    for name in finished_images(run, uid):
        array, values = run[name][name], None
        if (source := stored_dataset(array)) is not None:
            with open_hdf5(source[0]) as file:
                values = mapped(source[0], find_dataset(file, source[1]))
        if values is not None:
            found[name] = values
            continue
        if 4 * np.prod(array.shape) > MOST_BYTES:
            raise StorageError(
                f"run {uid}: its image of {array.shape} voxels is too large to be fetched for the page; "
                f"`streamrecon export {uid[:8]} volume.ome.zarr` writes it into a file for a viewer"
            )
        found[name] = np.asarray(array.read(), np.float32)
    return found


def _kept(uri: str, uid: str) -> list[Kept]:
    """Return the slices that were stored while the run was taken, if there are any."""
    container = find_catalog(uri, container=LIVE)
    try:
        if uid not in container:
            return []
        array = container[uid]
        rows, (height, *size) = tuple(array.metadata["rows"]), array.metadata["volume"]
        names = ("image_number", "projections", "axis")
        return [
            Kept(uid, slices=np.asarray(array[i]), rows=rows, volume=(height, *size), **{n: image[n] for n in names})
            for i, image in enumerate(array.metadata["images"][: array.shape[0]])  # the last may have no pixels
        ]
    finally:
        container.context.close()
