"""Where a repository or a folder of weights is, and what is wrong when it cannot be had, in one line.

Everything goes through `huggingface_hub`: its cache, its offline mode, its login. `locate` asks for one small file
first, so that a gated, missing or unreachable repository is told apart before anything large is loaded, and every
later file comes from the commit that it was found in.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basisbench.errors import BasisBenchError

_SECONDS = 10.0
"""How long the hub may take to name a commit before the cache is asked."""


@dataclass(frozen=True)
class Located:
    """A checkpoint that was found.

    Attributes:
        where: folder, or repository id.
        revision: commit of the repository; None for a folder.
        file: the file that was asked for, on this machine.
        offline: the hub could not be reached; everything else must come from the cache too.
    """

    where: str
    revision: str | None
    file: Path
    offline: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """What transformers' `from_pretrained` is told, besides where the checkpoint is."""
        return {"revision": self.revision or "main", "local_files_only": self.offline}

    @property
    def sources(self) -> Mapping[str, str]:
        """The repository and its commit; nothing for a folder."""
        return {} if self.revision is None else {self.where: self.revision}


def locate(owner: str, where: str, revision: str | None = None, *, file: str = "config.json") -> Located:
    """Find a folder, or a repository in the hub's cache or on the hub.

    Args:
        owner: what it is for, for messages, such as "model 'gpt2-small'".
        where: folder, or repository id.
        revision: commit, tag or branch of the repository; its main branch when None.
        file: a file that it must hold.

    Raises:
        BasisBenchError: it cannot be had; the message says why and what to do.
    """
    folder = Path(where)
    if folder.is_absolute() or folder.is_dir():
        if not (folder / file).is_file():
            raise BasisBenchError(
                f"{owner}: {folder} holds no {file}; expected a Hugging Face checkpoint folder or a repository id"
            )
        return Located(where, None, folder / file)
    from huggingface_hub import hf_hub_download

    commit, reached = _resolve(owner, where, revision)
    with one_line(owner, where, revision):
        found = Path(hf_hub_download(where, file, revision=commit, local_files_only=not reached))
    return Located(where, commit, found, offline=not reached)


def commit_of(repository: str, revision: str | None = None) -> str:
    """Return the commit that a branch or tag stands at: on the hub, else in the cache.

    Args:
        repository: repository id.
        revision: commit, tag or branch; the main branch when None.

    Raises:
        BasisBenchError: there is no such repository or revision, or neither hub nor cache can tell.
    """
    return _resolve(repository, repository, revision)[0]


def _resolve(owner: str, repository: str, revision: str | None) -> tuple[str, bool]:
    with one_line(owner, repository, revision):
        return resolve(repository, revision)


def resolve(repository: str, revision: str | None) -> tuple[str, bool]:
    """Return the commit of a revision, and whether the hub said so: else it is the cache's answer.

    Args:
        repository: repository id.
        revision: commit, tag or branch; the main branch when None.

    Raises:
        RepositoryNotFoundError, RevisionNotFoundError, HFValidationError, LocalEntryNotFoundError: those of the hub's
            client; `one_line` says what they mean.
        BasisBenchError: the hub names no commit.
    """
    from huggingface_hub import HfApi, errors

    name = revision or "main"
    reference = cache_folder(repository) / "refs" / name
    try:
        commit = HfApi().repo_info(repository, revision=revision, timeout=_SECONDS).sha
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError):
        raise
    # No network, a proxy, offline mode: one question tells, where a download would be tried again and again.
    except Exception as error:
        if (cache_folder(repository) / "snapshots" / name).is_dir():
            return name, False
        if reference.is_file():
            return reference.read_text(encoding="utf-8").strip(), False
        raise errors.LocalEntryNotFoundError(str(error)) from error
    if commit is None:
        raise BasisBenchError(f"the hub names no commit for revision '{name}' of {repository}")
    if commit != name:
        # Files are asked for by commit, and the client notes a branch's commit only where it is asked for the branch:
        # without this note a later run without a network would not find them.
        with suppress(OSError):
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(commit, encoding="utf-8")
    return str(commit), True


@contextmanager
def one_line(owner: str, repository: str, revision: str | None = None) -> Iterator[None]:
    """Turn what goes wrong with a repository inside the block into one line.

    Args:
        owner: what it is for, for messages.
        repository: repository id.
        revision: the revision that was asked for; None for the main branch.

    Raises:
        BasisBenchError: the repository is gated, missing or cannot be reached, has no such revision or file, or there
            is no room for it.
    """
    try:
        yield
    except BasisBenchError:
        raise
    except Exception as error:
        line = _line(error, repository, revision)
        if line is None:
            raise
        raise BasisBenchError(f"{owner}: {line}") from error


def _line(error: Exception, repository: str, revision: str | None) -> str | None:
    """Say what an error of the hub's client means; None for any other."""
    from huggingface_hub import errors

    wanted = f"revision '{revision}' of {repository}" if revision else repository
    cause: BaseException | None = error
    while cause is not None:  # transformers wraps the client's errors
        if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
            return f"no space left on the disk of the cache {_cache()} for {repository}; free some, or set HF_HOME"
        if isinstance(cause, errors.GatedRepoError):
            return (
                f"{repository} is gated; accept its terms at https://huggingface.co/{repository}, then log in with "
                "'hf auth login' or set HF_TOKEN"
            )
        if isinstance(cause, errors.RevisionNotFoundError):
            return f"{repository} has no revision '{revision or 'main'}'; give a commit, tag or branch that it has"
        if isinstance(cause, errors.RepositoryNotFoundError):
            return (
                f"the hub has no repository {repository}, or it is private; check the name, or log in with "
                "'hf auth login' or set HF_TOKEN"
            )
        if isinstance(cause, errors.RemoteEntryNotFoundError):
            return f"{wanted} lacks a file: {_first_line(cause)}"
        if isinstance(cause, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
            return _not_cached(repository, revision)
        if isinstance(cause, errors.HFValidationError):
            return f"'{repository}' is no repository id (ORG/NAME), and no folder of that name exists here"
        if isinstance(cause, errors.HfHubHTTPError):
            return f"the hub refused {wanted}: {_first_line(cause)}"
        cause = cause.__cause__ or cause.__context__
    return None


def _not_cached(repository: str, revision: str | None) -> str:
    cached = sorted(path.name for path in _snapshots(repository))
    network = "and the hub cannot be reached (no network, or HF_HUB_OFFLINE is set)"
    if cached and revision:
        return f"revision '{revision}' of {repository} is not in the cache {_cache()}, {network}; cached: {cached[0]}"
    return (
        f"{repository} is not in the cache {_cache()}, {network}; fetch it where there is a network with "
        f"'hf download {repository}', or give the path of a folder"
    )


def _snapshots(repository: str) -> list[Path]:
    folder = cache_folder(repository) / "snapshots"
    return list(folder.iterdir()) if folder.is_dir() else []


def cache_folder(repository: str) -> Path:
    """Return where the hub's client keeps a repository."""
    from huggingface_hub.file_download import repo_folder_name

    return _cache() / repo_folder_name(repo_id=repository, repo_type="model")


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
