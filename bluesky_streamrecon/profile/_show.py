"""The last reconstruction as a figure, in one line at the prompt. Lengths are detector pixels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bluesky_streamrecon.errors import StorageError
from bluesky_streamrecon.quality.patches import patches_that_differ
from bluesky_streamrecon.settings import TOMOGRAPHY, SteeringSettings
from bluesky_streamrecon.storage import find_reconstruction, finished_images, load_reconstruction
from bluesky_streamrecon.storage.run_streams import RunStreams

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["show_reconstruction"]

LIMITS = (0.5, 99.5)
"""Percentiles of the values that are black and white."""


def show_reconstruction(catalog: Any, run: str | int = -1, *, directory: str | Path = ".") -> Figure:
    """Draw three cuts through the middle of a reconstruction.

    Parameters
    ----------
    catalog : CatalogOfBlueskyRuns
        Where runs are stored.
    run : str or int, optional
        Uid of the scan or of its reconstruction, its beginning, or a ``scan_id``; the last scan by default.
    directory : path, optional
        Where there is no display, the picture is written here, as ``reconstruction-<uid>.png``, and its path printed.

    Returns
    -------
    Figure
        One cut along each axis; where a tolerance was given up, two patches of the first cut that differ by it.

    Raises
    ------
    StorageError
        If there is no catalogue, no such run, or it has no reconstruction.
    """
    if catalog is None:
        raise StorageError("show_last: no catalogue was opened in this session; images are in reconstructions/*.h5")
    from matplotlib import pyplot as plt

    found = find_reconstruction(catalog, str(run))
    start = found.metadata["start"]
    volume = load_reconstruction(catalog, start["uid"])
    what = (
        "Finished volume"
        if "volume" in finished_images(RunStreams(found), start["uid"])
        else "Live image (no finished volume)"
    )
    scan = start.get("raw_run_uid", start["uid"])[:8]
    rows, size, _ = volume.shape
    low, high = np.percentile(volume, LIMITS)
    cuts = (
        (f"row {rows // 2} of {rows}", volume[rows // 2], "x", "y"),
        (f"x–row at y = {size // 2}", volume[:, size // 2], "x", "row"),
        (f"y–row at x = {size // 2}", volume[:, :, size // 2], "y", "row"),
    )
    figure: Figure
    steering = start.get("streamrecon", {}).get("steering", {})
    patches = None
    rule = SteeringSettings(policy=steering.get("policy"), threshold=steering.get("threshold")).rule
    if what == "Finished volume" and "predicted-gain" in rule and steering.get("tolerance"):
        live = np.asarray(found["image"]["image"][rows // 2], np.float32)
        patches = patches_that_differ(volume[rows // 2], live, steering["tolerance"])
    more = 0 if patches is None else 2
    figure, axes = plt.subplots(1, 3 + more, figsize=(12 + 2.5 * more, 4.2), constrained_layout=True)
    panels = axes[:3]
    titles = ("a patch of it", f"worse by the tolerance, {steering.get('tolerance', 0):g}")
    for panel, patch, title in zip(axes[3:], patches or (), titles, strict=False):
        panel.imshow(patch, cmap="gray", vmin=low, vmax=high)
        panel.set_axis_off()
        panel.set_title(title)
    for panel, (title, cut, across, down) in zip(panels, cuts, strict=True):
        drawn = panel.imshow(
            cut, cmap="gray", vmin=low, vmax=high, aspect="equal" if across == "x" and down == "y" else "auto"
        )
        panel.set(title=title, xlabel=f"{across} (pixels)", ylabel=f"{down} (pixels)")
    analysis = start.get("streamrecon", {}).get("recon", {}).get("analysis", TOMOGRAPHY)
    label = "attenuation (1/pixel)" if analysis == TOMOGRAPHY else f"values of the analysis {analysis}"
    figure.colorbar(drawn, ax=axes, label=label, shrink=0.8)
    figure.suptitle(f"{what} of scan {scan}, reconstruction {start['uid'][:8]}")
    if not os.environ.get("DISPLAY"):
        path = Path(directory) / f"reconstruction-{scan}.png"
        figure.savefig(path, dpi=110)
        print(path)
    else:
        figure.show()
    return figure
