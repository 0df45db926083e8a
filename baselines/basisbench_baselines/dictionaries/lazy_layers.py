"""Load dictionaries when they are first used, and keep as many in memory as there is room for.

1. A pass asks for the dictionaries of all layers in order, and so does the next pass. Where not all fit, what makes
   room is the most recently used one: the others are still there in the next pass. (Freeing the least recently used
   one would load every layer anew in each pass.)
2. On a device, what does not fit is kept in the machine's own memory, ready to be copied, while there is room for it
   there; only what fits in neither is read from its file again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

Loader = Callable[[str], Any]
"""Loads one dictionary to a device."""


class LayerCache:
    """Keep track of which layers are in memory on one device; the most recently used one makes room for the next.

    Args:
        sizes: bytes of each layer, by index.
        room: bytes that they may take together. The layer that is asked for is always added, and takes its size
            twice: loading and rearranging need as much again.
    """

    def __init__(self, sizes: Mapping[int, int], room: int) -> None:
        self._sizes, self._room = dict(sizes), room
        self._cached: list[int] = []

    @property
    def cached(self) -> tuple[int, ...]:
        """The layers in memory, in order of last use."""
        return tuple(self._cached)

    @property
    def overflows(self) -> bool:
        """Whether not all layers fit at the same time."""
        return sum(self._sizes.values()) + max(self._sizes.values(), default=0) > self._room

    def add(self, index: int) -> tuple[int, ...]:
        """Add a layer, and return those that must be freed for it.

        Args:
            index: the layer that is needed now.
        """
        if index in self._cached:
            self._cached.remove(index)
            self._cached.append(index)
            return ()
        freed: list[int] = []
        needed = 2 * self._sizes[index]
        while self._cached and needed + self._taken > self._room:
            freed.append(self._cached.pop())
        self._cached.append(index)
        return tuple(freed)

    def shrink(self) -> tuple[int, ...]:
        """Make the room half of what is in memory; return the layers to free, never the last used one."""
        freed: list[int] = []
        if len(self._cached) > 1:
            self._room = min(self._room, self._taken // 2)
        while len(self._cached) > 1 and self._taken > self._room:
            freed.append(self._cached.pop(-2))
        return tuple(freed)

    @property
    def _taken(self) -> int:
        return sum(self._sizes[index] for index in self._cached)


class LazyDictionaries(Sequence[Any]):
    """One dictionary per layer, loaded when it is first used.

    Args:
        loaders: load a dictionary to a device, in layer order.
        sizes: bytes of each dictionary's weights.
        devices: where each is needed.
        rooms: for each of these devices, bytes that its dictionaries may take.
        spare: bytes of the machine's own memory for those that do not fit on a device.
    """

    def __init__(
        self,
        loaders: Sequence[Loader],
        sizes: Sequence[int],
        devices: Sequence[str],
        rooms: Mapping[str, int],
        spare: int = 0,
    ) -> None:
        self._loaders, self._sizes, self._devices = tuple(loaders), tuple(sizes), tuple(devices)
        self._caches = {
            device: LayerCache({index: sizes[index] for index, other in enumerate(devices) if other == device}, room)
            for device, room in rooms.items()
        }
        self._spare = spare
        self._loaded = dict[int, Any]()
        self._aside = dict[int, Any]()

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
            self.make_room(index)
            self._loaded[index] = self._load(index)
        return self._loaded[index]

    @property
    def nbytes(self) -> int:
        """Bytes of all dictionaries' weights."""
        return sum(self._sizes)

    @property
    def overflows(self) -> bool:
        """Whether not all fit into memory at the same time, so that some are loaded in every pass."""
        return any(cache.overflows for cache in self._caches.values())

    @property
    def loaded(self) -> tuple[int, ...]:
        """Which dictionaries are in memory, where they are needed."""
        return tuple(sorted(self._loaded))

    def make_room(self, index: int) -> tuple[int, ...]:
        """Free the dictionaries that must make room for another, and return which; their holders must drop them too.

        Args:
            index: the dictionary that is asked for next.
        """
        return self._free(self._caches[self._devices[index]].add(index))

    def shrink(self) -> tuple[int, ...]:
        """Keep half as much from now on, one at least; return which were freed, nothing where there was but one."""
        return self._free(tuple(index for cache in self._caches.values() for index in cache.shrink()))

    def _free(self, which: tuple[int, ...]) -> tuple[int, ...]:
        for index in which:
            self._loaded.pop(index, None)
        return which

    def _load(self, index: int) -> Any:
        device = self._devices[index]
        if device == "cpu" or not self._caches[device].overflows:
            return self._loaders[index](device)
        if index not in self._aside:
            taken = sum(self._sizes[other] for other in self._aside)
            if taken + 2 * self._sizes[index] > self._spare:
                return self._loaders[index](device)
            self._aside[index] = self._loaders[index]("cpu")
        return copied_to(self._aside[index], device)


def copied_to(dictionary: Any, device: str) -> Any:
    """Return a dictionary with its weights on a device; the one that is given stays as it is.

    Args:
        dictionary: a SAELens module, or an adapted one (`dictionaries.saelens_adapter`).
        device: where the weights go; its own device makes a copy as well.
    """
    import torch
    from torch import nn

    from basisbench_baselines.dictionaries.saelens_adapter import AdaptedDictionary

    adapted = dictionary if isinstance(dictionary, AdaptedDictionary) else None
    module = dictionary if adapted is None else adapted.module
    moved: dict[int, Any] = {}
    if adapted is not None:
        for tensor in (adapted.w_dec, adapted.bias, adapted.linear):
            if tensor is not None:
                moved[id(tensor)] = tensor.to(device, copy=True)
        # The module's decoder is a view of the adapted one's: copied once, not twice.
        rows = moved[id(adapted.w_dec)][: len(module.W_dec)]
        moved[id(module.W_dec)] = nn.Parameter(rows, requires_grad=False)
    for tensor in (*module.parameters(), *module.buffers()):
        if id(tensor) not in moved:
            there = tensor.detach().to(device, copy=True)
            moved[id(tensor)] = nn.Parameter(there, requires_grad=False) if isinstance(tensor, nn.Parameter) else there
    twin = copy.deepcopy(dictionary, moved)
    (twin if adapted is None else twin.module).to(torch.device(device))  # for what SAELens notes of its device
    return twin
