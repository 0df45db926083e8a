"""One aligned group in both splits, and what every cell of a session asks about it.

F(M), F(0), the common prefix, reference values and constant modules are computed once for all cells that share
them, by whichever comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from basisbench.circuits.ablation import ablation_edits, family_empty_edits
from basisbench.circuits.circuit import Keep, Reference
from basisbench.circuits.fast.shared_work import NO_PREFIX, Prefix, Shortcut, common_prefix, take_shortcut
from basisbench.circuits.reference import reference_outputs, reference_values
from basisbench.models.batching import in_parts
from basisbench.models.hooks import Edit, Place

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.attribution.context import GroupContext
    from basisbench.protocols import Basis
    from basisbench.types import Ablation


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
    _shortcuts: dict[tuple[str, bool], Shortcut] = field(default_factory=dict)

    @cached_property
    def full(self) -> Float[Tensor, " pair"]:
        """F(M) of each evaluation pair: the metric of the unhooked model."""
        return self._metric(lambda _chosen: {})

    @cached_property
    def full_logits(self) -> Float[Tensor, "pair vocab"]:
        """The unhooked model's logits at the last position of each evaluation pair."""
        import torch

        model, tokens = self.evaluation.model, self.evaluation.batch.clean

        def run_part(chosen: slice) -> Tensor:
            with torch.inference_mode():
                return model.logits(tokens[chosen], packed=True)

        return torch.cat(in_parts(model, "activations", len(tokens), tokens.shape[1], run_part))

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
        if ablation == "zero":
            return self._metric(lambda chosen: self._nothing_kept(basis, chosen))
        key = ablation, basis.family, tuple(site.layer for site in basis.sites)
        if key not in self._empty:
            outputs = reference_outputs(basis, ablation, self.attribution, self.evaluation)
            self._empty[key] = self._metric(
                lambda chosen: family_empty_edits(
                    self.evaluation.model,
                    {hook: value if len(value) == 1 else value[chosen] for hook, value in outputs.items()},
                )
            )
        return self._empty[key]

    def _nothing_kept(self, basis: Basis, chosen: slice) -> Mapping[Place, Edit]:
        import torch

        reference = self.reference(basis, "zero").part(chosen)
        nothing = Keep(
            tuple(units.new_zeros((1, 1, units.shape[-1]), dtype=torch.bool) for units in reference.units),
            tuple(units.new_zeros((1, 1), dtype=torch.bool) for units in reference.units),
        )
        pairs = len(self.evaluation.batch.clean[chosen])
        return ablation_edits(self.evaluation.model, basis, reference, nothing, pairs)

    def _metric(self, edits: Callable[[slice], Mapping[Place, Edit]]) -> Tensor:
        """Return the metric of each evaluation pair, where `edits` gives the interventions on some of the pairs."""
        import torch

        model, batch = self.evaluation.model, self.evaluation.batch

        def run_part(chosen: slice) -> Tensor:
            part = batch.part(chosen)
            with torch.inference_mode():
                return part.metric(model.logits(part.clean, edits(chosen), packed=True))

        return torch.cat(in_parts(model, "activations", len(batch.clean), batch.clean.shape[1], run_part))

    def forget_shared_work(self) -> None:
        """Drop what ablated passes share, where a basis may have changed it."""
        self._shortcuts.clear()

    @cached_property
    def _prefix(self) -> Prefix:
        attribution, evaluation = self.attribution.batch, self.evaluation.batch
        prompts = [attribution.counterfactual, evaluation.clean, evaluation.counterfactual]
        return common_prefix(self.evaluation.model, prompts)

    def shortcut(self, basis: Basis, ablation: Ablation) -> Shortcut:
        """Return what the ablated passes of a basis share; most of it is kept for the family's other bases."""
        first = basis.sites[0]
        key = first.write, ablation == "zero"
        if key not in self._shortcuts:
            prefix = NO_PREFIX if ablation == "zero" else self._prefix
            self._shortcuts.clear()
            self._shortcuts[key] = take_shortcut(self.evaluation.model, self.evaluation.batch.clean, prefix, first)
        return self._shortcuts[key].of_basis(basis)
