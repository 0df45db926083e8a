"""Passes of its own that a method may ask for on one aligned group, with the tensors of the group at hand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, cast

from basisbench.attribution.batch import Batch, readable_logits
from basisbench.attribution.graph_size import gradient_tokens
from basisbench.attribution.own_pass import Put, gradients_at, metric_of, rules_named
from basisbench.attribution.patching import patched_metric
from basisbench.models.batching import joined_rows
from basisbench.models.model import Model
from basisbench.models.start_at_layer import BlockInputs, block_inputs

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from basisbench.protocols import Basis, ScoringContext
    from basisbench.types import BackwardRules, Site

_TOKENS_PER_PATCH = 4096


class MethodPasses(ABC):
    """The part of `basisbench.protocols.ScoringContext` that shares nothing with other cells.

    Attributes:
        batch: the tensors of the group.
    """

    batch: Batch

    @property
    @abstractmethod
    def model(self) -> Model:
        """The model under study."""

    @property
    def answers(self) -> Int[Tensor, "pair answer"]:
        """Ids of the tokens that the clean prompts call for; of several in an answer, those that a row is scored on."""
        return self.batch.answers

    @property
    def foils(self) -> Int[Tensor, "pair foil"]:
        """Ids of the tokens that the counterfactual prompts call for; those of the pair's other row likewise."""
        return self.batch.foils

    def gradients(
        self,
        hooks: Sequence[str],
        *,
        replace: Mapping[str, Float[Tensor, "pair ..."]] | None = None,
        add: Mapping[str, Float[Tensor, "pair ..."]] | None = None,
        rules: str | BackwardRules = "ixg",
    ) -> Mapping[str, Float[Tensor, "pair ..."]]:
        """Return the gradient of each pair's metric at hooks, where a method puts something at others."""
        put, chosen_rules = Put(replace or {}, add or {}), rules_named(rules)
        rows, length = self.batch.clean.shape
        most = gradient_tokens(self.model)

        def work(chosen: slice) -> Mapping[str, Tensor]:
            return gradients_at(self.model, self.batch.pairs(chosen), hooks, put.part(chosen), chosen_rules)

        return joined_rows(self.model.batching.in_parts("gradients", rows, length, work, most=most))

    def metric(
        self,
        *,
        replace: Mapping[str, Float[Tensor, "pair ..."]] | None = None,
        add: Mapping[str, Float[Tensor, "pair ..."]] | None = None,
        rules: str | BackwardRules = "ixg",
    ) -> Float[Tensor, " pair"]:
        """Return the metric of the clean prompts as a differentiable function of what is put at hooks."""
        return metric_of(self.model, self.batch, Put(replace or {}, add or {}), rules_named(rules))

    def clean_metric(self) -> Float[Tensor, " pair"]:
        """Return the metric of the unhooked model on the clean prompts."""
        import torch

        head = self.model.fast_body.get_submodule(self.model.head)
        with torch.no_grad(), readable_logits(head, self.batch) as batch:
            return batch.metric(self.model.logits(batch.clean, fast=True, keep=batch.keep))

    def patched_metric(
        self, basis: Basis, site: Site, positions: Sequence[int], units: Sequence[int]
    ) -> Float[Tensor, "node pair"]:
        """Return the metric of the clean run with single nodes moved to their target.

        Node i is `(positions[i], units[i])`; -1 means the error, -1 - j its coordinate j where each is a node.
        """
        import torch

        def run_part(chosen: slice) -> Tensor:
            with torch.no_grad():
                own = cast("ScoringContext", self)
                return patched_metric(
                    own, self.batch, self._blocks_entered, basis, site, positions[chosen], units[chosen]
                )

        tokens = self.batch.clean.numel()
        in_parts = self.model.batching.in_parts
        return torch.cat(in_parts("patching", len(positions), tokens, run_part, most=_TOKENS_PER_PATCH))

    @cached_property
    def _blocks_entered(self) -> BlockInputs:
        return block_inputs(self.model, self.batch.clean)
