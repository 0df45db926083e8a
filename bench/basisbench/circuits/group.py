"""One aligned group in both splits, and what every cell of a session asks about it.

F(M), F(0), the common prefix, reference values and constant modules are computed once for all cells that share
them, by whichever comes first. Values of every pair (counterfactual ablation) are gone through in parts of the
evaluation pairs where not all fit into memory (`attribution.parts`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from basisbench.attribution.batch import Batch, readable_logits
from basisbench.attribution.parts import activation_bytes, constants_fit, slices_that_fit
from basisbench.circuits.circuit import Reference
from basisbench.circuits.fast.shared_work import NO_PREFIX, Prefix, SharedWork, common_prefix, share_work
from basisbench.circuits.reference import constant_edits, output_hooks, reference_outputs, reference_values

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

    _whole: GroupPair | None = None

    def cut(self, ablation: Ablation, hooks: Collection[str], numbers: int, *, logits: bool = False) -> list[slice]:
        """Cut the evaluation pairs so that what is kept of each of them fits; one slice where everything does.

        Args:
            ablation: under "counterfactual", references are of pairs.
            hooks: what they are made from.
            numbers: how many values they are at each position.
            logits: whether the logits of the unhooked model are kept too.
        """
        evaluation, each = self.evaluation, 0
        if ablation == "counterfactual":
            each = activation_bytes(evaluation.model, hooks) + numbers * evaluation.model.dtype.itemsize
        if logits:
            each += 4 * int(evaluation.model.bridge.cfg.d_vocab) // evaluation.pairs.length
        return slices_that_fit(evaluation.model, evaluation.pairs, evaluation.split_tokens, each)

    def part(self, chosen: slice, hooks: Collection[str]) -> GroupPair:
        """Return the group with some of its evaluation pairs, on which some hooks are asked for together."""
        if chosen == slice(0, len(self.evaluation.pairs)):
            return self
        return GroupPair(self.attribution, self.evaluation.part(chosen, hooks), _whole=self)

    def reference_of_few(self, basis: Basis, ablation: Ablation) -> Reference:
        """Return reference values, of one pair alone where they are many pairs' own: for their shapes."""
        if ablation != "counterfactual" or not self.evaluation.in_parts:
            return self.reference(basis, ablation)
        one = GroupPair(self.attribution, self.evaluation.few(), _whole=self)
        return one.reference(basis, ablation)

    @cached_property
    def full(self) -> Float[Tensor, " pair"]:
        """F(M) of each evaluation pair: the metric of the unhooked model."""
        return self._metric({})

    @cached_property
    def full_logits(self) -> Float[Tensor, "pair vocab"]:
        """The unhooked model's logits at the last position of each evaluation pair."""
        return self._passes({}, lambda _, logits: logits)

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
            import torch

            hooks = output_hooks(self.evaluation.model, family, layers)

            def of_part(part: GroupPair) -> Tensor:
                outputs = reference_outputs(family, layers, ablation, self.attribution, part.evaluation)
                return part._metric(outputs)

            self._empty[key] = torch.cat([of_part(self.part(some, hooks)) for some in self.cut(ablation, hooks, 0)])
        return self._empty[key]

    def _metric(self, outputs: Mapping[str, Float[Tensor, "pair_or_1 pos d"]]) -> Float[Tensor, " pair"]:
        """Return the metric of each evaluation pair with activations at given values, by hook."""
        batch = self.evaluation.batch
        return batch.per_pair(self._passes(outputs, lambda part, logits: part.metric(logits)))

    def _passes(
        self, outputs: Mapping[str, Float[Tensor, "pair_or_1 pos d"]], take: Callable[[Batch, Tensor], Tensor]
    ) -> Float[Tensor, "pair ..."]:
        """Return what is taken from the logits at the last position, in passes with activations at given values."""
        import torch

        model, batch = self.evaluation.model, self.evaluation.batch
        head, (rows, length) = model.fast_body.get_submodule(model.head), batch.clean.shape

        def run_part(chosen: slice) -> Tensor:
            edits, part = constant_edits(model, outputs, chosen), batch.pairs(chosen)
            with torch.inference_mode(), readable_logits(head, part):
                return take(part, model.logits(part.clean, edits, fast=True, keep=batch.keep))

        most = model.pass_tokens(length)
        return torch.cat(model.batching.in_parts("activations", rows, length, run_part, most=most))

    def forget_shared_work(self) -> None:
        """Drop what ablated passes share, where a basis may have changed it."""
        self._shared_work.clear()

    @cached_property
    def _prefix(self) -> Prefix:
        if self._whole is not None:
            return self._whole._prefix
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
            few = self._whole is None and constants_fit(model, self.evaluation.split_tokens)
            first = basis.sites[0] if few else None
            self._shared_work[key] = share_work(model, batch.clean, prefix, first, batch.keep)
        return self._shared_work[key]
