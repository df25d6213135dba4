"""Flats and darks of a scan: how many, taken with which devices in which words, all checked before anything moves."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_type_hints

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.protocols import Movable, Readable
from bluesky.utils import (
    FailedPause,
    MsgGenerator,
    RunEngineControlException,
    maybe_await,
    root_ancestor,
    separate_devices,
)

from bluesky_streamrecon.beamline import QualityReached
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.plans.motion import move
from bluesky_streamrecon.plans.parts import answer, attempt

__all__ = ["OWN", "Detectors", "Positioner", "ReferenceFrames", "check_source", "find_words", "take_frames", "tomogram"]

logger = logging.getLogger(__name__)

Detectors = Sequence[Readable] | None  # type: ignore[type-arg] # blueapi matches devices by the bare protocol
Positioner = Movable | None  # type: ignore[type-arg]

Judge = Callable[[], MsgGenerator[None]]
Word = str | float

OWN = "own"
"""Says of a plan that it takes flats itself."""

USUAL = 10  # frames of each kind
ROLES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "shutter": (("open", "opened"), ("closed", "close", "shut")),
    "sample_table": (("in", "inserted", "in beam"), ("out", "retracted", "out of beam")),
}
"""What a position is called, by role; the first of each is used where a device does not say what it takes."""


@dataclass(frozen=True, kw_only=True)
class ReferenceFrames:
    """How the flats and darks of a scan are taken, or where they come from.

    Parameters
    ----------
    flats : int or None, optional
        Frames without the sample. None: 10, or 0 where `pixel_values` says that frames are corrected already, or
        `references` that those of an earlier run are used.
    darks : int or None, optional
        Frames without the beam; None as for `flats`.
    flats_after : int, optional
        More frames without the sample after the projections, also where the scan ends early because the image is good
        enough: for a beam that drifts. The finished volume uses both.
    darks_after : int, optional
        The same without the beam, after these: for a camera that warms.
    references : str or None, optional
        Use flats and darks of an earlier run of the catalogue, such as `take_references_plan` takes: its uid, or
        ``"last"`` for the newest of the same detector. They are refused if the detector's configuration has changed.
    shutter : device or None, optional
        Closed for darks and, whatever happens, at the end; that of the beamline in use by default.
    sample_table : device or None, optional
        Takes the sample out of the beam for flats; that of the beamline in use by default.
    shutter_words : tuple of two, optional
        What `shutter` is set to: open, closed. Found from the device by default.
    table_words : tuple of two, optional
        What `sample_table` is set to: in, out; numbers for a motor. Found from the device by default.
    take_flats : callable or None, optional
        ``f(detectors, num) -> plan`` in place of our own, for beamlines that do it in another way; it puts the frames
        into the stream ``flat`` (see `take_frames`).
    take_darks : callable or None, optional
        The same for darks, in the stream ``dark``.
    """

    flats: int | None = None
    darks: int | None = None
    flats_after: int = 0
    darks_after: int = 0
    references: str | None = None
    shutter: Positioner = None
    sample_table: Positioner = None
    shutter_words: Sequence[Word] | None = None
    table_words: Sequence[Word] | None = None
    take_flats: Any = None
    take_darks: Any = None

    def resolved(self, pixel_values: str = "counts") -> ReferenceFrames:
        """Return them with the numbers of frames filled in.

        Raises
        ------
        ConfigError
            If what is asked for contradicts itself, or can not be done with these devices.
        """
        for name in ("flats", "darks", "flats_after", "darks_after"):
            if (number := getattr(self, name)) is not None:
                _check_count(name, number)
        for name in ("take_flats", "take_darks"):
            if (plan := getattr(self, name)) is not None and not callable(plan):
                raise ConfigError(f"{name}: got {plan!r}, expected a function f(detectors, num) that returns a plan")
        usual = USUAL if pixel_values == "counts" and self.references is None else 0
        flats = usual if self.flats is None else self.flats
        darks = usual if self.darks is None else self.darks
        if (flats or darks) and self.references is not None:
            raise ConfigError(
                f"references={self.references!r} with flats={flats} and darks={darks}: expected one or the other"
            )
        if (flats or darks) and pixel_values != "counts":
            given = f"flats={flats}" if flats else f"darks={darks}"
            raise ConfigError(f"{given} with pixel_values={pixel_values!r}: those are corrected already; expected none")
        for kind, before, after in (("flats", flats, self.flats_after), ("darks", darks, self.darks_after)):
            if after and not before:
                raise ConfigError(f"{kind}_after={after} with {kind}=0: expected {kind} before the projections, too")
        check_source(pixel_values, OWN if flats else self.references, "flats=10")
        if flats and self.take_flats is None and (self.sample_table is None or self.shutter is None):
            raise ConfigError(
                f"flats={flats}: need shutter= and sample_table=, or take_flats=; or references='last' for those of an "
                "earlier run"
            )
        if darks and self.take_darks is None and self.shutter is None:
            raise ConfigError(f"darks={darks}: need shutter=, or take_darks=; darks=0 if none are wanted")
        return replace(self, flats=flats, darks=darks)

    def with_words(self) -> MsgGenerator[ReferenceFrames]:
        """Plan stub: return them with the words that shutter and sample table understand.

        Raises
        ------
        ConfigError
            If the words are not those of the device, or can not be found.
        """
        shutter = yield from find_words("shutter", self.shutter, self.shutter_words, "shutter_words")
        table = yield from find_words("sample_table", self.sample_table, self.table_words, "table_words")
        return replace(self, shutter_words=shutter, table_words=table)

    def as_metadata(self) -> dict[str, Any]:
        """Return what the start document says of them."""
        return {name: getattr(self, name) for name in ("flats", "darks", "flats_after", "darks_after")}

    def take(self, detectors: Sequence[Any], judge: Judge | None = None) -> MsgGenerator[None]:
        """Plan stub: take darks, then flats, in an open run; `judge` as for `take_frames`."""
        yield from self._take("dark", detectors, self.darks, judge)
        yield from self._take("flat", detectors, self.flats, None if self.darks else judge)

    def around(self, projections: MsgGenerator[None], detectors: Sequence[Any]) -> MsgGenerator[None]:
        """Plan stub: take projections, and frames after them, also where they end early because of the image."""

        def after() -> MsgGenerator[None]:
            yield from self._take("flat", detectors, self.flats_after)
            yield from self._take("dark", detectors, self.darks_after)

        def ended(error: Exception) -> MsgGenerator[None]:
            if isinstance(error, QualityReached):
                yield from after()

        yield from bpp.contingency_wrapper(projections, except_plan=ended, else_plan=after)

    def _take(
        self, kind: str, detectors: Sequence[Any], number: int | None, judge: Judge | None = None
    ) -> MsgGenerator[None]:
        own = self.take_darks if kind == "dark" else self.take_flats
        if number and own is not None:
            yield from own(detectors, number)
        elif number:
            if kind == "flat":
                yield from self._move(self.sample_table, self.table_words, 1)
            yield from self._move(self.shutter, self.shutter_words, 1 if kind == "dark" else 0)
            yield from take_frames(detectors, kind, number, judge)

    def sample_in(self) -> MsgGenerator[None]:
        """Plan stub: bring the sample into the open beam."""
        yield from self._move(self.sample_table, self.table_words, 0)
        yield from self._move(self.shutter, self.shutter_words, 0)

    def clean_up(self) -> MsgGenerator[None]:
        """Plan stub: close the shutter, and bring the sample back even if it does not close."""
        yield from bpp.finalize_wrapper(
            _at_last(partial(self._move, self.shutter, self.shutter_words, 1)),
            _at_last(partial(self._move, self.sample_table, self.table_words, 0)),
        )

    @staticmethod
    def _move(device: Any, words: Sequence[Word] | None, place: int) -> MsgGenerator[None]:
        if device is not None and words is not None:
            yield from move(device, words[place])


def _at_last(plan: Callable[[], MsgGenerator[None]]) -> MsgGenerator[None]:
    """Run a plan of a clean-up; once more where the scan is stopped or aborted in the middle of it."""
    try:
        yield from plan()
    except (RunEngineControlException, FailedPause):
        yield from plan()
        raise


def take_frames(
    detectors: Sequence[Any], stream: str, num: int, judge: Judge | None = None
) -> Generator[Any, Any, None]:
    """Plan stub: stage the detectors afresh, and take `num` frames into a stream of their own.

    Parameters
    ----------
    detectors : sequence of devices
        Staged here, so that each stream has a file of its own.
    stream : str
        ``"flat"`` or ``"dark"``.
    num : int
        Frames.
    judge : callable, optional
        A plan after the first of them, when detectors can describe their frames.
    """

    def frames() -> MsgGenerator[None]:
        for number in range(num):
            yield from bps.checkpoint()
            yield from bps.trigger_and_read(list(detectors), name=stream)
            if judge is not None and number == 0:
                yield from judge()

    yield from bpp.stage_wrapper(frames(), detectors)


def tomogram(
    detectors: Sequence[Any],
    frames: ReferenceFrames,
    md: Mapping[str, Any],
    projections: MsgGenerator[None] | None = None,
    staged: Sequence[Any] = (),
    judge: Judge | None = None,
) -> MsgGenerator[str | None]:
    """Take one run: darks, flats, projections with all of `staged`, flats again; end with beam off and sample in.

    Parameters
    ----------
    detectors : sequence of devices
        Of the flats and darks.
    frames : ReferenceFrames
        Resolved, with words.
    md : mapping
        Of the start document.
    projections : generator of messages, optional
        Run with the sample in the open beam; None: flats and darks are all.
    staged : sequence of devices, optional
        For the projections.
    judge : callable, optional
        As for `take_frames`.
    """

    def run() -> MsgGenerator[None]:
        yield from frames.take(detectors, judge)
        if projections is not None:
            yield from frames.sample_in()
            yield from frames.around(_staged(projections, staged), detectors)

    uid: str | None = yield from bpp.finalize_wrapper(bpp.run_wrapper(run(), md=dict(md)), frames.clean_up)
    return uid


def _staged(plan: MsgGenerator[None], devices: Sequence[Any]) -> MsgGenerator[None]:
    """Run a plan with devices that are staged; where it fails, a device that can not be unstaged does not hide why."""
    devices = separate_devices([root_ancestor(device) for device in devices])

    def undo(*, failed: bool) -> MsgGenerator[None]:
        for device in reversed(devices):
            try:
                yield from bps.unstage(device, wait=True)
            except Exception as error:
                if not failed:
                    raise
                logger.error("%s could not be unstaged: %s", device.name, error)

    def body() -> MsgGenerator[None]:
        yield from bps.stage_all(*devices)
        yield from plan

    yield from bpp.contingency_wrapper(
        body(), except_plan=lambda _: undo(failed=True), else_plan=lambda: undo(failed=False)
    )


def check_source(pixel_values: str, references: str | None, otherwise: str) -> None:
    """Refuse a scan of counts that has no flat field from anywhere.

    Raises
    ------
    ConfigError
        Saying what can be done; `otherwise` is what the caller has to offer.
    """
    if pixel_values != "counts" and references is not None and references != OWN:
        raise ConfigError(
            f"references={references!r} with pixel_values={pixel_values!r}: those are corrected already; expected one "
            "or the other"
        )
    if pixel_values == "counts" and references is None:
        raise ConfigError(
            f"no flat field: pixels are counts, which need one; expected {otherwise}, or references='last' (or a "
            "run's uid) for flats and darks of an earlier run, which RE(take_references_plan()) takes, or "
            "pixel_values='transmission' or 'line-integrals' for frames that are corrected already"
        )


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"{name}: got {value!r}, expected an integer of 0 or more")


def find_words(
    role: str, device: Any, given: Sequence[Word] | None, option: str
) -> MsgGenerator[Sequence[Word] | None]:
    """Return what a device is set to for its two positions; the words of an enum count in whatever case they are."""
    if device is None:
        return None
    if given is not None and (not _is_pair(given) or given[0] == given[1]):
        usual = tuple(names[0] for names in ROLES[role])
        raise ConfigError(f"{option}: got {given!r}, expected two that differ, such as {usual}")
    known = yield from answer(partial(_choices, device), unanswered=[])
    wanted = ROLES[role] if given is None else tuple((each,) for each in given)
    found = [pair for choices in known if (pair := _matching(choices, wanted)) is not None]
    numbers = given is not None and not any(isinstance(each, str) for each in given)
    if known and not found and not numbers:
        listed = " or ".join(", ".join(map(repr, choices)) for choices in known)
        got = f"no {option}" if given is None else f"{option}={tuple(given)!r}"
        raise ConfigError(
            f"{role} {device.name}: its positions are {listed}; got {got}, expected {option}= with two of them"
        )
    if len(set(found)) > 1:
        listed = " and ".join(str(tuple(map(str, pair))) for pair in dict.fromkeys(found))
        raise ConfigError(f"{role} {device.name}: its positions may be {listed}; say which with {option}=")
    words = found[0] if found else (given or tuple(names[0] for names in wanted))
    check = getattr(device, "check_value", None)
    if check is not None:
        for word in words:
            _, error = yield from attempt(partial(check, word), unanswered=None)
            if error is not None:
                raise ConfigError(f"{role} {device.name}: can not be set to {word!r} ({option}): {error}") from error
    return words


def _is_pair(given: object) -> bool:
    return not isinstance(given, str) and isinstance(given, Sequence) and len(given) == 2


def _matching(choices: Mapping[str, Any], wanted: Sequence[Sequence[Word]]) -> tuple[Any, Any] | None:
    """Return what to set for two positions that have one of these names each; None where it has not both."""
    named = {choice.strip().casefold(): value for choice, value in choices.items()}
    pair = [[named[word] for each in names if (word := str(each).strip().casefold()) in named] for names in wanted]
    return (pair[0][0], pair[1][0]) if all(pair) else None


async def _choices(device: Any) -> list[dict[str, Any]]:
    """Return the words that a device takes, and what to set for each; if it does not say, those that it reads as."""
    found = list(_enums(device))
    if not found and hasattr(device, "describe"):
        keys = await maybe_await(device.describe())
        listed = [key.get("choices") or key.get("enum_strs") for key in keys.values()]
        found = [{str(choice): choice for choice in choices} for choices in listed if choices]
    return found


def _enums(device: Any) -> Iterator[dict[str, Any]]:
    try:
        types = [kind for name, kind in get_type_hints(type(device).set).items() if name != "return"]
    except Exception:  # noqa: BLE001 - annotations of other people, which may name anything
        types = []
    types.append(getattr(device, "datatype", None))  # of a signal of ophyd-async
    for kind in types:
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            yield {str(each.value): each for each in kind}
