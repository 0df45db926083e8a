"""A circuit as a graph: the edges between nodes that are merged over aligned groups by role.

1. The nodes are those of `describe_nodes`; each aligned group has those whose role it has.
2. Edges are scored in every group between the nodes that it has (`basisbench.attribution.edge_scores`).
3. An edge's score is the mean over the pairs of the groups that have both of its ends. The best edges are kept. A group
   that has no node is left out, edges from tokens to logits included.
"""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING

from basisbench.attribution.edge_scores import choose_nodes, edge_scores
from basisbench.circuits.merged import places
from basisbench.circuits.ranking import node_unit
from basisbench.errors import BasisBenchError, hold
from basisbench.pairs.tokens import token_texts
from basisbench.registry import load_registry
from basisbench.results.circuit_graph import CircuitGraph
from basisbench.results.circuit_nodes import CircuitNodes, place_name
from basisbench.results.edge_file import Edge
from basisbench.results.schema import printable
from basisbench.runs.session import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float
    from torch import Tensor

    from basisbench.attribution.context import GroupContext
    from basisbench.circuits.merged import RolePosition
    from basisbench.protocols import Basis, BasisSpec


def graph(
    nodes: CircuitNodes, pairs: Session, method: str = "relp", *, edges: int = 500, basis: BasisSpec | None = None
) -> CircuitGraph:
    """Score the edges between described nodes, from the tokens to them, and into the logits.

    Args:
        nodes: what `describe_nodes` returns.
        pairs: what `load_pairs` returns: the pairs that the nodes were described on.
        method: "relp", "ixg", "ig_inputs" or "path_patching", as for `edges`.
        edges: how many are kept, those of the largest |score|; those without a score are left out.
        basis: spec of a basis that is not registered.

    Raises:
        BasisBenchError: there are no nodes, or they are of other pairs, another model or another dictionary; there is
            no such method; or under the nodes' error policy errors are not in nodes of one coordinate each.
    """
    hold("nodes", nodes, isinstance(nodes, CircuitNodes), "a CircuitNodes")
    hold("pairs", pairs, isinstance(pairs, Session), "a Session")
    hold("edges", edges, isinstance(edges, Integral) and edges >= 1, "a whole number from 1")
    cell = nodes.cell
    spec = basis or load_registry().get("basis", cell.basis)
    if what := pairs.identity(spec, layers=cell.layers).first_difference(nodes.identities):
        raise BasisBenchError(f"nodes of other weights or pairs: {what} differs; describe the nodes of these pairs")
    if not nodes.nodes:
        raise BasisBenchError("nodes: a graph has at least one; no node has a score other than zero")
    built = pairs.basis(spec, cell.layers).basis
    roles = {group.attribution.pairs.group: group.attribution.pairs.roles for group in pairs.groups}
    wanted = places(roles)
    score, weight, possible = _merged(nodes, pairs, built, wanted, method)
    order = score.abs().flatten().argsort(descending=True, stable=True)[: int(score.count_nonzero())][: int(edges)]
    width, rows = len(nodes.nodes), len(wanted)
    first = max((group.attribution.pairs for group in pairs.groups), key=lambda own: len(own.token_texts))
    answer, foil = token_texts(pairs.model.tokenizer, [int(first.answers[0, 0]), int(first.foils[0, 0])])
    kept = [divmod(place, width + 1) for place in order.tolist()]
    return CircuitGraph(
        schema_version=1,
        nodes=nodes,
        method=method,
        possible=int(possible.sum()),
        scored=int(score.count_nonzero()),
        edges=tuple(
            Edge.between(
                source,
                target,
                tokens=rows,
                nodes=width,
                score=float(score[source, target]),
                weight=None if weight is None else float(weight[source, target]),
            )
            for source, target in kept
        ),
        tokens=_example(pairs, wanted),
        answer=answer,
        foil=foil,
        prompt=printable(" ".join(first.clean_text[0].split()))[:2000],
        probability=_probability(pairs),
    )


def _merged(
    nodes: CircuitNodes, pairs: Session, basis: Basis, wanted: Sequence[RolePosition], method: str
) -> tuple[Float[Tensor, "source target"], Float[Tensor, "source target"] | None, Bool[Tensor, "source target"]]:
    """Return scores, weights and which edges can be: from places and nodes, in this order, to nodes and logits."""
    import torch

    shape = len(wanted) + len(nodes.nodes), len(nodes.nodes) + 1
    score, weight, counts = (torch.zeros(shape, dtype=torch.float64) for _ in range(3))
    possible = torch.zeros(shape, dtype=torch.bool)
    told = True
    for group in pairs.groups:
        key, count = group.attribution.pairs.group, len(group.attribution.pairs)
        own = _chosen(nodes, group.attribution, basis, wanted)
        if not own:
            continue
        cell = nodes.cell
        group.attribution.start(cell.ablation, cell.score_reference, cell.error_policy, means=group.attribution)
        found = edge_scores(group.attribution, choose_nodes(group.attribution, basis, list(own.values())), method)
        tokens = sorted((place.positions[key], row) for row, place in enumerate(wanted) if key in place.positions)
        at = (
            torch.tensor([row for _, row in tokens] + [len(wanted) + node for node in own]).unsqueeze(1),
            torch.tensor([*own, len(nodes.nodes)]),
        )
        score[at] += count * found.score.double().cpu()
        counts[at] += count
        possible[at] |= found.possible.cpu()
        if found.weight is None:
            told = False
        else:
            weight[at] += count * found.weight.double().cpu()
    counts.clamp_(min=1)
    return score / counts, weight / counts if told else None, possible


def _chosen(
    nodes: CircuitNodes, context: GroupContext, basis: Basis, wanted: Sequence[RolePosition]
) -> dict[int, tuple[int, int, int]]:
    """Return the nodes that an aligned group has: of each (site index, position, unit), as for `choose_nodes`."""
    index = {site.layer: place for place, site in enumerate(basis.sites)}
    positions = {
        place_name(place.role, place.token): place.positions[context.pairs.group]
        for place in wanted
        if context.pairs.group in place.positions
    }
    return {
        at: (
            index[node.layer],
            positions[place_name(node.role, node.token)],
            node_unit(node.unit, node.coordinate),
        )
        for at, node in enumerate(nodes.nodes)
        if place_name(node.role, node.token) in positions
    }


def _example(pairs: Session, wanted: Sequence[RolePosition]) -> tuple[str, ...]:
    """Return a token at each place: those of one prompt, as far as its group has the places."""
    texts = {group.attribution.pairs.group: group.attribution.pairs.token_texts for group in pairs.groups}
    longest = sorted(texts, key=lambda key: -len(texts[key]))
    return tuple(
        next((texts[key][place.positions[key]] for key in longest if key in place.positions), "") for place in wanted
    )


def _probability(pairs: Session) -> float:
    """Return the mean probability of the answer, given that it is answer or foil: the metric is their log-odds."""
    import torch

    return float(torch.cat([torch.sigmoid(group.full.detach().double().cpu()) for group in pairs.groups]).mean())
