"""Options of what is registered are checked against the types of their fields, as far as these can be judged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pytest
from msgspec import Meta

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.registry import made_with

if TYPE_CHECKING:
    from decimal import Decimal


@dataclass(frozen=True)
class Judged:
    width: int = 1
    where: Path | slice = Path()


@dataclass(frozen=True)
class Unseen:
    width: Decimal | None = None


@dataclass(frozen=True)
class Bounded:
    count: Annotated[int, Meta(ge=1)] = 1
    share: Annotated[float, Meta(le=1)] = 1.0


@dataclass(frozen=True)
class PartlyUnseen(Bounded):
    share: float | Decimal = 1.0
    width: Decimal | None = None


def test_value_of_another_type_is_refused_by_its_option():
    with pytest.raises(ConfigError, match=r"step 'mine': width: got 'wide'; expected `int`"):
        made_with("step", "mine", Judged, Judged, {"width": "wide"})


def test_type_that_can_not_be_judged_is_left_to_the_class_itself():
    assert made_with("step", "mine", Judged, Judged, {"where": slice(3)}).where == slice(3)
    assert made_with("step", "mine", Unseen, Unseen, {"width": 2}).width == 2


def test_type_that_can_not_be_judged_leaves_inherited_options_their_bounds():
    with pytest.raises(ConfigError, match=r"step 'mine': count: got 0; expected `int` >= 1"):
        made_with("step", "mine", PartlyUnseen, Bounded, {"count": 0})
    assert made_with("step", "mine", PartlyUnseen, Bounded, {"share": 2.0, "width": 2}).share == 2.0
