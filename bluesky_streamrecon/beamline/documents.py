"""What a run's documents say about its projections: which data key is the image, which is the angle, and in what unit.

Pure functions of documents; they keep nothing and touch no device. Angles leave here in radians.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from event_model import unpack_event_page

from bluesky_streamrecon.angle_units import degrees_per_unit, require_plausible_degrees
from bluesky_streamrecon.beamline.frames import wire_dtype
from bluesky_streamrecon.data_keys import frame_layout, image_key, number_keys
from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.geometry import check_range
from bluesky_streamrecon.reduction import Reduction
from bluesky_streamrecon.settings import TOMOGRAPHY, ReconSettings, SteeringSettings, settings_from
from bluesky_streamrecon.wire.messages import ItemKind

__all__ = [
    "BLOCK",
    "KINDS",
    "RunBlock",
    "StreamDocuments",
    "StreamLayout",
    "carried",
    "image_key",
    "is_classic",
    "read_block",
    "read_descriptor",
    "shortened",
]

logger = logging.getLogger(__name__)

CARRIED = (
    *("plan_name", "scan_id", "time", "sample", "sample_name", "operator", "user", "experimenter"),
    *("proposal", "proposal_id"),
)
"""Metadata that the reconstruction's file repeats, and people are shown; the job itself does without them."""

LONGEST = 4096
"""Characters of a text that the wire takes."""

BLOCK = "streamrecon"
"""Key of the start document under which a run says that, and how, it wants to be reconstructed."""

KINDS: dict[str, ItemKind] = {"primary": "projection", "flat": "flat", "dark": "dark"}
"""Which stream holds what."""

WHICH_UNITS = "set the units (EGU) of the stage, or of its signal, so that its data key says which they are"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunBlock:
    """The ``streamrecon`` block of a start document.

    Parameters
    ----------
    recon_uid : str
        Uid of the run that the reconstruction will be stored as.
    planned : int
        Projections planned.
    detector, angle : str or None
        Name of the detector (or its data key), and of the stage (or its data key). An analysis other than tomography
        needs no angle: without one, its projections have angle 0.
    recon, steering : ReconSettings, SteeringSettings
        What the user asked for.
    span : float or None
        Range that the stage is going to cover, degrees, if known.
    angles : tuple of float
        That it is going to visit, in order, degrees; those that are known.
    """

    recon_uid: str
    planned: int
    detector: str | None
    angle: str | None
    recon: ReconSettings
    steering: SteeringSettings
    span: float | None = None
    angles: tuple[float, ...] = ()


def is_classic(name: str, doc: Mapping[str, Any]) -> bool:
    """Return whether a document is one that only classic ophyd's detectors have."""
    if name == "descriptor":
        return any(key.get("external", "STREAM:") != "STREAM:" for key in doc["data_keys"].values())
    return name in ("resource", "datum", "datum_page")


