"""The way of a projection and of a score through the modules is what the documentation says, and short."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import NamedTuple

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "explanations" / "how-it-works.md"
RUN_ENGINE = "RunEngine"  # its thread is not ours


class Row(NamedTuple):
    """One line of a table."""

    stop: str
    module: str
    function: str
    what: str
    thread: str
    queue: str


def table(heading: str) -> list[Row]:
    """Return the rows of the table under a heading."""
    section = PAGE.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [Row(*(cell.strip().strip("`") for cell in line.strip("|").split("|"))) for line in lines[2:]]


@pytest.mark.parametrize("heading", ["The way of one projection", "The way of one score"])
def test_each_function_on_the_way_exists(heading):
    rows = table(heading)
    assert rows
    for row in rows:
        found = importlib.import_module("bluesky_streamrecon." + row.module.removesuffix(".py").replace("/", "."))
        for name in row.function.split("."):
            found = getattr(found, name)
        assert callable(found), row


@pytest.mark.parametrize(
    ("heading", "stops", "classes"), [("The way of one projection", 10, 16), ("The way of one score", 8, 16)]
)
def test_way_has_no_more_stops_than_can_be_kept_in_mind(heading, stops, classes):
    """Of `classes` in all, so many change, check or keep what passes."""
    rows = table(heading)
    numbered = {(row.stop, row.function.split(".")[0]) for row in rows if row.stop != "–"}
    assert sorted(int(stop) for stop, _ in numbered) == list(range(1, len(numbered) + 1)), "one number for each class"
    assert len({name for _, name in numbered}) <= stops
    assert len({row.function.split(".")[0] for row in rows}) <= classes


def test_projection_waits_in_four_queues_and_passes_four_threads_at_most():
    rows = table("The way of one projection")
    assert len({row.queue for row in rows} - {""}) <= 4
    assert len({row.thread for row in rows} - {RUN_ENGINE}) <= 4
