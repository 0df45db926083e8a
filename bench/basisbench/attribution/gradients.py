"""Gradient fields: the metric's gradient at every write site, once for every basis (docs/numbers.md).

For a basis with an affine decoder the score of a node is the field projected on its decoder row, so a field
does not depend on the basis. Rules:

1. `ixg`: gradient at the clean activations (attribution patching: Nanda 2023, TLDR; Syed et al., arXiv 2310.10348, on
   edges; equation 3 of Marks et al. on nodes).
2. `ig`: mean gradient on the straight path of one layer's site at a time, from clean to what its nodes move to, ten
   steps at 0, 0.1, ... 0.9 (Marks et al. 2025, arXiv 2403.19647, equation 4, who move them to the counterfactual; the
   steps are those of `_pe_ig` in their attribution.py).
3. `ig_inputs`: mean gradient on the straight path of the embeddings, ten steps at 0, 0.1, ... 0.9 (Hanna et al. 2024,
   arXiv 2403.17806, equation 3, who count from the other end: their last step is the clean prompt too).
4. `relp`: gradient at the clean activations under RelP's rules (basisbench.models.relp).
5. Rules of a method's own, part by part (`basisbench.types.BackwardRules`): the same under those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from basisbench.attribution.batch import Batch, answer_logits_only
from basisbench.attribution.graph_size import blocks_run_again, gradient_tokens, is_too_long
from basisbench.attribution.own_pass import Put, gradients_at
from basisbench.errors import unknown_name
from basisbench.models.batching import joined_rows
from basisbench.models.hooks import Edit, Place, edited, watched
from basisbench.models.model import Model
from basisbench.models.relp import RELP
from basisbench.models.start_at_layer import BlockInputs, block_inputs, plain_blocks

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.types import BackwardRules

TOKENS_PER_SWEEP = 2048
"""Bound on rows times positions in one pass of integrated gradients that takes several steps."""

STEPS = 10
"""Points on the paths of `ig` and `ig_inputs`."""

Field = Mapping[str, "Float[Tensor, 'pair pos d']"]
"""The metric's gradient at each hook, per pair."""


def gradient_field(
    rule: str | BackwardRules,
    model: Model,
    batch: Batch,
    hooks: Sequence[str],
    *,
    steps: int = STEPS,
    ends: Mapping[str, Float[Tensor, "pair_or_1 pos d"]] | None = None,
) -> Field:
    """Compute one rule's field at every hook.

    Args:
        rule: "ixg", "ig", "ig_inputs" or "relp", or backward rules.
        model: the model.
        batch: one aligned group.
        hooks: TransformerLens names of the write hooks.
        steps: points on the path of `ig` and `ig_inputs`.
        ends: for `ig`, by hook, the activation that its path runs to.

    Raises:
        BasisBenchError: no such rule.
        MemoryExhaustedError: one prompt does not fit into memory.
    """
    rules: Mapping[str, Callable[[Model, Batch, Sequence[str], int, Field], Field]] = {
        "ixg": _gradient_at_clean,
        "ig": _integrated_by_site,
        "ig_inputs": _integrated_by_input,
        "relp": partial(_under_rules, RELP),
    }
    if isinstance(rule, str) and rule not in rules:
        raise unknown_name("gradient rule", rule, rules)
    compute = rules[rule] if isinstance(rule, str) else partial(_under_rules, rule)
    rows, length = batch.clean.shape
    most = gradient_tokens(model)

    def run_part(chosen: slice) -> Field:
        own = {hook: end if len(end) == 1 else end[chosen] for hook, end in (ends or {}).items()}
        return compute(model, batch.pairs(chosen), hooks, steps, own)

    return joined_rows(model.batching.in_parts("gradients", rows, length, run_part, most=most))


def _gradients(model: Model, batch: Batch, places: Mapping[str, Place], embed: Edit) -> Field:
    """One forward and one backward pass of the plain model; `embed` starts the graph at the embeddings."""
    import torch
    from torch.autograd.graph import get_gradient_edge

    embedding = model.place("embed.hook_out")
    body = model.fast_body
    with (
        torch.enable_grad(),
        answer_logits_only(body.get_submodule(model.head), batch) as narrowed,
        edited(body, {embedding: embed}),
        # Where gradients are taken, not the activations, which autograd need not keep.
        watched(body, places, get_gradient_edge) as seen,
        _with_little_kept(model, batch, 0),
    ):
        total = narrowed.metric(model.logits(batch.clean, fast=True, keep=batch.keep)).sum()
    gradients = torch.autograd.grad(total, list(seen.values()))
    model.meter.forward_equivalents += 2 * len(batch.clean)
    return {hook: gradient.detach().to(model.device) for hook, gradient in zip(seen, gradients, strict=True)}


def _with_little_kept(model: Model, batch: Batch, layer: int) -> AbstractContextManager[None]:
    """Return the context of a pass whose blocks from a layer on are run again where its prompts are too long."""
    too_long = is_too_long(model, batch.clean.shape[1])
    return blocks_run_again(plain_blocks(model)[layer:]) if too_long else nullcontext()


def _leaf(embeddings: Tensor) -> Tensor:
    return embeddings.detach().requires_grad_()


