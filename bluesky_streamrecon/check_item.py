"""What became of one check of a set-up or of a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["CheckItem"]


@dataclass(frozen=True, slots=True)
class CheckItem:
    """What became of one check.

    Parameters
    ----------
    name : str
        What was tried; of a device its role and name.
    status : {"OK", "TIMEOUT", "ERROR"}
        Whether it works.
    hint : str
        What was found and, if it does not work, what to do.
    """

    name: str
    status: Literal["OK", "TIMEOUT", "ERROR"]
    hint: str
