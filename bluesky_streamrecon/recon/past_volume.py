"""A volume as a job finishes it, made in this process from frames that are stored. Angles are radians.

It takes the way of a job of one rank: the same analysis, preparation, axis and recipe; nothing is sent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

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

__all__ = ["PastFrame", "finished_volume"]

AT_ONCE = 16
"""Projections that are in memory at a time; the live image, which nobody sees, is made anew after so many."""

PastFrame = tuple[ItemKind, int, NDArray[np.generic] | None, float, float]
"""Kind, number among those of its kind, reduced frame (None: it is not there), angle, and reading of the beam's monitor
(1 without one; a projection where it is not positive and finite counts as lost)."""


def finished_volume(
    spec: OpenRunSpec, frames: Iterable[PastFrame], *, before: int = 0, threads: int | None = None
) -> NDArray[np.float32]:
    """Return the finished volume of projections that were taken one after the other.

    Parameters
    ----------
    spec : OpenRunSpec
        The run: its frames, reduced, and its settings; ``planned`` is how many projections the volume has. Where no
        volume was wanted, the recipe is ``"auto"``.
    frames : iterable of PastFrame
        Flats, darks and projections in the order in which they were taken. Other projections of the run than those of
        the volume only say when flats and darks came.
    before : int, optional
        Projections of the run that were taken before those of the volume.
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

    def views() -> Iterator[View]:
        for kind, index, frame, angle, monitor in frames:
            about: dict[str, Any] = {"run_uid": run.run_uid, "seq": 1, "kind": kind, "index": index, "angle": angle}
            item: Item | ItemGone = ItemGone(**about, why="not used")
            if frame is not None and 0 < monitor < math.inf:
                item = Item(
                    **about, monitor=monitor, rows=(0, rows), dtype=run.dtype, shape=run.detector_shape, pixels=frame
                )
            prepared = analysis.prepare(item)
            if before < index <= before + spec.planned:
                yield from prepared
        closed = CloseRun(run_uid=run.run_uid, projections=spec.planned, flats=0, darks=0, exit_status="success")
        yield from analysis.close(closed)

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
