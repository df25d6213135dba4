"""Turns a run's documents into the stream of flats, darks and projections that the reconstruction job gets.

A callback never blocks the RunEngine and never raises into it: it only notes where a frame is and queues that; the
wire's threads read and send. No file is opened here: where angles are in a file, they are read with their frames. What
goes wrong is logged with the run's uid, reported to `on_problem`, and ends the stream of that run; the scan goes on.
Angles are radians from here on.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.acquisition import find_quantity, with_found_options
from bluesky_streamrecon.angle_units import require_plausible_degrees, require_same_direction, require_same_wedge
from bluesky_streamrecon.beamline.documents import (
    KINDS,
    WHICH_UNITS,
    RunBlock,
    StreamDocuments,
    StreamLayout,
    carried,
    is_classic,
    read_block,
    read_descriptor,
    shortened,
)
from bluesky_streamrecon.beamline.event_frame import EventFrame
from bluesky_streamrecon.beamline.frames import FrameFile, wire_dtype
from bluesky_streamrecon.beamline.serving.frames import QueuedFrame
from bluesky_streamrecon.data_keys import owner_of, saturation_of
from bluesky_streamrecon.errors import ConfigError, DataError
from bluesky_streamrecon.partition import choose_preview_rows
from bluesky_streamrecon.pixels import common_dtype, exactly
from bluesky_streamrecon.preparation_steps import halo_rows
from bluesky_streamrecon.settings import TOMOGRAPHY, ReconSettings, SteeringSettings
from bluesky_streamrecon.wire.messages import ItemKind, OpenRunSpec

__all__ = ["Publisher", "Sink"]

logger = logging.getLogger(__name__)

UNLIKE_EXPOSURE = 0.01
"""Relative difference of two exposure times that is reported."""

NO_BLOCK = RunBlock(
    recon_uid="", planned=0, detector=None, angle=None, recon=ReconSettings(), steering=SteeringSettings()
)


class Sink(Protocol):
    """Where the publisher puts a run; `JobRuns` is one. No method may wait."""

    def open_run(self, spec: OpenRunSpec) -> None:
        """Begin a run."""
        ...

    def append(self, frame: QueuedFrame) -> None:
        """Queue one frame; its angle and the monitor's reading may be known only when it has been read."""
        ...

    def close_run(self, exit_status: str = "success", reason: str = "") -> None:
        """Close the run: no frames follow."""
        ...


@dataclass(slots=True)
class _Run:
    """What is known of the run that is being published."""

    uid: str
    start: Mapping[str, Any]
    block: RunBlock
    metadata: dict[str, str]
    configurations: list[Mapping[str, Any]] = field(default_factory=list)  # of devices, as descriptors have them
    layouts: dict[str, StreamLayout | None] = field(default_factory=dict)  # by descriptor uid
    files: dict[str, tuple[str, FrameFile]] = field(default_factory=dict)  # data key and file, by resource uid
    waiting: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)  # by stream and event; by data key
    sent: dict[ItemKind, set[int]] = field(default_factory=lambda: {kind: set() for kind in KINDS.values()})  # events
    exposures: dict[ItemKind, float] = field(default_factory=dict)  # seconds, where the detector says that
    format: tuple[tuple[int, int], str] | None = None  # shape and pixel type, once the run is open
    angles: dict[int, float] = field(default_factory=dict)  # by number of the projection, radians, once known
    unitless: bool = False  # their data key has no units
    flown: bool = False  # angles are in a file, and read with their frames
    over: str | None = None  # why nothing is published any more


