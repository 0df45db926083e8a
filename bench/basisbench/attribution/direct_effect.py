"""What a node writes to the logits straight through the residual stream: direct logit attribution (docs/circuits.md).

1. Later attention and MLPs are left out: what they read is a constant. Every norm's scale is the clean run's, as in
   Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", and TransformerLens's `apply_ln_to_stack`.
2. What is left is linear, so its gradient at the write sites (`DIRECT`) gives the direct effect of every node of every
   basis, as a gradient field gives its score.
3. The way forward, from a write to the logits of all words, is the transpose: the gradient of that gradient with
   respect to what it is multiplied by (a Jacobian-vector product by two vector-Jacobian ones).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from basisbench.attribution.graph_size import gradient_tokens
from basisbench.attribution.own_pass import Put, run_once
from basisbench.models.model import at_least_float32
from basisbench.types import BackwardRules

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.attribution.context import GroupContext

DIRECT = BackwardRules(norms="frozen", reads="stopped")
"""Backward rules under which a gradient field is the direct effect's."""

_FINAL = "ln_final.hook_out"
"""What the unembedding reads, at every position."""


@dataclass(frozen=True, eq=False)
class Write:
    """What a node writes at one position.

    Attributes:
        position: where.
        rows: by write hook, what is added to the activation: the same for all pairs, or a row for each.
    """

    position: int
    rows: Mapping[str, Float[Tensor, "*pair d_write"]]


def direct_residuals(context: GroupContext, writes: Sequence[Write]) -> Float[Tensor, "write d_model"]:
    """Return what writes change straight in what the unembedding reads at their position, averaged over pairs.

    Args:
        context: the aligned group, on whose clean prompts the norms' scales are taken.
        writes: what is written; every hook lies in front of the final norm.

    Returns:
        Its product with a word's unembedding row is the change of that word's logit.
    """
    model, tokens = context.model, context.tokens("clean")
    rows, length = tokens.shape

    def run_part(chosen: slice) -> Tensor:
        return _sums(context, writes, chosen)

    parts = model.batching.in_parts("gradients", rows, length, run_part, most=gradient_tokens(model))
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total / rows


def _sums(context: GroupContext, writes: Sequence[Write], chosen: slice) -> Float[Tensor, "write d_model"]:
    import torch

    model, tokens = context.model, context.tokens("clean")[chosen]
    seen: dict[str, Tensor] = {}
    hooks = sorted({hook for write in writes for hook in write.rows})
    with torch.enable_grad():
        run_once(model, tokens, Put(), DIRECT, (*hooks, _FINAL), seen.__setitem__, leaves=False)
        model.meter.forward_equivalents += len(tokens)
        final = seen.pop(_FINAL)
        wanted = torch.zeros_like(final, requires_grad=True)
        # In the order of the hooks; linear in `wanted`.
        back = torch.autograd.grad(final, [seen[hook] for hook in hooks], wanted, create_graph=True)
        transposed = dict(zip(hooks, back, strict=True))
        found = []
        for write in writes:
            product = torch.zeros((), device=final.device)
            for hook, row in write.rows.items():
                part = row[chosen] if row.ndim == 2 else row
                product = product + (transposed[hook][:, write.position] * part.to(transposed[hook])).sum()
            (change,) = torch.autograd.grad(product, wanted, retain_graph=True)
            found.append(at_least_float32(change[:, write.position]).sum(0))
    return torch.stack(found).detach()
