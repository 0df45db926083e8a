"""Find a repository or a folder of weights, and fetch its files.

Everything goes through `huggingface_hub`: its cache, its offline mode, its login. `locate` asks for one small file
first, so that a gated, missing or unreachable repository is reported before anything large is loaded, and every later
file comes from the commit that it was found in. `basisbench.models.hub_errors` says what is wrong, in one line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basisbench.errors import BasisBenchError
from basisbench.models.hub_errors import cache_folder, line_of_file, one_line

_CONFIGURATION, _ADAPTER = "config.json", "adapter_config.json"

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
        gguf: the file is a GGUF file, which holds everything.
    """

    where: str
    revision: str | None
    file: Path
    offline: bool = False
    gguf: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Options of transformers' `from_pretrained`: where the checkpoint is, and that no code of its own may run."""
        place: dict[str, Any] = {"pretrained_model_name_or_path": self.where, "revision": self.revision or "main"}
        if self.gguf:
            place = {"pretrained_model_name_or_path": str(self.file.parent), "gguf_file": self.file.name}
        return {**place, "local_files_only": self.offline or self.gguf, "trust_remote_code": False}

    @property
    def sources(self) -> Mapping[str, str]:
        """The repository and its commit; nothing for a folder."""
        return {} if self.revision is None else {self.where: self.revision}


def locate(owner: str, where: str, revision: str | None = None, *, file: str = _CONFIGURATION) -> Located:
    """Find a folder, or a repository in the hub's cache or on the hub.

    Args:
        owner: what it is for, for messages, such as "model 'NAME'".
        where: folder, or repository id.
        revision: commit, tag or branch of the repository; its main branch when None.
        file: a file that it must hold.

    Raises:
        BasisBenchError: it cannot be had; the message says why and what to do.
    """
    folder = Path(where)
    if folder.is_absolute() or folder.is_dir():
        if file == _CONFIGURATION and (folder / _ADAPTER).is_file():
            raise _adapter(owner, folder, folder / _ADAPTER)
        if not (folder / file).is_file():
            raise BasisBenchError(
                f"{owner}: {folder} holds no {file}; expected a Hugging Face checkpoint folder or a repository id"
            )
        return Located(where, None, folder / file)
    from huggingface_hub.errors import EntryNotFoundError

    with one_line(owner, where, revision):
        commit, reached = resolve(where, revision)
        try:
            found = download(where, file, commit, local_files_only=not reached)
        except EntryNotFoundError:
            if file == _CONFIGURATION:
                with suppress(EntryNotFoundError):
                    adapter = download(where, _ADAPTER, commit, local_files_only=not reached)
                    raise _adapter(owner, where, adapter) from None
            raise
    return Located(where, commit, found, offline=not reached)


def _adapter(owner: str, where: object, file: Path) -> BasisBenchError:
    """Build the error for what is no model but a change to one; it names the base model where the file does."""
    base = None
    with suppress(OSError, ValueError, AttributeError, RecursionError):
        base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    return BasisBenchError(
        f"{owner}: {where} holds an adapter{f' of {base:.200}' if isinstance(base, str) else ''} ({_ADAPTER}: LoRA or "
        "another), no model; merge it into its base with peft (merge_and_unload, save_pretrained) and give that folder"
    )


def download(repository: str, file: str, commit: str, **options: Any) -> Path:
    """Return the path of a file in the cache, fetched if need be.

    Args:
        repository: repository id.
        file: path in the repository.
        commit: commit, tag or branch.
        options: what else `hf_hub_download` takes.

    Raises:
        BasisBenchError: disk or network failed; names the file.
        HfHubHTTPError, EntryNotFoundError: what the hub has answered; `one_line` says what it means.
    """
    from huggingface_hub import hf_hub_download, hf_hub_url

    try:
        return Path(hf_hub_download(repository, file, revision=commit, **options))
    except Exception as error:
        address = hf_hub_url(repository, file, revision=commit, endpoint=options.get("endpoint"))
        line = line_of_file(error, repository, file, address)
        if line is None:
            raise
        raise BasisBenchError(line) from error


def fetch(located: Located, file: str) -> Path | None:
    """Fetch a file before a library asks for it, so that what goes wrong names it.

    Args:
        located: a checkpoint; in a folder, or offline, there is nothing to fetch.
        file: path in the repository.

    Returns:
        Its path in the cache; None where the repository has no such file, or nothing is fetched.

    Raises:
        BasisBenchError: disk or network failed.
    """
    from huggingface_hub.errors import EntryNotFoundError

    if located.revision is None or located.offline or located.gguf:
        return None
    try:
        return download(located.where, file, located.revision)
    except EntryNotFoundError:
        return None


def commit_of(repository: str, revision: str | None = None) -> str:
    """Return the commit that a branch or tag stands at: on the hub, else in the cache.

    Args:
        repository: repository id.
        revision: commit, tag or branch; the main branch when None.

    Raises:
        BasisBenchError: there is no such repository or revision, or neither hub nor cache can tell.
    """
    with one_line(repository, repository, revision):
        return resolve(repository, revision)[0]


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
