"""``streamrecon export``, ``import`` and ``resubmit``: runs as files that can be carried away, and files as runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bluesky_streamrecon.cli._check import Config
from bluesky_streamrecon.cli._options import AngleUnits, Directory, Json, Readable, Run, Uri
from bluesky_streamrecon.cli._output import console, print_answer

if TYPE_CHECKING:
    from bluesky_streamrecon.storage import PortableRun

__all__ = ["export_stored", "import_recorded", "resubmit_kept"]


def export_stored(
    run: Run,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="To be written; must not exist yet.")],
    layout: Annotated[
        str | None,
        typer.Option(
            help="'nxtomo', 'dxchange', or of the volume alone 'ome-zarr', 'tiff', 'dxchange-volume'; default: by "
            "FILE's suffix (.nxs, .nx; .h5, .hdf5, .dx; .zarr; .tif, .tiff)."
        ),
    ] = None,
    pixel_size: Annotated[float | None, typer.Option(help="Of the detector, at the sample, micrometres.")] = None,
    energy: Annotated[float | None, typer.Option(help="Of the photons, keV.")] = None,
    distance: Annotated[float | None, typer.Option(help="From sample to detector, mm.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Of the volume alone: the last live image.")] = False,
    volume: Annotated[
        int | None,
        typer.Option(min=1, help="Of a time series: this half turn alone, from 1; its volume is finished now."),
    ] = None,
    directory: Directory = None,
    uri: Uri = None,
    readable: Readable = None,
    json: Json = False,
) -> None:
    """Write a stored run into one file: frames, angles, flats and darks, reconstruction, decisions and ledger.

    The frames are laid out as NXtomo or DXchange, for any program that reads those; the rest is in the group
    `streamrecon`, from which `streamrecon import` makes the same run again. As OME-Zarr or TIFF it is the volume alone,
    for napari, Neuroglancer or Fiji. What the run says of pixel size, energy, distance, exposure, sample
    and axis is in the former, the pixel size in both; options take its place.

    Of a time series, `--volume 3` writes the third half turn: its volume, finished now from its projections, or its
    frames alone, as a scan of its own.

    Example: `streamrecon export 3f2a91 tooth.nxs --directory demo/catalogue --readable demo`
    """
    from bluesky_streamrecon.errors import ConfigError, StorageError
    from bluesky_streamrecon.storage import VOLUME_LAYOUTS, chosen_layout, export_run, export_volume, open_storage

    given = {"pixel_size_um": pixel_size, "energy_kev": energy, "distance_mm": distance}
    known = {name: value for name, value in given.items() if value is not None}
    alone = chosen_layout(file, layout) in VOLUME_LAYOUTS
    if live and not alone:
        raise ConfigError(
            f"{file}: got --live, expected it with a file of the volume alone (.zarr, .tif, .tiff, or "
            "--layout dxchange-volume)"
        )
    if alone and known.keys() - {"pixel_size_um"}:
        raise ConfigError(
            f"{file}: got --energy or --distance; a file of the volume alone has a place for --pixel-size"
        )
    if live and volume is not None:
        raise ConfigError("--live with --volume: expected one of them; live images of older half turns are not kept")
    if file.exists():  # before a volume is finished for it
        raise StorageError(f"{file}: exists already; it is not overwritten")
    part = made = None
    with open_storage(uri, directory=directory, readable=readable or ()) as storage:
        if volume is not None:
            from bluesky_streamrecon.half_turns import finished_half_turn, projections_of

            if alone:
                made = finished_half_turn(storage.catalog, run, volume), f"volume {volume} of the series"
            else:
                part = projections_of(storage.catalog, run, volume)
        if not alone:
            done = export_run(storage.catalog, run, file, layout=layout, known=known, projections=part)
            _print_run(done, as_json=json)
            return
        written = export_volume(
            storage.catalog, run, file, layout=layout, pixel_size_um=pixel_size, live=live, made=made
        )
    size = " x ".join(map(str, written.shape))
    pixel = f", pixels of {written.pixel_size_um:g} µm" if written.pixel_size_um else ""
    what = f"{written.image} of {size}{pixel}, of reconstruction {written.recon_uid}"
    print_answer(written, f"{written.file} ({written.layout}): {what}", json=json)


def import_recorded(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A recorded scan: NXtomo or DXchange.")],
    sample: Annotated[str, typer.Option(help="Name of the sample, for a file that `export` has not written.")] = "",
    directory: Directory = None,
    uri: Uri = None,
    frames: Annotated[
        Path | None,
        typer.Option(help="Where its frames are copied to; default: the catalogue's own. With --uri, readable there."),
    ] = None,
    angle_units: AngleUnits = None,
    json: Json = False,
) -> None:
    """Put a recorded scan into the catalogue, as a run that `streamrecon replay`, Tiled and databroker read.

    The frames are copied. A file that `streamrecon export` has written becomes the run that it was, with its
    reconstruction; it is refused if the catalogue has that run.

    Example: `streamrecon import tooth.h5 --sample tooth --directory demo/catalogue`
    """
    from bluesky_streamrecon.errors import ConfigError
    from bluesky_streamrecon.storage import import_scan, open_storage, read_scan

    if uri is not None and frames is None:
        raise ConfigError("frames: got none, expected --frames DIR with --uri, a directory that the server can read")
    read_scan(file, angle_units=angle_units)  # before a catalogue is made for it
    readable = () if frames is None else (frames,)
    with open_storage(uri, directory=directory, readable=readable) as storage:
        done = import_scan(storage, file, frames=frames, sample=sample, angle_units=angle_units)
    _print_run(done, as_json=json)


def resubmit_kept(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="Default: all in `not_stored`, beside the catalogue."),
    ] = None,
    directory: Directory = None,
    uri: Uri = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Store runs that the catalogue did not take when they were taken: each is kept in a file, `….jsonl`.

    A run that is there in part is replaced, one that is there is left as it is; files of stored runs are renamed.

    Example: `streamrecon resubmit`
    """
    from bluesky_streamrecon.config_file import load_config_file
    from bluesky_streamrecon.storage import open_storage, resubmit

    configuration = load_config_file(config)
    folder = directory or configuration.data
    kept = files or sorted((folder / "not_stored").glob("*.jsonl"))
    where = uri if uri is not None or directory is not None else configuration.storage.uri
    with open_storage(where, directory=folder) as storage:
        done = resubmit(storage.catalog, kept)
    for each in done.refused:
        console().print(f"run {each.uid}: {each.why}", markup=False, highlight=False, soft_wrap=True)
    counts = f"{len(done.sent)} stored, {len(done.already_there)} already there, {len(done.refused)} refused"
    print_answer(done, counts, json=json)
    if done.refused:
        raise typer.Exit(1)


def _print_run(done: PortableRun, *, as_json: bool) -> None:
    for problem in done.problems:
        console().print(problem, markup=False, highlight=False)
    run = f"run {done.run_uid}" + (f" and its reconstruction {done.recon_uid}" if done.recon_uid else "")
    print_answer(done, f"{done.file} ({done.layout}): {done.summary()}\n{run}", json=as_json)