class StreamDocuments:
    """Pass documents of a run on, those of classic detectors (resource, datum) as StreamResource and StreamDatum.

    Parameters
    ----------
    callback : callable
        Gets each document, with its name. Others than those of such detectors come as they are, uncopied.
    """

    def __init__(self, callback: Callable[[str, Mapping[str, Any]], object]) -> None:
        from bluesky_tiled_plugins.writing.tiled_writer import RunNormalizer

        self._callback = callback
        self._normalized: set[str] = set()  # descriptors
        self._event: Mapping[str, Any] = {}
        self._normalizer = RunNormalizer(patches={"datum": _numbered})
        self._normalizer.subscribe(self._emitted)

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take a document.

        Raises
        ------
        Exception
            What the callback raises, or bluesky_tiled_plugins for documents that contradict each other.
        """
        if is_classic(name, doc):
            if name == "descriptor":
                self._normalized.add(doc["uid"])
        elif doc.get("descriptor") not in self._normalized:
            self._callback(name, doc)
            return
        for each in unpack_event_page(cast(Any, doc)) if name == "event_page" else (doc,):
            self._event = each
            getattr(self._normalizer, "event" if name == "event_page" else name)(each)

    def _emitted(self, name: str, doc: Mapping[str, Any]) -> None:
        if name == "stream_datum":
            # The normalizer counts the frames of a file; an event keeps its own number where one was taken twice.
            number = self._event["seq_num"]
            doc = {**doc, "seq_nums": {"start": number, "stop": number + 1}}
        self._callback(name, doc)


def _numbered(datum: dict[str, Any]) -> dict[str, Any]:
    """Return a datum whose frame has its number under the one name that the normalizer knows."""
    given = datum["datum_kwargs"]
    return {**datum, "datum_kwargs": {"point_number": given["index"], **given}} if "index" in given else datum


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLayout:
    """Where one stream's events keep the image and the angle.

    Parameters
    ----------
    stream : str
        Name of the stream.
    kind : {"projection", "flat", "dark"}
        What its frames are.
    image_key : str
        Data key of the image.
    in_file : bool
        Frames are in a file (StreamResource, StreamDatum), not in the event.
    reduction : Reduction
        What is made of the frames of an event.
    dtype : str or None
        Pixel type on the wire; None: not known before the first frame.
    angle_key : str or None
        Data key of the angle; None where a stream needs none.
    radians : float
        Radians per unit of the angle.
    angle_has_units : bool
        The data key says which; else they are degrees.
    monitor_key : str or None
        Data key of the monitor's reading; None where light is not normalised by one.
    in_files : tuple of str
        Which of these two are in a file, too, as angles of a stage that did not stop (fly scans).
    """

    stream: str
    kind: ItemKind
    image_key: str
    in_file: bool
    reduction: Reduction
    dtype: str | None
    angle_key: str | None
    radians: float
    angle_has_units: bool = True
    monitor_key: str | None = None
    in_files: tuple[str, ...] = ()

    @property
    def in_events(self) -> tuple[str, ...]:
        """Data keys of numbers that belong to a frame and are in its event."""
        return tuple(key for key in (self.angle_key, self.monitor_key) if key and key not in self.in_files)

    def in_radians(self, value: Any) -> float:
        """Return an angle as it was recorded in radians.

        Raises
        ------
        DataError
            If it is not a finite number.
        """
        try:
            angle = float(np.asarray(value, np.float64).item()) * self.radians
        except (TypeError, ValueError) as error:
            raise DataError(f"angle {self.angle_key!r}: got {value!r}, expected a number") from error
        if not math.isfinite(angle):
            raise DataError(f"angle {self.angle_key!r}: got {value!r}, expected a finite number")
        return angle

    def reading(self, value: Any) -> float:
        """Return what the monitor has read.

        Raises
        ------
        DataError
            If light can not be divided by it.
        """
        try:
            found = float(np.asarray(value, np.float64).item())
        except (TypeError, ValueError):
            found = math.nan
        if not (math.isfinite(found) and found > 0):
            raise DataError(
                f"monitor {self.monitor_key!r}: got {value!r}, expected a positive, finite number; the frame stays in "
                "the detector's data, and is left out of the image; was there beam, and is the monitor switched on?"
            )
        return found


def carried(start: Mapping[str, Any]) -> dict[str, str]:
    """Return what the reconstruction's file repeats of a start document, whatever people have put there.

    What is too long is cut, and what has no text is left out; the log says so.
    """
    known = {}
    for key in CARRIED:
        if key in start:
            try:
                value = start[key]
                text = str(value.get("name", value) if isinstance(value, Mapping) else value)
            except Exception as error:  # noqa: BLE001 - an object of anybody's
                logger.info("metadata %r are not sent to the job: %s has no text (%r)", key, type(start[key]), error)
                continue
            known[key] = shortened(text)
            if known[key] != text:
                logger.info("metadata %r are sent to the job with %d of %d characters", key, LONGEST, len(text))
    block = start.get(BLOCK)
    visited: Mapping[str, Any] = block if isinstance(block, Mapping) else {}
    # Degrees: what a scan is going to cover decides what it still lacks.
    return known | {f"angle_{key}": shortened(str(visited[key])) for key in ("start", "stop") if key in visited}


def shortened(text: str) -> str:
    """Return a text as the wire takes it: at most 4096 characters, of UTF-8."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 2]} …"


