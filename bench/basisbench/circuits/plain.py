"""TODO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from basisbench.attribution.reconstruction import earlier_writes

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from basisbench.circuits.circuit import Keep, Reference
    from basisbench.circuits.fast.shared_work import FirstUnits
    from basisbench.protocols import CrossLayerBasis


@dataclass(eq=False)
class Pass:
    """What the sites of one ablated pass share.

    Attributes:
        basis: the basis.
        reference: values of the nodes that are replaced.
        keep: the nodes that are kept, per circuit.
        pairs: pairs per circuit.
        positions: per site, how many positions are written, at the end of each prompt; never more at a later site.
        first_units: coordinates of the first site, if passes share them.
    """

    basis: CrossLayerBasis
    reference: Reference
    keep: Keep
    pairs: int
    positions: Sequence[int]
    first_units: FirstUnits | None = None
    live: list[Tensor] = field(default_factory=list)
    mixed: list[Tensor] = field(default_factory=list)
    arrived: dict[int, Tensor] = field(default_factory=dict)

    def by_circuit(self, activation: Tensor, index: int) -> Float[Tensor, "circuit_or_1 pair pos d"]:
        """Return the positions of an activation that a site writes, circuit by circuit."""
        rows: Tensor = activation[:, -self.positions[index] :].unflatten(0, (-1, self.pairs))
        return rows

    def kept(self, index: int) -> Bool[Tensor, "circuit pos_or_1 unit"]:
        """Return which units of a site are kept, at the positions that it writes."""
        return self.keep.units[index][:, -self.positions[index] :]

    def from_live(self, index: int) -> Bool[Tensor, "circuit pos"]:
        """Return where a site's error is kept, at the positions that it writes."""
        return self.keep.errors[index][:, -self.positions[index] :].expand(-1, self.positions[index])

    def errors(self, index: int) -> Float[Tensor, "pair_or_1 pos d_write"]:
        """Return the reference errors of a site at the positions that it writes."""
        if self.reference.errors is None:
            raise ValueError(f"basis '{self.basis.name}' writes to several sites and must have errors")
        return self.reference.errors[index][:, -self.positions[index] :]

    def units(self, index: int) -> Float[Tensor, "pair_or_1 pos unit"]:
        """Return the reference coordinates of a site at the positions that it writes."""
        return self.reference.units[index][:, -self.positions[index] :]


class PlainWriter:
    """The edits of one site, by definition: every unit of every site is encoded, mixed and decoded.

    Args:
        shared: what the sites of the pass share; the live and mixed coordinates of earlier sites are in it.
        index: which site.
    """

    def __init__(self, shared: Pass, index: int) -> None:
        self._shared, self._index = shared, index
        self._read: Tensor | None = None

    def read(self, activation: Tensor) -> Tensor:
        """Keep the activation at the read hook, and leave it as it is."""
        self._read = activation
        return activation

    def write(self, activation: Tensor) -> Tensor:
        """Return the activation at the write hook with kept nodes live and all others at their reference."""
        shared, index = self._shared, self._index
        read, self._read = self._read, None
        if read is None:
            raise RuntimeError(f"{shared.basis.sites[index].write} was reached before its read hook")
        units = shared.basis.encode(shared.basis.sites[index], shared.by_circuit(read, index))
        shared.live.append(units)
        shared.mixed.append(units.where(shared.kept(index).unsqueeze(1), shared.units(index)))
        error = shared.by_circuit(activation, index) - self._reconstruction(shared.live)
        keep_errors = shared.from_live(index).unsqueeze(1).unsqueeze(-1)
        output = self._reconstruction(shared.mixed) + error.where(keep_errors, shared.errors(index))
        return output.flatten(0, 1).to(activation.dtype).expand(-1, activation.shape[1], -1)

    def read_and_write(self, activation: Tensor) -> Tensor:
        """Do both where a basis reads and writes at one hook."""
        self.read(activation)
        return self.write(activation)

    def _reconstruction(self, units: Sequence[Tensor]) -> Tensor:
        basis, index = self._shared.basis, self._index
        own = basis.decode(basis.sites[index], units[index])
        earlier = earlier_writes(basis, index, lambda source: units[source][..., -self._shared.positions[index] :, :])
        return own if earlier is None else own + earlier