def _put(point: Tensor, _embeddings: Tensor) -> Tensor:
    return _leaf(point)


def _gradient_at_clean(model: Model, batch: Batch, hooks: Sequence[str], _steps: int, _ends: Field) -> Field:
    return _gradients(model, batch, {hook: model.place(hook) for hook in hooks}, _leaf)


def _integrated_by_input(model: Model, batch: Batch, hooks: Sequence[str], steps: int, _ends: Field) -> Field:
    import torch

    embed = model.fast_body.get_submodule(model.place("embed.hook_out").module)
    with torch.no_grad():
        clean, counterfactual = embed(batch.clean), embed(batch.counterfactual)
    places = {hook: model.place(hook) for hook in hooks}
    total: dict[str, Tensor] = {}
    for step in range(steps):
        point = torch.lerp(clean, counterfactual, step / steps)
        for hook, gradient in _gradients(model, batch, places, partial(_put, point)).items():
            total[hook] = total[hook] + gradient if hook in total else gradient
    return {hook: gradient / steps for hook, gradient in total.items()}


def _integrated_by_site(model: Model, batch: Batch, hooks: Sequence[str], steps: int, ends: Field) -> Field:
    """Interpolate one place at a time, and only run the blocks from its layer on.

    Between an MLP's activations and its output, and between the heads and the attention's output, lies one affine map
    (unless a norm follows), so the path that is straight in one is straight in the other too: one sweep serves both,
    where the ends of the two paths are one point.
    """
    import torch

    with torch.no_grad():
        entered = block_inputs(model, batch.clean)
    fields: dict[str, Tensor] = {}
    together = max(1, model.batching.tokens("gradients", TOKENS_PER_SWEEP) // batch.clean.numel())
    for layer, start, served in _sweeps(model, hooks):
        for first in range(0, steps, together):
            shares = [step / steps for step in range(first, min(first + together, steps))]
            path = _Path(model, batch, entered, layer, start, [hook for hook in served if hook != start])
            for hook, total in path.gradients(ends[start], shares).items():
                fields[hook] = fields.get(hook, 0) + total / steps
    return {hook: fields[hook] for hook in hooks}


@dataclass(frozen=True, eq=False)
class _Path:
    """The straight path of one layer's site from clean to another activation, everything before it clean."""

    model: Model
    batch: Batch
    entered: BlockInputs
    layer: int
    start: str
    others: Sequence[str]

    def gradients(self, end: Float[Tensor, "pair_or_1 pos d"], shares: Sequence[float]) -> Field:
        """Return the sum of the gradients at several points of the path, evaluated in one batch."""
        import torch
        from torch.autograd.graph import get_gradient_edge

        leaves: list[Tensor] = []
        count = len(shares)

        def edit(activation: Tensor) -> Tensor:
            copies = activation.detach().unflatten(0, (count, -1))
            weight = torch.tensor(shares, dtype=copies.dtype, device=copies.device)
            point = torch.lerp(copies, end.to(copies.dtype), weight.view(-1, *(1,) * end.ndim))
            leaves.append(point.flatten(0, 1).requires_grad_())
            return leaves[0]

        others = {hook: self.model.place(hook) for hook in self.others}
        body = self.model.fast_body
        with (
            torch.enable_grad(),
            answer_logits_only(body.get_submodule(self.model.head), self.batch) as narrowed,
            watched(body, others, get_gradient_edge) as seen,
            # The first of its blocks is edited inside.
            _with_little_kept(self.model, self.batch, self.layer + 1),
        ):
            edits = {self.model.place(self.start): edit}
            logits = self.entered.repeated(count).logits_from(self.layer, edits, keep=self.batch.keep)
            total = narrowed.metric(logits.unflatten(0, (count, -1))).sum()
        share = (self.model.layers - self.layer) / self.model.layers
        self.model.meter.forward_equivalents += 2 * len(logits) * share
        gradients = torch.autograd.grad(total, [get_gradient_edge(leaves[0]), *seen.values()])
        return {
            hook: gradient.detach().unflatten(0, (count, -1)).sum(0).to(self.model.device)
            for hook, gradient in zip([self.start, *seen], gradients, strict=True)
        }


def _sweeps(model: Model, hooks: Sequence[str]) -> list[tuple[int, str, tuple[str, ...]]]:
    """Return (layer, hook to interpolate, hooks whose gradients the sweep gives) for every site."""
    sweeps: list[tuple[int, str, tuple[str, ...]]] = []
    wanted = set(hooks)
    for hook in hooks:
        layer = int(hook.split(".")[1])
        served: tuple[str, ...] = (hook,)
        for kind in model.kinds():
            other = model.affine_output(kind, layer)
            pair = () if other is None else (model.hook(kind, layer), model.hook(other, layer))
            if hook in pair and wanted.issuperset(pair):
                served = pair
        if hook == served[0]:
            sweeps.append((layer, hook, served))
    return sweeps


def _under_rules(
    rules: BackwardRules, model: Model, batch: Batch, hooks: Sequence[str], _steps: int, _ends: Field
) -> Field:
    return gradients_at(model, batch, hooks, Put(), rules)
