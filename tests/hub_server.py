"""A Hugging Face hub on the loopback interface: it serves what a replica's cache holds, with the hub's own answers.

Only what `huggingface_hub` asks for: a revision's commit, and a file's headers and content. Errors carry the header
`X-Error-Code`, by which the client tells a gated repository from a missing one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from hub_replica import HubReplica


@contextmanager
def serving(hub: HubReplica, *, gated: frozenset[str] = frozenset(), cut: bool = False) -> Iterator[str]:
    """Serve a replica and yield the address of the hub.

    Args:
        hub: what to serve.
        gated: repositories whose terms nobody has accepted.
        cut: whether large files end early.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_arguments: object) -> None:
            """Stay quiet."""

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = unquote(self.path.partition("?")[0]).strip("/")
            if path.startswith("api/models/"):
                repository, _, revision = path.removeprefix("api/models/").partition("/revision/")
                commit = self.commit_of(repository, revision or "main")
                if commit:
                    self.give(json.dumps({"id": repository, "sha": commit, "siblings": []}).encode(), {})
                return
            repository, _, rest = path.partition("/resolve/")
            revision, _, name = rest.partition("/")
            commit = self.commit_of(repository, revision)
            if not commit:
                return
            if repository in gated:
                self.refuse(403, "GatedRepo")
                return
            file = hub.snapshot(repository, commit) / name
            if not file.is_file():
                self.refuse(404, "EntryNotFound")
                return
            content = file.read_bytes()
            headers = {"X-Repo-Commit": commit, "ETag": f'"{file.resolve().name}"', "Accept-Ranges": "bytes"}
            self.give(content, headers)

        def commit_of(self, repository: str, revision: str) -> str | None:
            folder = hub.folder(repository)
            if not folder.is_dir():
                self.refuse(401, "RepoNotFound")
                return None
            reference = folder / "refs" / revision
            commit = reference.read_text() if reference.is_file() else revision
            if not hub.snapshot(repository, commit).is_dir():
                self.refuse(404, "RevisionNotFound")
                return None
            return commit

        def give(self, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(200)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                whole = not cut or len(content) < 2000
                self.wfile.write(content if whole else content[:-1] + b"?")

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", f"{code}, says the replica")
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
