"""Edge curves: what is left of the metric when only the k best edges between some nodes are kept.

1. In each aligned group edges are ranked by |score|; edges of equal |score|, those of none among them, come in a
   seeded random order. A size is a number of edges per group.
2. The value of the k best edges is that of `circuits.edge_pass`; that of their complement the same pass with all other
   edges between the same nodes. Nodes outside the set are at their reference in both.
3. Sizes, bisection, faithfulness and completeness are those of node curves (`results.bisection`, `results.metrics`),
   over the same F(M) and F(0) of the family: faithfulness ends at that of the node circuit, not at 1. What is cut at
   zero edges is more than F(0), for the tokens' own edges are cut too.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from basisbench.results.bisection import bisected, faithfulness_of, grid_sizes, most_scored
from basisbench.results.metrics import CurveValues
from basisbench.results.schema import round_significant

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Generator, Tensor

    from basisbench.attribution.edge_scores import EdgeScores
    from basisbench.circuits.edge_pass import EdgePass


@dataclass(frozen=True, eq=False)
class EdgeRanking:
    """The edges of one aligned group that can be, best first.

    Attributes:
        edges: (source, target) of each.
        scores: of each, in logits.
        shape: how many sources and targets there are.
    """

    edges: Int[Tensor, "edge 2"]
    scores: Float[Tensor, " edge"]
    shape: tuple[int, int]

    @property
    def scored(self) -> int:
        """Edges with a score other than zero; those behind them come in a random order."""
        return int(self.scores.count_nonzero())

    def kept(self, size: int, *, complement: bool) -> Bool[Tensor, "source target"]:
        """Return which edges a circuit keeps: the best, or all but these."""
        import torch

        kept = torch.zeros(self.shape, dtype=torch.bool, device=self.edges.device)
        chosen = self.edges[size:] if complement else self.edges[:size]
        kept[chosen[:, 0], chosen[:, 1]] = True
        return kept


def rank_edges(scores: EdgeScores, ties: Generator) -> EdgeRanking:
    """Rank the edges of one aligned group.

    Args:
        scores: their scores.
        ties: source of the order of edges of equal |score|, on the CPU.
    """
    import torch

    edges = scores.possible.nonzero()
    edges = edges[torch.randperm(len(edges), generator=ties).to(edges.device)]
    values = scores.score[edges[:, 0], edges[:, 1]]
    order = values.abs().argsort(descending=True, stable=True)
    return EdgeRanking(edges[order], values[order], (scores.score.shape[0], scores.score.shape[1]))


@dataclass(frozen=True, eq=False)
class GroupEdges:
    """The edges of one aligned group, each circuit of them measured once.

    Attributes:
        passes: the pass over its evaluation pairs.
        ranking: its edges.
        full: F(M) of each pair.
        empty: F(0) of each pair.
    """

    passes: EdgePass
    ranking: EdgeRanking
    full: Float[Tensor, " pair"]
    empty: Float[Tensor, " pair"]
    _measured: dict[tuple[int, bool], list[float]] = field(default_factory=dict)

    def values(self, size: int, *, complement: bool = False) -> list[float]:
        """Return the metric of each pair with the best edges kept, or all others; a size above all keeps all."""
        size = min(size, len(self.ranking.edges))
        if (size, complement) not in self._measured:
            batch = self.passes.batch
            rows = self.passes.metric(self.ranking.kept(size, complement=complement))
            self._measured[size, complement] = batch.per_pair(rows).tolist()
        return self._measured[size, complement]


def edge_curve(groups: Sequence[GroupEdges], at: Collection[int] | None = None) -> CurveValues:
    """Measure the curve of all groups: on the grid of sizes, then where it first reaches a threshold.

    Args:
        groups: the aligned groups.
        at: where given, measure 0, 1, these sizes and all edges, and nothing else.

    Returns:
        Values of all groups side by side; complements are measured on the grid alone.
    """
    import numpy as np

    rankings = [group.ranking for group in groups]
    total = max(len(ranking.edges) for ranking in rankings)
    scored = most_scored((len(ranking.edges), ranking.scored) for ranking in rankings)
    grid = set(grid_sizes(total, scored))
    sizes = sorted(grid if at is None else {0, 1, total, *(size for size in at if 0 < size < total)})
    full = [value for group in groups for value in group.full.tolist()]
    empty = [value for group in groups for value in group.empty.tolist()]

    def side_by_side(size: int, *, complement: bool = False) -> list[float]:
        return [value for group in groups for value in group.values(size, complement=complement)]

    ends = _rounded(full), _rounded(empty)

    def faithfulness(some: Sequence[int]) -> dict[int, float]:
        return {size: faithfulness_of(_rounded(side_by_side(size)), *ends) for size in some}

    if at is None:
        sizes = list(bisected(sizes, scored, faithfulness))
    nothing = [float("nan")] * len(full)
    complements = [side_by_side(size, complement=True) if at is not None or size in grid else nothing for size in sizes]
    return CurveValues(
        tuple(sizes),
        total,
        np.array(full),
        np.array(empty),
        np.array([side_by_side(size) for size in sizes]).T,
        np.array(complements).T,
        scored=scored,
    )


def _rounded(values: Sequence[float]) -> list[float]:
    """Return values as records hold them: sizes follow from those."""
    return [round_significant(value) for value in values]
