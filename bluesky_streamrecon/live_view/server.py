"""The page's web server: loopback only, and every request needs the token that is in the page's address.

Other computers reach it through a proxy on this one, which speaks TLS. A page of another site can neither read anything
here (it has no token, and browsers keep answers from it) nor send an order (the token has to be in a header, origin and
host must be ours).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import threading
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bluesky_streamrecon.beamline.slices import measured
from bluesky_streamrecon.beamline.source import Source
from bluesky_streamrecon.cuts import MOST_CUT_PIXELS, MOST_CUTS, Cut
from bluesky_streamrecon.errors import ConfigError, StreamReconError
from bluesky_streamrecon.live_view.images import NEWEST, Images, Shown
from bluesky_streamrecon.live_view.page import MEASURED, change, draw_measured, render
from bluesky_streamrecon.selection import WHOLE_VIEW, Selection
from bluesky_streamrecon.wire.fields import Text
from bluesky_streamrecon.wire.operator_messages import MOST_EXTRA, Order, OrderAction

__all__ = ["ViewServer"]

PLACE: Final = "live view"
LARGEST_ORDER: Final = 16_384
MOST_PAGES: Final = 64
KEEP_ALIVE_SECONDS: Final = 10.0
CUTS_SECONDS: Final = 5.0
"""After which a page has to wish for its cuts again."""
TOKEN_HEADER: Final = "X-Streamrecon-Token"  # noqa: S105 - the header's name


class _OrderBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    action: OrderAction
    run: str | None = None
    reason: Text = ""
    count: Annotated[int, Meta(ge=0, le=MOST_EXTRA)] = 0
    axis: float | None = None
    selection: Selection = WHOLE_VIEW


class _CutsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    viewer: Annotated[str, Meta(min_length=1, max_length=64)]
    cuts: Annotated[tuple[Cut, ...], Meta(min_length=1, max_length=MOST_CUTS)]
    image: int = NEWEST


class ViewServer:
    """Serve the page of one source on 127.0.0.1.

    Parameters
    ----------
    source : Source
        Closed by the caller.
    port : int, optional
        0: a free one.
    public_url : str, optional
        Address under which a proxy serves the page to other computers, for instance ``"https://hutch.example/view/"``.
    images : Images, optional
        Of the source; closed with the server.

    Raises
    ------
    ConfigError
        If the port is taken, or the address is none with TLS.
    """

    def __init__(
        self, source: Source, port: int = 0, *, public_url: str | None = None, images: Images | None = None
    ) -> None:
        self._public = None if public_url is None else _checked(public_url)
        self._source = source
        self._token = secrets.token_urlsafe(24)
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind(("127.0.0.1", port))
            self._socket.listen(128)  # whoever comes before `run` waits
        except OSError as error:
            self._socket.close()
            raise ConfigError(f"port {port}: {error}; take another one, or --port 0") from error
        self.port: int = self._socket.getsockname()[1]
        self._images = Images(source) if images is None else images
        self._ending = threading.Event()
        self._pages = 0
        self._server: Any = None

    @property
    def url(self) -> str:
        """Address of the page, with its token."""
        return f"{self._public or f'http://127.0.0.1:{self.port}/'}?token={self._token}"

    def run(self) -> None:
        """Serve until `stop` or Ctrl-C."""
        import uvicorn

        routes = [
            Route("/", self._page),
            Route("/events", self._events),
            Route("/projections/{what}/{row:int}", self._projections),
            Route("/order", self._order, methods=["POST"]),
            Route("/cuts", self._cuts, methods=["POST"]),
        ]
        checked = _AccessCheck(Starlette(routes=routes), self._token, self.port, self._public)
        config = uvicorn.Config(
            checked, log_level="warning", lifespan="off", ws="none", timeout_graceful_shutdown=2, access_log=False
        )
        self._server = uvicorn.Server(config)
        try:
            self._server.should_exit = self._ending.is_set()
            self._server.run(sockets=[self._socket])
        finally:
            self._ending.set()
            self._socket.close()
            self._images.close()

    def stop(self) -> None:
        """End `run`, from any thread."""
        self._ending.set()
        if self._server is not None:
            self._server.should_exit = True

    async def _page(self, request: Request) -> Response:  # noqa: ARG002
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self' data:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return HTMLResponse(render(self._token, nonce), headers={"Content-Security-Policy": policy})

    async def _projections(self, request: Request) -> Response:
        """Answer with the sinogram so far of a row, or the newest projection, drawn and in words."""
        what, status = request.path_params["what"], self._source.snapshot.status
        if what not in MEASURED:
            return Response(status_code=404)
        cut = measured(what, status, min(request.path_params["row"], status.detector_shape[0] - 1))
        try:
            wished = self._source.show_cuts([cut], "projections " + request.query_params.get("viewer", "")[:64])
            cuts = await asyncio.wait_for(asyncio.wrap_future(wished), CUTS_SECONDS)
        except (StreamReconError, TimeoutError):
            return Response(status_code=404)
        return JSONResponse(await asyncio.to_thread(draw_measured, cuts))

    async def _order(self, request: Request) -> Response:
        body = await _body(request)
        if body is None:
            return JSONResponse({"ok": False, "text": "the order is too long"}, status_code=413)
        try:
            wanted = msgspec.structs.asdict(msgspec.json.decode(body, type=_OrderBody))
        except msgspec.MsgspecError as error:
            return JSONResponse({"ok": False, "text": str(error)}, status_code=400)
        run = wanted.pop("run")
        try:
            order = Order(who="", place=PLACE, **wanted)
            answer = await asyncio.to_thread(self._source.order, order, run_uid=run)
        except StreamReconError as error:
            return JSONResponse({"ok": False, "text": str(error)}, status_code=409)
        return JSONResponse({"ok": True, "text": answer.text})

    async def _cuts(self, request: Request) -> Response:
        """Answer with the pixels of all cuts, float32, and say in a header what they are of.

        Those of an earlier image are followed by the same cuts of the newest that it can be compared with.
        """
        snapshot = self._source.snapshot
        try:
            wish = msgspec.json.decode(await _body(request) or b"", type=_CutsBody)
            if sum(cut.pixels for cut in wish.cuts) > MOST_CUT_PIXELS:
                raise ConfigError(f"cuts: expected at most {MOST_CUT_PIXELS} pixels")
            if wish.image == NEWEST and not snapshot.unlinked:
                shown = await asyncio.wait_for(self._being_made(wish), CUTS_SECONDS)
            else:
                shown = await asyncio.to_thread(self._images.cut, wish.image, wish.cuts)
        except (msgspec.MsgspecError, ConfigError) as error:
            return JSONResponse({"text": str(error)}, status_code=400)
        except StreamReconError as error:
            return JSONResponse({"text": str(error)}, status_code=409)
        except TimeoutError:
            return JSONResponse({"text": "no run makes images now"}, status_code=504)
        about = {
            "run": shown.run_uid,
            "text": shown.text,
            "volume": shown.volume,
            "shapes": [cut.size for cut in shown.cuts],
            "cuts": shown.cuts,
            "compared": bool(shown.newest),
            "made": shown.made,
        }
        headers = {"X-Streamrecon-Cuts": msgspec.json.encode(about).decode()}
        pixels = b"".join(part.astype("<f4", copy=False).tobytes() for part in (*shown.values, *shown.newest))
        return Response(pixels, media_type="application/octet-stream", headers=headers)

    async def _being_made(self, wish: _CutsBody) -> Shown:
        cuts = await asyncio.wrap_future(self._source.show_cuts(wish.cuts, wish.viewer))
        text = f"Image {cuts.image_number} from {cuts.projections} projections"
        return Shown(cuts.run_uid, text, cuts.volume, cuts.cuts, cuts.values(), [], cuts.made)

    async def _events(self, request: Request) -> Response:
        if self._pages >= MOST_PAGES:
            return Response("too many pages are open", status_code=503)
        headers = {"X-Accel-Buffering": "no"}  # a proxy would keep changes back until there are many
        return StreamingResponse(self._changes(request), media_type="text/event-stream", headers=headers)

    async def _changes(self, request: Request) -> AsyncIterator[str]:
        """Yield changes to a page at its own pace; states that a slow page would have missed are left out."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(changed.set)

        unlisten = self._source.listen(wake)
        self._pages += 1
        version = (-1, -1)
        try:
            while not self._ending.is_set() and not await request.is_disconnected():
                changed.clear()
                snapshot = self._source.snapshot
                if (snapshot.version, self._images.version) != version:
                    version = snapshot.version, self._images.version
                    yield f"data: {msgspec.json.encode(change(snapshot, self._images)).decode()}\n\n"
                else:
                    yield ": still here\n\n"
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), min(KEEP_ALIVE_SECONDS, 1.0))
        finally:
            self._pages -= 1
            unlisten()


