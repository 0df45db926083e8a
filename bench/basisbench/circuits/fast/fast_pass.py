"""Several circuits in one pass that computes only what the circuits can change.

1. A batch holds every pair once per circuit, circuit by circuit, so that short prompts fill the processor.
2. It runs without the common prefix and the constant modules (`shared_work`), with the last block cut to the last
   position, and with the logits of answers and foils alone.
3. Sites are written by `site_writer`, or by `cross_layer_writer` for a basis that writes to several.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from basisbench.attribution.batch import answer_logits_only
from basisbench.circuits.fast.cross_layer_writer import CrossLayerPass, CrossLayerWriter
from basisbench.circuits.fast.shared_work import FirstCoordinates
from basisbench.circuits.fast.site_writer import SiteWriter
from basisbench.circuits.plain import Writer, site_edits
from basisbench.models.hooks import Edit, Place
from basisbench.protocols import CrossLayerBasis

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.attribution.batch import Batch
    from basisbench.circuits.circuit import CircuitMask, Reference
    from basisbench.circuits.fast.shared_work import SharedWork
    from basisbench.models.model import Model
    from basisbench.protocols import Basis


@dataclass(frozen=True, eq=False)
class FastPass:
    """Circuits of one basis on some pairs.

    Attributes:
        model: the model.
        basis: the basis.
        batch: the pairs.
        reference: values of the nodes that are not kept.
        shared: what the passes share.
    """

    model: Model
    basis: Basis
    batch: Batch
    reference: Reference
    shared: SharedWork

    def pairs(self, chosen: slice) -> FastPass:
        """Return the same on some of the pairs."""
        if chosen == slice(0, len(self.batch.clean)):
            return self
        parts = self.batch.pairs(chosen), self.reference.pairs(chosen), self.shared.pairs(chosen)
        return FastPass(self.model, self.basis, *parts)

    def metric(self, mask: CircuitMask) -> Float[Tensor, "circuit pair"]:
        """Return the metric of each circuit on each pair."""
        head = self.model.fast_body.get_submodule(self.model.head)
        with answer_logits_only(head, self.batch) as narrowed:
            return narrowed.metric(self.logits(mask))

    def logits(self, mask: CircuitMask) -> Float[Tensor, "circuit pair vocab"]:
        """Return the logits of each circuit on each pair, at the last position."""
        model, shared, circuits = self.model, self.shared, len(mask)
        rows = shared.tokens.repeat(circuits, 1)
        edits = _joined(shared.edits(), site_edits(model, self.basis, self.writers(mask)))
        with shared.constant_modules(circuits):
            logits: Tensor = model.logits(rows, edits, past=shared.prefix.cache(len(rows)), fast=True, keep=shared.keep)
        by_circuit: Tensor = logits.unflatten(0, (circuits, -1))
        return by_circuit

    def writers(self, mask: CircuitMask) -> list[Writer]:
        """Return what is done at each site of one pass.

        In the last block only the last position is written, if logits are read at it alone: others of it reach none.
        """
        basis, reference, (pairs, run) = self.basis, self.reference, self.shared.tokens.shape
        last = self.model.layers - 1
        positions = [1 if site.layer == last and self.shared.keep == 1 else run for site in basis.sites]
        if isinstance(basis, CrossLayerBasis):
            shared = CrossLayerPass(basis, reference, mask, pairs, positions, self._first)
            return [CrossLayerWriter(shared, index) for index in range(len(basis.sites))]
        return [
            SiteWriter(basis, index, reference, mask, pairs, written, None if index else self._first)
            for index, written in enumerate(positions)
        ]

    @cached_property
    def _first(self) -> FirstCoordinates | None:
        """Coordinates of the first site; None where encoding costs nothing."""
        return None if self.basis.exact else FirstCoordinates(self.basis)


def _joined(first: Mapping[Place, Edit], then: Mapping[Place, Edit]) -> Mapping[Place, Edit]:
    """Return both edits at every place, one after the other where a place has two."""

    def both(one: Edit, other: Edit) -> Edit:
        def edit(activation: Tensor) -> Tensor | None:
            first = one(activation)
            second = other(activation if first is None else first)
            return first if second is None else second

        return edit

    shared = {place: both(first[place], then[place]) for place in first.keys() & then.keys()}
    return {**first, **then, **shared}
