"""Tensors that are handed out to plug-ins, and whether somebody has changed one of them in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from basisbench.models.memory import bit_sum

if TYPE_CHECKING:
    from torch import Tensor


class SharedTensors:
    """The tensors of one aligned group that are shared by name."""

    def __init__(self) -> None:
        self._versions: dict[str, tuple[Tensor, int]] = {}
        self._sums: dict[str, int] | None = None

    def keep(self, name: str, tensor: Tensor) -> None:
        """Note a tensor that is handed out; PyTorch counts the changes made to it, or to any view of it, in place."""
        self._versions[name] = tensor, tensor._version
        if self._sums is not None:
            self._sums[name] = bit_sum([tensor])

    def forget(self, name: str) -> None:
        """Drop a tensor."""
        del self._versions[name]

    @property
    def watched(self) -> bool:
        """Whether values are looked at too."""
        return self._sums is not None

    def watch_values(self) -> None:
        """From now on look at values too: PyTorch does not count changes through `.data` and NumPy."""
        if self._sums is None:
            self._sums = {name: bit_sum([tensor]) for name, (tensor, _) in self._versions.items()}

    def changed(self) -> list[str]:
        """Return the names of the tensors that something has changed in place."""
        sums = self._sums or {}
        return [
            name
            for name, (tensor, version) in self._versions.items()
            if tensor._version != version or (name in sums and sums[name] != bit_sum([tensor]))
        ]
