"""What a user can set about a reconstruction and about stopping, checked once and sent to every process.

Both structs travel in the run's start document and in the wire's ``OpenRun``. Every field that is refused says
what came and what was expected.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec
import numpy as np
import platformdirs
from msgspec import Meta

from bluesky_streamrecon.deadlines import parsed
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.selection import Region, check_region

__all__ = [
    "BACKENDS",
    "CHANGE",
    "FINAL_AUTO",
    "FINAL_NONE",
    "ROTATIONS",
    "TOMOGRAPHY",
    "WINDOW_POLICIES",
    "PixelValues",
    "ReconSettings",
    "SteeringSettings",
    "data_directory",
    "settings_from",
]

T = TypeVar("T", bound=msgspec.Struct)
Option = float | int | str | bool

PixelValues = Literal["counts", "transmission", "line-integrals"]
"""What pixels stand for: detector counts, I/I0 already, or -log(I/I0) already."""

BACKENDS = ("auto", "cpu", "cuda")
"""What computes: a GPU if there is one that works, the processor's cores, a GPU or nothing."""

TOMOGRAPHY = "tomography"
"""Name of the analysis that reconstructs slices; it needs the angle of each projection."""

ROTATIONS = ("counterclockwise", "clockwise")
"""Which way the sample turns while the angle grows, seen from above."""

CHANGE = "change"
"""Name of the policy that looks for changes of the sample in a time series."""

WINDOW_POLICIES = ("newest", "spread")
"""Which projections an update uses: the newest, or part of them with others from all angles."""

FINAL_AUTO, FINAL_NONE = "auto", "none"
"""How a volume is finished: by the recipe that the default policy predicts for; not at all."""

Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
Name = Annotated[str, Meta(min_length=1)]


class ReconSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the image is made.

    Parameters
    ----------
    algorithm : str
        Registered name, for instance ``"mlem"`` or ``"sirt"``.
    window : int or None
        Projections that an update uses (l); None: all.
    window_policy : str
        ``"spread"``: the newest projections fill half of the window (three quarters where `step` is above 1), older
        ones from all angles the rest; up to pi / 2 projections per detector column are kept for it.
        ``"newest"``: the newest projections only, as in the paper.
    step : int
        New projections between two updates (s), at most `window`.
    iterations : int
        Updates per step.
    bin : int
        Side of the blocks of detector pixels whose mean is a pixel of the frame that is reconstructed; what is left
        over at the right and at the bottom is left out, and the detector's files keep all. With `bin` or `rows`, all
        other settings, messages and results count rows and columns of the reduced frame; micrometres stay the
        detector's.
    rows : (int, int) or None
        Detector rows ``(first, stop)`` that are reconstructed; None: all.
    axis : float or None
        Detector column of the rotation axis; None finds it from the projections.
    axis_tilt : float
        Angle of the rotation axis to the detector's columns, in the detector's plane, degrees, at most 2. Positive:
        in lower rows (of larger number) the axis lies further to the right (at larger columns). Each row is shifted
        so that the axis is at `axis` in all of them, as it is in the middle row.
    rotation : str
        ``"counterclockwise"``: seen from above, the sample turns counterclockwise while the angle grows, and the
        detector's columns count to the right as seen from the source. ``"clockwise"``: one of the two is the other way
        round. With the wrong one the image is a mirror image, and otherwise right.
    size : int or None
        Side of the square image, pixels; None: as wide as what is seen. That are the detector's columns where the
        sample fits into the view; twice the distance from the axis to the farther edge in a scan over a full turn whose
        axis is near an edge; and a quarter more where the sample reaches out of view.
    disc : bool
        Update only the inscribed disc.
    backend : str
        ``"auto"``: each rank computes on a GPU where there is one that works and has the memory, else on the CPU.
        ``"cpu"``: on the CPU. ``"cuda"``: on a GPU, or the run is refused.
    threads : int or None
        Threads per rank; None: the cores that the rank may use.
    ranks : int
        MPI ranks of a job that is started for the run.
    share : int
        Ranks that share one block of rows.
    coalesce : bool
        Let a job that falls behind by more than a window take several steps at once (fewer images, no
        projection lost).
    pixel_values : {"counts", "transmission", "line-integrals"}
        What the pixels of projections stand for: detector counts, which need a flat field, or frames that are corrected
        already: I/I0, or -log(I/I0).
    monitor : str or None
        What is read with every flat and projection, and normalises their light: a device, or the data key of a number
        in the events, or in a file beside the frames. None: flats and projections are compared as they are.
    preparation : sequence of str or dict
        Steps after flats, darks and logarithm, in order, each once: ``"zingers"``, ``"beam"``, ``"paganin"``,
        ``"rings"``, ``"wavelet-rings"``, or steps of your own. A step with options is a dict, for instance
        ``{"step": "beam", "left": 20, "right": 20}``.
    checkpoint_every : int
        Images between two checkpoints of the job; 0: none.
    analysis : str
        Registered name of what is made of the frames: ``"tomography"``, or an analysis of your own, for which settings
        of the image mean what it makes of them.
    options : dict
        Passed to the algorithm (relaxation, regularisation, …).
    final : str
        How the whole volume is finished from all projections when the run has ended as a success: ``"auto"``, by the
        recipe that the default policy predicts for; ``"fbp"`` or any other algorithm; ``"none"``: not at all.
    final_iterations : int or None
        Times that it goes over all projections; None: for ``"auto"`` 60 updates, with
        little noise up to 90; 1 for FBP; 20 for others.
    final_options : dict
        Passed to the algorithm that `final` names.
    turns : int
        Half turns of a time series: the range of angles is scanned so many times, and each time is a volume of its own.
        Images are then made from the newest half turn, the sample is free to change, and the policy is ``"change"``
        where none is named. 1: one scan of a still sample.
    """

    algorithm: Name = "mlem"
    window: Positive | None = 24
    window_policy: str = "spread"
    step: Positive = 1
    iterations: Positive = 1
    bin: Positive = 1
    rows: tuple[Count, Count] | None = None
    axis: float | None = None
    axis_tilt: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    rotation: str = ROTATIONS[0]
    size: Annotated[int, Meta(ge=2)] | None = None
    disc: bool = False
    backend: str = "auto"
    threads: Positive | None = None
    ranks: Positive = 2
    share: Positive = 1
    coalesce: bool = True
    pixel_values: PixelValues = "counts"
    monitor: Name | None = None
    preparation: tuple[Name | dict[str, Option], ...] = ()
    checkpoint_every: Count = 0
    analysis: Name = TOMOGRAPHY
    options: dict[str, Option] = {}
    final: Name = FINAL_AUTO
    final_iterations: Positive | None = None
    final_options: dict[str, Option] = {}
    turns: Positive = 1

    def __post_init__(self) -> None:
        for name, choices in (
            ("pixel_values", get_args(PixelValues)), ("window_policy", WINDOW_POLICIES), ("backend", BACKENDS),
            ("rotation", ROTATIONS),
        ):  # fmt: skip
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name}: got {getattr(self, name)!r}, expected one of {', '.join(choices)}")
        if self.monitor is not None and self.pixel_values != "counts":
            raise ConfigError(
                f"monitor={self.monitor!r} with pixel_values={self.pixel_values!r}: those are corrected already; "
                "expected no monitor"
            )
        if not isinstance(self.preparation, tuple):
            raise ConfigError(
                f'preparation: got {self.preparation!r}, expected a list of steps, as in ["zingers", "rings"]'
            )
        _check_types(self)
        for step in self.preparation:
            if isinstance(step, dict) and not isinstance(step.get("step"), str):
                raise ConfigError(
                    f"preparation: got {step!r}, expected the name of the step, too, as in "
                    '{"step": "beam", "left": 20, "right": 20}'
                )
        names = [step["step"] if isinstance(step, dict) else step for step in self.preparation]
        if twice := sorted({str(name) for name in names if names.count(name) > 1}):
            raise ConfigError(f"preparation: got {', '.join(map(str, names))}; expected {', '.join(twice)} only once")
        if self.rows is not None and self.rows[1] - self.rows[0] < self.bin:
            raise ConfigError(
                f"rows: got {self.rows} with bin={self.bin}, expected detector rows (first, stop) with stop at least "
                f"first + {self.bin}"
            )
        for name in ("final_iterations", "final_options"):
            if self.final == FINAL_NONE and (value := getattr(self, name)):
                raise ConfigError(
                    f"{name}={value!r} with final='none': no volume is finished; expected final='auto' or an "
                    f"algorithm, or no {name}"
                )
        if self.window is not None and self.window < self.step:
            raise ConfigError(
                f"window={self.window} is shorter than step={self.step}: projections would never be used; "
                "expected window >= step (window=None keeps all)"
            )
        if self.backend == "cuda" and self.share > 1:
            raise ConfigError(f"share={self.share} with backend='cuda': expected share=1, rows are not shared on GPUs")
        if self.axis is not None and not math.isfinite(self.axis):
            raise ConfigError(f"axis: got {self.axis}, expected a finite detector column or None to find it")
        if self.share > self.ranks:
            raise ConfigError(f"share={self.share} is more than ranks={self.ranks}; expected share <= ranks")
        if self.algorithm == "fbp" and self.window is not None:
            raise ConfigError(
                f"algorithm='fbp' with window={self.window}: filtered back projection makes each image anew, and would "
                "see only the projections in the window; expected window=None (all projections so far), or an "
                "algorithm that improves the last image, such as 'mlem' or 'sirt'"
            )


class SteeringSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the image is good enough, and what happens then.

    Parameters
    ----------
    policy : str or None
        Registered name of the stopping policy; ``"a+b"``: both criteria, ``"a|b"``: one of them. None: see `rule`.
    threshold : float or None
        Score (MS-SSIM of an image and an earlier one) at which the criterion of ``"ms-ssim"`` is met, in (0, 1]; 1
        never stops a scan. None: see `least_score`.
    tolerance : float
        Gain in MS-SSIM that ``"predicted-gain"`` gives up for an earlier end, in (0, 1).
    patience : int
        Images (of ``"ms-ssim"``) or predictions in a row that must meet the criterion.
    minimum_projections : int or None
        No stop before so many projections; None: as many as the policy needs. ``"ms-ssim"`` then waits until every
        projection of both compared images' windows has been replaced once (window + compare_to), since early images
        still change for other reasons than the sample; ``"predicted-gain"`` for 24 and a fifth of the plan.
    minimum_coverage : float
        No stop before the largest angular gap is below this many degrees; 0: no such condition.
    compare_to : int or None
        Image i is compared with the image that was made this many projections earlier (k); None: the window.
    scales : int
        Scales of MS-SSIM, 1 to 5.
    preview_rows : tuple of int or None
        Detector rows that are scored; None: the job chooses up to three, evenly spread.
    advisory : bool
        Record the verdicts, but never end the scan by them.
    until : str, float or None
        When the last projection, and flats and darks after it, are to be over, whatever the policy, hold or `advisory`
        say: a time of day (``"18:30"``, 24 hours, local), an ISO date and time, or seconds from the plan's start.
    dose : float or None
        How long the sample may be exposed, seconds: exposure time times projections.
    region : tuple of int or None
        Part of the slices that score, prediction, resolution and measurement are judged in, see `Region`. None: all of
        it.
    options : dict
        Passed to the policy.
    """

    policy: Name | None = None
    threshold: float | None = None
    tolerance: float = 0.02
    patience: Positive = 1
    minimum_projections: Count | None = None
    minimum_coverage: Annotated[float, Meta(ge=0, le=360)] = 0.0
    compare_to: Positive | None = None
    scales: Annotated[int, Meta(ge=1, le=5)] = 5
    preview_rows: Annotated[tuple[Count, ...], Meta(min_length=1)] | None = None
    advisory: bool = False
    until: str | float | None = None
    dose: float | None = None
    region: Region | None = None
    options: dict[str, Option] = {}

    def __post_init__(self) -> None:
        _check_types(self)
        if self.until is not None:
            parsed(self.until)
        if self.dose is not None and not 0 < self.dose < math.inf:
            raise ConfigError(f"dose: got {self.dose:g}, expected seconds of exposure above 0")
        if self.region is not None:
            check_region(self.region)
        if not 0 < self.tolerance < 1:
            raise ConfigError(
                f"tolerance: got {self.tolerance}, expected 0 < tolerance < 1 (a gain in MS-SSIM; 0.02 is usual)"
            )
        if not 0 < self.least_score <= 1:
            raise ConfigError(
                f"threshold: got {self.threshold}, expected 0 < threshold <= 1 (an MS-SSIM score; 0.95 is usual, "
                "1 never stops)"
            )
        if self.policy == "predicted-gain" and self.threshold is not None:
            raise ConfigError(
                f"threshold: got {self.threshold} with policy='predicted-gain', which does not use it; expected "
                "tolerance=, or policy='ms-ssim+predicted-gain' (both have to say so)"
            )

    def check_planned(self, planned: int) -> None:
        """Refuse settings that can not end a scan of so many projections.

        Parameters
        ----------
        planned : int
            Projections planned; 0: not known.

        Raises
        ------
        ConfigError
            If `minimum_projections` or `patience` is more than are planned, or no image has one to be compared with.
        """
        most = {"minimum_projections": planned, "patience": planned}
        if "ms-ssim" in self.rule:
            most["compare_to"] = planned - 1
        for name, expected in most.items():
            if planned and (getattr(self, name) or 0) > expected:
                raise ConfigError(
                    f"{name}: got {getattr(self, name)} for a scan of {planned} projections, which would never be "
                    f"ended; expected at most {expected} (advisory=True is for a scan that is to be judged and never "
                    "ended)"
                )

    @property
    def rule(self) -> str:
        """Policy to stop by: the one asked for, else ``"ms-ssim"`` if a threshold was given, else the default."""
        if self.policy is not None:
            return self.policy
        return "predicted-gain" if self.threshold is None else "ms-ssim"

    @property
    def least_score(self) -> float:
        """Threshold of ``"ms-ssim"``: the one asked for, else the paper's 0.95."""
        return 0.95 if self.threshold is None else self.threshold


