"""Read files of the Hugging Face hub at one commit, through its own client and cache; report errors in one line.

SAELens's loaders (sae-lens 6.54) ask for files without a revision, and the one of Gemma Scope 2 reads tensor shapes
by HTTP range requests even where the file is in the cache and the client is offline. `pinned` is the one place
that deals with both: while it is open, the loaders' module downloads from a fixed commit, checks what it got, and
reads shapes from the file. A test fails when SAELens takes a revision itself or changes the two functions.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import BadZipFile

from yaml import YAMLError

from basisbench.errors import BasisBenchError, BasisError
from basisbench.models import hub
from basisbench.models.hub_errors import cache_folder, one_line
from basisbench_baselines.dictionaries.weight_files import tensor_shapes

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SECONDS = 10.0
"""How long the hub may take to name its files before the cache is asked."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Snapshot:
    """A repository of the hub at one commit.

    Attributes:
        repository: "organisation/name".
        commit: full SHA-1 of the commit; it stands for the contents of every file.
    """

    repository: str
    commit: str

    @property
    def folder(self) -> Path:
        """Where the cache keeps this commit."""
        return cache_folder(self.repository) / "snapshots" / self.commit

    def names(self) -> Sequence[str]:
        """Return the name of every file: as the hub says, else as the cache has it."""
        return tuple(_names(self.repository, self.commit, self.folder))

    def has(self, name: str) -> bool:
        """Tell whether there is such a file."""
        return PurePosixPath(name).as_posix() in _names(self.repository, self.commit, self.folder)

    def path(self, name: str) -> Path:
        """Return where a file is in the cache, fetched if need be."""
        return Path(self.download(PurePosixPath(name).as_posix()))

    def where(self, name: str) -> str:
        """Return how messages call a file or folder."""
        return PurePosixPath(self.repository, name).as_posix()

    def download(self, filename: str, **options: Any) -> str:
        """Return the path of a file in the cache, fetched if need be, and checked.

        Args:
            filename: path in the repository.
            options: what else `hf_hub_download` takes; its revision is ours.

        Raises:
            BasisBenchError: disk or network failed, or the file in the cache is not the one that the repository has.
        """
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            path = hub.download(self.repository, filename, self.commit, **options)
        except LocalEntryNotFoundError as error:
            error.filename = filename
            raise
        check_blob(path, f"{self.repository}/{filename}")
        return str(path)


def resolve(repository: str, revision: str | None) -> Snapshot:
    """Return the snapshot that a branch, a tag or a commit names: as the hub says, else as the cache does.

    Args:
        repository: "organisation/name".
        revision: branch, tag or full commit; None for the main branch.

    Raises:
        RepositoryNotFoundError, RevisionNotFoundError, LocalEntryNotFoundError: those of the hub's client; see
            `as_basis_error`.
    """
    if revision is not None and _COMMIT.fullmatch(revision):
        return Snapshot(repository, revision)
    return _resolve(repository, revision or "main", cache_folder(repository))


@cache
def _resolve(repository: str, revision: str, _folder: Path) -> Snapshot:
    """Ask once per process and cache, so that a run stays with one commit."""
    return Snapshot(repository, hub.resolve(repository, revision)[0])


@cache
def _names(repository: str, commit: str, folder: Path) -> dict[str, None]:
    """Ask once per process and commit; in order of name."""
    from huggingface_hub import HfApi, errors

    try:
        listed = HfApi().model_info(repository, revision=commit, timeout=_SECONDS).siblings or ()
        return dict.fromkeys(sorted(file.rfilename for file in listed))
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise
    except Exception as error:  # no network, a proxy, offline mode
        if not folder.is_dir():
            raise errors.LocalEntryNotFoundError(str(error)) from error
        return dict.fromkeys(
            sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        )


def check_blob(path: Path, name: str) -> None:
    """Compare a cached file with the hash that the cache names it by.

    The cache keeps each file under the SHA-256 of its content where it is large (LFS), else under git's SHA-1. That
    costs about a second per gigabyte, once per process and file. Files that are not kept so are left alone.

    Raises:
        BasisError: they differ; says what to delete.
    """
    blob = path.resolve()
    if blob.parent.name == "blobs":
        status = blob.stat()
        found = _digest(blob, blob.name, status.st_size, status.st_mtime_ns)
        if found is not None and found != blob.name:
            raise BasisError(
                f"{name}: the file in the cache is damaged (its hash is {found[:12]}..., not {blob.name[:12]}...); "
                f"delete {blob} and run again to fetch it anew"
            )


@cache
def _digest(blob: Path, expected: str, size: int, _modified: int) -> str | None:
    """Return the digest of the kind that `expected` is; None for another kind."""
    if _SHA256.fullmatch(expected):
        digest = hashlib.sha256()
    elif _COMMIT.fullmatch(expected):
        digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    else:
        return None
    with blob.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def pinned(snapshot: Snapshot) -> Iterator[None]:
    """Let SAELens's loaders read one repository at one commit, from the cache where it is there."""
    from sae_lens.loading import pretrained_sae_loaders as loaders

    def download(repo_id: str, filename: str, subfolder: str | None = None, **options: Any) -> str:
        if repo_id != snapshot.repository:
            raise BasisError(f"SAELens asked for {repo_id} while {snapshot.repository} was loaded; this is a bug")
        options.pop("revision", None)
        return snapshot.download(f"{subfolder}/{filename}" if subfolder else filename, **options)

    def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
        return {name: list(shape) for name, shape in tensor_shapes(download(repo_id, filename)).items()}

    before = loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes
    loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes = download, shapes
    try:
        yield
    finally:
        loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes = before


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back SAELens's advice to load the model differently: what that would do is done here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*This SAE has non-empty model_from_pretrained_kwargs")
        yield


@contextmanager
def as_basis_error(subject: str, repository: str = "", revision: str | None = None) -> Iterator[None]:
    """Turn what the hub's client and the file formats raise into one line that begins with the subject.

    Args:
        subject: what was being loaded, for messages.
        repository: where it comes from, if that is the hub.
        revision: at which commit, or branch, or tag.

    Raises:
        BasisError: anything of that kind was raised. Memory that ran out stays the error that it is.
    """
    from huggingface_hub import errors
    from safetensors import SafetensorError

    from basisbench.models.batching import is_out_of_memory

    try:
        with one_line(subject, repository, revision):
            try:
                yield
            except errors.LocalEntryNotFoundError as error:
                if error.filename and revision and Snapshot(repository, revision).folder.is_dir():
                    raise BasisError(
                        f"the cache has {repository} at {revision[:12]} without {error.filename}, and the hub cannot "
                        "be reached (no network, or HF_HUB_OFFLINE is set); run once with a network"
                    ) from error
                raise
    except BasisBenchError as error:
        message = str(error)
        raise BasisError(message if message.startswith(subject) else f"{subject}: {message}") from error
    except (*_UNREADABLE, SafetensorError, BadZipFile, YAMLError) as error:
        if is_out_of_memory(error):  # whoever reads weights in the middle of a pass makes the pass smaller
            raise
        text = " ".join(str(error).split())[:_LONGEST]
        raise BasisError(f"{subject}: not a dictionary that can be read: {type(error).__name__}: {text}") from error


_UNREADABLE = (OSError, LookupError, ValueError, RuntimeError, EOFError, TypeError, AttributeError, ArithmeticError)
"""What libraries raise when a file holds something else than they expect."""
_LONGEST = 300
"""Characters that are shown of a library's message."""
