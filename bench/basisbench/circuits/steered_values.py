"""What steering does: the metric of pairs and the divergence of what is said next, case by case.

Rows do not depend on each other, so cases and pairs are stacked into passes of a bounded number of tokens. Blocks in
front of the first one that is steered are run once for all cases (`models.start_at_layer`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from basisbench.circuits.evaluate import kl_divergence, tokens_per_pass
from basisbench.circuits.moves import Moves, Node
from basisbench.circuits.steering import clean_values, steered_logits
from basisbench.models.batching import BUDGETS
from basisbench.models.start_at_layer import BlockInputs, block_inputs

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from basisbench.circuits.group import GroupPair
    from basisbench.models.model import Model
    from basisbench.protocols import Basis
    from basisbench.types import ErrorPolicy

MovesOf: TypeAlias = "Callable[[slice], Moves]"
"""Gives the moves of some of the cases, on all rows."""


@dataclass(frozen=True, eq=False)
class SteeredValues:
    """What was measured in each case on each pair.

    Attributes:
        metric: mean logit of the answers minus that of the foils.
        divergence: KL(unhooked model || steered) over the vocabulary at the last position, in nats.
        likeliest: id of the likeliest of some words; None where no words were asked for.
    """

    metric: Float[Tensor, "case pair"]
    divergence: Float[Tensor, "case pair"]
    likeliest: Int[Tensor, "case pair"] | None = None


def steered_values(
    group: GroupPair,
    basis: Basis,
    policy: ErrorPolicy,
    moves: MovesOf,
    cases: int,
    words: Int[Tensor, " word"] | None = None,
) -> SteeredValues:
    """Measure cases on every evaluation pair of an aligned group, whose metric is in logits.

    Args:
        group: the group.
        basis: the basis whose nodes are moved.
        policy: along which axes coordinates of the error are nodes.
        moves: gives the moves of some cases.
        cases: how many cases there are, at least 1.
        words: ids of words among which the likeliest next one is told.

    Raises:
        MemoryExhaustedError: one case on one prompt does not fit into memory.
    """
    import torch

    model, whole = group.evaluation.model, group.evaluation.batch
    dtype = torch.promote_types(model.dtype, torch.float32)
    metric = torch.empty((cases, len(whole.clean)), dtype=dtype, device=model.device)
    nats = torch.empty_like(metric)
    likeliest = None if words is None else torch.empty_like(metric, dtype=torch.long)
    for part in group.cut("mean", (), 0, logits=True):
        batch, full = whole.pairs(part), group.part(part, ()).full_logits
        enters = _Entering(model, batch.clean)

        def work(
            chosen: slice, some: slice, part: slice = part, full: Tensor = full, enters: _Entering = enters
        ) -> None:
            place = slice(part.start + some.start, part.start + some.stop)
            own, expected = moves(chosen).rows(place), full[some]
            with torch.inference_mode():
                if own.nodes:
                    logits = steered_logits(enters.rows(some), basis, policy, own)[:, :, -1]
                else:
                    logits = expected.expand(len(own.factor), *expected.shape)
                metric[chosen, place] = whole.pairs(place).metric(logits)
                nats[chosen, place] = kl_divergence(expected, logits)
                if words is not None and likeliest is not None:
                    likeliest[chosen, place] = words[logits[..., words].argmax(-1)]

        rows, length = batch.clean.shape
        model.batching.in_blocks("circuits", cases, rows, length, work, most=_tokens(model, basis, length, 1))
    return SteeredValues(metric, nats, likeliest)


def token_divergences(
    model: Model,
    basis: Basis,
    policy: ErrorPolicy,
    moves: MovesOf,
    cases: int,
    tokens: Int[Tensor, "row pos"],
    first: int,
) -> Float[Tensor, "case row"]:
    """Return KL(unhooked model || steered) in nats per token, averaged over the positions of each row.

    Args:
        model: the model.
        basis: the basis whose nodes are moved.
        policy: along which axes coordinates of the error are nodes.
        moves: gives the moves of some cases, on all rows.
        cases: how many cases there are, at least 1.
        tokens: the texts, all of one length.
        first: the first position that counts, behind a beginning-of-sequence token.
    """
    import torch

    (rows, length), last = tokens.shape, tokens.shape[1] - first
    found = torch.empty((cases, rows), dtype=torch.promote_types(model.dtype, torch.float32), device=model.device)
    most, enters = _tokens(model, basis, length, last), _Entering(model, tokens)
    for start in range(0, rows, max(1, most // length)):
        part = slice(start, min(rows, start + max(1, most // length)))
        with torch.inference_mode():
            expected = model.last_logits(tokens[part], fast=True, keep=last)

        def work(chosen: slice, some: slice, part: slice = part, expected: Tensor = expected) -> None:
            place = slice(part.start + some.start, part.start + some.stop)
            with torch.inference_mode():
                own = moves(chosen).rows(place)
                logits = steered_logits(enters.rows(place), basis, policy, own, keep=last)
                found[chosen, place] = kl_divergence(expected[some], logits).mean(-1)

        model.batching.in_blocks("losses", cases, part.stop - part.start, length, work, most=most)
    return found


def values_of_rows(
    model: Model, basis: Basis, policy: ErrorPolicy, nodes: Sequence[Node], tokens: Int[Tensor, "row pos"]
) -> Float[Tensor, "row node"]:
    """Return the value of each of some nodes in the unhooked model, on some prompts of one length.

    Args:
        model: the model.
        basis: the basis.
        policy: along which axes coordinates of the error are nodes.
        nodes: the nodes.
        tokens: the prompts.
    """
    import torch

    (rows, length) = tokens.shape

    if not nodes:
        return torch.zeros(rows, 0, device=model.device)

    def work(some: slice) -> Tensor:
        with torch.inference_mode():
            return clean_values(block_inputs(model, tokens[some]), basis, policy, nodes)

    most = model.batching.tokens("circuits", tokens_per_pass(model, basis))
    return torch.cat(model.batching.in_parts("circuits", rows, length, work, most=most))


def next_logits(
    model: Model, basis: Basis, policy: ErrorPolicy, moves: Moves, tokens: Int[Tensor, "row pos"]
) -> tuple[Float[Tensor, "row vocab"], Float[Tensor, "case row vocab"]]:
    """Return the logits behind some prompts, of the unhooked model and in each case.

    Args:
        model: the model.
        basis: the basis whose nodes are moved.
        policy: along which axes coordinates of the error are nodes.
        moves: the cases.
        tokens: the prompts, all of one length.
    """
    import torch

    with torch.inference_mode():
        steered = steered_logits(block_inputs(model, tokens), basis, policy, moves)
        return model.logits(tokens, fast=True), steered[:, :, -1]


class _Entering:
    """What enters the blocks for some rows; that of the last rows asked for is kept."""

    def __init__(self, model: Model, tokens: Int[Tensor, "row pos"]) -> None:
        self._model, self._tokens = model, tokens
        self._kept: tuple[slice, BlockInputs] | None = None

    def rows(self, chosen: slice) -> BlockInputs:
        """Return what enters the blocks; one pass, unless it is that of the last rows."""
        if self._kept is None or self._kept[0] != chosen:
            self._kept = None
            self._kept = chosen, block_inputs(self._model, self._tokens[chosen])
        return self._kept[1]


def _tokens(model: Model, basis: Basis, length: int, last: int) -> int:
    """Return how many tokens a pass holds: what circuits take, and no more than logits leave room for."""
    rows = BUDGETS["losses"].on(model.device.type) // (4 * int(model.bridge.cfg.d_vocab) * last)
    return max(length, min(tokens_per_pass(model, basis), rows * length))
