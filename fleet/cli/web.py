"""`fleet tui --web`: the dashboard in a browser, each page a process of its own that textual-serve speaks with."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import shlex
import signal
import socket
import sys
from contextlib import suppress
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from fleet.cli.world import load_any
from fleet.errors import UsageError

try:
    import textual_serve
    from aiohttp import WSCloseCode, web
    from textual_serve.app_service import AppService
    from textual_serve.server import Server
except ModuleNotFoundError as missing:
    raise UsageError(
        f"fleet tui --web needs {missing.name}, which is not installed",
        "pipx install --force '.[web]' in fleet's checkout, or pip install textual-serve where fleet is installed",
    ) from missing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

PATIENCE = 4.0
"""Seconds that a page's process has to end."""

CHANGING = 3600.0
"""The same where it may have begun a change: that is finished."""

_STATIC = Path(textual_serve.__file__).parent / "static"
_OWN = Path(__file__).parent
FILES = {
    "page.js": _OWN / "page.js",
    "textual.js": _STATIC / "js/textual.js",
    "xterm.css": _STATIC / "css/xterm.css",
    "upright.ttf": _STATIC / "fonts/RobotoMono-VariableFont_wght.ttf",
    "italic.ttf": _STATIC / "fonts/RobotoMono-Italic-VariableFont_wght.ttf",
}
"""All that a page may load."""

HEADERS = {
    # A style of the terminal's own is written by its script.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "font-src 'self'; img-src data:; connect-src 'self' ws://{host}; base-uri 'none'; frame-ancestors 'none'",
    # The token is in the address.
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}


def serve(shown: Path, *, recorded: bool, changes: bool, address: str, port: int) -> int:
    """Until ctrl-C: `fleet tui` of a fleet or of a recording, for each page that is opened; `port` 0: any free one."""
    argv, title = _recorded(shown) if recorded else _watched(shown, changes=changes)
    with _listen(address, port) as listening, suppress(KeyboardInterrupt):
        gate = Gate((sys.executable, "-m", "fleet", "tui", *argv), title=title, address=address, changes=changes)
        port = listening.getsockname()[1]
        print("Whoever has this address sees the fleet. Ctrl-C ends it, with every page.", file=sys.stderr)
        if changes:
            print("It can change the fleet, too. What is under way is finished first.", file=sys.stderr)
        if not _is_loopback(address):
            print("It is not encrypted: the network between here and the browser sees it, too. Safer:", file=sys.stderr)
            print(f"  without --listen, and there: ssh -L {port}:127.0.0.1:{port} {_name(address)}", file=sys.stderr)
        print(f"http://{_name(address)}:{port}/{gate.token}/", flush=True)
        gate.run(listening)
    return 0


def _recorded(replay: Path) -> tuple[list[str], str]:
    """What each page's `fleet tui` is told, and its title; what that would fail with is raised here."""
    from fleet.observing.recording import Recording

    return [f"--replay={replay}"], Recording.open(replay).spec.name


def _watched(described: Path, *, changes: bool) -> tuple[list[str], str]:
    return [f"--inventory={described}", *([] if changes else ["--read-only"])], load_any(described).name


def _listen(address: str, port: int) -> socket.socket:
    try:
        [(family, kind, *_, bound), *_] = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
        listening = socket.socket(family, kind)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(bound)
        # Whoever sees the address may go there at once.
        listening.listen()
    except OSError as error:
        raise UsageError(
            f"cannot listen on {address} port {port}: {error.strerror}", "another --port; 0 takes any that is free"
        ) from error
    return listening


def _name(address: str) -> str:
    """As it stands in an address of a page; all addresses of this machine are none."""
    if address in {"0.0.0.0", "::"}:  # noqa: S104 - somebody asked for it
        return socket.gethostname()
    return f"[{address}]" if ":" in address else address


