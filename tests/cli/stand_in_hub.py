"""A model Hub on the loopback address with as much of its interface as an upload needs."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


class StandInHub(ThreadingHTTPServer):
    """Small files come with the commit, models through a PUT before it, as on the Hub.

    Attributes:
        token: The only one that may write.
        private: Whether each repository is private.
        files: Content by path of each commit's files, in all repositories.
        stored: What was sent by PUT, by SHA-256.
    """

    daemon_threads = True

    def __init__(self, token: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token = token
        self.private: dict[str, bool] = {}
        self.files: dict[str, bytes] = {}
        self.stored: dict[str, bytes] = {}
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def stand_in_hub(token: str) -> Iterator[StandInHub]:
    """The server, for as long as the block lasts."""
    server = StandInHub(token)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: StandInHub

    def log_message(self, *words: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        repository = urlsplit(self.path).path.removeprefix("/api/models/").removesuffix("/revision/main")
        self._begin()
        if repository not in self.server.private:
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        self._answer(200, {"id": repository, "private": self.server.private[repository], "siblings": [], "sha": "0"})

    def do_POST(self) -> None:
        body, path = self._begin(), urlsplit(self.path).path
        if self.headers.get("Authorization") != f"Bearer {self.server.token}" and "/storage" not in path:
            self._answer(401, {"error": "Invalid user token."})
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.server.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
            self._answer(200, {"url": f"{self.server.url}/{name}"})
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            kinds = [(file["path"], "lfs" if file["path"].endswith(".safetensors") else "regular") for file in files]
            self._answer(200, {"files": [{"path": p, "uploadMode": k, "shouldIgnore": False} for p, k in kinds]})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.server.url}/storage/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self._answer(200, {"transfer": "basic", "objects": objects})
        elif path.endswith("/commit/main"):
            self._commit(path.split("/")[3:5], [json.loads(line) for line in body.splitlines()])
        else:
            self._answer(404, {"error": path})

    def do_PUT(self) -> None:
        self.server.stored[self.path.rpartition("/")[2]] = self._begin()
        self._answer(200, {})

    def _commit(self, repository: list[str], lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.server.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.server.files[value["path"]] = self.server.stored[value["oid"]]
        url = f"{self.server.url}/{'/'.join(repository)}/commit/1"
        self._answer(200, {"commitUrl": url, "commitOid": "1", "success": True})

    def _begin(self) -> bytes:
        self.server.requests.append(f"{self.command} {urlsplit(self.path).path}")
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
