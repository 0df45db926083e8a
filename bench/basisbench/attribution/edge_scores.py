"""Edge scores: what it does to the metric when one node's move reaches one other node alone.

For a node a, a later node b and the metric m, averaged over the pairs of an aligned group:

    score(a -> b)      = (a_ref - a) * db/da * dm/db        score(a -> logits) = (a_ref - a) * dm/da, directly

1. a_ref - a is a's move from its clean value to what nodes move to when they are scored (`ScoringContext.target`).
2. db/da is the direct effect on b's *value* (a neuron's activation, a feature's activation after its nonlinearity, a
   coordinate of the error) of a's *write*: gradients stop at every write site of the family in between, and go through
   everything else (`attribution.edge_effects`). A feature that is off in the clean prompt has no incoming edge.
3. dm/db is the metric's gradient at b along all paths behind b, the one that b's own score is made of. Cutting one edge
   changes b, and b changes the metric through whatever lies behind it: this is the first-order effect of path patching
   that edge alone, and equals it in a linear model. With the direct gradient in its place, nodes that act through
   later nodes would have no incoming edges.
4. The tokens are sources too: their embeddings, which move to their own reference. dm/db is 1 for the logits.

So all scores are in logits and rank together. An edge runs from an earlier site to a later one, and from a position to
the same or a later one.

Methods: a backward rule by its name, at the clean prompts: `relp` (RelP, arXiv 2508.21258), `ixg` (edge attribution
patching: Syed et al., arXiv 2310.10348); `ig_inputs`, the mean of db/da * dm/db over ten points of the straight path
of the embeddings from clean to counterfactual (EAP-IG: Hanna et al. 2024, arXiv 2403.17806); `path_patching`, exact
(`attribution.path_patching`; Wang et al. 2022, arXiv 2211.00593; Goldowsky-Dill et al., arXiv 2304.05969).

Incoming relevance is conserved: where the reference is zero, sources are all nodes and errors of all earlier sites and
all tokens, the model and the basis have no biases, and the rule makes every part linear (RelP), the scores into b sum
to b's own node score. Otherwise what is missing is the part of b that comes from biases and from nodes left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from basisbench.attribution.chosen_nodes import ChosenNodes
from basisbench.attribution.edge_effects import effects_at
from basisbench.attribution.gradients import STEPS
from basisbench.attribution.graph_size import gradient_tokens
from basisbench.attribution.own_pass import EMBEDDINGS
from basisbench.attribution.path_patching import path_patched
from basisbench.errors import unknown_name
from basisbench.models.model import at_least_float32
from basisbench.models.relp import RULES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Bool, Float
    from torch import Tensor

    from basisbench.attribution.context import GroupContext
    from basisbench.protocols import Basis

EXACT = "path_patching"

EDGE_METHODS: Mapping[str, str] = {
    "ig_inputs": "gradients at ten points between clean and counterfactual embeddings: EAP-IG (arXiv 2403.17806)",
    "ixg": "gradients at the clean run: edge attribution patching, EAP (arXiv 2310.10348)",
    EXACT: "exact path patching, two runs per edge: for few nodes and oracles (arXiv 2304.05969)",
    "relp": "gradients at the clean run under LRP rules (arXiv 2508.21258)",
}
"""What each method that scores edges does, by name."""


@dataclass(frozen=True, eq=False)
class EdgeScores:
    """The edges of one aligned group. Sources are the tokens, then the nodes; targets the nodes, then the logits.

    Attributes:
        score: effect on the metric, in logits; the mean over pairs.
        weight: what the move does to the target's value directly, in its own units (for the logits, the score), the
            mean over pairs; None where the method does not tell it.
        possible: whether such an edge can be: the source's site is earlier, and its position no later.
    """

    score: Float[Tensor, "source target"]
    weight: Float[Tensor, "source target"] | None
    possible: Bool[Tensor, "source target"]


def choose_nodes(context: GroupContext, basis: Basis, nodes: Sequence[tuple[int, int, int]]) -> ChosenNodes:
    """Return nodes, as edges need them.

    Args:
        context: the aligned group.
        basis: the basis.
        nodes: (index of the site, position, unit) of each; unit -1 - j is coordinate j of the error.

    Raises:
        BasisBenchError: under the error policy errors are not in nodes of one coordinate each.
    """
    widths = tuple(context.coordinates(basis, site, "clean")[0].shape[-1] for site in basis.sites)
    return ChosenNodes(basis, context.error_policy, tuple(nodes), widths)


def edge_scores(context: GroupContext, nodes: ChosenNodes, method: str) -> EdgeScores:
    """Score every edge between some nodes, from the tokens to them, and from all of these to the logits.

    Args:
        context: the aligned group; its cell says where nodes move to.
        nodes: the nodes.
        method: one of `EDGE_METHODS`.

    Raises:
        BasisBenchError: there is no such method.
        MemoryExhaustedError: one prompt does not fit into memory.
    """
    import torch

    if method not in EDGE_METHODS:
        raise unknown_name("edge method", method, EDGE_METHODS)
    possible = possible_edges(nodes, context.batch.clean.shape[1]).to(context.model.device)
    with torch.no_grad():
        clean = coordinates_of(context, nodes, "clean")
        moves = coordinates_of(context, nodes, "target") - clean
        embedded = context.activation(EMBEDDINGS, "clean")
        token_moves = context.moved_activation(EMBEDDINGS) - embedded
    if method == EXACT:
        return EdgeScores(path_patched(context, nodes, moves, token_moves, possible), None, possible)
    points: list[Tensor | None] = [None]
    if method == "ig_inputs":
        other = context.activation(EMBEDDINGS, "counterfactual")
        points = [torch.lerp(embedded, other, step / STEPS) for step in range(STEPS)]
    rules = RULES.get(method, RULES["ixg"])
    rows, length = context.batch.clean.shape
    source_moves = torch.cat([moves.new_ones(rows, length), moves.expand(rows, -1)], 1)

    def work(chosen: slice) -> tuple[Tensor, Tensor]:
        score = weight = torch.zeros(())
        for point in points:
            embeddings = None if point is None else point[chosen]
            batch = context.batch.pairs(chosen)
            found = effects_at(context.model, batch, nodes, token_moves[chosen], rules, embeddings)
            reached = at_least_float32(found.direct) * source_moves[chosen].unsqueeze(-1)
            onward = torch.cat([found.total, found.total.new_ones(len(found.total), 1)], 1).unsqueeze(1)
            weight = weight + reached.sum(0) / (rows * len(points))
            score = score + (reached * onward).sum(0) / (rows * len(points))
        return score, weight

    most = gradient_tokens(context.model)
    parts = context.model.batching.in_parts("gradients", rows, length, work, most=most)
    score, weight = (sum(each[1:], each[0]).where(possible, 0) for each in zip(*parts, strict=True))
    return EdgeScores(score, weight, possible)


def possible_edges(nodes: ChosenNodes, length: int) -> Bool[Tensor, "source target"]:
    """Return which edges there can be: from an earlier site, and from no later position.

    Args:
        nodes: the nodes.
        length: tokens of a prompt.
    """
    import torch

    site, position = torch.tensor([node[:2] for node in nodes.nodes]).T
    logits = torch.ones(length + len(nodes), 1, dtype=torch.bool)
    tokens = torch.arange(length).unsqueeze(1) <= position
    between = (site.unsqueeze(1) < site) & (position.unsqueeze(1) <= position)
    return torch.cat([torch.cat([tokens, between]), logits], 1)


def coordinates_of(context: GroupContext, nodes: ChosenNodes, where: str) -> Float[Tensor, "pair_or_1 node"]:
    """Return the coordinate of each node in the clean run ("clean"), or where its cell's scores move it ("target")."""
    basis, units, errors = nodes.basis, {}, {}
    for index in nodes.target_sites:
        site = basis.sites[index]
        units[index], errors[index] = (
            context.coordinates(basis, site, "clean") if where == "clean" else context.target(basis, site)
        )
    return nodes.pick(units, errors)
