"""A Hugging Face hub on this machine: the few answers that its client asks for, errors included.

Status codes and `X-Error-Code` headers are those that huggingface_hub 2.4 reads (utils/_http.py, hf_raise_for_status).
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/?]+))?")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)")


@dataclass
class FakeHub:
    """Repositories by name, and what was asked.

    Attributes:
        repositories: folder of each repository that is served.
        gated: repositories whose files are refused.
        asked: paths of all requests.
    """

    repositories: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body."""
        self.asked.append(path)
        if match := _API.fullmatch(path.partition("?")[0]):
            repository, revision = match.groups()
            if problem := self._problem(repository, revision):
                return problem
            return 200, {"Content-Type": "application/json"}, json.dumps(self._facts(repository)).encode()
        if match := _FILE.fullmatch(path.partition("?")[0]):
            repository, revision, name = match.groups()
            if problem := self._problem(repository, revision):
                return problem
            if repository in self.gated:
                return 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to it is restricted"}, b""
            file = self.repositories[repository] / name
            if not file.is_file():
                return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
            content = file.read_bytes()
            etag = hashlib.sha1(content).hexdigest()
            return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}, content
        return 404, {}, b""

    def _problem(self, repository: str, revision: str | None) -> tuple[int, dict[str, str], bytes] | None:
        if repository not in self.repositories:
            return 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b""
        if revision not in (None, "main", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}, b""
        return None

    def _facts(self, repository: str) -> dict[str, Any]:
        files = sorted(path.name for path in self.repositories[repository].iterdir())
        return {
            "_id": "0", "id": repository, "modelId": repository, "sha": COMMIT, "private": False, "tags": [],
            "downloads": 0, "likes": 0, "siblings": [{"rfilename": name} for name in files],
        }  # fmt: skip


@contextmanager
def serving(hub: FakeHub) -> Iterator[str]:
    """Serve a hub on a free port inside the block; yields its address, for HF_ENDPOINT."""

    class Handler(BaseHTTPRequestHandler):
        def _reply(self, *, with_body: bool) -> None:
            status, headers, body = hub.answer(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def do_GET(self) -> None:
            self._reply(with_body=True)

        def do_HEAD(self) -> None:
            self._reply(with_body=False)

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
