"""Circuits evaluated as they are defined, with nothing of the harness's fast path: the twin that checks compare with.

1. Coordinates and errors of the counterfactual prompts give the reference values, position by position.
2. In a pass of the plain model every site encodes its live activation, mixes live and reference coordinates, and
   writes decode(f') + e'. Earlier sites of a cross-layer basis add what they write here.
3. One circuit to a pass, every position and every unit, in the order of the sites; rows are encoded in one flat batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from basisbench.models.hooks import Edit, edited, observed
from basisbench.protocols import CrossLayerBasis

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from basisbench.attribution.batch import Batch
    from basisbench.models.model import Model
    from basisbench.protocols import Basis
    from basisbench.types import Ablation


@dataclass(frozen=True, eq=False)
class PlainCircuits:
    """One basis on one model.

    Attributes:
        model: the model.
        basis: the basis.
        attribution: prompts that means come from.
        evaluation: prompts that circuits are evaluated on.
    """

    model: Model
    basis: Basis
    attribution: Batch
    evaluation: Batch

    def reference(self, ablation: Ablation) -> tuple[list[Tensor], list[Tensor]]:
        """Return the reference coordinates and errors of every site, as (pair or 1, pos, unit or d_write)."""
        source = self.evaluation if ablation == "counterfactual" else self.attribution
        activations = self._activations(source.counterfactual)
        units = [self._encode(index, activations[site.read]) for index, site in enumerate(self.basis.sites)]
        errors = [
            activations[site.write] - self._reconstruction(index, units) for index, site in enumerate(self.basis.sites)
        ]
        if ablation == "counterfactual":
            return units, errors
        means = [value.mean(0, keepdim=True) for value in units], [value.mean(0, keepdim=True) for value in errors]
        if ablation == "mean":
            return means
        return [value * 0 for value in means[0]], [value * 0 for value in means[1]]

    def metric(
        self,
        reference: tuple[list[Tensor], list[Tensor]],
        keep_units: Sequence[Bool[Tensor, "pos_or_1 unit"]],
        keep_errors: Sequence[Bool[Tensor, " pos_or_1"]],
    ) -> Float[Tensor, " pair"]:
        """Return the metric of every evaluation pair with these units and errors kept."""
        import torch

        with torch.no_grad():
            return self.evaluation.metric(
                self._logits(self.evaluation.clean, self.edits(reference, keep_units, keep_errors))
            )

    def edits(
        self,
        reference: tuple[list[Tensor], list[Tensor]],
        keep_units: Sequence[Bool[Tensor, "pos_or_1 unit"]],
        keep_errors: Sequence[Bool[Tensor, " pos_or_1"]],
    ) -> Mapping[str, Edit]:
        """Return what a pass does at each hook."""
        read: dict[int, Tensor] = {}
        live: list[Tensor] = []
        mixed: list[Tensor] = []

        def reading(index: int) -> Edit:
            def edit(activation: Tensor) -> None:
                read[index] = activation.clone()

            return edit

        def writing(index: int) -> Edit:
            def edit(activation: Tensor) -> Tensor:
                units = self._encode(index, read[index])
                live.append(units)
                mixed.append(units.where(keep_units[index], reference[0][index]))
                if self.basis.exact:
                    return self._decode(index, mixed[index]).to(activation.dtype)
                error = activation - self._reconstruction(index, live)
                kept = error.where(keep_errors[index].unsqueeze(-1), reference[1][index])
                return (self._reconstruction(index, mixed) + kept).to(activation.dtype)

            return edit

        def both(index: int) -> Edit:
            def edit(activation: Tensor) -> Tensor | None:
                reading(index)(activation)
                return writing(index)(activation)

            return edit

        found: dict[str, Edit] = {}
        for index, site in enumerate(self.basis.sites):
            if self.model.place(site.read) == self.model.place(site.write):
                found[site.write] = both(index)
            else:
                found[site.read], found[site.write] = reading(index), writing(index)
        return found

    def logits(self, tokens: Int[Tensor, "pair pos"], edits: Mapping[str, Edit]) -> Float[Tensor, "pair vocab"]:
        """Return the logits at the last position in a pass with edits by hook name."""
        import torch

        with torch.no_grad():
            return self._logits(tokens, edits)

    def _logits(self, tokens: Int[Tensor, "pair pos"], edits: Mapping[str, Edit]) -> Tensor:
        places = {self.model.place(hook): edit for hook, edit in edits.items()}
        head = self.model.place("unembed.hook_out")
        with edited(self.model.body, places), observed(self.model.body, {"logits": head}) as seen:
            self.model.body(input_ids=tokens, use_cache=False)
        logits: Tensor = seen["logits"][:, -1]
        return logits.to(self.model.device)

    def _activations(self, tokens: Int[Tensor, "pair pos"]) -> Mapping[str, Tensor]:
        import torch

        hooks = {hook for site in self.basis.sites for hook in (site.read, site.write)}
        places = {hook: self.model.place(hook) for hook in sorted(hooks)}
        with torch.no_grad(), observed(self.model.body, places) as seen:
            self.model.body(input_ids=tokens, use_cache=False)
        return {hook: value.to(self.model.device).clone() for hook, value in seen.items()}

    def _encode(self, index: int, x: Float[Tensor, "pair pos d_read"]) -> Float[Tensor, "pair pos unit"]:
        return _flat(lambda rows: self.basis.encode(self.basis.sites[index], rows), x)

    def _decode(self, index: int, f: Float[Tensor, "pair pos unit"]) -> Float[Tensor, "pair pos d_write"]:
        return _flat(lambda rows: self.basis.decode(self.basis.sites[index], rows), f)

    def _reconstruction(self, index: int, units: Sequence[Tensor]) -> Float[Tensor, "pair pos d_write"]:
        own = self._decode(index, units[index])
        if isinstance(self.basis, CrossLayerBasis):
            for earlier in range(index):
                source, target = self.basis.sites[earlier], self.basis.sites[index]
                own = own + self.basis.spread(source, units[earlier], target)
        return own


def _flat(function: Callable[[Tensor], Tensor], x: Float[Tensor, "pair pos d"]) -> Float[Tensor, "pair pos e"]:
    """Apply a function to all rows in one flat batch, in memory of their own."""
    import torch

    with torch.no_grad():
        rows: Tensor = function(x.flatten(0, 1).clone()).clone().unflatten(0, x.shape[:2])
    return rows
