"""One aligned group in both splits, and what every cell of a session asks about it.

F(M), F(0), the common prefix, reference values and constant modules are computed once for all cells that share
them, by whichever comes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from basisbench.attribution.batch import readable_logits
from basisbench.circuits.circuit import Reference
from basisbench.circuits.fast.shared_work import NO_PREFIX, Prefix, SharedWork, common_prefix, share_work
from basisbench.circuits.reference import constant_edits, reference_outputs, reference_values

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.attribution.context import GroupContext
    from basisbench.protocols import Basis
    from basisbench.types import Ablation, Family


@dataclass(frozen=True, eq=False)
class GroupPair:
    """The two splits of one aligned group.

    Attributes:
        attribution: where scores and mean references come from.
        evaluation: where curves come from.
    """

    attribution: GroupContext
    evaluation: GroupContext
    _references: dict[Ablation, tuple[Basis, Reference]] = field(default_factory=dict)
    _empty: dict[tuple[Ablation, str, tuple[int, ...]], Tensor] = field(default_factory=dict)
    _shared_work: dict[tuple[str, bool], SharedWork] = field(default_factory=dict)

    @cached_property
    def full(self) -> Float[Tensor, " pair"]:
        """F(M) of each evaluation pair: the metric of the unhooked model."""
        return self._metric({})

    @cached_property
    def full_logits(self) -> Float[Tensor, "pair vocab"]:
        """The unhooked model's logits at the last position of each evaluation pair."""
        return self._logits({})

    def reference(self, basis: Basis, ablation: Ablation) -> Reference:
        """Return reference values; those of the last basis asked for are kept."""
        owner, reference = self._references.get(ablation, (None, None))
        if reference is None or owner is not basis:
            self._references.clear()
            reference = reference_values(basis, ablation, self.attribution, self.evaluation)
            self._references[ablation] = basis, reference
        (self.evaluation if ablation == "counterfactual" else self.attribution).use_activations("counterfactual")
        return reference

    def forget_other_bases(self, name: str) -> None:
        """Drop what is kept for any basis but the named one, so that it can be freed."""
        for ablation, (basis, _) in list(self._references.items()):
            if basis.name != name:
                del self._references[ablation]
        for context in (self.attribution, self.evaluation):
            context.forget_other_bases(name)

    def empty(self, basis: Basis, ablation: Ablation) -> Float[Tensor, " pair"]:
        """Return F(0) of each evaluation pair: every node and every error of the family at its reference.

        Under `mean` and `counterfactual` it is measured at the family's outputs, once for every basis of the family;
        under `zero` it depends on the basis, for a dictionary at zero still writes its decoder bias.
        """
        import torch

        if ablation == "zero":
            reference = self.reference(basis, ablation)
            with torch.inference_mode():
                return self._metric({site.write: reference.output(basis, at) for at, site in enumerate(basis.sites)})
        return self.empty_at_output(basis, ablation)

    def empty_at_output(self, basis: Basis, ablation: Ablation) -> Float[Tensor, " pair"]:
        """Return F(0) measured at the family's outputs in the layers of a basis."""
        return self._empty_in(basis.family, tuple(site.layer for site in basis.sites), ablation)

    def empty_everywhere(self, family: Family, ablation: Ablation) -> Float[Tensor, " pair"]:
        """Return F(0) with a family's outputs at their reference in every layer of the model."""
        return self._empty_in(family, tuple(range(self.evaluation.model.layers)), ablation)

    def _empty_in(self, family: Family, layers: tuple[int, ...], ablation: Ablation) -> Float[Tensor, " pair"]:
        key = ablation, family, layers
        if key not in self._empty:
            outputs = reference_outputs(family, layers, ablation, self.attribution, self.evaluation)
            self._empty[key] = self._metric(outputs)
        return self._empty[key]

    def _metric(self, outputs: Mapping[str, Float[Tensor, "pair_or_1 pos d"]]) -> Float[Tensor, " pair"]:
        """Return the metric of each evaluation pair with activations at given values, by hook."""
        batch = self.evaluation.batch
        return batch.per_pair(batch.metric(self._logits(outputs)))

    def _logits(self, outputs: Mapping[str, Float[Tensor, "pair_or_1 pos d"]]) -> Float[Tensor, "pair vocab"]:
        import torch

        model, batch = self.evaluation.model, self.evaluation.batch
        head, tokens = model.fast_body.get_submodule(model.head), batch.clean

        def run_part(chosen: slice) -> Tensor:
            edits = constant_edits(model, outputs, chosen)
            with torch.inference_mode(), readable_logits(head, batch.pairs(chosen)):
                return model.logits(tokens[chosen], edits, fast=True, keep=batch.keep)

        return torch.cat(model.batching.in_parts("activations", len(tokens), tokens.shape[1], run_part))

    def forget_shared_work(self) -> None:
        """Drop what ablated passes share, where a basis may have changed it."""
        self._shared_work.clear()

    @cached_property
    def _prefix(self) -> Prefix:
        attribution, evaluation = self.attribution.batch, self.evaluation.batch
        prompts = [attribution.counterfactual, evaluation.clean, evaluation.counterfactual]
        return common_prefix(self.evaluation.model, prompts, evaluation.keep)

    def shared_work(self, basis: Basis, ablation: Ablation) -> SharedWork:
        """Return what the ablated passes share; kept for all bases that write for the first time at the same place."""
        key = basis.sites[0].write, ablation == "zero"
        if key not in self._shared_work:
            prefix = NO_PREFIX if ablation == "zero" else self._prefix
            self._shared_work.clear()
            model, batch = self.evaluation.model, self.evaluation.batch
            self._shared_work[key] = share_work(model, batch.clean, prefix, basis.sites[0], batch.keep)
        return self._shared_work[key]
