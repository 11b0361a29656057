"""The workbench in a browser: ``lmbench tui --web``, through textual-serve (the extra ``web``).

Whoever reaches the page can start and delete runs as the user can, so only those who have the token
come in, and it is served on this machine alone unless another address is named. Pages of other
sites must not reach it through the user's own browser either: requests have to name a host that is
served, sockets have to come from our own page, and no other page may frame it.

``python -m lmbench.tui.web [SESSION]`` is the process behind each page.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import re
import secrets
import shlex
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from lmbench.errors import LmbenchError
from lmbench.session import Home
from lmbench.session.process import python

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["LOCAL", "check_address", "cookie_name", "serve_web"]

LOCAL = "127.0.0.1"
_SHORTEST_TOKEN = 16
_ELSEWHERE = re.compile(r'<link[^>]*href="https?://[^>]*>')
# The page as textual-serve has it is without a title, takes no key before a click, and shows white
# of a scroll bar beside the last column.
_HEAD = """<title>lmbench</title>
    <style>
      body { background: #14161d; }
      .xterm .xterm-viewport { overflow-y: hidden; background: #14161d !important; }
    </style>
    <script>
      new MutationObserver((_, watching) => {
        const keys = document.querySelector(".xterm-helper-textarea");
        if (keys) {
          keys.focus();
          watching.disconnect();
        }
      }).observe(document, { childList: true, subtree: true });
    </script>
  </head>"""
_INLINE_SCRIPT = re.compile(r'<script>(.*?)</script>|onclick="(.*?)"', re.DOTALL | re.IGNORECASE)
_FONT_SIZE = re.compile(r"[1-9][0-9]?")
_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_PAGE_POLICY = (
    f"{_POLICY}; connect-src 'self'; font-src 'self' data:; img-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-hashes'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
# How long a page is waited for when the server ends: for its workbench, then for its browser.
_LAST_WAITS_S = (1.0, 0.5)


def check_address(host: str, token: str | None) -> None:
    """Is it safe to serve there?

    Raises:
        LmbenchError: the address is no address, or others can reach it and there is no token, or
            a short one.
    """
    if not is_local(host) and token is None:
        raise LmbenchError(
            f"--host {host} lets other machines drive this workbench: give a --token too, such as "
            f"{secrets.token_urlsafe(_SHORTEST_TOKEN)}"
        )
    if token is not None and len(token) < _SHORTEST_TOKEN:
        raise LmbenchError(f"--token: use at least {_SHORTEST_TOKEN} characters")


def cookie_name(port: int) -> str:
    """Of the cookie that lets a browser in: a browser keeps one set for all ports of a machine."""
    return f"lmbench-{port}"


def is_local(host: str) -> bool:
    """Is it an address that only this machine can reach?

    Raises:
        LmbenchError: it is no address.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise LmbenchError(f"--host {host}: use an IP address, or localhost") from None


def address_of(host: str) -> str:
    """An address to open of what is served on `host`: of all addresses of this machine the one that
    it has towards others."""
    if host == "localhost" or not ipaddress.ip_address(host).is_unspecified:
        return host
    family, elsewhere = (
        (socket.AF_INET6, "2001:db8::1") if ":" in host else (socket.AF_INET, "192.0.2.1")
    )
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as towards:
            # Nothing is sent: it only chooses the way.
            towards.connect((elsewhere, 9))
            return towards.getsockname()[0]
    except OSError:
        return "::1" if family == socket.AF_INET6 else LOCAL


def serve_web(
    session: str | None, *, host: str = LOCAL, port: int = 8000, token: str | None = None
) -> int:
    """Serve until Ctrl-C; gives the command's exit code. Without a token one is made.

    Raises:
        LmbenchError: the extra ``web`` is not installed, the address is not safe or not free, or
            there is no session of that name.
    """
    check_address(host, token)
    if session is not None:
        # The process behind a page could not say it there: the page would load for ever.
        Home.find().session(session)
    try:
        server = _server_class()(session, host, port, token or secrets.token_urlsafe())
    except ModuleNotFoundError as error:
        raise LmbenchError(
            f"--web needs the package {error.name}: pip install 'lmbench[web]'"
        ) from None
    try:
        server.serve()
    except OSError as error:
        raise LmbenchError(f"--host {host} --port {port}: {error.strerror or error}") from None
    return 0


def _server_class() -> Any:
    """Made when it is needed: textual-serve is an extra, and slow to import."""
    import aiohttp_jinja2
    from aiohttp import web
    from textual_serve.server import Server

    class _Server(Server):
        def __init__(self, session: str | None, host: str, port: int, token: str) -> None:
            command = shlex.join(python("lmbench.tui.web", *([session] if session else [])))
            super().__init__(command, host, port, title="lmbench")
            self._token = token
            self._local = is_local(host)
            self._pages: set[asyncio.Task[Any]] = set()

        def initialize_logging(self) -> None:
            """Errors alone, on stderr: Python's own last resort does that."""

        async def on_startup(self, app: web.Application) -> None:
            reached = address_of(self.host)
            shown = f"[{reached}]" if ":" in reached else reached
            link = f"http://{shown}:{self.port}/?token={quote(self._token, safe='')}"
            print(f"lmbench on {link} (Ctrl-C ends it)", flush=True)

        async def on_shutdown(self, app: web.Application) -> None:
            """End the pages, also those whose browser does not answer."""
            for longest in _LAST_WAITS_S:
                for page in self._pages:
                    page.cancel()
                if self._pages:
                    await asyncio.wait(self._pages, timeout=longest)

        async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
            page = asyncio.current_task()
            assert page is not None
            self._pages.add(page)
            try:
                return await super().handle_websocket(request)
            finally:
                self._pages.discard(page)

        async def _make_app(self) -> web.Application:
            app = await super()._make_app()
            app.middlewares.append(self._guard())
            app.on_response_prepare.append(_add_headers)
            return app

        def _guard(self) -> Any:
            cookie = cookie_name(self.port)
            # Quoted: a cookie cannot hold all that a token can.
            kept = quote(self._token, safe="")

            @web.middleware
            async def guard(
                request: web.Request,
                handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
            ) -> web.StreamResponse:
                if not _known_host(request, self._local):
                    raise web.HTTPForbidden(text="this host is not served here")
                if not _own_page(request):
                    raise web.HTTPForbidden(text="only lmbench's own page may connect")
                if _same(request.cookies.get(cookie), kept):
                    return await handler(request)
                if request.path != "/" or not _same(request.query.get("token"), self._token):
                    raise web.HTTPForbidden(text="open the address that lmbench printed")
                # From now on the cookie lets it in, and the token stays out of the history.
                answer = web.HTTPFound("/")
                answer.set_cookie(cookie, kept, httponly=True, samesite="Strict")
                return answer

            return guard

        async def handle_index(self, request: web.Request) -> web.Response:
            """The page, with addresses as the browser knows this server, and nothing in it that
            is fetched from elsewhere."""
            scheme = "wss" if request.scheme == "https" else "ws"
            size = request.query.get("fontsize", "")
            context = {
                "font_size": size if _FONT_SIZE.fullmatch(size) else 16,
                "app_websocket_url": f"{scheme}://{request.host}/ws",
                "config": {"static": {"url": "/static/"}},
                "application": {"name": "lmbench"},
            }
            text = aiohttp_jinja2.render_string("app_index.html", request, context)
            text = _ELSEWHERE.sub("", text).replace("</head>", _HEAD, 1)
            headers = {"Content-Security-Policy": f"{_PAGE_POLICY} {_inline_hashes(text)}"}
            return web.Response(text=text, content_type="text/html", headers=headers)

    return _Server


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)


def _inline_hashes(text: str) -> str:
    """The scripts within a page, as its policy names them."""
    scripts = ("".join(groups) for groups in _INLINE_SCRIPT.findall(text))
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def _same(given: str | None, token: str) -> bool:
    # What is no UTF-8 arrives as surrogates.
    return given is not None and hmac.compare_digest(
        given.encode(errors="surrogatepass"), token.encode(errors="surrogatepass")
    )


def _known_host(request: web.Request, local: bool) -> bool:
    """Served on this machine alone, the page's host has to be this machine: a name of somebody
    else's that was made to point here is refused."""
    if not local:
        return True
    try:
        return is_local(request.url.host or "")
    except (LmbenchError, ValueError):
        return False


def _own_page(request: web.Request) -> bool:
    """Does the request come from our own page? Browsers say where scripts and sockets are from."""
    origin = request.headers.get("Origin")
    return origin is None or origin.partition("://")[2] == request.host


def main() -> int:
    """The process behind a page."""
    from lmbench.tui.start import start

    try:
        return start(sys.argv[1] if len(sys.argv) > 1 else None)
    except LmbenchError as error:
        print(f"lmbench: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
