"""A disk that is full, a cache that cannot be written, a connection that breaks: one line that names the file, exit 2.

Through the whole command line and the hub's own client (huggingface_hub 2.4, file_download.py: a file is written as
blobs/HASH.RANDOM.incomplete and then renamed), against a hub on the loopback interface.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import file_download

from basisbench.cli import main
from basisbench.errors import BasisBenchError
from basisbench.models import hub, hub_errors, weights
from basisbench.models.hub_errors import one_line
from helpers.hub_releases import RELEASES
from helpers.hub_replica import MODELS, HubReplica, replica
from helpers.loopback_hub import asking, serving

pytestmark = pytest.mark.slow

MODEL = MODELS["pythia"].repository
RELEASE = "pythia-70m-deduped-mlp-sm"
DICTIONARIES = RELEASES[RELEASE].repository
DICTIONARY = "2-mlp-sm/sae_weights.safetensors"

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def home(tmp_path: Path) -> HubReplica:
    """Return where the client keeps its cache; nothing is in it yet."""
    return HubReplica(tmp_path / "home")


@pytest.fixture
def run(home: HubReplica, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return the command: given the hub's address and a basis, its exit status and what it says."""

    def command(address: str, basis: str) -> tuple[int, str]:
        words = ["run", "--model", MODEL, "--task", "sva_simple", "--method", "random", "--examples", "16"]
        with asking(home, address):
            status = main([*words, "--jobs", "1", "--basis", basis, "--out", str(tmp_path / "out")])
        return status, capsys.readouterr().err

    return command


@contextmanager
def without_privileges() -> Iterator[None]:
    """Let root write no more than others (capget(2), version 3 of the call): this thread, and those that it starts."""
    if os.geteuid() != 0:
        yield
        return
    libc, header, own = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, own) == 0
    # Effective, permitted and inheritable, twice: what is permitted can be taken up again.
    assert libc.capset(header, (ctypes.c_uint32 * 6)(0, own[1], own[2], 0, own[4], own[5])) == 0
    try:
        yield
    finally:
        assert libc.capset(header, own) == 0


def the_line(result: tuple[int, str]) -> str:
    """Return what the user reads at the end, after the client's notes on its own retries."""
    status, said = result
    assert status == 2, said
    assert "Traceback" not in said
    assert "Not enough free disk space" not in said
    (line,) = (line for line in said.splitlines() if line.startswith("basisbench: error: "))
    assert said.endswith(f"{line}\n")
    return line


def fill(home: HubReplica, repository: str, file: str) -> Path:
    """Put a full device where a client of one name is going to write: the system refuses every write to it."""
    blob = (replica().snapshot(repository) / file).resolve().name
    path = home.folder(repository) / "blobs" / f"{blob}.fixed000.incomplete"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("/dev/full")
    return path


def size_of(repository: str, file: str) -> int:
    return (replica().snapshot(repository) / file).stat().st_size


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize(
    ("repository", "file", "basis"),
    [
        (MODEL, "config.json", "mlp_out"),
        (MODEL, "model.safetensors", "mlp_out"),
        (MODEL, "tokenizer.json", "mlp_out"),
        (DICTIONARIES, DICTIONARY, f"sae:{RELEASE}"),
    ],
)
def test_a_full_disk(
    home: HubReplica, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: str, file: str, basis: str
) -> None:
    # The random part of the name is fixed, so that the file can be put in place beforehand.
    monkeypatch.setattr(file_download, "uuid", SimpleNamespace(uuid4=lambda: SimpleNamespace(hex="fixed000")))
    with serving(replica()) as address:
        path = fill(home, repository, file)
        line = the_line(run(address, basis))
        needed = f"{size_of(repository, file) / 1024:.1f} KiB needed"
        assert f"no space left on the disk of the cache {home.cache} for {file} of {repository} ({needed}, " in line
        assert re.search(r" free\); free some, or set HF_HOME to a folder on a larger disk", line)
        assert not path.is_symlink(), "the client has cleared it away"
        assert not list((tmp_path / "out").rglob("*.json"))


@pytest.mark.skipif(sys.platform != "linux" and os.geteuid() == 0, reason="root may write everywhere on this system")
@pytest.mark.parametrize("basis", ["mlp_out", f"sae:{RELEASE}"])
def test_a_cache_that_cannot_be_written(home: HubReplica, run: Run, basis: str) -> None:
    home.cache.mkdir(parents=True)
    repository, file = MODEL, "config.json"
    if basis != "mlp_out":
        shutil.copytree(replica().folder(MODEL), home.folder(MODEL), symlinks=True)
        repository, file = DICTIONARIES, "0-mlp-sm/sae_weights.safetensors"
    home.cache.chmod(0o555)
    with serving(replica()) as address, without_privileges():
        line = the_line(run(address, basis))
    home.cache.chmod(0o755)
    assert (
        f"the cache {home.cache} cannot take {file} of {repository}: Permission denied ({home.folder(repository)}"
        in (line)
    )
    assert line.endswith("; make it writable, or set HF_HOME to a folder that is")


