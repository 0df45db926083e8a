"""Sets of nodes at some places of an aligned group: the best ones, controls like them, what two have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from basisbench.attribution.context import seeded_generator
from basisbench.circuits.ranking import Ranking, rank
from basisbench.errors import BasisBenchError
from basisbench.results.overlap import chance_jaccard, jaccard_index
from basisbench.types import WITHOUT_ERROR_NODES, Scores

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Generator, Tensor

    from basisbench.results.record import CellConfig

NEAREST = 20
"""Controls of like change are drawn from so many nodes, those whose mean |change| is nearest."""


@dataclass(frozen=True, eq=False)
class PlacedNodes:
    """A set of nodes at some places of one aligned group.

    Attributes:
        units: per site, True where a unit is in the set.
        errors: per site, the same of the coordinates of the error; None where these are no nodes.
    """

    units: tuple[Bool[Tensor, "place _unit"], ...]
    errors: tuple[Bool[Tensor, "place _error"], ...] | None

    @classmethod
    def best(cls, ranking: Ranking, count: int) -> PlacedNodes:
        """Return the first nodes of a ranking of the nodes at the places."""
        errors = None if ranking.errors is None else tuple(own < count for own in ranking.errors)
        return cls(tuple(own < count for own in ranking.units), errors)

    @property
    def tables(self) -> tuple[Bool[Tensor, "place _node"], ...]:
        """All tables: of units, then of coordinates of the error."""
        return (*self.units, *(self.errors or ()))

    def __len__(self) -> int:
        return sum(int(own.sum()) for own in self.tables)

    def like(self, tables: Sequence[Bool[Tensor, "place _node"]]) -> PlacedNodes:
        """Return a set with other tables in the order of `tables`."""
        sites = len(self.units)
        return PlacedNodes(tuple(tables[:sites]), None if self.errors is None else tuple(tables[sites:]))

    def random(self, generator: Generator) -> PlacedNodes:
        """Draw as many other nodes of each layer, place and kind as this set has there.

        Args:
            generator: source of the draws, on the CPU.

        Raises:
            BasisBenchError: there are too few others.
        """
        import torch

        drawn = []
        for own in self.tables:
            counts = _counts(own)
            order = torch.rand(own.shape, generator=generator).to(own.device).masked_fill(own, -1)
            places = order.argsort(-1, descending=True).argsort(-1)
            drawn.append(places < counts)
        return self.like(drawn)

    def alike(self, changes: Sequence[Float[Tensor, "place _node"]], generator: Generator) -> PlacedNodes:
        """Draw for each node another of its layer, place and kind, one of those whose change is nearest by ratio.

        Args:
            changes: mean |counterfactual value - clean value| of every node, in the order of `tables`.
            generator: source of the draws, on the CPU.

        Raises:
            BasisBenchError: there are too few others.
        """
        import torch

        drawn = []
        for own, change in zip(self.tables, changes, strict=True):
            counts = _counts(own).flatten().tolist()
            table = torch.zeros_like(own)
            for row in (row for row, count in enumerate(counts) if count):
                sizes = change[row].double().cpu()
                logs, free = (sizes + sizes.max() * 1e-6 + 1e-30).log(), (~own[row]).cpu()
                members = own[row].nonzero().flatten().cpu()
                for unit in members[torch.randperm(len(members), generator=generator)].tolist():
                    apart = (logs - logs[unit]).abs().masked_fill(~free, torch.inf)
                    near = apart.topk(min(NEAREST, int(free.sum())), largest=False).indices
                    taken = int(near[int(torch.randint(len(near), (1,), generator=generator))])
                    free[taken], table[row, taken] = False, True
            drawn.append(table)
        return self.like(drawn)

    def overlap(self, other: PlacedNodes) -> tuple[float, float]:
        """Return the Jaccard index of this set and another of the same places, and what chance gives."""
        common = sum(int((a & b).sum()) for a, b in zip(self.tables, other.tables, strict=True))
        sizes = len(self), len(other)
        return jaccard_index(*sizes, common), chance_jaccard(*sizes, sum(own.numel() for own in self.tables))

    @property
    def distinct(self) -> DistinctUnits:
        """The units of the set, whatever their place."""
        found = {(at, unit) for at, own in enumerate(self.tables) for unit in own.any(0).nonzero().flatten().tolist()}
        return DistinctUnits(frozenset(found), sum(own.shape[-1] for own in self.tables))

    def mean(self, values: Sequence[Float[Tensor, "place _node"]]) -> float:
        """Return the mean over the set of a value of every node; the set has a node at least."""
        pairs = zip(self.tables, values, strict=True)
        return sum(float(value[own].double().sum()) for own, value in pairs) / len(self)


@dataclass(frozen=True)
class DistinctUnits:
    """Units of any place.

    Attributes:
        units: index of the table and of the unit in it.
        total: how many there are to choose from.
    """

    units: frozenset[tuple[int, int]]
    total: int

    def overlap(self, other: DistinctUnits) -> tuple[float, float]:
        """Return the Jaccard index with other units of the same basis, and what chance gives."""
        sizes = len(self.units), len(other.units)
        return jaccard_index(*sizes, len(self.units & other.units)), chance_jaccard(*sizes, self.total)


def _counts(own: Bool[Tensor, "place node"]) -> Int[Tensor, "place 1"]:
    counts = own.sum(-1, keepdim=True)
    if bool((2 * counts > own.shape[-1]).any()):
        raise BasisBenchError(
            f"mediate: {int(counts.max())} of the {own.shape[-1]} nodes of one layer and position are in the set, so "
            "there are too few others beside them to draw controls from; ask for smaller sizes"
        )
    return counts


def at_places(scores: Scores, places: Sequence[int], cell: CellConfig) -> Scores:
    """Return the scores of the nodes at some positions.

    Args:
        scores: of all positions.
        places: the positions.
        cell: says whether errors are nodes.
    """
    chosen = list(places)
    left = None if cell.error_policy in WITHOUT_ERROR_NODES else scores.errors
    return Scores(
        tuple(own[chosen] for own in scores.units), None if left is None else tuple(own[chosen] for own in left)
    )


def rank_places(scores: Scores, places: Sequence[int], cell: CellConfig, group: str) -> Ranking:
    """Rank the nodes at some positions of an aligned group.

    Args:
        scores: of all positions.
        places: the positions.
        cell: its error policy, and the seed of the order of nodes of equal |score|.
        group: key of the group.
    """
    ties = seeded_generator(cell.seed, cell.task, group, "places")
    return rank(at_places(scores, places, cell), policy=cell.error_policy, ties=ties)