def _is_loopback(address: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(address).is_loopback
    return address == "localhost"


class _Process(AppService):
    """A page's dashboard, which leaves nothing behind."""

    patience = PATIENCE

    def _build_environment(self, width: int = 80, height: int = 24) -> dict[str, str]:
        # What a page looks like is not what this terminal does.
        own = {"TEXTUAL_DRIVER": "tui.page:PageDriver", "COLORTERM": "truecolor", "COLORFGBG": ""}
        return super()._build_environment(width, height) | own

    async def run(self) -> None:
        """Its end, whatever the reason, is the page's."""
        try:
            await super().run()
        finally:
            await self.remote_close()

    async def on_data(self, payload: bytes) -> None:
        """What is drawn is taken to the end, although nobody sees it: who cannot write does not go on."""
        with suppress(ConnectionError):
            await super().on_data(payload)

    async def stop(self) -> None:
        """Ask it to end, and see to it."""
        with suppress(TimeoutError, OSError):
            await asyncio.wait_for(super().stop(), self.patience)
        if (process := self._process) and process.returncode is None:
            try:
                await asyncio.wait_for(process.wait(), self.patience)
            except TimeoutError:
                process.kill()
                await process.wait()


class Gate(Server):
    """Lets in who has the token, from a page of its own address."""

    def __init__(self, argv: Sequence[str], *, title: str, address: str, changes: bool = False) -> None:
        """`address`: where it is reached, besides by its numbers; `changes`: what a page begins may change nodes."""
        # A shell in between would not pass on that it is to end.
        super().__init__(f"exec {shlex.join(argv)}", title=title)
        self.token = secrets.token_urlsafe(32)
        self._names = {name.lower() for name in ("localhost", socket.gethostname(), address)}
        self._patience = CHANGING if changes else PATIENCE
        self._open: set[web.WebSocketResponse] = set()

    def run(self, listening: socket.socket) -> None:
        """Until SIGINT or SIGTERM."""
        web.run_app(self._make_app(), sock=listening, print=None, access_log=None, shutdown_timeout=2 * self._patience)

    async def _make_app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard])
        app.add_routes(
            [
                web.get("/{token}/", self.handle_index),
                web.get("/{token}/ws", self.handle_websocket),
                web.get("/{token}/static/{name}", self._file),
                # Asked for without the token, by a key that was told to a page that has it.
                web.get("/download/{key}", self.handle_download),
            ]
        )
        app.on_startup.append(self.on_startup)
        app.on_shutdown.append(self.on_shutdown)
        return app

    async def on_startup(self, app: web.Application) -> None:  # noqa: ARG002 - aiohttp's
        """The terminal's end is this one's, as ctrl-C is."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.request_exit)

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        # Another name is what a foreign page would come by that has had its own name resolve to here.
        if not self._is_here(request):
            raise web.HTTPForbidden(text="use the address that fleet tui --web printed")
        origin, own = request.headers.get("Origin"), f"http://{request.host}"
        if origin not in ({own} if request.path.endswith("/ws") else {None, own}):
            raise web.HTTPForbidden(text="another page's requests are not answered")
        token = request.match_info.get("token")
        if token is not None and not secrets.compare_digest(token.encode(), self.token.encode()):
            raise web.HTTPNotFound(text="use the whole address that fleet tui --web printed")
        response = await handler(request)
        if not response.prepared:
            response.headers.update({name: text.format(host=request.host) for name, text in HEADERS.items()})
        return response

    def _is_here(self, request: web.Request) -> bool:
        try:
            name = (request.url.host or "").lower()
        except ValueError:
            return False
        with suppress(ValueError):
            ipaddress.ip_address(name)
            return True
        return name in self._names

    async def handle_index(self, request: web.Request) -> Any:
        """The page; nothing of it comes from elsewhere."""
        page = Template((_OWN / "page.html").read_text(encoding="utf-8"))
        socket = f"ws://{request.host}/{self.token}/ws"
        return web.Response(
            text=page.substitute(title=escape(self.title), socket=escape(socket)), content_type="text/html"
        )

    async def _file(self, request: web.Request) -> web.FileResponse:
        if found := FILES.get(request.match_info["name"]):
            return web.FileResponse(found)
        raise web.HTTPNotFound

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """A page was opened: its dashboard begins, and ends with it."""
        page = web.WebSocketResponse(heartbeat=15)
        await page.prepare(request)
        process = _Process(
            self.command,
            write_bytes=page.send_bytes,
            write_str=page.send_str,
            close=page.close,  # type: ignore[arg-type]  # what it returns is not looked at
            download_manager=self.download_manager,
        )
        process.patience = self._patience
        self._open.add(page)
        try:
            width, height = (int(request.query.get(side, "80")) for side in ("width", "height"))
            await process.start(width, height)
            await self._process_messages(page, process)
        except (ValueError, LookupError, TypeError, AttributeError, AssertionError, ConnectionError):
            # What came is no message of a page's.
            await page.close(code=WSCloseCode.PROTOCOL_ERROR)
        finally:
            self._open.discard(page)
            await process.stop()
        return page

    async def on_shutdown(self, app: web.Application) -> None:  # noqa: ARG002 - aiohttp's
        """Every page ends."""
        await asyncio.gather(*(page.close(code=WSCloseCode.GOING_AWAY) for page in set(self._open)))
