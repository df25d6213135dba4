"""What a data key says of the frames that its events have: one rule for the live stream and for stored runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bluesky_streamrecon.errors import DataError

__all__ = ["FrameLayout", "frame_layout", "image_key", "is_number", "number_keys", "owner_of", "saturation_of"]

_COLOUR = {"rgb", "rgba", "color", "colour", "colors", "colours", "channel", "channels"}
_MONO = {"mono", "monochrome", "none", ""}
_COLOUR_MODES = ("color_mode", "colour_mode", "colormode", "colourmode")
_EXPOSURES = {"exposure", "exposures", "frame", "frames", "image", "images", "collection", "collections"}
_NUMBERS = ("num_images", "num_exposures", "num_frames", "images_per_event", "exposures_per_event", "frames_per_event")
_BITS = ("bit_depth", "bits_per_pixel")
_MOST_BITS = 32
_WHAT_TO_DO = "set the detector to one frame of one intensity per pixel"


@dataclass(frozen=True, slots=True)
class FrameLayout:
    """Shape of the frames of an event.

    Parameters
    ----------
    exposures : int
        Frames of one event, of which the mean is the projection.
    rows, columns : int
        Of a frame.
    """

    exposures: int
    rows: int
    columns: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows, self.columns


def frame_layout(descriptor: Mapping[str, Any], key: str) -> FrameLayout:
    """Return the layout of the frames under a data key.

    Several frames of one event are averaged only where the detector says that they are exposures: a StreamResource's
    first dimension counts them (``[exposures, rows, columns]``, as ophyd-async has it), or the data key's ``dims``
    or the detector's configuration (``num_images``) name them.

    Parameters
    ----------
    descriptor : Mapping
        Event descriptor.
    key : str
        Data key of the image.

    Raises
    ------
    DataError
        If the frames are in colour, or stacks of something that the detector does not name.
    """
    about: Mapping[str, Any] = descriptor["data_keys"][key]
    shape = [int(n) for n in about.get("shape") or ()]
    where = f"stream {descriptor.get('name', 'primary')!r}, image {key!r}"
    if len(shape) < 2:
        raise DataError(f"{where}: got shape {shape}, expected (rows, columns)")
    named = [str(name).casefold() for name in about.get("dims") or ()]
    dims = named if len(named) == len(shape) else [""] * len(shape)
    before = shape[:-2]
    colour = any(name in _COLOUR and size > 1 for name, size in zip(dims, shape, strict=True))
    colour |= len(shape) > 2 and shape[-1] in (3, 4) and min(shape[-3:-1]) > 4
    configured = dict(_configuration(descriptor, about))
    modes = [str(value) for name, value in configured.items() if name.endswith(_COLOUR_MODES)]
    colour |= math.prod(before) > 1 and any(mode.casefold() not in _MONO for mode in modes)
    if colour:
        raise DataError(f"{where}: got frames in colour, shape {shape}, expected (rows, columns); {_WHAT_TO_DO}")
    exposures = max(math.prod(before), 1)
    if exposures > 1:
        one = sum(size > 1 for size in before) == 1
        streamed = about.get("external") == "STREAM:" and len(shape) == 3
        named_so = any(name in _EXPOSURES for name, size in zip(dims, shape, strict=True) if size > 1)
        counted = any(name.endswith(_NUMBERS) and value == exposures for name, value in configured.items())
        if not one or not (streamed or named_so or counted):
            raise DataError(
                f"{where}: got shape {shape}, {exposures} frames per event, and the detector does not say what they "
                f"are; {_WHAT_TO_DO}, or name the first dimension 'exposures' in the data key's dims to have their mean"
            )
    return FrameLayout(exposures, shape[-2], shape[-1])


def is_number(about: Mapping[str, Any]) -> bool:
    """Return whether a data key is that of a single number, in the event or in a file."""
    return about.get("dtype") in ("number", "integer") and math.prod(about.get("shape") or [1]) == 1


def image_key(descriptor: Mapping[str, Any], detector: str | None) -> str:
    """Return the data key of a detector's image: of several the hinted one, else the first.

    Parameters
    ----------
    descriptor : Mapping
        Event descriptor.
    detector : str or None
        Its name, or the data key; None: whichever has an image.

    Raises
    ------
    DataError
        If there is none.
    """
    keys = descriptor["data_keys"]
    images = [
        key for key, value in keys.items() if len(value.get("shape") or []) >= 2 and value["shape"][-2:] != [1, 1]
    ]
    if detector in images:
        return str(detector)
    if detector is not None:
        mine = (descriptor.get("object_keys") or {}).get(detector, [])  # a catalogue may not have these
        images = [key for key in images if key in mine or keys[key].get("object_name") == detector]
    if not images:
        whose, there = f"detector {detector!r}" if detector else "any detector", ", ".join(map(repr, keys)) or "(none)"
        raise DataError(
            f"stream {descriptor['name']!r}: no image of {whose} among the data keys {there}; expected one with two or "
            "three dimensions; give the detector's name or its data key"
        )
    hinted = [field for hint in (descriptor.get("hints") or {}).values() for field in hint.get("fields", [])]
    return str(next((key for key in images if key in hinted), images[0]))


def number_keys(descriptor: Mapping[str, Any], name: str) -> list[str]:
    """Return the data keys of the numbers that a data key or a device of this name has, hinted ones first.

    Examples
    --------
    >>> keys = {"i0-rate": {"dtype": "number", "shape": []}, "i0-name": {"dtype": "string", "shape": []}}
    >>> number_keys({"data_keys": keys, "object_keys": {"i0": ["i0-name", "i0-rate"]}}, "i0")
    ['i0-rate']
    """
    keys: Mapping[str, Mapping[str, Any]] = descriptor["data_keys"]
    hinted = (descriptor.get("hints") or {}).get(name, {}).get("fields", [])
    mine = [name] if name in keys else [key for key, about in keys.items() if about.get("object_name") == name]
    mine = mine or (descriptor.get("object_keys") or {}).get(name, [])
    return sorted((key for key in mine if is_number(keys[key])), key=lambda key: key not in hinted)


def owner_of(descriptor: Mapping[str, Any], key: str) -> str | None:
    """Return the name of the device that has a data key; None where that is not known."""
    about, owners = descriptor["data_keys"][key], descriptor.get("object_keys") or {}  # a catalogue may not have these
    return about.get("object_name") or next((name for name, keys in owners.items() if key in keys), None)


def saturation_of(descriptor: Mapping[str, Any], key: str) -> float | None:
    """Return the counts at which the detector of an image saturates; None where its configuration does not say.

    Examples
    --------
    >>> configured = {"configuration": {"cam": {"data": {"cam-driver-bit_depth": 12}}}, "object_keys": {"cam": ["cam"]}}
    >>> saturation_of({**configured, "data_keys": {"cam": {}}}, "cam")
    4095.0
    """
    for name, value in _configuration(descriptor, {"object_name": owner_of(descriptor, key)}):
        number = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
        if number and name.endswith("saturation"):
            return float(value)
        if number and name.endswith(_BITS) and value <= _MOST_BITS:
            return float(2 ** int(value) - 1)
    return None


def _configuration(descriptor: Mapping[str, Any], about: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what is configured of the detector whose data key it is, names in lower case."""
    for name, part in (descriptor.get("configuration") or {}).items():
        if about.get("object_name") in (None, name):
            for key, value in (part.get("data") or {}).items():
                yield str(key).casefold(), value
