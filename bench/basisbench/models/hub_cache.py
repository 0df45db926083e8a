"""Where the hub's client keeps repositories on this machine."""

from __future__ import annotations

from pathlib import Path


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
