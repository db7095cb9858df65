"""A tiny Hugging Face hub on 127.0.0.1: the routes that a download of a model uses."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves one folder as the model ``team/tiny``, with ``main`` at `COMMIT`."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.requests: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        body = self._body(path)
        if body is None:
            code = "RepoNotFound" if "/team/tiny" not in path else "RevisionNotFound"
            self._send(404, b"{}", {"X-Error-Code": code}, with_body=with_body)
            return
        etag = hashlib.sha1(body).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}
        self._send(200, body, headers, with_body=with_body)

    def _body(self, path: str) -> bytes | None:
        for revision in ("main", COMMIT):
            if path in (f"/api/models/team/tiny/revision/{revision}", "/api/models/team/tiny"):
                return json.dumps({"id": "team/tiny", "sha": COMMIT, "siblings": []}).encode()
            if path == f"/api/models/team/tiny/tree/{revision}":
                return json.dumps(self._tree()).encode()
            root = f"/team/tiny/resolve/{revision}/"
            file = self.server.folder / path.removeprefix(root)
            if path.startswith(root) and file.is_file():
                return file.read_bytes()
        return None

    def _tree(self) -> list[dict[str, object]]:
        files = sorted(file for file in self.server.folder.rglob("*") if file.is_file())
        return [
            {
                "type": "file",
                "path": file.relative_to(self.server.folder).as_posix(),
                "size": file.stat().st_size,
                "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
            }
            for file in files
        ]

    def _send(self, status: int, body: bytes, headers: dict[str, str], *, with_body: bool) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


@contextmanager
def serve(folder: Path) -> Iterator[Hub]:
    """Run a hub for a folder until the block ends."""
    with Hub(folder) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