class Publisher:
    """Document callback that publishes one run at a time: the one whose start document has a ``streamrecon`` block.

    Parameters
    ----------
    sink : Sink
        Where frames go.
    on_problem : callable, optional
        Called with a text when something can not be published; in the RunEngine's thread.

    Notes
    -----
    A StreamDatum and its event are paired by number, whichever comes first; so are StreamDatums where the angles, or
    the monitor's readings, are in a file as well. A number that comes twice (a plan that was rewound after it had saved
    the event) is published once: the second exposure is of the same angle. Where an exposure was repeated before its
    event was saved, the file has a frame that no StreamDatum names; the one that is named is published.
    """

    def __init__(self, sink: Sink, *, on_problem: Callable[[str], object] = lambda _: None) -> None:
        self._sink = sink
        self._on_problem = on_problem
        self._run: _Run | None = None
        self._classic: StreamDocuments | None = None  # in a run with such a detector

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take a document; never raises."""
        try:
            if self._classic is None and is_classic(name, doc):
                self._classic = StreamDocuments(self._take)
            (self._classic or self._take)(name, doc)
        except Exception as error:  # noqa: BLE001 - the scan must go on, whatever it is
            self._fail(error)

    def detach(self, reason: str) -> None:
        """Publish nothing more of this run: nobody takes it any more."""
        if self._run is not None and self._run.over is None:
            self._run.over = reason
            for _, file in self._run.files.values():
                file.run_ended()

    def forget(self) -> None:
        """Be ready for the next run, also where the stop document of this one did not come."""
        self.detach("unstaged")
        self._run = None

    def end(self, exit_status: str, reason: str) -> bool:
        """End the stream before the run's stop document comes; return whether there was one to end."""
        run = self._run
        for _, file in run.files.values() if run is not None else ():
            file.run_ended()
        if run is None or run.over is not None:
            return False
        run.over = "ended"
        if run.waiting:
            lost, monitor = sorted({seq for _, seq in run.waiting}), run.block.recon.monitor
            number = "angle" if monitor is None else f"angle or no reading of {monitor!r}"
            self._report(run, f"events {lost} had a frame and no {number}, or these and no frame: not published")
        if not run.flown:
            self.check_angles()
        if run.format is None:
            return False
        self._sink.close_run(exit_status, shortened(reason))
        return True

    def check_angles(self) -> None:
        """Report angles that can hardly be right, once; of a fly scan, call it when its frames were read.

        They have no units and can hardly be degrees, or run the other way than those that were planned, or beside them.
        """
        run = self._run
        if run is None or not run.angles:
            return
        known, run.angles = run.angles, {}
        try:
            if run.unitless:
                range_ = math.degrees(max(known.values()) - min(known.values()))
                require_plausible_degrees(range_, len(known), "angles", WHICH_UNITS)
            require_same_direction(run.block.angles, known)
            require_same_wedge(run.block.angles, known, run.block.span)
        except DataError as error:
            self._report(run, str(error))

    def take_configuration(self, configuration: Mapping[str, Any]) -> None:
        """Use the configuration of devices before a descriptor has it, for what preparation steps have to know.

        Parameters
        ----------
        configuration : mapping
            As descriptors have it under this name.

        Raises
        ------
        ConfigError
            If with it the run does not say all that steps need; it can be ended before anything moves.
        """
        if self._run is not None and self._run.over is None:
            self._run.configurations.append(configuration)
            self._complete(self._run)

    # ------------------------------------------------------------------------------------- documents

    def _take(self, name: str, doc: Mapping[str, Any]) -> None:
        handler = getattr(self, f"_{name}", None)
        if handler is not None:
            handler(doc)

    def _start(self, doc: Mapping[str, Any]) -> None:
        self._classic = None
        if self._run is not None:
            return
        known = carried(doc)
        try:
            block = read_block(doc)
        except Exception:
            self._run = _Run(doc["uid"], doc, NO_BLOCK, known)
            raise
        if block is not None:
            self._run = _Run(doc["uid"], doc, block, known)

    def _descriptor(self, doc: Mapping[str, Any]) -> None:
        run = self._run
        if run is None or run.over is not None or doc["run_start"] != run.uid:
            return
        run.configurations.append(doc.get("configuration") or {})
        layout = run.layouts[doc["uid"]] = read_descriptor(doc, run.block)
        run.flown |= layout is not None and layout.angle_key in layout.in_files
        if layout is not None and (level := saturation_of(doc, layout.image_key)) is not None:
            run.metadata.setdefault("saturation", f"{level:.12g}")
        if layout is not None:
            self._compare_exposures(run, layout, doc)
        # Frames in events show their type themselves: the run is opened by the first of them.
        if layout is not None and layout.in_file and layout.dtype is not None:
            self._open(run, layout.reduction.shape, layout.dtype)

    def _compare_exposures(self, run: _Run, layout: StreamLayout, doc: Mapping[str, Any]) -> None:
        """Report flats, darks and projections of unlike exposure times, unless a monitor may have counted with them."""
        owner, recon = owner_of(doc, layout.image_key), run.block.recon
        found = find_quantity("exposure", {}, [{str(owner): (doc.get("configuration") or {}).get(owner, {})}])
        if found is None or recon.pixel_values != "counts" or recon.monitor is not None:
            return
        for kind, seconds in run.exposures.items():
            if abs(found.value - seconds) > UNLIKE_EXPOSURE * seconds:
                self._report(
                    run,
                    f"exposure: {layout.kind}s are exposed for {found.value:g} s ({found.source}), {kind}s for "
                    f"{seconds:g} s, expected the same: attenuation comes out wrong; set the exposure time before "
                    "flats and darks are taken",
                )
                break
        run.exposures.setdefault(layout.kind, found.value)

    def _stream_resource(self, doc: Mapping[str, Any]) -> None:
        run = self._run
        if run is None or run.over is not None or doc.get("run_start") not in (None, run.uid):
            return
        wanted = {key for layout in run.layouts.values() if layout for key in (layout.image_key, *layout.in_files)}
        if doc["data_key"] in wanted:
            file = FrameFile(doc["uri"], doc["mimetype"], doc["parameters"])
            # Streams may share a dataset; HDF5 can not refresh one that is open twice.
            known = {each.where: each for _, each in run.files.values()}
            run.files[doc["uid"]] = (doc["data_key"], known.get(file.where, file))

    def _layout(self, doc: Mapping[str, Any]) -> StreamLayout | None:
        """Return where a document's stream has its frames; None where nothing is published of it."""
        run = self._run
        return None if run is None or run.over is not None else run.layouts.get(doc["descriptor"])

    def _stream_datum(self, doc: Mapping[str, Any]) -> None:
        run, layout = self._run, self._layout(doc)
        if run is None or layout is None:
            return
        data_key, file = run.files.get(doc["stream_resource"], ("", None))
        indices, numbers = (range(doc[key]["start"], doc[key]["stop"]) for key in ("indices", "seq_nums"))
        places = list(zip(indices, numbers, strict=False))
        if file is not None and data_key in (layout.image_key, *layout.in_files):
            for index, seq in places:
                self._take_parts(run, layout, seq, {data_key: (file, index)})

    def _event(self, doc: Mapping[str, Any]) -> None:
        run, layout = self._run, self._layout(doc)
        if run is None or layout is None:
            return
        seq, data = doc["seq_num"], doc["data"]
        if layout.in_file:
            self._take_parts(run, layout, seq, {key: data[key] for key in layout.in_events})
            return
        pixels = data[layout.image_key]
        reduction, first = layout.reduction, run.format is None
        self._open(run, reduction.shape, self._dtype_of(run, layout, np.asarray(pixels)) if first else None)
        self._publish(run, layout, seq, data)

    def _dtype_of(self, run: _Run, layout: StreamLayout, pixels: NDArray[np.generic]) -> str:
        """Return the type of a run whose frames are in its events: as announced if the first frame has it."""
        averaged = layout.reduction.averages
        if layout.dtype is None:
            return wire_dtype(pixels.dtype, averaged=averaged)
        with contextlib.suppress(DataError):
            exactly(pixels, np.dtype(layout.dtype), "")
            return layout.dtype
        wider = wire_dtype(common_dtype(pixels.dtype, layout.dtype), averaged=averaged)
        self._report(
            run,
            f"stream {layout.stream!r}, image {layout.image_key!r}: {layout.dtype} was announced, and the first frame "
            f"has values of {pixels.dtype.name} that do not fit it: frames are taken as {wider}",
        )
        return wider

    def _take_parts(self, run: _Run, layout: StreamLayout, seq: int, parts: Mapping[str, Any]) -> None:
        """Publish a frame of a file once all that belongs to it has come, some of which may be in files as well."""
        place = layout.stream, seq
        again = seq in run.sent[layout.kind] and place not in run.waiting and layout.image_key not in parts
        if not parts or again:
            return
        known = run.waiting.setdefault(place, {})
        known.update(parts)
        if known.keys() >= {layout.image_key, *layout.in_events, *layout.in_files}:
            del run.waiting[place]
            self._publish(run, layout, seq, known)

    def _event_page(self, doc: Mapping[str, Any]) -> None:
        for i, seq in enumerate(doc["seq_num"]):
            data = {key: values[i] for key, values in doc["data"].items()}
            self._event({"descriptor": doc["descriptor"], "seq_num": seq, "data": data})

    def _stop(self, doc: Mapping[str, Any]) -> None:
        run = self._run
        if run is None or doc["run_start"] != run.uid:
            return
        try:
            self.end(doc["exit_status"], doc.get("reason") or "")
        finally:
            self._run = None

    # -------------------------------------------------------------------------------------- publishing

    def _open(self, run: _Run, shape: tuple[int, int], dtype: str | None) -> str:
        """Open the run if it is not yet, and return the pixel type that it has; frames of `dtype` must fit that."""
        if run.format is not None:
            opened, kept = run.format
            if opened != shape or (dtype is not None and not np.can_cast(dtype, kept, "safe")):
                raise DataError(
                    f"frames of shape {shape} and type {dtype or kept}, but the run was opened with {opened} and "
                    f"{kept}; was the detector's region of interest, binning or data type changed between flats, "
                    "darks and projections? (The mean of several exposures of integers is of type <f4: with such "
                    "projections, take flats and darks of several exposures, too)"
                )
            return kept
        if dtype is None:
            raise DataError("the data key lacks dtype_numpy, expected as '<u2'")
        rows, recon = shape[0], self._complete(run)
        preview = run.block.steering.preview_rows or choose_preview_rows(rows)
        if max(preview) >= rows:
            raise DataError(f"preview rows: got {preview}, expected rows below {rows}, as the frames have")
        if (pixel := find_quantity("pixel_size", run.start, run.configurations)) is not None:
            run.metadata["pixel_size"] = f"{pixel.value:.12g}"
        spec = OpenRunSpec(
            run_uid=run.uid,
            recon_uid=run.block.recon_uid,
            planned=run.block.planned,
            detector_shape=shape,
            dtype=dtype,
            recon=recon,
            steering=run.block.steering,
            preview_rows=preview,
            halo=_halo(recon),
            metadata=run.metadata,
        )
        self._sink.open_run(spec)
        run.format = (shape, dtype)
        return dtype

    @staticmethod
    def _complete(run: _Run) -> ReconSettings:
        """Return the settings with what the run says of itself, and keep where it says that."""
        recon, sources = with_found_options(run.block.recon, run.start, run.configurations)
        if sources:
            run.metadata["found"] = shortened(sources)
            logger.info("run %s: %s", run.uid, sources)
        return recon

    def _publish(self, run: _Run, layout: StreamLayout, seq: int, parts: Mapping[str, Any]) -> None:
        """Publish a frame with the numbers that belong to it, by data key."""
        sent = run.sent[layout.kind]
        if seq in sent:
            logger.info("run %s: event %d of stream %r came again, published once", run.uid, seq, layout.stream)
            return
        where = f"event {seq} of stream {layout.stream!r}, image {layout.image_key!r}"
        dtype = self._open(run, layout.reduction.shape, layout.dtype if layout.in_file else None)
        index = len(sent) + 1
        self._sink.append(EventFrame(index, layout, parts, dtype, where, run.angles))
        sent.add(seq)
        run.unitless |= layout.kind == "projection" and not layout.angle_has_units

    def _fail(self, error: Exception) -> None:
        """End the stream of this run, loudly; the scan goes on."""
        run = self._run
        if run is None or run.over is not None:
            logger.error("run %s: %s", run.uid if run else "(none)", error, exc_info=error)
            return
        text = f"{error}" if isinstance(error, ConfigError | DataError) else f"{type(error).__name__}: {error}"
        after = f"after {len(run.sent['projection'])} projections"
        run.over = text
        logger.error("run %s: streaming stopped %s: %s", run.uid, after, text, exc_info=error)
        if run.format is not None:
            try:
                self._sink.close_run("fail", shortened(text))
            except Exception:
                logger.exception("run %s: the stream could not be closed", run.uid)
        self._on_problem(f"streaming stopped {after}: {text}")

    def _report(self, run: _Run, text: str) -> None:
        logger.error("run %s: %s", run.uid, text)
        self._on_problem(text)


def _halo(recon: ReconSettings) -> int:
    """Return how many rows of its neighbours' a rank needs on each side."""
    if recon.analysis != TOMOGRAPHY:
        return 0
    try:
        return halo_rows(recon.preparation, recon.bin)
    except ConfigError as error:  # steps may be installed where the job runs, and only there
        logger.warning("no rows of neighbours are sent: %s", error)
        return 0
