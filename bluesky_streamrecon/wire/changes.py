"""What people change of a run on its way: messages from the beamline, numbered as all else of the run."""

from __future__ import annotations

import msgspec

from bluesky_streamrecon.wire.fields import Count, Finite, Uid

__all__ = ["CorrectAxis", "LengthenRun"]


class LengthenRun(msgspec.Struct, frozen=True, kw_only=True, tag="lengthen-run"):
    """The open run is going to take so many projections by now; only the controller is sent this."""

    run_uid: Uid
    seq: Count = 0
    planned: Count


class CorrectAxis(msgspec.Struct, frozen=True, kw_only=True, tag="correct-axis"):
    """A person has corrected the rotation axis: images are made anew about this detector column.

    Numbered among the items; all ranks do it together, once all of them have heard of it.
    """

    run_uid: Uid
    seq: Count = 0
    axis: Finite