async def _body(request: Request) -> bytes | None:
    """Return what was sent; None if it is too long."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_ORDER:
            return None
    return body


def _checked(public_url: str) -> str:
    """Return a proxy's address with a slash at its end."""
    parts = urlsplit(public_url)
    if parts.scheme != "https" or not parts.netloc or parts.query or parts.fragment:
        raise ConfigError(f"public address: got {public_url!r}, expected one with TLS, as https://hutch.example/view/")
    return public_url.rstrip("/") + "/"


class _AccessCheck:
    """Accepts only requests that have the token, and come by our own address or the proxy's."""

    def __init__(self, app: ASGIApp, token: str, port: int, public: str | None) -> None:
        self._app = app
        self._token = token
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self._origins = {f"http://{host}" for host in self._hosts}
        if public is not None:
            self._hosts.add(urlsplit(public).netloc)
            self._origins.add(f"https://{urlsplit(public).netloc}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope)
        refused = self._why_not(request)

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"cache-control", b"no-store"),
                    (b"referrer-policy", b"no-referrer"),
                    (b"x-content-type-options", b"nosniff"),
                    (b"cross-origin-resource-policy", b"same-origin"),
                    (b"x-frame-options", b"DENY"),
                ]
            await send(message)

        app: ASGIApp = self._app if refused is None else Response(refused, status_code=403)
        await app(scope, receive, send_with_headers)

    def _why_not(self, request: Request) -> str | None:
        host = request.headers.get("host", "")
        if host not in self._hosts:
            return "this page is only served as 127.0.0.1 or localhost, or as the address that --public-url names"
        origin = request.headers.get("origin")
        if origin is not None and origin not in self._origins:
            return "not from another site"
        given = request.headers.get(TOKEN_HEADER, "")
        if request.method in ("GET", "HEAD"):
            given = given or request.query_params.get("token", "")
        if not secrets.compare_digest(given.encode(), self._token.encode()):
            return "open the address that streamrecon view has printed: it ends with a token"
        return None
