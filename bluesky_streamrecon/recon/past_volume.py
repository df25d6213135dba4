"""A volume as a job finishes it, made in this process from frames that are stored. Angles are radians.

It takes the way of a job of one rank: the same analysis, preparation, axis and recipe; nothing is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.cores import own_cores
from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.partition import RowBlock
from bluesky_streamrecon.preparation_steps import halo_rows
from bluesky_streamrecon.recon.communicator import Communicator
from bluesky_streamrecon.recon.tomography import Tomography
from bluesky_streamrecon.recon.view import BEFORE, View
from bluesky_streamrecon.settings import FINAL_AUTO, FINAL_NONE
from bluesky_streamrecon.wire import CloseRun, Item, ItemGone, OpenRun, OpenRunSpec
from bluesky_streamrecon.wire.messages import ItemKind

__all__ = ["finished_volume"]

AT_ONCE = 16
"""Projections that are in memory at a time; the live image, which nobody sees, is made anew after so many."""

Frames = Iterable[NDArray[np.generic]]
Flats = Iterable[tuple[NDArray[np.generic], float]]
"""Each with the reading of the beam's monitor; 1 without one."""


def finished_volume(
    spec: OpenRunSpec,
    projections: Iterable[tuple[NDArray[np.generic], float, float]],
    flats: Flats,
    darks: Frames,
    *,
    before: int = 0,
    flats_after: Flats = (),
    darks_after: Frames = (),
    taken: int = 0,
    threads: int | None = None,
) -> NDArray[np.float32]:
    """Return the finished volume of projections that were taken one after the other.

    Parameters
    ----------
    spec : OpenRunSpec
        The run: its frames, reduced, and its settings; ``planned`` is how many projections there are here. Where no
        volume was wanted, the recipe is ``"auto"``.
    projections : iterable of (ndarray, float, float)
        Reduced frames, angles, and readings of the beam's monitor (1 without one); where that is not positive, the
        projection counts as lost.
    flats : iterable of (ndarray, float)
        Of before the first projection of the run, with readings.
    darks : iterable of ndarray
        Of before the first projection.
    before : int, optional
        Projections of the run that were taken before these.
    flats_after : iterable of (ndarray, float), optional
        Of after the last projection of the run, with readings.
    darks_after : iterable of ndarray, optional
        Of after the last projection of the run.
    taken : int, optional
        Projections of the whole run.
    threads : int, optional
        That compute; by default as many as this process may use.

    Returns
    -------
    ndarray of float32, shape (rows, N, N)
        Attenuation, 1/pixel.

    Raises
    ------
    DataError
        If flats are needed and there are none, or there are no projections.
    ConfigError
        If a setting can not work.
    """
    rows, recon = spec.detector_shape[0], spec.recon
    recon = msgspec.structs.replace(
        recon, turns=1, window=AT_ONCE, step=AT_ONCE, window_policy="newest", iterations=1, algorithm="mlem",
        options={name: recon.options[name] for name in recon.options.keys() & {"projector"}},
        final=FINAL_AUTO if recon.final == FINAL_NONE else recon.final, ranks=1, share=1, checkpoint_every=0,
    )  # fmt: skip
    changed = {"recon": recon, "halo": halo_rows(recon.preparation, recon.bin)}
    changed["metadata"] = {**spec.metadata, BEFORE: str(before)}
    run = OpenRun(**{**msgspec.structs.asdict(spec), **changed}, block=RowBlock(0, rows, 0, 0, 1))
    analysis = Tomography(run, Communicator(), threads or len(own_cores()))

    def item(
        kind: ItemKind, index: int, frame: NDArray[np.generic], monitor: float = 1.0, angle: float = 0.0
    ) -> Item | ItemGone:
        if not monitor > 0:
            return gone(kind, index, angle)
        return Item(
            run_uid=run.run_uid, seq=1, kind=kind, index=index, angle=angle, monitor=monitor, rows=(0, rows),
            dtype=run.dtype, shape=run.detector_shape, pixels=frame,
        )  # fmt: skip

    def gone(kind: ItemKind, index: int, angle: float = 0.0) -> ItemGone:
        return ItemGone(run_uid=run.run_uid, seq=1, kind=kind, index=index, angle=angle, why="not used")

    def views() -> Iterator[View]:
        for index, frame in enumerate(darks, 1):
            analysis.prepare(item("dark", index, frame))
        for index, (frame, monitor) in enumerate(flats, 1):
            analysis.prepare(item("flat", index, frame, monitor))
        for index, (frame, angle, monitor) in enumerate(projections, before + 1):
            yield from analysis.prepare(item("projection", index, frame, monitor, angle))
        # Frames that follow have come after all projections of the run: what is returned for its last is not used.
        analysis.prepare(gone("projection", max(taken, 1)))
        for index, frame in enumerate(darks_after, 10**6):
            analysis.prepare(item("dark", index, frame))
        for index, (frame, monitor) in enumerate(flats_after, 10**6):
            analysis.prepare(item("flat", index, frame, monitor))
        yield from analysis.close(
            CloseRun(run_uid=run.run_uid, projections=taken, flats=0, darks=0, exit_status="success")
        )

    try:
        held: list[View] = []
        begun = False
        for view in views():
            held.append(view)
            if len(held) % AT_ONCE == 0:
                begun = begun or not analysis.begin(held, False)
                if begun:
                    analysis.update(held)
                    held = []
        if not begun and analysis.begin(held, True):
            raise DataError(f"run {run.run_uid}: got {len(held)} projections, expected some to make a volume from")
        if held:
            analysis.update(held)
        analysis.conclude()
        for _ in analysis.finish() or ():
            pass
        return analysis.images(range(rows))
    finally:
        analysis.release()
