"""Nodes to look at: what each node of a circuit reads, writes and does, for any basis (docs/circuits.md).

1. Scores are averaged over the aligned groups that have a role, and the k nodes of the largest |score| are taken.
2. The same on further attribution draws gives each score a range.
3. Values come from the clean and the counterfactual attribution prompts; the direct effect, and the words that a node
   raises and lowers, from the way straight through the residual stream (`basisbench.attribution.direct_effect`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from basisbench.attribution.direct_effect import DIRECT, direct_residuals
from basisbench.attribution.projection import projected_scores
from basisbench.circuits.merged import RolePosition, merge, places, rank_merged
from basisbench.circuits.node_values import NodeValues, node_values
from basisbench.circuits.ranking import Ranking, node_name
from basisbench.errors import BasisBenchError, hold
from basisbench.models.model import at_least_float32
from basisbench.pairs.tokens import token_texts
from basisbench.protocols import PublishedBasis
from basisbench.registry import load_registry
from basisbench.results.circuit_nodes import CircuitNode, CircuitNodes, NodePrompt, place_name
from basisbench.types import Scores

if TYPE_CHECKING:
    from torch import Tensor

    from basisbench.explore.steps import NodeScores
    from basisbench.models.model import Model
    from basisbench.protocols import Basis, BasisSpec, Method, ScoringContext
    from basisbench.runs.session import Session

WORDS = 5
"""Words that a node raises, and lowers, which are named."""

PROMPTS = 3
"""Prompts on which a node is largest, which are shown."""


@dataclass(frozen=True)
class _Direct:
    """Score nodes by their direct effect."""

    name: str = "direct"
    summary: str = "the effect straight through the residual stream"

    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        return projected_scores(context, basis, DIRECT)


def describe_nodes(
    pairs: Session,
    scores: NodeScores,
    k: int = 50,
    *,
    draws: int = 1,
    basis: BasisSpec | None = None,
    method: Method | None = None,
) -> CircuitNodes:
    """Say of the k best nodes, merged over aligned groups by role, what they read, write and do.

    Args:
        pairs: what `load_pairs` returns.
        scores: what `score` returns on these pairs.
        k: nodes; those whose score is zero are left out.
        draws: attribution draws behind the range of each score, these pairs being the first; each is scored anew.
        basis: spec of a basis that is not registered.
        method: a method that is not registered.

    Raises:
        BasisBenchError: the scores are of other pairs, another model or another dictionary, or a number is below 1.
    """
    for name, number in (("k", k), ("draws", draws)):
        hold(name, number, isinstance(number, int) and number >= 1, "a whole number from 1")
    cell, registry = scores.cell, load_registry()
    spec = basis or registry.get("basis", cell.basis)
    way = method or registry.get("method", cell.method)
    if what := pairs.identity(spec, layers=cell.layers).first_difference(scores.identities):
        raise BasisBenchError(f"scores of other weights or pairs: {what} differs; score these pairs anew")
    built = pairs.basis(spec, cell.layers).basis
    wanted = places(scores.roles)
    counts = pairs.pair_counts
    merged = merge(scores.groups, counts, wanted)
    ranking = rank_merged(merged, scores.cell)
    top = [node for node in ranking.top(k) if node[3]]
    found = [_Found(*node[:3], wanted[node[1]]) for node in top]
    others = [_drawn(pairs.redrawn(draw), built, way, scores, wanted) for draw in range(1, draws)]
    effects = pairs.scores(built, _Direct(), cell)
    direct = merge(dict(zip(counts, effects, strict=True)), counts, wanted)
    residuals = _read(pairs, built, found)
    words = _Words.of(pairs.model)
    described = [
        CircuitNode(
            layer=built.sites[node.index].layer,
            unit=unit,
            coordinate=coordinate,
            role=node.place.role,
            token=node.place.token,
            groups=len(node.place.positions),
            pairs=node.pairs(counts),
            score=top[at][3],
            clean=node.mean("clean", counts),
            counterfactual=node.mean("counterfactual", counts),
            change=node.mean("change", counts),
            direct=_score(direct, *top[at][:3]),
            prompts=node.largest(pairs, counts),
            address=_address(built, node),
            **_range([merged, *(draw for draw, _ in others)], [ranking for _, ranking in others], top[at][:3], k),
            **words.named(residuals[at]),
        )
        for at, node in enumerate(found)
        for unit, coordinate in [node_name(node.unit, cell.error_policy)]
    ]
    return CircuitNodes(
        schema_version=1,
        cell=cell,
        identities=scores.identities,
        draws=draws,
        roles=tuple(place_name(place.role, place.token) for place in wanted),
        layers=tuple(site.layer for site in built.sites),
        candidates=ranking.nodes,
        nodes=tuple(described),
    )


def _drawn(
    pairs: Session, basis: Basis, method: Method, scores: NodeScores, wanted: Sequence[RolePosition]
) -> tuple[Scores, Ranking]:
    """Score another attribution draw."""
    counts = pairs.pair_counts
    own = dict(zip(counts, pairs.scores(basis, method, scores.cell), strict=True))
    merged = merge(own, counts, wanted)
    return merged, rank_merged(merged, scores.cell)


def _score(scores: Scores, index: int, place: int, unit: int) -> float:
    """Return one score; `unit` as in `Ranking.top`."""
    table = scores.units[index] if unit >= 0 else (scores.errors or ())[index]
    return float(table[place, unit if unit >= 0 else -1 - unit])


def _range(draws: Sequence[Scores], rankings: Sequence[Ranking], node: tuple[int, int, int], k: int) -> dict[str, Any]:
    """Return the range of a score over draws, and in how many of them it is among the k best."""
    if not rankings:
        return {}
    values = [value for draw in draws if (value := _score(draw, *node)) == value]  # NaN where a draw lacks the place
    index, place, unit = node
    kept = [
        int(ranking.units[index][place, unit] if unit >= 0 else (ranking.errors or ())[index][place, -1 - unit]) < k
        for ranking in rankings
    ]
    return {"low": min(values), "high": max(values), "in_draws": 1 + sum(kept)}


@dataclass(frozen=True, eq=False)
class _Found:
    """A node, and its values group by group."""

    index: int
    row: int
    unit: int
    place: RolePosition
    values: dict[str, NodeValues] = field(default_factory=dict)

    def pairs(self, counts: Mapping[str, int]) -> int:
        return sum(counts[group] for group in self.place.positions)

    def mean(self, side: str, counts: Mapping[str, int]) -> float:
        """Return the node's mean value over the pairs that have it."""
        return sum(
            float(at_least_float32(getattr(self.values[group], side)[:, position]).mean()) * counts[group]
            for group, position in self.place.positions.items()
        ) / self.pairs(counts)

    def largest(self, pairs: Session, counts: Mapping[str, int]) -> tuple[NodePrompt, ...]:
        """Return the prompts on which the unit is largest, in the direction of its clean values."""
        sign = -1 if self.mean("clean", counts) < 0 else 1
        entries = []
        for group in pairs.groups:
            context, own = group.attribution, self.values[group.attribution.pairs.group]
            first = context.pairs.first_position
            for side in ("clean", "counterfactual"):
                values: Tensor = getattr(own, side)
                best = (sign * values[:, first:]).amax(1)
                for row in best.argsort(descending=True, stable=True)[:PROMPTS].tolist():
                    ids = context.tokens(side)[row].tolist()
                    entries.append((float(best[row]), context.pairs.group, side, ids, values[row].tolist()))
        shown: list[NodePrompt] = []
        seen: set[tuple[int, ...]] = set()
        for _, key, side, ids, row_values in sorted(entries, key=lambda entry: -entry[0]):
            if tuple(ids) not in seen and len(shown) < PROMPTS:
                seen.add(tuple(ids))
                tokens = token_texts(pairs.model.tokenizer, ids)
                shown.append(NodePrompt(group=key, side=side, tokens=tokens, values=tuple(row_values)))
        return tuple(shown)


