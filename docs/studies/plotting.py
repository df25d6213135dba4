"""Measures how the live view's pictures are drawn: by the page's own canvas, or by Bokeh in two ways.

    pip install 'bluesky-streamrecon[view]' bokeh psutil     # and Chromium, from your distribution
    python docs/studies/plotting.py --side 2048 --rate 10 --seconds 8

Each way gets the same float32 images in a headless Chromium, nothing else in the page; no tool is attached to it, since
those get copies of what a WebSocket brings. Time is from the image being ready to the frame after it was drawn;
processor time is of the browser's processes, and of the server's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import queue
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

import numpy as np
import psutil

MEASURE = """
const times = [], now = () => (performance.timeOrigin + performance.now()) / 1000;
const tell = (what, body) => fetch("TOLD/" + what, { method: "POST", mode: "no-cors", body: JSON.stringify(body) });
const loaded = () => performance.getEntriesByType("resource").filter(each => each.initiatorType === "script");
const sum = list => list.reduce((all, each) => all + each, 0);
const size = () => sum(loaded().map(each => each.decodedBodySize)) + sum([...document.scripts].map(s => s.text.length));
const seen = made => requestAnimationFrame(() => requestAnimationFrame(() => {
  times.push([made, now()]);
  if (times.length !== 4) return;
  tell("begun", size());
  setTimeout(() => tell("drawn", times.slice(4)), 1000 * SECONDS);
}));
"""
FETCH = """
async function follow(take) {
  for (let number = 0;;) {
    const answer = await fetch("image?after=" + number);
    number = Number(answer.headers.get("X-Number"));
    take(new Float32Array(await answer.arrayBuffer()));
    seen(Number(answer.headers.get("X-Made")));
  }
}
"""
CANVAS = """
const canvas = document.querySelector("canvas"), pen = canvas.getContext("2d");
canvas.width = canvas.height = SIDE;
follow(values => {
  const image = pen.createImageData(SIDE, SIDE), low = 0, scale = 255;
  for (let i = 0; i < values.length; i++) {
    image.data[4 * i] = image.data[4 * i + 1] = image.data[4 * i + 2] = (values[i] - low) * scale;
    image.data[4 * i + 3] = Number.isNaN(values[i]) ? 0 : 255;
  }
  pen.putImageData(image, 0, 0);
});
"""
CLIENT = """
const array = values => Bokeh.require("core/util/ndarray").ndarray(values, { dtype: "float32", shape: [SIDE, SIDE] });
const source = new Bokeh.ColumnDataSource({ data: { image: [array(new Float32Array(SIDE * SIDE))] } });
const plot = Bokeh.Plotting.figure({ width: 600, height: 600, tools: "pan,wheel_zoom,hover" });
const color_mapper = new Bokeh.LinearColorMapper({ palette: Bokeh.Palettes.Greys256, low: 0, high: 1 });
plot.image({ image: { field: "image" }, x: 0, y: 0, dw: 1, dh: 1, source, color_mapper });
Bokeh.Plotting.show(plot, document.body).then(() => follow(values => { source.data = { image: [array(values)] }; }));
"""


class Images:
    """Makes an image every `1 / rate` seconds; the newest is shown."""

    def __init__(self, side: int, rate: float) -> None:
        noise = np.random.default_rng(0).random((side, side), np.float32)
        self._images = [np.roll(noise, 97 * i, axis=1) for i in range(4)]
        self._rate, self._begun = rate, time.time()

    def newest(self) -> tuple[int, float, np.ndarray[Any, Any]]:
        """Return number, time when it was ready, and pixels."""
        number = int((time.time() - self._begun) * self._rate)
        return number, self._begun + number / self._rate, self._images[number % 4]


def serve_page(side: int, rate: float, script: str, library: bool, measuring: str, port: Any) -> None:
    """Serve a page, as `streamrecon view` does: each image is fetched when the one before was drawn."""
    import socket

    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, Response
    from starlette.routing import Route

    images = Images(side, rate)
    names = ("bokeh", "bokeh-api") if library else ()
    static = resources.files("bokeh") / "server" / "static" / "js" if library else None
    scripts = [(static / f"{name}.min.js").read_text(encoding="utf-8") for name in names]  # type: ignore[operator]
    scripts += [measuring + FETCH + script.replace("SIDE", str(side))]
    html = "<canvas style='width: 600px'></canvas>" * (not library) + "".join(f"<script>{s}</script>" for s in scripts)

    async def page(request: Request) -> Response:
        return HTMLResponse("<!doctype html><body>" + html)

    async def image(request: Request) -> Response:
        while True:
            number, made, pixels = images.newest()
            if number > int(request.query_params["after"]):
                headers = {"X-Number": str(number), "X-Made": repr(made)}
                return Response(pixels.tobytes(), media_type="application/octet-stream", headers=headers)
            await asyncio.sleep(0.002)

    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    port.put(listening.getsockname()[1])
    app = Starlette(routes=[Route("/", page), Route("/image", image)])
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


def serve_bokeh(side: int, rate: float, measuring: str, port: Any) -> None:
    """Serve the same by a Bokeh server, which pushes each image when it is ready."""
    from bokeh.models import CustomJS, LinearColorMapper
    from bokeh.plotting import figure
    from bokeh.server.server import Server

    images = Images(side, rate)

    def document(doc: Any) -> None:
        plot = figure(width=600, height=600, tools="pan,wheel_zoom,hover")
        mapper = LinearColorMapper(palette="Greys256", low=0, high=1)
        glyph = plot.image(image=[images.newest()[2]], x=0, y=0, dw=1, dh=1, color_mapper=mapper)
        source = glyph.data_source
        seen = (
            f"if (!window.measure) window.measure = (() => {{ {measuring}; return seen; }})(); measure(cb_obj.tags[0]);"
        )
        source.js_on_change("data", CustomJS(code=seen))
        shown = 0

        def push() -> None:
            nonlocal shown
            number, made, pixels = images.newest()
            if number > shown:
                shown = number
                source.tags = [made]
                source.data = {"image": [pixels]}

        doc.add_root(plot)
        doc.add_periodic_callback(push, 5)

    server = Server({"/": document}, port=0, websocket_max_message_size=2**30)
    server.start()
    port.put(server.port)
    server.io_loop.start()


def used(process: psutil.Process) -> float:
    """Return the processor time of a process and its children, seconds."""
    family = [process, *process.children(recursive=True)]
    return sum(sum(each.cpu_times()[:2]) for each in family)


def measure(name: str, serve: Any, arguments: tuple[Any, ...], seconds: float) -> None:
    """Show one way to draw in a browser for some seconds, and print what it took."""
    told: queue.Queue[tuple[str, Any]] = queue.Queue()

    class Told(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.put((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *about: Any) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Told)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    where = f"http://127.0.0.1:{listening.server_port}"
    measuring = MEASURE.replace("TOLD", where).replace("SECONDS", str(seconds))
    port: Any = multiprocessing.Queue()
    server = multiprocessing.Process(target=serve, args=(*arguments, measuring, port), daemon=True)
    server.start()
    at_server = psutil.Process(server.pid)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        url = f"http://127.0.0.1:{port.get(timeout=30)}/"
        options = ["--headless", "--no-sandbox", "--window-size=800,700", f"--user-data-dir={profile}"]
        chromium = subprocess.Popen([shutil.which("chromium") or "chromium", *options, url], stderr=subprocess.DEVNULL)
        try:
            in_browser = psutil.Process(chromium.pid)
            _, page_bytes = told.get(timeout=60)
            browser_before, server_before, begun = used(in_browser), used(at_server), time.time()
            _, drawn = told.get(timeout=60 + 4 * seconds)
            passed = time.time() - begun
            browser_seconds, server_seconds = used(in_browser) - browser_before, used(at_server) - server_before
        finally:
            chromium.terminate()
            chromium.wait()
            server.terminate()
            server.join()
            listening.shutdown()
    delays = [seen - made for made, seen in drawn]
    count = max(1, len(delays))
    print(
        f"{name:<14} {len(delays) / passed:5.1f} images/s; ready to drawn {1000 * statistics.median(delays):6.0f} ms "
        f"median, {1000 * max(delays):6.0f} ms at most; per image {1000 * browser_seconds / count:6.0f} ms of the "
        f"browser, {1000 * server_seconds / count:5.0f} ms of the server; page {page_bytes / 1e3:.0f} kB",
        flush=True,
    )


def main() -> None:
    """Measure all ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=8.0)
    given = parser.parse_args()
    print(f"{given.side} x {given.side} float32, {4 * given.side**2 / 1e6:.1f} MB each, {given.rate:g} a second")
    ways = {
        "canvas": (serve_page, (given.side, given.rate, CANVAS, False)),
        "Bokeh's client": (serve_page, (given.side, given.rate, CLIENT, True)),
        "Bokeh's server": (serve_bokeh, (given.side, given.rate)),
    }
    for name, (serve, arguments) in ways.items():
        measure(name, serve, arguments, given.seconds)


if __name__ == "__main__":
    main()
