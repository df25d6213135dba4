"""Frames over PV Access (NTNDArray) as the frames of a detector of ophyd-async; needs the extra ``pva``.

Every image is written to a file as it comes, at the place that its number gives it, and is reconstructed from there
like the frames of any detector: a slow job, or none, loses nothing.
"""

from bluesky_streamrecon.beamline.pva.detector import NDPvaIO, NTNDArrayDataLogic, PvaDetector, pva_frames

__all__ = ["NDPvaIO", "NTNDArrayDataLogic", "PvaDetector", "pva_frames"]
