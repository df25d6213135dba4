"""The message that a run begins, and what a run is."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from bluesky_streamrecon.partition import RowBlock
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings
from bluesky_streamrecon.wire.fields import Count, Name, PixelType, PreviewRows, Shape2, Text, Uid

__all__ = ["OpenRun", "OpenRunSpec"]


class OpenRunSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is; each peer is sent an `OpenRun` with these and its own fields.

    Parameters
    ----------
    run_uid, recon_uid : str
        Raw run, and the run that the reconstruction will be stored as.
    planned : int
        Projections planned; fewer or none may come.
    detector_shape : (int, int)
        Rows and columns of a whole reduced frame.
    dtype : str
        NumPy type string of the pixels, as in the items.
    recon, steering : ReconSettings, SteeringSettings
        What the user asked for.
    preview_rows : tuple of int
        Detector rows that are shown and scored.
    output : str or None
        Directory for the result's file.
    halo : int
        Detector rows on each side of a rank's own that it gets, too, as far as there are.
    metadata : dict of str
        Anything else worth keeping with the result.
    """

    run_uid: Uid
    recon_uid: Uid
    planned: Count
    detector_shape: Shape2
    dtype: str
    recon: ReconSettings = ReconSettings()
    steering: SteeringSettings = SteeringSettings()
    preview_rows: PreviewRows = ()
    output: Text | None = None
    halo: Count = 0
    metadata: Annotated[dict[Name, Text], Meta(max_length=256)] = {}

    @property
    def per_volume(self) -> int:
        """Projections of each volume of a time series; 0: the run is none."""
        return self.planned // self.recon.turns if self.recon.turns > 1 else 0

    def newest_volume(self, projections: int) -> range:
        """Return which projections, from 0, the volume is finished from when so many have been taken.

        Of a time series these are the newest half turn that is complete; else all.

        Examples
        --------
        >>> series = OpenRunSpec(
        ...     run_uid="a", recon_uid="b", planned=720, detector_shape=(1, 1), dtype="<u2",
        ...     recon=ReconSettings(turns=4),
        ... )
        >>> series.newest_volume(100), series.newest_volume(400)
        (range(0, 100), range(180, 360))
        """
        complete = projections // self.per_volume if self.per_volume else 0
        return range((complete - 1) * self.per_volume, complete * self.per_volume) if complete else range(projections)


class OpenRun(OpenRunSpec, frozen=True, kw_only=True, tag="open-run"):
    """A run begins: opens the channel ``"run"`` with the stream `run_uid`.

    Parameters
    ----------
    block : RowBlock
        Rows of this rank, and its place among the ranks that share them; the controller gets all rows.
    redo : int
        A process before this one died when so many projections had been taken: the same images are to be made again, so
        steps are not taken together before these are in the image and it has been caught up.
    """

    dtype: PixelType
    block: RowBlock
    redo: Count = 0

    @property
    def rows(self) -> tuple[int, int]:
        """Detector rows ``[first, stop)`` of this rank's items: its own, and the halo."""
        return self.block.with_halo(self.halo, self.detector_shape[0])
