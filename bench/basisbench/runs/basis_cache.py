"""Bases that were built for a model, kept for the next tasks as far as their weights are small.

Large ones are built again for each task, so that memory does not grow with the number of bases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakKeyDictionary

from basisbench.attribution.cost import now
from basisbench.models.batching import MemoryExhaustedError, is_out_of_memory
from basisbench.models.memory import give_memory_back
from basisbench.models.model import Model
from basisbench.protocols import StreamedBasis
from basisbench.runs.layer_subset import restrict

if TYPE_CHECKING:
    from basisbench.protocols import Basis, BasisSpec

Key: TypeAlias = "tuple[str, tuple[int, ...] | None]"
"""Name of a basis, and the layers that it is restricted to."""

SHELF_BYTES = 256 * 2**20
"""Weights that are kept for the next tasks."""


@dataclass(frozen=True, eq=False)
class Built:
    """A basis that was built for a model, and the seconds that took."""

    basis: Basis
    seconds: float

    @property
    def large(self) -> bool:
        """Whether it is too large to be kept."""
        return self.basis.parameter_bytes > SHELF_BYTES


_shelves: WeakKeyDictionary[Model, dict[Key, Built]] = WeakKeyDictionary()


def make_room(model: Model, key: Key) -> None:
    """Let go of what is kept for a model, if it is more than a little and a basis is to come that is not there."""
    shelf = _shelves.setdefault(model, {})
    if key not in shelf and sum(built.basis.parameter_bytes for built in shelf.values()) > SHELF_BYTES:
        shelf.clear()
        give_memory_back()


def build(model: Model, spec: BasisSpec, layers: tuple[int, ...] | None) -> Built:
    """Build a basis on the layers that a run compares, or take the one that was built before.

    Args:
        model: the model.
        spec: the basis.
        layers: the layers; None for all.

    Raises:
        BasisError: it cannot be built.
        MemoryExhaustedError: its weights do not fit next to the model.
    """
    shelf, key = _shelves.setdefault(model, {}), (spec.name, layers)
    if key not in shelf:
        start = now(model)
        try:
            basis = spec.build(model)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            shelf.clear()
            raise MemoryExhaustedError(
                f"out of memory on {model.device}: the dictionaries of basis '{spec.name}' do not fit next to model "
                f"'{model.name}'; free memory, or use --dtype bfloat16 or a narrower basis"
            ) from error
        shelf[key] = Built(restrict(basis, layers), now(model) - start)
    return shelf[key]


def keep_less(model: Model, key: Key) -> bool:
    """Let a basis hold fewer of its weights, and passes begin with their usual size again; False where it cannot."""
    built = _shelves.get(model, {}).get(key)
    less = built is not None and isinstance(built.basis, StreamedBasis) and built.basis.keep_less()
    if less:
        model.batching.bounds.clear()
    return less
