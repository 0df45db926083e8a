"""Swapping: chosen nodes get the values that they have on a pair's other prompt, and everything else stays live.

It is steering (`circuits.steering`) with the counterfactual value as what a node is set to: a node behind other swapped
ones ends at that value too, whatever these have made of it. What the clean prompt says by other ways, attention to its
words and the residual stream among them, still says the clean answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from basisbench.circuits.moves import Moves, doses_of, in_sequence
from basisbench.circuits.steered_nodes import SteeredNode, group_nodes, node_references
from basisbench.circuits.steered_values import SteeredValues, steered_values, values_of_rows
from basisbench.types import Ablation

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from basisbench.circuits.group import GroupPair
    from basisbench.protocols import Basis
    from basisbench.types import ErrorPolicy


def swapped_values(
    group: GroupPair,
    basis: Basis,
    policy: ErrorPolicy,
    sets: Sequence[Sequence[SteeredNode]],
    words: Int[Tensor, " word"],
) -> SteeredValues:
    """Measure the evaluation pairs of an aligned group with each of some sets of nodes swapped, a case for each set.

    Args:
        group: the group.
        basis: the basis of the nodes.
        policy: along which axes coordinates of the error are nodes.
        sets: the sets; one without nodes in this group leaves the model as it is.
        words: ids of words among which the likeliest next one is told.
    """

    def moves(nodes: Sequence[SteeredNode]) -> Moves:
        own = group_nodes(nodes, group.evaluation.pairs.group)
        if not own:
            return doses_of("ablate", [1.0], own, group.full.new_zeros(1, 0))
        return doses_of("ablate", [1.0], own, node_references(own, basis, policy, group.reference(basis, AT)))

    cases = in_sequence([partial(moves, nodes) for nodes in sets], 1)
    return steered_values(group, basis, policy, cases, len(sets), words)


AT: Ablation = "counterfactual"
"""The prompt whose values are swapped in."""


def other_prompts(group: GroupPair, words: Int[Tensor, " word"]) -> tuple[Float[Tensor, " pair"], Int[Tensor, " pair"]]:
    """Return the metric of the unhooked model on the counterfactual prompts, and the likeliest of some words.

    Args:
        group: the aligned group, whose evaluation pairs are meant; their answers stay those of the clean prompts.
        words: ids of the words.
    """
    import torch

    model, batch = group.evaluation.model, group.evaluation.batch
    rows, length = batch.counterfactual.shape

    def work(chosen: slice) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            logits = model.logits(batch.counterfactual[chosen], fast=True)
            return batch.pairs(chosen).metric(logits), words[logits[:, words].argmax(-1)]

    parts = model.batching.in_parts("activations", rows, length, work, most=model.pass_tokens(length))
    metric, likeliest = (torch.cat(each) for each in zip(*parts, strict=True))
    return metric, likeliest


def distances(
    group: GroupPair, basis: Basis, policy: ErrorPolicy, sets: Sequence[Sequence[SteeredNode]]
) -> tuple[Float[Tensor, " set"], Float[Tensor, " set"], int]:
    """Return how far apart nodes are on two clean evaluation prompts of one answer, and on two of different answers.

    Args:
        group: the aligned group.
        basis: the basis of the nodes.
        policy: along which axes coordinates of the error are nodes.
        sets: the sets of nodes.

    Returns:
        For each set the mean over couples of prompts of |difference of values|, summed over its nodes: of couples that
        share an answer, of all others, and how many share one; NaN where there is no such couple.
    """
    import torch

    batch = group.evaluation.batch
    owned = [group_nodes(nodes, group.evaluation.pairs.group) for nodes in sets]
    nodes = tuple(dict.fromkeys(node for own in owned for node in own))
    values = values_of_rows(group.evaluation.model, basis, policy, nodes, batch.clean)
    column = {node: place for place, node in enumerate(nodes)}
    apart = torch.stack([torch.cdist(own, own, p=1) for own in (values[:, [column[n] for n in o]] for o in owned)])
    shared = (batch.answers.unsqueeze(1) == batch.answers).all(-1)
    different = (batch.clean.unsqueeze(1) != batch.clean).any(-1)
    one, two = shared & different, ~shared
    return apart[:, one].mean(1), apart[:, two].mean(1), int(one.sum())
