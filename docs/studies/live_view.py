"""Makes the pictures of the live view that README and docs show: a scan of the simulated beamline, seen in a browser.

    pip install 'bluesky-streamrecon[view]' playwright      # and Chromium, from your distribution
    python docs/studies/live_view.py docs/explanations/images

Writes ``live-page.webp``, a page in the middle of a run, and ``live-view.webp``, the same from its first images to the
finished volume.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from bluesky import RunEngine
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from bluesky_streamrecon.beamline import ReconJob
from bluesky_streamrecon.plans import stream_tomo_plan
from bluesky_streamrecon.sim_devices import sim_beamline

SIZE = {"width": 1280, "height": 800}
EVERY = 21  # projections between two frames of the animation
TAKEN = "Number(document.getElementById('progress').value)"
ENDED = "document.getElementById('link').textContent"
FINISHED = "() => document.getElementById('cut-note').textContent.startsWith('Finished volume')"
MIDDLE = 96  # projections in the still picture, at least
SMALL = {"quality": 60, "method": 6, "minimize_size": True}


def watch(out: Path, begun: threading.Event) -> None:
    """Open the page, and take pictures until the run has ended."""
    command = [sys.executable, "-m", "bluesky_streamrecon", "view", "--json", "--as", "anna"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as view, sync_playwright() as browsers:
        assert view.stdout is not None
        browser = browsers.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            page = browser.new_page(viewport=SIZE)
            page.goto(json.loads(view.stdout.readline())["url"])
            begun.set()
            frames = list(pictures(page, out))
            frames[0].save(out / "live-view.webp", save_all=True, append_images=frames[1:], duration=900, **SMALL)
        finally:
            browser.close()
            view.terminate()


def pictures(page: Page, out: Path) -> Iterator[Image.Image]:
    """Yield a picture every few projections, and the last; the one in the middle is written."""
    following, middle = EVERY, True
    page.wait_for_selector("#solid", timeout=120_000)
    while True:
        page.wait_for_function(
            f"n => {TAKEN} >= n || run && {ENDED}",
            arg=following,
            timeout=120_000,
        )
        taken, ended = int(page.evaluate(TAKEN)), page.evaluate(ENDED)
        if ended:
            page.wait_for_function(FINISHED, timeout=60_000)
        shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        if middle and taken >= MIDDLE:
            shot.save(out / "live-page.webp", quality=80, method=6)
            middle = False
        yield shot
        if ended:
            return
        page.select_option("#solid", "brightest")
        following = taken + EVERY


def main() -> None:
    """Take the scan with a page beside it."""
    out, begun = Path(sys.argv[1]), threading.Event()
    with tempfile.TemporaryDirectory() as data, contextlib.closing(ReconJob(output=data, keep_alive=True)) as job:
        beamline = sim_beamline(rows=16, columns=256, directory=data)
        page = threading.Thread(target=watch, args=(out, begun))
        page.start()
        begun.wait(60)
        plan = stream_tomo_plan(
            beamline.detector,
            beamline.stage,
            job=job,
            shutter=beamline.shutter,
            sample_table=beamline.table,
            md={"sample": "foam"},
        )
        RunEngine({"pixel_size": 6.5})(plan)
        page.join()


if __name__ == "__main__":
    main()