def settings_from(kind: type[T], values: Mapping[str, Any], *, beside: Path | None = None) -> T:
    """Build settings from plain values, as from a start document or a TOML table; paths are relative to `beside`.

    Raises
    ------
    ConfigError
        If a field is unknown, has the wrong type, or a value that can not work.
    """

    def path(wanted: type, value: Any) -> Path:
        if wanted is Path and isinstance(value, str):
            return (beside or Path()) / Path(value).expanduser()
        raise TypeError(f"Expected `str`, got `{type(value).__name__}`")

    try:
        return msgspec.convert(values, kind, strict=True, dec_hook=path)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{kind.__name__}: {error}; known fields: {', '.join(kind.__struct_fields__)}") from error


def data_directory() -> Path:
    """Return where data are stored by default: ``$STREAMRECON_DATA``, or the user's data directory (XDG)."""
    given = os.environ.get("STREAMRECON_DATA")
    if given:
        return Path(given).expanduser().resolve()
    return platformdirs.user_data_path("bluesky-streamrecon", appauthor=False)


def _check_types(settings: msgspec.Struct) -> None:
    """Refuse here what a decoder would refuse, for by then the scan runs, and goes on without its reconstruction.

    NumPy's numbers, as ``axis=columns.mean()`` gives them, are taken for Python's.
    """
    for field in msgspec.structs.fields(settings):
        value = _plain(getattr(settings, field.name))
        msgspec.structs.force_setattr(settings, field.name, value)
        if field.name in ("options", "final_options") and isinstance(value, dict):
            for key, option in value.items():
                if not isinstance(option, float | int | str | bool):
                    raise ConfigError(f"{field.name}: got {key}={option!r}, expected a number, a string, True or False")
        try:
            msgspec.convert(value, field.type, strict=True)
        except msgspec.ValidationError as error:
            why = str(error)
            raise ConfigError(f"{field.name}: got {value!r}; {why[:1].lower()}{why[1:]}") from error


def _plain(value: Any) -> Any:
    match value:
        case np.generic():
            return value.item()
        case dict():
            return {key: _plain(each) for key, each in value.items()}
        case tuple():
            return tuple(map(_plain, value))
    return value