def _read(pairs: Session, basis: Basis, found: Sequence[_Found]) -> Tensor:
    """Give each node its values in each group; return what it writes straight to the unembedding, over all pairs."""
    import torch

    total = torch.zeros(len(found), int(pairs.model.bridge.cfg.d_model), device=pairs.model.device)
    for group in pairs.groups:
        context = group.attribution
        key = context.pairs.group
        nodes = [(node.index, node.place.positions.get(key), node.unit) for node in found]
        for place, values in node_values(context, basis, nodes):
            found[place].values[key] = values
        writes = {place: write for place, node in enumerate(found) if (write := node.values[key].write) is not None}
        if writes:
            residuals = direct_residuals(context, list(writes.values()))
            total[list(writes)] += len(context.pairs) * residuals.to(total)
    return total


@dataclass(frozen=True, eq=False)
class _Words:
    """The words of a model, and the rows that give their logits."""

    tokenizer: Any
    rows: Tensor

    @classmethod
    def of(cls, model: Model) -> _Words:
        """Return the words of a model; rows without a word are left out."""
        weight = model.component("unembed").original_component.weight
        return cls(model.tokenizer, weight.detach()[: len(model.tokenizer)])

    def named(self, residual: Tensor) -> dict[str, tuple[str, ...]]:
        """Return the words that a change of the last hidden state raises and lowers most."""
        logits = at_least_float32(self.rows).to(residual.device) @ residual
        if not logits.any():
            return {}
        raised, lowered = (logits.topk(WORDS, largest=largest).indices.tolist() for largest in (True, False))
        return {"raised": token_texts(self.tokenizer, raised), "lowered": token_texts(self.tokenizer, lowered)}


def _address(basis: Basis, node: _Found) -> str | None:
    if node.unit < 0 or not isinstance(basis, PublishedBasis):
        return None
    return basis.page(basis.sites[node.index], node.unit)
