"""The ablated pass, as it is defined: one circuit in one full pass of the plain model.

For a basis with sites m = 0, 1, ... in the order of a pass, and a circuit that keeps some of its nodes:

1. Run the model on the clean prompts. At the read hook of site m, the activation of this very pass is encoded to live
   coordinates f_m: kept nodes are recomputed, never clamped.
2. Mix: f'_m is f_m where a unit is kept, and the unit's reference value (`circuits.reference`) everywhere else.
3. Reconstruct: R_m(f) = decode(f_m), plus spread(l, f_l, m) for each earlier site l if the basis writes across layers.
4. The error is what the basis leaves out, e_m = y_m - R_m(f), with y_m the live activation at the write hook. e'_m is
   e_m where the error is kept, and the reference error everywhere else: coordinate by coordinate where each is a node,
   as a whole otherwise. An exact basis leaves nothing out.
5. Write R_m(f') + e'_m at the write hook of site m; go on to the logits at the last position.

With everything kept this is the unhooked model; with nothing kept every site writes its reference. `circuits.fast`
computes the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from basisbench.attribution.batch import log_probabilities
from basisbench.models.hooks import Edit, Place
from basisbench.protocols import CrossLayerBasis

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from basisbench.attribution.batch import Batch
    from basisbench.circuits.circuit import CircuitMask, Reference
    from basisbench.models.model import Model
    from basisbench.protocols import Basis


@dataclass(frozen=True, eq=False)
class PlainPass:
    """One circuit at a time, on some pairs.

    Attributes:
        model: the model.
        basis: the basis.
        batch: the pairs.
        reference: values of the nodes that are not kept.
    """

    model: Model
    basis: Basis
    batch: Batch
    reference: Reference

    def pairs(self, chosen: slice) -> PlainPass:
        """Return the same on some of the pairs."""
        return PlainPass(self.model, self.basis, self.batch.pairs(chosen), self.reference.pairs(chosen))

    def logits(self, circuit: CircuitMask) -> Float[Tensor, "circuit=1 pair vocab"]:
        """Return the logits at the last position with the circuit's nodes live and all others at their reference.

        Where answers have several tokens, the summed log-probability of each row's tokens, from the positions before.
        """
        edits = site_edits(self.model, self.basis, self.writers(circuit))
        if self.batch.sign is None:
            return self.model.logits(self.batch.clean, edits).unsqueeze(0)
        logits = self.model.last_logits(self.batch.clean, edits, keep=self.batch.keep)
        return log_probabilities(logits, self.batch.answers).unsqueeze(0)

    def metric(self, circuit: CircuitMask) -> Float[Tensor, "circuit=1 pair"]:
        """Return the metric of the circuit on each pair."""
        return self.batch.metric(self.logits(circuit))

    def writers(self, circuit: CircuitMask) -> list[Writer]:
        """Return what is done at each site of one pass."""
        live: list[Tensor] = []
        mixed: list[Tensor] = []
        sites = range(len(self.basis.sites))
        return [_PlainWriter(self.basis, index, self.reference, circuit, live, mixed) for index in sites]


class Writer(Protocol):
    """What is done at one site in one ablated pass."""

    def read(self, activation: Float[Tensor, "row pos d_read"], /) -> None:
        """Take the live activation at the read hook, which stays as it is."""
        ...

    def write(self, activation: Float[Tensor, "row pos d_write"], /) -> Float[Tensor, "row pos d_write"]:
        """Return what replaces the live activation at the write hook."""
        ...


@dataclass(frozen=True, eq=False)
class _PlainWriter:
    """The definition at one site; the sites of a pass share the live and the mixed coordinates."""

    basis: Basis
    index: int
    reference: Reference
    circuit: CircuitMask
    live: list[Float[Tensor, "pair pos _unit"]]
    mixed: list[Float[Tensor, "pair pos _unit"]]

    def read(self, activation: Float[Tensor, "pair pos d_read"]) -> None:
        units: Float[Tensor, "pair pos unit"] = self.basis.encode(self.basis.sites[self.index], activation)
        reference: Float[Tensor, "pair_or_1 pos unit"] = self.reference.units[self.index]
        kept: Bool[Tensor, "circuit=1 pos_or_1 unit"] = self.circuit.units[self.index]
        self.live.append(units)
        self.mixed.append(units.where(kept, reference))

    def write(self, activation: Float[Tensor, "pair pos d_write"]) -> Float[Tensor, "pair pos d_write"]:
        if len(self.live) <= self.index:
            raise RuntimeError(f"{self.basis.sites[self.index].write} was reached before its read hook")
        written: Float[Tensor, "pair pos d_write"] = self.reconstruction(self.mixed)
        if self.reference.errors is not None:  # an exact basis leaves nothing out
            error: Float[Tensor, "pair pos d_write"] = activation - self.reconstruction(self.live)
            reference: Float[Tensor, "pair_or_1 pos d_write"] = self.reference.errors[self.index]
            kept: Bool[Tensor, "circuit=1 pos_or_1 error_or_1"] = self.circuit.errors[self.index]
            written = written + self.circuit.mixed_errors(self.basis.sites[self.index], error, kept, reference)
        return written.to(activation.dtype)  # coordinates may be of a wider type than the model's

    def reconstruction(self, units: Sequence[Float[Tensor, "pair pos _unit"]]) -> Float[Tensor, "pair pos d_write"]:
        here = self.basis.sites[self.index]
        total = self.basis.decode(here, units[self.index])
        if isinstance(self.basis, CrossLayerBasis):
            for index in range(self.index):
                total = total + self.basis.spread(self.basis.sites[index], units[index], here)
        return total


def site_edits(model: Model, basis: Basis, writers: Sequence[Writer | None]) -> Mapping[Place, Edit]:
    """Return the edits of a pass: every site's writer at its hooks; a site without one is left as it is."""
    edits: dict[Place, Edit] = {}
    for site, writer in zip(basis.sites, writers, strict=True):
        if writer is None:
            continue
        read, write = model.place(site.read), model.place(site.write)
        if read == write:
            edits[write] = _read_and_write(writer)
        else:
            edits[read], edits[write] = writer.read, writer.write
    return edits


def _read_and_write(writer: Writer) -> Edit:
    def edit(activation: Tensor) -> Tensor:
        writer.read(activation)
        return writer.write(activation)

    return edit
