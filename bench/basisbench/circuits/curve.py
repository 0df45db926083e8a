"""The curve of one aligned group, the sizes at which it is measured, and the curves of all groups together."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from basisbench.circuits.adversarial import adversarial_halves
from basisbench.circuits.evaluate import evaluate
from basisbench.results import bisection
from basisbench.results.bisection import faithfulness_of
from basisbench.results.schema import round_significant

if TYPE_CHECKING:
    from torch import Tensor

    from basisbench.circuits.group import GroupPair
    from basisbench.circuits.ranking import Ranking
    from basisbench.protocols import Basis
    from basisbench.results.record import CellConfig


@dataclass(frozen=True, eq=False)
class GroupCurve:
    """Raw values of one aligned group, in logits; rows are sizes, columns are evaluation pairs.

    Attributes:
        full: F(M) per pair.
        empty: F(0) per pair.
        circuit: metric of the circuit at each size.
        complement: metric of everything but the circuit at each size; None where it was not measured.
        feature_nodes: unit nodes in the circuit at each size.
        error_nodes: error nodes in the circuit at each size.
        units: distinct (layer, unit) in the circuit at each size.
        divergence: KL(full model || circuit) in nats per pair at each size; None unless the cell asks for it.
        halves: for each of the cell's subset sizes, metric with a random half of the complement ablated;
            rows are draws.
        adversarial: for each of them, metric with the halves live that a search found to lower and to raise it most;
            empty unless the cell asks for it.
    """

    full: list[float]
    empty: list[float]
    circuit: list[list[float]]
    complement: list[list[float] | None]
    feature_nodes: list[int]
    error_nodes: list[int]
    units: list[int]
    divergence: list[list[float]] | None
    halves: list[list[list[float]]]
    adversarial: list[list[list[float]]]


@dataclass(frozen=True)
class Point:
    """One circuit to evaluate: the k best nodes, or everything but them."""

    size: int
    complement: bool


class GroupMeasurement:
    """Evaluates circuits of one aligned group, each once.

    Points that hold every node (with errors) or none (without) are F(M) and F(0) by definition and cost nothing; a test
    holds that evaluating them gives the same.

    Args:
        cell: ablation, error policy, and what is measured.
        basis: the basis.
        group: the aligned group.
        ranking: the group's ranking.
    """

    def __init__(self, cell: CellConfig, basis: Basis, group: GroupPair, ranking: Ranking) -> None:
        self._cell, self._basis, self._group, self._ranking = cell, basis, group, ranking
        self.full, self.empty = group.full, group.empty(basis, cell.ablation)
        self._metric: dict[Point, Tensor] = {}
        self._divergence: dict[Point, Tensor] = {}
        everything, nothing = Point(ranking.nodes, complement=False), Point(0, complement=False)
        if cell.error_policy != "ablate":
            self._metric[Point(0, complement=True)] = self.full
            if not cell.kl:  # the divergence at the ends is not known beforehand
                self._metric[everything] = self.full
        if cell.error_policy != "keep" or basis.exact:
            self._metric[Point(ranking.nodes, complement=True)] = self.empty
            if not cell.kl:
                self._metric[nothing] = self.empty

    def measure(self, sizes: Sequence[int], *, complements: bool) -> None:
        """Evaluate the circuits of some sizes, and their complements where asked.

        Args:
            sizes: nodes per circuit; a size above the group's nodes keeps all of them.
            complements: whether to evaluate everything but each circuit too.
        """
        sides = (False, True) if complements else (False,)
        wanted = {self._point(size, complement=complement) for size in sizes for complement in sides}
        # A circuit next to its complement: both move the same units (basisbench.circuits.fast.moved_units).
        points = sorted(wanted - self._metric.keys(), key=lambda point: (point.size, point.complement))
        if not points:
            return
        measured = evaluate(
            self._group,
            self._basis,
            self._cell.ablation,
            lambda chosen: self._ranking.mask(
                [point.size for point in points[chosen]], [point.complement for point in points[chosen]]
            ),
            len(points),
            divergence=self._cell.kl,
        )
        self._metric.update(zip(points, measured.metric, strict=True))
        if measured.divergence is not None:
            self._divergence.update(zip(points, measured.divergence, strict=True))

    def circuit(self, size: int) -> Tensor:
        """Return the metric of the circuit of a size that was measured, per pair."""
        return self._metric[self._point(size, complement=False)]

    def _point(self, size: int, *, complement: bool) -> Point:
        return Point(min(size, self._ranking.nodes), complement)

    def curve(self, sizes: Sequence[int], complements: Collection[int]) -> GroupCurve:
        """Return what was measured.

        Args:
            sizes: of the curve, all measured.
            complements: those of them whose complement was measured.
        """
        ranking, cell = self._ranking, self._cell
        errors = [ranking.error_count(size) for size in sizes]
        return GroupCurve(
            full=self.full.tolist(),
            empty=self.empty.tolist(),
            circuit=[self.circuit(size).tolist() for size in sizes],
            complement=[
                self._metric[self._point(size, complement=True)].tolist() if size in complements else None
                for size in sizes
            ],
            feature_nodes=[min(size, ranking.nodes) - error for size, error in zip(sizes, errors, strict=True)],
            error_nodes=errors,
            units=[ranking.distinct_units(size) for size in sizes],
            divergence=[self._divergence[self._point(size, complement=False)].tolist() for size in sizes]
            if cell.kl
            else None,
            halves=[self._halves(size) for size in cell.subset_sizes],
            adversarial=[self._adversarial(size) for size in cell.subset_sizes] if cell.subset_blocks else [],
        )

    def _halves(self, size: int) -> list[list[float]]:
        generator = self._group.evaluation.generator("random halves", size)
        mask = self._ranking.mask_with_random_halves(size, self._cell.subset_draws, generator)
        values = evaluate(self._group, self._basis, self._cell.ablation, mask.circuits, len(mask)).metric
        halves: list[list[float]] = values.tolist()
        return halves

    def _adversarial(self, size: int) -> list[list[float]]:
        cell = self._cell
        found = adversarial_halves(self._group, self._basis, cell.ablation, self._ranking, size, cell.subset_blocks)
        halves: list[list[float]] = found.tolist()
        return halves


def measure_curves(
    cell: CellConfig,
    basis: Basis,
    groups: Sequence[GroupPair],
    rankings: Sequence[Ranking],
    *,
    at: Collection[int] | None = None,
) -> tuple[tuple[int, ...], list[GroupCurve]]:
    """Measure the curve of a cell: on a grid of sizes, then where it first reaches a threshold.

    Complements are measured on the grid alone.

    Args:
        cell: the cell.
        basis: its basis.
        groups: the aligned groups.
        rankings: of each group.
        at: where given, measure 0, these sizes and all nodes, and nothing else.

    Returns:
        The sizes, and the curve of each group at these sizes.
    """
    grid, scored = grid_sizes(rankings), most_scored(rankings)
    sizes = list(grid) if at is None else sorted({0, grid[-1], *(size for size in at if 0 <= size <= grid[-1])})
    parts = [GroupMeasurement(cell, basis, group, ranking) for group, ranking in zip(groups, rankings, strict=True)]
    on_grid = [size for size in sizes if size in grid]
    for part in parts:
        part.measure(on_grid, complements=True)
        part.measure(sizes, complements=False)
    full, empty = (_rounded(ends) for ends in zip(*((part.full, part.empty) for part in parts), strict=True))

    def faithfulness(some: Sequence[int]) -> dict[int, float]:
        for part in parts:
            part.measure(some, complements=False)
        return {size: faithfulness_of(_rounded([part.circuit(size) for part in parts]), full, empty) for size in some}

    chosen = bisection.bisected(sizes, scored, faithfulness) if at is None else tuple(sizes)
    return chosen, [part.curve(chosen, on_grid) for part in parts]


def _rounded(parts: Sequence[Tensor]) -> list[float]:
    """Return the values of all groups as a record holds them, so that the same sizes follow from a record."""
    return [round_significant(value) for part in parts for value in part.tolist()]


def grid_sizes(rankings: Sequence[Ranking]) -> tuple[int, ...]:
    """Return the sizes that every curve of these rankings has (`basisbench.results.bisection`)."""
    return bisection.grid_sizes(max(ranking.nodes for ranking in rankings), most_scored(rankings))


def most_scored(rankings: Sequence[Ranking]) -> int:
    """Return the largest size at which no group's circuit holds a node that has no score."""
    return bisection.most_scored((ranking.nodes, ranking.scored_nodes) for ranking in rankings)


def mean_of(values: Sequence[float]) -> float:
    """Return the mean of the values."""
    return math.fsum(values) / len(values)
