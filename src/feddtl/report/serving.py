"""The page of runs in a browser on this machine: read-only, on the loopback address."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any, ClassVar

from feddtl.errors import ConfigError
from feddtl.report.following import FollowedRuns

LOOPBACK = "127.0.0.1"
NAMES = (LOOPBACK, "localhost", "[::1]")
"""Names of this machine in a browser. A page of another site that makes its name lead here has another one."""
SECONDS_OF_SILENCE = 30
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'self'; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
}


class PageServer(ThreadingHTTPServer):
    """Serves three things, and no file of a run: the page, its script, and what the runs do.

    Args:
        runs: What the page shows.
        port: On the loopback address; 0 takes a free one.

    Raises:
        ConfigError: The port cannot be used.
    """

    daemon_threads = True  # an open page does not delay the end

    def __init__(self, runs: FollowedRuns, port: int) -> None:
        script = files("feddtl.report").joinpath("follow.js").read_text("utf-8")
        self.answers: dict[str, tuple[str, Callable[[], str]]] = {
            "/": ("text/html", runs.page),
            "/follow.js": ("text/javascript", lambda: script),
            "/state": ("application/json", lambda: json.dumps({"version": runs.version, "lines": runs.lines()})),
        }
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OSError as error:
            raise ConfigError(
                f"Port {port} of {LOOPBACK} cannot be used: {error.strerror}.",
                "Choose another --port; --port 0 takes a free one.",
            ) from None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{LOOPBACK}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    server_version, sys_version = "feddtl", ""
    timeout: ClassVar[float] = SECONDS_OF_SILENCE

    def do_GET(self) -> None:
        host = self.headers.get("Host", "")
        if host.rpartition(":")[0] not in NAMES and host not in NAMES:
            self._send(
                HTTPStatus.MISDIRECTED_REQUEST, "text/plain", f"Open {self.server.address}, not another name of it.\n"
            )
        elif answer := self.server.answers.get(self.path.partition("?")[0]):
            kind, text = answer
            self._send(HTTPStatus.OK, kind, text())
        else:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", f"There is only {self.server.address}.\n")

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a page asks every two seconds."""

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        content = text.encode("utf-8")
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": f"{kind}; charset=utf-8"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
