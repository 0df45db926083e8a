"""From circuits to metric values, for every pair of one aligned group of the evaluation split.

1. `fast=True`: several circuits to a pass that computes only what they can change (`circuits.fast`).
2. `fast=False`: every circuit in a full pass of its own, as it is defined (`circuits.plain`); the same up to rounding.

What a circuit's value is does not depend on how circuits and pairs are grouped into passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from basisbench.attribution.hooks_together import hooks_of
from basisbench.circuits.fast.fast_pass import FastPass
from basisbench.circuits.plain import PlainPass
from basisbench.models.batching import BUDGETS
from basisbench.protocols import StreamedBasis, UnitwiseBasis

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.circuits.circuit import CircuitMask
    from basisbench.circuits.group import GroupPair
    from basisbench.models.model import Model
    from basisbench.protocols import Basis
    from basisbench.types import Ablation

_PASSES_SHARED = 4
"""How many times as many tokens a single circuit of a dictionary may take to a pass: every pass picks its units anew,
which more prompts should share."""

_STREAMED, _STREAMED_ON_DEVICE = 64, 4
"""How many times as many tokens a pass holds where each one reads weights anew (`protocols.StreamedBasis`)."""


@dataclass(frozen=True, eq=False)
class CircuitValues:
    """What was measured for each circuit on each pair.

    Attributes:
        metric: answer logit minus foil logit.
        divergence: KL(full model || circuit) over the vocabulary at the last position, in nats; None unless asked for.
    """

    metric: Float[Tensor, "circuit pair"]
    divergence: Float[Tensor, "circuit pair"] | None


def evaluate(
    group: GroupPair,
    basis: Basis,
    ablation: Ablation,
    masks: Callable[[slice], CircuitMask],
    circuits: int,
    *,
    fast: bool = True,
    divergence: bool = False,
) -> CircuitValues:
    """Evaluate circuits on every evaluation pair of one aligned group.

    Args:
        group: the group, whose attribution split gives mean references.
        basis: the basis whose nodes are kept or replaced.
        ablation: what the nodes that are not kept are set to.
        masks: gives the kept nodes of some of the circuits.
        circuits: how many circuits there are, at least 1.
        fast: whether passes may leave out what the circuits cannot change; the same up to rounding.
        divergence: whether to measure the divergence from the unhooked model too.

    Raises:
        MemoryExhaustedError: one circuit on one prompt does not fit into memory. Before that, passes become smaller
            and the evaluation goes on from where it is.
    """
    import torch

    one = masks(slice(0, 1))
    numbers = sum(kept.shape[-1] for kept in (*one.units, *(() if basis.exact else one.errors)))
    hooks = hooks_of(basis)
    found = [
        _evaluated(group.part(chosen, hooks), basis, ablation, masks, circuits, fast=fast, divergence=divergence)
        for chosen in group.cut(ablation, hooks, numbers, logits=divergence)
    ]
    nats = [part.divergence for part in found if part.divergence is not None]
    return CircuitValues(torch.cat([part.metric for part in found], 1), torch.cat(nats, 1) if nats else None)


def _evaluated(
    group: GroupPair,
    basis: Basis,
    ablation: Ablation,
    masks: Callable[[slice], CircuitMask],
    circuits: int,
    *,
    fast: bool,
    divergence: bool,
) -> CircuitValues:
    """Evaluate circuits on pairs whose references fit into memory together."""
    import torch

    model, batch, reference = group.evaluation.model, group.evaluation.batch, group.reference(basis, ablation)
    pairs, length = batch.clean.shape
    full = group.full_logits if divergence else None
    passes: FastPass | PlainPass
    if fast:
        shared = group.shared_work(basis, ablation)
        passes, length = FastPass(model, basis, batch, reference, shared), shared.tokens.shape[1]
        most = model.batching.tokens("circuits", tokens_per_pass(model, basis))
        parts = _evenly(pairs, math.ceil(pairs / max(1, most * _sharing(model, basis) // length)))
    else:
        passes, most, parts = PlainPass(model, basis, batch, reference), pairs * length, [slice(0, pairs)]

    metric = torch.empty((circuits, pairs), dtype=torch.promote_types(model.dtype, torch.float32), device=model.device)
    nats = None if full is None else torch.empty_like(metric)
    for part in parts:
        of_part = passes.pairs(part)

        def measure(chosen: slice, some: slice, of_part: FastPass | PlainPass = of_part, part: slice = part) -> None:
            few, mask = of_part.pairs(some), masks(chosen)
            place = slice(part.start + some.start, part.start + some.stop)
            with torch.inference_mode():
                if full is None or nats is None:
                    metric[chosen, place] = few.metric(mask)
                    return
                logits = few.logits(mask)
                metric[chosen, place] = few.batch.metric(logits)
                nats[chosen, place] = kl_divergence(full[place], logits)

        model.batching.in_blocks("circuits", circuits, part.stop - part.start, length, measure, most=most)
    return CircuitValues(batch.per_pair(metric), nats)


def tokens_per_pass(model: Model, basis: Basis) -> int:
    """Return how many tokens one fast pass holds, for circuits to be stacked."""
    widest = max(int(model.bridge.cfg.d_mlp), int(model.bridge.cfg.d_model)) * model.dtype.itemsize
    streamed = _STREAMED if model.device.type == "cpu" else _STREAMED_ON_DEVICE
    return (streamed if _streams(basis) else 1) * BUDGETS["circuits"].on(model.device.type) // widest


def _sharing(model: Model, basis: Basis) -> int:
    picks = isinstance(basis, UnitwiseBasis) and not _streams(basis) and "circuits" not in model.batching.bounds
    return _PASSES_SHARED if picks else 1


def _streams(basis: Basis) -> bool:
    return isinstance(basis, StreamedBasis) and basis.streams


def _evenly(count: int, parts: int) -> list[slice]:
    """Cut `count` things into parts of nearly one size."""
    ends = [round(part * count / parts) for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in pairwise(ends)]


def kl_divergence(
    full: Float[Tensor, "*row vocab"], others: Float[Tensor, "case *row vocab"]
) -> Float[Tensor, " case *row"]:
    """Return KL(full || other) over the vocabulary, in nats.

    Args:
        full: logits of the unhooked model.
        others: logits of other passes on the same rows.
    """
    expected, found = full.log_softmax(-1), others.log_softmax(-1)
    # Rounding can leave a divergence of zero a little below it.
    return (expected.exp() * (expected - found)).sum(-1).clamp_min(0)
