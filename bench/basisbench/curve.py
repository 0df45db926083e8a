"""From kept nodes to the metric: many circuits of one aligned group, several to a batch.

Rows of a batch are circuits times pairs, so that short prompts fill the processor. What a circuit's value is
does not depend on how circuits are grouped into batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from basisbench.ablate import Keep, Reference, ablation_edits

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.gradients import Batch
    from basisbench.model import Model
    from basisbench.protocols import Basis
    from basisbench.shortcut import Shortcut

TOKENS_PER_BATCH = 4096
"""Bound on rows times positions in one pass."""


@dataclass(frozen=True, eq=False)
class CircuitValues:
    """What was measured for each circuit on each pair.

    Attributes:
        metric: answer logit minus foil logit.
        divergence: KL(full model || circuit) over the vocabulary at the last position, in nats; None when
            no full model's logits were given.
    """

    metric: Float[Tensor, "circuit pair"]
    divergence: Float[Tensor, "circuit pair"] | None


def evaluate_circuits(
    model: Model,
    basis: Basis,
    batch: Batch,
    reference: Reference,
    keep: Callable[[int, int], Keep],
    circuits: int,
    *,
    shortcut: Shortcut | None = None,
    full_logits: Float[Tensor, "pair vocab"] | None = None,
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> CircuitValues:
    """Evaluate circuits on every pair of one aligned group of the evaluation split.

    Args:
        model: the model.
        basis: the basis whose nodes are kept or replaced.
        batch: the group.
        reference: values of the nodes that are not kept.
        keep: gives the kept nodes of circuits `start` to `stop`.
        circuits: how many circuits there are, at least 1.
        shortcut: what the passes of this group share; None runs every pass in full.
        full_logits: the unhooked model's logits, to measure the divergence from it.
        tokens_per_batch: bound on rows times positions in one pass; one circuit is never split.
    """
    import torch

    pairs = len(batch.clean)
    tokens = batch.clean if shortcut is None else shortcut.suffix(batch.clean)
    together = max(1, tokens_per_batch // tokens.numel())
    metrics: list[Tensor] = []
    divergences: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, circuits, together):
            count = min(together, circuits - start)
            edits = dict(
                ablation_edits(
                    model, basis, reference, keep(start, start + count), pairs, last_only=shortcut is not None
                )
            )
            past = None
            if shortcut is not None:
                edits |= shortcut.edits()
                past = shortcut.cache(count * pairs)
            logits = model.logits(tokens.repeat(count, 1), edits, past=past, packed=True)
            metrics.append(batch.repeated(count).metric(logits).unflatten(0, (count, pairs)))
            if full_logits is not None:
                divergences.append(_divergence(full_logits, logits.unflatten(0, (count, pairs))))
    return CircuitValues(torch.cat(metrics), torch.cat(divergences) if divergences else None)


def _divergence(
    full: Float[Tensor, "pair vocab"], circuits: Float[Tensor, "circuit pair vocab"]
) -> Float[Tensor, "circuit pair"]:
    expected, found = full.log_softmax(-1), circuits.log_softmax(-1)
    # Rounding can leave a divergence of zero a little below it.
    return (expected.exp() * (expected - found)).sum(-1).clamp_min(0)
