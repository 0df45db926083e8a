"""Say in one line what is wrong when a repository of the hub cannot be had.

1. Other libraries wrap what the hub's client raises: every error is followed to its causes, and the first that is known
   here gives the line.
2. The client's errors about disk and network do not say which file was fetched. Files that are asked for one by one
   (`basisbench.models.hub.download`) are named; where another library fetches, the line names the repository alone.
"""

from __future__ import annotations

import errno
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from basisbench.errors import BasisBenchError, first_line

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_FULL_IN_RUST = "(os error 28)"
"""How the client's Xet library, which is no Python, ends its message about a full disk."""


@contextmanager
def one_line(owner: str, repository: str, revision: str | None = None) -> Iterator[None]:
    """Turn what goes wrong with a repository inside the block into one line.

    Args:
        owner: what it is for, for messages.
        repository: repository id.
        revision: the revision that was asked for; None for the main branch.

    Raises:
        BasisBenchError: the repository is gated, missing or cannot be reached, has no such revision or file, or the
            cache has no room for it or cannot be written.
    """
    try:
        with warnings.catch_warnings():
            # The client goes on all the same; if there is really no room, the error below says so.
            warnings.filterwarnings("ignore", message="Not enough free disk space to download the file")
            yield
    except BasisBenchError as error:
        if str(error).startswith(owner):
            raise
        raise BasisBenchError(f"{owner}: {error}") from error
    except Exception as error:
        line = _line(error, repository, revision)
        if line is None:
            raise
        raise BasisBenchError(f"{owner}: {line}") from error


def _line(error: BaseException, repository: str, revision: str | None) -> str | None:
    """Say what an error of the hub's client means; None for any other."""
    for cause in _causes(error):
        line = _of_the_hub(cause, repository, revision) or _of_disk_or_network(cause, repository)
        if line is not None:
            return line
    return None


def line_of_file(error: BaseException, repository: str, file: str, address: str) -> str | None:
    """Say what went wrong with disk or network while one file was fetched; None for what the hub has answered.

    Args:
        error: what the client has raised.
        repository: repository id.
        file: path in the repository.
        address: where on the hub the file is, to ask how large it is.
    """
    for cause in _causes(error):
        if _of_the_hub(cause, repository, None) is not None:
            return None
        line = _of_disk_or_network(cause, repository, file, address)
        if line is not None:
            return line
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _of_the_hub(error: BaseException, repository: str, revision: str | None) -> str | None:
    """Say what the hub has answered."""
    from huggingface_hub import errors

    wanted = f"revision '{revision}' of {repository}" if revision else repository
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{repository} is gated; accept its terms at https://huggingface.co/{repository}, then log in with "
            "'hf auth login' or set HF_TOKEN"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repository} has no revision '{revision or 'main'}'; give a commit, tag or branch that it has"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"the hub has no repository {repository}, or it is private; check the name, or log in with "
            "'hf auth login' or set HF_TOKEN"
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"{wanted} lacks a file: {first_line(error)}"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return _not_cached(repository, revision)
    if isinstance(error, errors.HFValidationError):
        return f"'{repository}' is no repository id (ORG/NAME), and no folder of that name exists here"
    if isinstance(error, errors.HfHubHTTPError):
        return f"the hub refused {wanted}: {first_line(error)}"
    return None


def _not_cached(repository: str, revision: str | None) -> str:
    cached = cached_commits(repository)
    network = "and the hub cannot be reached (no network, or HF_HUB_OFFLINE is set)"
    if cached and revision:
        return (
            f"revision '{revision}' of {repository} is not in the cache {cache_root()}, {network}; cached: {cached[0]}"
        )
    return (
        f"{repository} is not in the cache {cache_root()}, {network}; fetch it where there is a network with "
        f"'hf download {repository}', or give the path of a folder"
    )


def _of_disk_or_network(error: BaseException, repository: str, file: str = "", address: str = "") -> str | None:
    """Say what went wrong on the way into the cache."""
    what = f"{file} of {repository}" if file else repository
    number = error.errno if isinstance(error, OSError) else None
    if number in _FULL or _FULL_IN_RUST in str(error):
        return (
            f"no space left on the disk of the cache {cache_root()} for {what}{_room(address)}; free some, or set "
            "HF_HOME to a folder on a larger disk"
        )
    if number in _FORBIDDEN and (file or _in_the_cache(error)):
        reason, where = getattr(error, "strerror", None), getattr(error, "filename", None)
        return (
            f"the cache {cache_root()} cannot take {what}: {reason}"
            f"{f' ({where})' if where else ''}; make it writable, or set HF_HOME to a folder that is"
        )
    if _is_of_the_network(error) or str(error).startswith("Consistency check failed"):
        return (
            f"the connection to the hub broke while {what} was fetched ({first_line(error)}); run again: whole files "
            "are kept"
        )
    return None


def _is_of_the_network(error: BaseException) -> bool:
    """Tell an error of the client's HTTP library: httpx once, httpx2 now, both with a TransportError."""
    return any(base.__name__ == "TransportError" for base in type(error).__mro__)


def _room(address: str) -> str:
    """Say how much a file needs and how much there is, as far as that is known."""
    from huggingface_hub import get_hf_file_metadata

    size = None
    if address:
        with suppress(Exception):  # the hub may have gone meanwhile; the line does without
            size = get_hf_file_metadata(address).size
    try:
        free = f"{_bytes(shutil.disk_usage(cache_root()).free)} free"
    except OSError:
        free = ""
    parts = [f"{_bytes(size)} needed" if size else "", free]
    known = ", ".join(part for part in parts if part)
    return f" ({known})" if known else ""


def _bytes(size: int) -> str:
    for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 2**10:.1f} KiB"


def _in_the_cache(error: BaseException) -> bool:
    where = getattr(error, "filename", None)
    return isinstance(where, str) and Path(where).is_relative_to(cache_root())


def cache_root() -> Path:
    """Return the folder of all repositories."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def cache_folder(repository: str) -> Path:
    """Return the folder of a repository."""
    from huggingface_hub.file_download import repo_folder_name

    return cache_root() / repo_folder_name(repo_id=repository, repo_type="model")


def cached_commits(repository: str) -> list[str]:
    """Return the commits of which the cache has at least a file, sorted."""
    folder = cache_folder(repository) / "snapshots"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
