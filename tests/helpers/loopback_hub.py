"""A Hugging Face hub on the loopback interface: it serves what a replica's cache holds, with the hub's own answers.

Only what its client asks for: a revision's commit and file names, and a file's headers and content. Status codes and
`X-Error-Code` headers are those by which huggingface_hub 2.4 tells a gated repository from a missing one
(utils/_http.py, hf_raise_for_status).
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import pytest

from helpers.hub_replica import HubReplica

Fault = Literal["altered", "breaks"]
"""What goes wrong with every file of `LARGE` bytes or more: its last byte is another one; or the connection ends in the
middle of it, and nobody answers from then on."""

LARGE = 2000
_API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@contextmanager
def serving(hub: HubReplica, *, gated: Set[str] = frozenset(), fault: Fault | None = None) -> Iterator[str]:
    """Serve a replica on a free port inside the block; yields the hub's address, for HF_ENDPOINT.

    Args:
        hub: what to serve.
        gated: repositories whose terms nobody has accepted.
        fault: what goes wrong with large files.
    """
    gone = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_arguments: object) -> None:
            """Stay quiet."""

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = self.path.partition("?")[0]
            if gone.is_set():
                self.close_connection = True
            elif match := _API.fullmatch(path):
                self.describe(match[1], unquote(match[2] or "main"))
            elif match := _FILE.fullmatch(path):
                self.send_file(match[1], unquote(match[2]), unquote(match[3]))
            else:
                self.refuse(404, "")

        def describe(self, repository: str, revision: str) -> None:
            commit = self.commit_of(repository, revision)
            if commit:
                folder = hub.snapshot(repository, commit)
                names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
                facts = {"id": repository, "sha": commit, "siblings": [{"rfilename": name} for name in names]}
                self.give(json.dumps(facts).encode(), {"Content-Type": "application/json"})

        def send_file(self, repository: str, revision: str, name: str) -> None:
            commit = self.commit_of(repository, revision)
            if not commit:
                return
            file = hub.snapshot(repository, commit) / name
            if repository in gated:
                self.refuse(403, "GatedRepo")
            elif not file.is_file():
                self.refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
            else:
                self.give(file.read_bytes(), {"X-Repo-Commit": commit, "ETag": f'"{file.resolve().name}"'})

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
            self.reply(200, {**headers, "Content-Length": str(len(content))})
            if self.command == "GET":
                if fault == "altered" and len(content) >= LARGE:
                    content = content[:-1] + b"?"
                if fault == "breaks" and len(content) >= LARGE:
                    content = content[: len(content) // 2]
                    self.close_connection = True
                    gone.set()
                self.wfile.write(content)

        def refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
            told = {"X-Error-Code": code, "X-Error-Message": f"{code}, says the replica"} if code else {}
            self.reply(status, {**told, **(headers or {}), "Content-Length": "0"})

        def reply(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


NOBODY = "http://127.0.0.1:9"
"""An address where nobody answers."""


def online(home: Path, address: str) -> dict[str, str]:
    """Return the environment of a process whose client asks a loopback hub, and keeps its cache in a folder."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "HUGGING")) and not name.lower().endswith("_proxy")
    }
    ours = {"HF_HOME": str(home), "HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return {**clean, **ours, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1"}


@contextmanager
def asking(home: HubReplica, address: str) -> Iterator[None]:
    """Let this process's client ask a loopback hub, and keep its cache in a folder; it waits for nothing long."""
    from huggingface_hub import constants

    from basisbench_baselines.dictionaries import hub_snapshot

    pause = time.sleep
    with home.in_use(offline=False), pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", address)
        patch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        )
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(time, "sleep", lambda seconds: pause(min(seconds, 0.01)))  # before it tries again
        hub_snapshot._resolve.cache_clear()
        yield
    hub_snapshot._resolve.cache_clear()
