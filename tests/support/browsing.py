"""The page in a real browser, where there is one. With VIEW_SCREENSHOTS in the environment pictures are left there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

__all__ = ["CHROMIUM", "apart", "in_chromium", "live_view", "overlapping", "until"]

BOUND = 20.0
FOUND = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
CHROMIUM = pytest.mark.skipif(FOUND is None, reason="no Chromium on this computer")


@contextmanager
def live_view(*more: Any) -> Iterator[str]:
    """Start ``streamrecon view`` as a person does, and return the page's address."""
    command = [sys.executable, "-m", "bluesky_streamrecon", "view", "--json", "--as", "anna", *map(str, more)]
    view = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert view.stdout is not None
        yield json.loads(view.stdout.readline())["url"]
    finally:
        view.terminate()
        view.communicate(timeout=BOUND)


@contextmanager
def in_chromium(url: str) -> Iterator[tuple[Any, Callable[[str], None]]]:
    """Open the page, and fail if its console had an error or a warning in the end; the second value takes a picture."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    problems: list[str] = []
    shots = os.environ.get("VIEW_SCREENSHOTS")
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=FOUND, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.on("console", lambda said: problems.append(said.text) if _is_problem(said) else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.set_default_timeout(1000 * BOUND)
        page.goto(url)
        yield page, lambda name: page.screenshot(path=f"{shots}/{name}.png") if shots else None
        browser.close()
    assert problems == []


def _is_problem(said: Any) -> bool:
    """Return whether the console says that something is wrong; that there is no GPU is no fault of the page."""
    return said.type in ("error", "warning") and "GPU stall" not in said.text


def until(page: Any, what: str, before: Any = None) -> None:
    """Wait until an expression of the page is true; its policy lets nobody evaluate text inside of it."""
    page.evaluate(
        f"""async before => {{
            for (const end = performance.now() + {1000 * BOUND}; !({what}); await new Promise(requestAnimationFrame))
                if (performance.now() > end) throw new Error("still not so");
        }}""",
        before,
    )


def apart(page: Any, size: tuple[int, int], *names: str) -> None:
    """Fail if parts of the page overlap at this size, or are not seen without scrolling."""
    width, height = size
    page.set_viewport_size({"width": width, "height": height})
    boxes = {name: page.locator(name).bounding_box() for name in names}
    assert all(box["x"] + box["width"] <= width for box in boxes.values()), (size, boxes)
    assert all(box["y"] + box["height"] <= height for box in boxes.values()), (size, boxes)
    assert not overlapping(boxes), size


def overlapping(boxes: dict[str, Any]) -> list[tuple[str, str]]:
    """Return pairs of boxes that share area."""

    def meet(a: Any, b: Any) -> bool:
        across = min(a["x"] + a["width"], b["x"] + b["width"]) - max(a["x"], b["x"])
        down = min(a["y"] + a["height"], b["y"] + b["height"]) - max(a["y"], b["y"])
        return across > 1 and down > 1

    names = list(boxes)
    return [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if meet(boxes[a], boxes[b])]
