"""The live page, served to this machine's own browser and to nobody else.

Whatever reaches a port on loopback may come from a web page of somebody else's (by a form, an image, a name that is
bound to 127.0.0.1 later: DNS rebinding), or from another user of the machine. So the server listens on 127.0.0.1 only.
A request must name exactly this server as its Host, and as its Origin if it has one, and must not come from another
site or port by the browser's own word (Sec-Fetch-Site). It must show the token, which is in the link, or the cookie
that the browser got for it. All else gets a status line and no word more. Nothing is written, and nothing but the run
is read.
"""

import hmac
import json
import re
import secrets
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, cast
from urllib.parse import parse_qs

from adamesh.errors import ConfigurationError
from adamesh.report.history import History
from adamesh.report.page import page, policy
from adamesh.report.told import NOTHING, Known, told

__all__ = ["PageServer"]

_LOOPBACK = "127.0.0.1"
_NAMES = (_LOOPBACK, "localhost")
_TIMEOUT_S = 10.0
_KNOWN = re.compile(r"(-?\d{1,9}):(\d{1,9}),(-?\d{1,9}):(\d{1,9})")


class PageServer(ThreadingHTTPServer):
    """Serves one run's live page until `shutdown`.

    Args:
        history: of the run; read again for each request.
        port: on 127.0.0.1; 0: any that is free.

    Raises:
        ConfigurationError: the port cannot be had.
    """

    daemon_threads = True

    def __init__(self, history: History, port: int = 0) -> None:
        self._history = history
        self._reading = threading.Lock()
        self._token = secrets.token_urlsafe(32)
        # A browser shows a cookie to all ports of a host: what it carries is not the token of the link, and its name
        # is this port's, so that two servers do not overwrite each other's.
        self._pass = secrets.token_urlsafe(32)
        try:
            super().__init__((_LOOPBACK, port), _Request)
        except OSError as error:
            raise ConfigurationError(
                f"--port {port}: cannot be had ({error.strerror}); leave it out for any that is free"
            ) from error
        self.hosts = {f"{name}:{self.server_port}" for name in _NAMES}
        if self.server_port == 80:
            self.hosts |= set(_NAMES)

    @property
    def link(self) -> str:
        """Where the page is, token included."""
        return f"http://{_LOOPBACK}:{self.server_port}/?token={self._token}"

    @property
    def cookie(self) -> str:
        """What a browser that has shown the token gets."""
        return f"{self._cookie_name}={self._pass}; HttpOnly; SameSite=Strict; Path=/"

    def knows_token(self, given: str) -> bool:
        """Whether it is the link's."""
        return hmac.compare_digest(given.encode(), self._token.encode())

    def knows_cookie(self, header: str) -> bool:
        """Whether a Cookie header has this server's."""
        try:
            found = SimpleCookie(header).get(self._cookie_name)
        except CookieError:
            return False
        return found is not None and hmac.compare_digest(found.value.encode(), self._pass.encode())

    def page(self) -> str:
        """All of it, as of now."""
        with self._reading:
            self._history.refresh()
            return page([self._history], datetime.now(), live=True)

    def news(self, known: Known) -> str:
        """What a page lacks that knows so much, as JSON."""
        with self._reading:
            self._history.refresh()
            return json.dumps(told([self._history], known), separators=(",", ":"), allow_nan=False)

    def server_bind(self) -> None:
        # Not HTTPServer's, which asks the network's name service who 127.0.0.1 is.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = _LOOPBACK, self.socket.getsockname()[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A browser that goes away in the middle of an answer is no news.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def _cookie_name(self) -> str:
        return f"adamesh_{self.server_port}"


class _Request(BaseHTTPRequestHandler):
    """One request. Its answers to what it refuses do not tell why."""

    timeout = _TIMEOUT_S
    server_version = "adamesh"
    sys_version = ""

    def do_GET(self) -> None:
        server = cast(PageServer, self.server)
        if not self._is_own():
            self._answer(HTTPStatus.FORBIDDEN)
            return
        path, _, query_text = self.path.partition("?")
        query = parse_qs(query_text)
        by_token = any(server.knows_token(given) for given in query.get("token", []))
        if not by_token and not server.knows_cookie(self.headers.get("Cookie", "")):
            self._answer(HTTPStatus.FORBIDDEN)
        elif path == "/" and by_token:
            # On without the token, which then stays out of the browser's address line and screenshots.
            self._answer(HTTPStatus.SEE_OTHER, extra={"Location": "/", "Set-Cookie": server.cookie})
        elif path == "/":
            self._read("text/html", server.page)
        elif path == "/data":
            known = _known(query.get("known", [""])[0])
            self._read("application/json", lambda: server.news(known))
        else:
            self._answer(HTTPStatus.NOT_FOUND)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        # Of the base class, for what is no request at all or another method: its own answer is a page.
        self.close_connection = True
        self._answer(HTTPStatus(code))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        return None

    def _is_own(self) -> bool:
        """Whether this is asked of this server by name, and not for another page."""
        server = cast(PageServer, self.server)
        origins = {f"http://{host}" for host in server.hosts}
        return (
            self.path.startswith("/")
            and self.headers.get_all("Host", []) in [[host] for host in server.hosts]
            and all(origin in origins for origin in self.headers.get_all("Origin", []))
            and all(site in ("same-origin", "none") for site in self.headers.get_all("Sec-Fetch-Site", []))
        )

    def _read(self, kind: str, make: Callable[[], str]) -> None:
        try:
            text = make()
        except (OSError, ConfigurationError):
            # The folder is gone, or half replaced: the page says that it has lost touch, and asks again.
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        self._answer(HTTPStatus.OK, kind, text)

    def _answer(
        self, status: HTTPStatus, kind: str = "text/plain", text: str = "", extra: Mapping[str, str] | None = None
    ) -> None:
        body = (text or f"{status.value} {status.phrase}\n").encode()
        self.send_response(status)
        headers = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": policy(live=True),
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
        }
        for name, value in {**headers, **(extra or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _known(text: str) -> Known:
    """What a page says that it has; nothing, where that is not said plainly."""
    found = _KNOWN.fullmatch(text)
    if found is None:
        return NOTHING
    steps, num_steps, evaluations, num_evaluations = map(int, found.groups())
    return Known((steps, num_steps), (evaluations, num_evaluations))
