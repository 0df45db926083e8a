"""The files of a folder, or of a repository of the hub at one commit, under one set of names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from basisbench.errors import BasisError


class Files(Protocol):
    """Where dictionaries are looked for; names are relative, with slashes."""

    def names(self) -> Sequence[str]:
        """Return the name of every file."""
        ...

    def has(self, name: str) -> bool:
        """Tell whether there is such a file."""
        ...

    def path(self, name: str) -> Path:
        """Return where a file is, fetched if need be."""
        ...

    def where(self, name: str) -> str:
        """Return how messages call a file or folder."""
        ...


@dataclass(frozen=True)
class Folder:
    """The files of a folder.

    Attributes:
        root: the folder.
    """

    root: Path

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(sorted(path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file()))

    def names(self) -> Sequence[str]:
        """Return the name of every file."""
        return self._names

    def has(self, name: str) -> bool:
        """Tell whether there is such a file."""
        return (self.root / name).is_file()

    def path(self, name: str) -> Path:
        """Return where a file is."""
        path = self.root / name
        if not path.is_file():
            raise BasisError(f"{path} is missing")
        return path

    def where(self, name: str) -> str:
        """Return how messages call a file or folder; a snapshot in the hub's cache keeps its repository's name."""
        return (self.root / name).as_posix()
