"""What an ablated pass is given: which nodes of a basis stay live, and what all others are set to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from basisbench.attribution.error_nodes import error_axes, from_nodes, to_nodes
from basisbench.attribution.reconstruction import EarlierWrites
from basisbench.protocols import CrossLayerBasis

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from basisbench.protocols import Basis
    from basisbench.types import Site


@dataclass(frozen=True, eq=False)
class Reference:
    """The values that nodes outside the circuit take, for one aligned group.

    Attributes:
        units: per site, coordinates; the first axis is 1 when every pair shares them (mean, zero).
        errors: per site, errors at the write hook; None for an exact basis.
    """

    units: tuple[Float[Tensor, "pair_or_1 pos _unit"], ...]
    errors: tuple[Float[Tensor, "pair_or_1 pos _d_write"], ...] | None
    _outputs: dict[int, Tensor] = field(default_factory=dict)
    _earlier: list[EarlierWrites] = field(default_factory=list)

    def pairs(self, chosen: slice) -> Reference:
        """Return the reference of some of the pairs; the same where all pairs share it."""
        if all(len(units) == 1 for units in self.units):
            return self

        def cut(value: Tensor) -> Tensor:
            return value if len(value) == 1 else value[chosen]

        return Reference(
            tuple(cut(units) for units in self.units),
            None if self.errors is None else tuple(cut(errors) for errors in self.errors),
            {index: cut(output) for index, output in self._outputs.items()},
        )

    def output(self, basis: Basis, index: int) -> Float[Tensor, "pair_or_1 pos d_write"]:
        """Return what a site writes when every node and error is at its reference; computed once."""
        if index not in self._outputs:
            site = basis.sites[index]
            output = basis.decode(site, self.units[index])
            if isinstance(basis, CrossLayerBasis):
                earlier = self._writes_before(basis, site)
                output = output if earlier is None else output + earlier
            self._outputs[index] = output if self.errors is None else output + self.errors[index]
        return self._outputs[index]

    def _writes_before(self, basis: CrossLayerBasis, site: Site) -> Float[Tensor, "pair_or_1 pos d_write"] | None:
        """Return what earlier sites write here; when sites are asked for in order, each spreads once."""
        if not self._earlier:
            of = dict(zip(basis.sites, self.units, strict=True))
            self._earlier.append(EarlierWrites(basis, of.__getitem__))
        earlier = self._earlier[0].at(site)
        self._earlier[0].offer(site, self.units[basis.sites.index(site)])
        return earlier


@dataclass(frozen=True, eq=False)
class CircuitMask:
    """Which nodes stay live, for several circuits at once.

    Attributes:
        units: per site, True where the unit is kept; the position axis is 1 when positions go together.
        errors: per site, True where the error is kept: of one entry where it is kept or not as a whole, else of one for
            each coordinate of the write site.
        rotated: whether these coordinates are along rotated axes (`attribution.error_nodes`).
    """

    units: tuple[Bool[Tensor, "circuit _pos_or_1 _unit"], ...]
    errors: tuple[Bool[Tensor, "circuit _pos_or_1 _error_or_1"], ...]
    rotated: bool = False

    def __len__(self) -> int:
        return len(self.units[0])

    def circuits(self, chosen: slice) -> CircuitMask:
        """Return some of the circuits."""
        units, errors = ([kept[chosen] for kept in parts] for parts in (self.units, self.errors))
        return CircuitMask(tuple(units), tuple(errors), self.rotated)

    def mixed_errors(
        self,
        site: Site,
        error: Float[Tensor, "*#b d_write"],
        kept: Bool[Tensor, "*#b error_or_1"],
        reference: Float[Tensor, "*#b d_write"],
    ) -> Float[Tensor, "*#b d_write"]:
        """Return a live error where its nodes are kept, and its reference elsewhere.

        Args:
            site: the write site.
            error: the live error.
            kept: which of its nodes are kept; broadcasts.
            reference: the reference error; broadcasts.
        """
        axes = error_axes("rotated" if self.rotated else "coordinates", site, error)
        return from_nodes(to_nodes(error, axes).where(kept, to_nodes(reference, axes)), axes)