def read_block(start: Mapping[str, Any]) -> RunBlock | None:
    """Return a start document's ``streamrecon`` block, or None if it has none.

    Raises
    ------
    DataError, ConfigError
        If a part is missing or can not be understood.
    """
    block = start.get(BLOCK)
    if block is None:
        return None
    try:
        recon_uid, planned = str(block["recon_uid"]), int(block["projections"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"start document {start['uid']}: block {BLOCK!r} lacks {error}, expected recon_uid and projections; "
            "use stream_tomo_plan or streaming_wrapper"
        ) from error
    recon = settings_from(ReconSettings, dict(block.get("recon", {})))
    return RunBlock(
        recon_uid=recon_uid,
        planned=planned,
        detector=block.get("detector"),
        angle=block.get("angle") or (_hinted(start) if recon.analysis == TOMOGRAPHY else None),
        recon=recon,
        steering=settings_from(SteeringSettings, dict(block.get("steering", {}))),
        span=_span(block),
        angles=_angles(block.get("angles")),
    )


def _hinted(start: Mapping[str, Any]) -> str | None:
    """Return the field of the first dimension that a plan hints at."""
    try:
        return str(start["hints"]["dimensions"][0][0][0])
    except (KeyError, IndexError, TypeError):
        return None


def _span(block: Mapping[str, Any]) -> float | None:
    start, stop = block.get("start"), block.get("stop")
    check_range(start, stop, f"block {BLOCK!r} of the start document")
    return None if start is None or stop is None else float(stop) - float(start)


def _angles(planned: Any) -> tuple[float, ...]:
    """Return what a plan says that it is going to visit; nothing where it says something else by this name."""
    try:
        return tuple(map(float, planned or ()))
    except (TypeError, ValueError):
        return ()


def read_descriptor(descriptor: Mapping[str, Any], block: RunBlock) -> StreamLayout | None:
    """Find image and angle of a stream, or give None for a stream without projections, flats or darks.

    The image is the data key that the block names, or the named detector's 2-D key; of several, the hinted one,
    else the first.

    Raises
    ------
    DataError
        If the image, or a projection's angle, can not be found.
    ConfigError
        If the frames can not be reduced as the settings say.
    """
    stream = descriptor["name"]
    if stream not in KINDS:
        return None
    kind = KINDS[stream]
    keys: Mapping[str, Mapping[str, Any]] = descriptor["data_keys"]
    key = image_key(descriptor, block.detector)
    image = keys[key]
    external = image.get("external")
    reduction = Reduction.wanted(frame_layout(descriptor, key), block.recon)
    named = image.get("dtype_numpy")
    dtype = wire_dtype(named, averaged=reduction.averages) if isinstance(named, str) and named else None
    if external and dtype is None:
        raise DataError(f"stream {stream!r}, image {key!r}: the data key lacks dtype_numpy, expected as '<u2'")
    angle_key, radians = None, 0.0
    if kind == "projection" and (block.angle is not None or block.recon.analysis == TOMOGRAPHY):
        angle_key, radians = _angle_key(descriptor, block)
    monitor_key = None if kind == "dark" else _monitor_key(descriptor, block.recon.monitor)
    numbers = ((angle_key, "angle"), (monitor_key, "monitor"))
    in_files = [(name, what) for name, what in numbers if name is not None and keys[name].get("external")]
    for name, what in () if external else in_files:
        raise DataError(
            f"stream {stream!r}: image {key!r} is in the event, but {what} {name!r} in a file; expected both in files, "
            f"or the {what} in the event"
        )
    return StreamLayout(
        stream=stream,
        kind=kind,
        image_key=key,
        in_file=bool(external),
        reduction=reduction,
        dtype=dtype,
        angle_key=angle_key,
        radians=radians,
        angle_has_units=bool(angle_key is None or keys[angle_key].get("units")),
        monitor_key=monitor_key,
        in_files=tuple(name for name, _ in in_files),
    )


def _angle_key(descriptor: Mapping[str, Any], block: RunBlock) -> tuple[str, float]:
    expected = "the rotation stage's name or the data key of its readback; does the plan read the stage?"
    found = _number_key(descriptor, block.angle, "angle", expected)
    where = f"stream {descriptor['name']!r}, angle {found!r}"
    degrees = degrees_per_unit(descriptor["data_keys"][found].get("units"), where)
    if degrees is None and block.span is not None:
        require_plausible_degrees(block.span, block.planned, where, WHICH_UNITS)
    return found, math.radians(1.0 if degrees is None else degrees)


def _monitor_key(descriptor: Mapping[str, Any], monitor: str | None) -> str | None:
    expected = (
        "the name of a device, or the data key of a number, that is read with each flat and each projection; is it "
        "among the plan's detectors?"
    )
    return None if monitor is None else _number_key(descriptor, monitor, "monitor", expected)


def _number_key(descriptor: Mapping[str, Any], name: str | None, what: str, expected: str) -> str:
    """Return the data key of a number: of several in files, one must be hinted."""
    stream, keys = descriptor["name"], descriptor["data_keys"]
    mine = [] if name is None else number_keys(descriptor, name)
    if not mine:
        raise DataError(
            f"stream {stream!r}: {what} {name!r} not found among the data keys {_listed(keys)}; expected {expected}"
        )
    hinted = (descriptor.get("hints") or {}).get(name, {}).get("fields", [])
    if len(mine) > 1 and mine[0] not in hinted and keys[mine[0]].get("external"):
        raise DataError(
            f"stream {stream!r}: {what} {name!r} records several numbers, {_listed(mine)}; expected the data key of "
            f"the one that is the {what}"
        )
    return mine[0]


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(repr(key) for key in keys) or "(none)"