@pytest.mark.parametrize("basis", ["mlp_out", f"sae:{RELEASE}"])
def test_a_connection_that_breaks_in_the_middle_of_a_file(home: HubReplica, run: Run, basis: str) -> None:
    if basis != "mlp_out":
        shutil.copytree(replica().folder(MODEL), home.folder(MODEL), symlinks=True)
    with serving(replica(), fault="breaks") as address:
        line = the_line(run(address, basis))
    repository = MODEL if basis == "mlp_out" else DICTIONARIES
    assert re.search(f"the connection to the hub broke while [^ ]+ of {repository} was fetched \\(", line)
    assert "run again: whole files are kept" in line
    assert not list(home.cache.rglob("*.incomplete"))
    with serving(replica()) as address:
        status, said = run(address, basis)
    assert status == 0, said


# --- what cannot be brought about here: the client's own code is run, and fails where the system would fail it


def fetch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, name: str = "http_get") -> str:
    """Let a step of the client's download fail, and return the line."""
    from huggingface_hub import constants

    def fail(*_arguments: object, **_more: object) -> None:
        raise error

    monkeypatch.setattr(file_download, name, fail)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with (
        serving(replica()) as address,
        pytest.raises(BasisBenchError) as caught,
        one_line("model 'm'", MODEL),
    ):
        hub.download(MODEL, "model.safetensors", "main", endpoint=address)
    message = str(caught.value)
    assert message.startswith("model 'm': ")
    assert "\n" not in message
    return message


WHAT = f"model.safetensors of {MODEL}"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), f"cannot take {WHAT}: Read-only file system; make it"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), f"for {WHAT} ("),
        # hf_xet 1.8, as its Rust library words it.
        (RuntimeError("Data processing error: No space left on device (os error 28)"), f"for {WHAT} ("),
        (OSError("Consistency check failed: file should be of size 9 but has size 8\nmore"), "should be of size 9"),
    ],
)
def test_other_faults_of_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: str
) -> None:
    assert expected in fetch(monkeypatch, tmp_path, error)


def test_a_file_that_is_too_large_for_the_disk_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """The client warns beforehand in a sentence of its own."""
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    message = fetch(monkeypatch, tmp_path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert re.search(r"\([\d.]+ KiB needed, 0\.0 KiB free\)", message)
    assert not [warning for warning in recwarn if "disk space" in str(warning.message)]


def test_files_of_weights_are_fetched_at_the_same_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"}}))
    both = threading.Barrier(2, timeout=30)  # breaks where the second one waits for the first
    fetched: list[str] = []

    def fetch(_located: hub.Located, file: str) -> Path | None:
        if file in ("1.safetensors", "2.safetensors"):
            both.wait()
            fetched.append(file)
        return index if file.endswith(".index.json") else None

    monkeypatch.setattr(weights, "fetch", fetch)
    weights.fetch_weights(hub.Located("org/name", "0" * 40, index))
    assert sorted(fetched) == ["1.safetensors", "2.safetensors"]


def test_the_first_file_of_weights_that_fails_ends_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"weight_map": {str(shard): f"{shard}.safetensors" for shard in range(100)}}))
    asked: list[str] = []

    def fetch(_located: hub.Located, file: str) -> Path | None:
        asked.append(file)
        if file == "0.safetensors":
            raise BasisBenchError(f"no space left for {file} of org/name")
        time.sleep(0.01)
        return index if file.endswith(".index.json") else None

    monkeypatch.setattr(weights, "fetch", fetch)
    with pytest.raises(BasisBenchError, match=r"no space left for 0\.safetensors"):
        weights.fetch_weights(hub.Located("org/name", "0" * 40, index))
    assert len(asked) < 100


@pytest.mark.parametrize(("size", "expected"), [(5 * 2**30, "5.0 GiB"), (3 * 2**19, "1.5 MiB"), (100, "0.1 KiB")])
def test_sizes_are_written_in_words(size: int, expected: str) -> None:
    assert hub_errors._bytes(size) == expected


def refuse(path: Path) -> None:
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


@pytest.mark.parametrize(
    "work",
    [lambda folder: refuse(folder / "elsewhere"), lambda _folder: (_ for _ in ()).throw(ConnectionError("elsewhere"))],
)
def test_what_happens_elsewhere_is_not_blamed_on_the_cache(tmp_path: Path, work: Callable[[Path], object]) -> None:
    with pytest.raises(OSError, match="elsewhere"), one_line("model 'm'", MODEL):
        work(tmp_path)
