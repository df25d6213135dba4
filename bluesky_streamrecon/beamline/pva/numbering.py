"""Which place in its series an image has, by its number: gaps, copies, and counters that start anew.

Nothing here knows pixels or connections.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["Counts", "Numbering"]

LARGEST_GAP: Final = 100_000
"""Numbers that are missing at once; more is a counter that was set."""

Apart = Literal["not asked for", "duplicate", "without place"]


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the images of a series.

    Parameters
    ----------
    places : int
        Of the series, from 0, so far.
    used : int
        Images that have one.
    duplicates : int
        Images that came again.
    without_place : int
        Images after the counter of the IOC began anew, so that nobody knows how many are missing before them.
    """

    places: int = 0
    used: int = 0
    duplicates: int = 0
    without_place: int = 0

    @property
    def lost(self) -> int:
        """Places whose image has not come, and will not."""
        return self.places - self.used

    def __str__(self) -> str:
        more = f", {self.without_place} without a place" if self.without_place else ""
        return f"{self.used} images of {self.places}, {self.lost} lost, {self.duplicates} duplicates{more}"


class Numbering:
    """Find the place of each image of a series.

    Examples
    --------
    The number before the series was 7; 9 is lost, and 10 comes twice:

    >>> numbering = Numbering()
    >>> numbering.take(7, 0.0)
    'not asked for'
    >>> numbering.begin()
    >>> [numbering.take(number, number / 10) for number in (8, 10, 10, 11)]
    [0, 2, 'duplicate', 3]
    >>> print(numbering.counts)
    3 images of 4, 1 lost, 1 duplicates
    """

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None  # number and time of the newest
        self._base: int | None = None  # number of place 0
        self._taken: dict[int, float] = {}  # time, by place
        self._places = 0
        self._floor = 0  # places before `begin`
        self._front = 0  # after the last place that is taken
        self._skip = self._most = 0
        self._open = self._with_any = self._anew = False
        self._duplicates = self._without_place = 0

    @property
    def counts(self) -> Counts:
        """What has come so far."""
        return Counts(self._places, len(self._taken), self._duplicates, self._without_place)

    def begin(self) -> None:
        """From now on an image is asked for each number, from the next after the last one that was seen."""
        self._open, self._with_any, self._floor = True, False, self._places
        if self._anew:
            self._base, self._anew = None, False
        if self._base is None and self._last is not None:
            self._base = self._last[0] + 1 - self._places

    def begin_with_any(self, most: int, skip: int) -> None:
        """From now on `most` images are asked for (0: all), whichever come after the next `skip`.

        For an IOC that takes images all the time.
        """
        self._open, self._with_any, self._floor = True, True, self._places
        self._base, self._anew, self._most, self._skip = None, False, most, skip

    def end(self) -> None:
        """Images are not asked for until `begin`."""
        self._open = False

    def leave(self, places: int) -> None:
        """Count what has not come of so many places as lost."""
        self._places = max(self._places, places)

    def take(self, number: int, time: float) -> int | Apart:
        """Return the place of an image, or why it has none.

        Parameters
        ----------
        number : int
            That its IOC gave it.
        time : float
            When it was taken, by its IOC's clock, which tells a copy from another image of the same number.
        """
        before = self._last
        newer = before is None or time > before[1]
        if newer:
            self._last = (number, time)
        if not self._open or (before == (number, time) and not self._is_taken(number, time)):
            return "not asked for"  # servers repeat their last image to those who connect
        if self._base is None:
            if self._with_any and self._skip:
                self._skip -= 1
                return "not asked for"
            self._base = number - self._places
        place = number - self._base
        if self._taken.get(place) == time:
            self._duplicates += 1
            return "duplicate"
        if self._anew:
            return self._apart()
        if place >= self._front if newer else place >= self._floor and place not in self._taken:
            return self._at(place, time) if place < self._places + LARGEST_GAP else self._counted_anew(number, time)
        return self._counted_anew(number, time)

    def _is_taken(self, number: int, time: float) -> bool:
        return self._base is not None and self._taken.get(number - self._base) == time

    def _counted_anew(self, number: int, time: float) -> int | Apart:
        """Take the first image after a counter was set, if it can only be the next one."""
        if self._with_any or self._places == self._floor:
            self._base = number - self._places
            return self._at(self._places, time)
        self._anew = True
        return self._apart()

    def _apart(self) -> Apart:
        self._without_place += 1
        return "without place"

    def _at(self, place: int, time: float) -> int:
        self._taken[place] = time
        self._front = max(self._front, place + 1)
        self._places = max(self._places, self._front)
        if self._with_any and self._most and self._places >= self._floor + self._most:
            self._open = False
        return place

    def forget(self, place: int) -> None:
        """Count the image at a place as lost: it could not be kept."""
        del self._taken[place]
