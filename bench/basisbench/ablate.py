"""Keep or replace every node of a basis in one forward pass.

1. At the read hook the live activation is encoded to coordinates f.
2. f' takes the live coordinate of a kept node and the reference coordinate of every other.
3. At the write hook the live activation y becomes decode(f') + e', where e' is the live error
   y - decode(f) where the error is kept, and the reference error elsewhere.

Kept nodes are live in the ablated pass, never clamped. Decoders are affine, so where the error is kept
decode(f') + y - decode(f) is y + decode(f' - f) - decode(0): one decoder product, and with every node kept
exactly the model.

A pass may hold only the last positions of each prompt (basisbench.shortcut); masks and references are aligned
at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from basisbench.hooks import Edit, Place

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from basisbench.model import Model
    from basisbench.protocols import Basis
    from basisbench.types import Site


@dataclass(frozen=True, eq=False)
class Reference:
    """The values that nodes outside the circuit take, for one aligned group.

    Attributes:
        units: per site, coordinates; the first axis is 1 when every pair shares them (mean, zero).
        errors: per site, errors at the write hook; None for an exact basis.
    """

    units: tuple[Float[Tensor, "pair_or_1 pos unit"], ...]
    errors: tuple[Float[Tensor, "pair_or_1 pos d_write"], ...] | None


@dataclass(frozen=True, eq=False)
class Keep:
    """Which nodes stay live, for several circuits at once.

    Attributes:
        units: per site, True where the unit is kept; the position axis is 1 when positions go together.
        errors: per site, True where the error is kept.
    """

    units: tuple[Bool[Tensor, "circuit pos_or_1 unit"], ...]
    errors: tuple[Bool[Tensor, "circuit pos_or_1"], ...]


def ablation_edits(
    model: Model, basis: Basis, reference: Reference, keep: Keep, pairs: int, *, last_only: bool = False
) -> Mapping[Place, Edit]:
    """Return the edits for a batch that holds every pair once per circuit, circuit by circuit.

    Args:
        model: the model.
        basis: the basis whose nodes are kept or replaced.
        reference: values of the nodes that are replaced.
        keep: the nodes that are kept, per circuit.
        pairs: pairs per circuit; the batch has `circuits * pairs` rows.
        last_only: in the last block, write the last position alone. Other positions of the last block reach
            no logit of the last position; they are left undefined.
    """
    edits: dict[Place, Edit] = {}
    for index, site in enumerate(basis.sites):
        trim = last_only and site.layer == model.layers - 1
        writer = _Writer(basis, site, reference, keep, index, pairs, trim)
        read, write = model.place(site.read), model.place(site.write)
        if read == write:
            edits[write] = writer.read_and_write
        else:
            edits[read] = writer.read
            edits[write] = writer.write
    return edits


class _Writer:
    """Mixes live and reference values at one site; holds the coordinates between read and write."""

    def __init__(
        self, basis: Basis, site: Site, reference: Reference, keep: Keep, index: int, pairs: int, trim: bool
    ) -> None:
        self.basis, self.site, self.pairs, self.trim = basis, site, pairs, trim
        self.unit_reference = reference.units[index]
        self.error_reference = None if reference.errors is None else reference.errors[index]
        self.keep_units = keep.units[index].unsqueeze(1)
        self.keep_errors = keep.errors[index].unsqueeze(1).unsqueeze(-1)
        self.at_zero: Tensor | None = None
        if not basis.exact:
            self.at_zero = basis.decode(site, self.unit_reference.new_zeros(1, self.unit_reference.shape[-1]))
        self.coordinates: Tensor | None = None

    def read(self, activation: Tensor) -> None:
        self.coordinates = self.basis.encode(self.site, self._by_circuit(activation))

    def write(self, activation: Tensor) -> Tensor:
        live, self.coordinates = self.coordinates, None
        if live is None:
            raise RuntimeError(f"{self.site.write} was reached before {self.site.read}")
        # A trimmed value stands for every position, so that shapes stay what the model expects.
        return self._mixed(live, self._by_circuit(activation)).flatten(0, 1).expand_as(activation)

    def read_and_write(self, activation: Tensor) -> Tensor:
        self.read(activation)
        return self.write(activation)

    def _by_circuit(self, activation: Tensor) -> Tensor:
        wanted = activation[:, -1:] if self.trim else activation
        by_circuit: Tensor = wanted.unflatten(0, (-1, self.pairs))
        return by_circuit

    def _mixed(self, live: Tensor, activation: Tensor) -> Tensor:
        import torch

        positions = activation.shape[2]
        kept, reference = self.keep_units[:, :, -positions:], self.unit_reference[:, -positions:]
        if self.basis.exact:
            return self.basis.decode(self.site, live.where(kept, reference))
        if self.error_reference is None or self.at_zero is None:
            raise RuntimeError(f"basis '{self.basis.name}' is not exact but has no error reference")
        keep_errors = self.keep_errors[:, :, -positions:]
        # f' - f where the error is kept, f' elsewhere: one multiply-add over the units, for the two factors
        # have no pair axis unless the reference has one.
        change = torch.addcmul(reference * ~kept, live, kept.to(live.dtype) - keep_errors.to(live.dtype))
        error = (activation - self.at_zero).where(keep_errors, self.error_reference[:, -positions:])
        return self.basis.decode(self.site, change) + error


def family_empty_edits(model: Model, outputs: Mapping[str, Float[Tensor, "pair_or_1 pos d"]]) -> Mapping[Place, Edit]:
    """Return edits that put a family's outputs at their reference, whatever the basis.

    Args:
        model: the model.
        outputs: reference activation at each of the family's output hooks.
    """

    def constant(value: Tensor) -> Edit:
        return lambda activation: value.expand_as(activation)

    return {model.place(hook): constant(value) for hook, value in outputs.items()}
