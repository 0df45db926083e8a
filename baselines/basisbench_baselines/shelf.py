"""Dictionaries that are loaded when they are first asked for, and can be let go of one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload


class DictionaryShelf(Sequence[Any]):
    """One dictionary per layer; each is loaded on its first use.

    Args:
        loaders: load a dictionary, in layer order.
        nbytes: bytes of all dictionaries' weights.
    """

    def __init__(self, loaders: Sequence[Callable[[], Any]], nbytes: int) -> None:
        self._loaders, self._loaded = tuple(loaders), dict[int, Any]()
        self.nbytes = nbytes

    def __len__(self) -> int:
        return len(self._loaders)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[each] for each in range(len(self))[index]]
        index = range(len(self))[index]
        if index not in self._loaded:
            self._loaded[index] = self._loaders[index]()
        return self._loaded[index]

    @property
    def loaded(self) -> tuple[int, ...]:
        """Which dictionaries are in memory."""
        return tuple(sorted(self._loaded))

    def drop(self, index: int) -> None:
        """Let go of a dictionary; it is loaded again when it is asked for."""
        self._loaded.pop(index, None)
