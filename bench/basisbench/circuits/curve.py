"""The curve of one aligned group, and the curves of all groups pooled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from basisbench.circuits.evaluate import evaluate

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
        complement: metric of everything but the circuit at each size.
        feature_nodes: unit nodes in the circuit at each size.
        error_nodes: error nodes in the circuit at each size.
        units: distinct (layer, unit) in the circuit at each size.
        divergence: KL(full model || circuit) in nats per pair at each size; None unless the cell asks for it.
        halves: for each of the cell's subset sizes, metric with a random half of the complement ablated;
            rows are draws.
    """

    full: list[float]
    empty: list[float]
    circuit: list[list[float]]
    complement: list[list[float]]
    feature_nodes: list[int]
    error_nodes: list[int]
    units: list[int]
    divergence: list[list[float]] | None
    halves: list[list[list[float]]]


@dataclass(frozen=True)
class Point:
    """One circuit to evaluate: the k best nodes, or everything but them."""

    size: int
    complement: bool


def measure_group(
    cell: CellConfig, basis: Basis, group: GroupPair, ranking: Ranking, sizes: Sequence[int]
) -> GroupCurve:
    """Evaluate the circuit and its complement at every size.

    Points that hold every node (with errors) or none (without) are F(M) and F(0) by definition and cost
    nothing; a test holds that evaluating them gives the same.

    Args:
        cell: ablation and error policy.
        basis: the basis.
        group: the aligned group.
        ranking: the group's ranking.
        sizes: circuit sizes; those above the group's nodes keep all of them.
    """
    full, empty = group.full, group.empty(basis, cell.ablation)
    points = [Point(min(size, ranking.nodes), complement) for complement in (False, True) for size in sizes]
    known: dict[Point, Tensor] = {}
    if cell.error_policy != "ablate":
        known[Point(ranking.nodes, complement=False)] = known[Point(0, complement=True)] = full
    if cell.error_policy != "keep" or basis.exact:
        known[Point(0, complement=False)] = known[Point(ranking.nodes, complement=True)] = empty
    divergences: dict[Point, Tensor] = {}
    if cell.kl:
        # The divergence at the ends is not known beforehand, so every circuit is run.
        known = {point: value for point, value in known.items() if point.complement}
    # A circuit next to its complement: both move the same units (basisbench.circuits.fast.moved_units).
    wanted = sorted({point for point in points if point not in known}, key=lambda point: (point.size, point.complement))
    if wanted:
        measured = evaluate(
            group,
            basis,
            cell.ablation,
            lambda chosen: ranking.mask(
                [point.size for point in wanted[chosen]], [point.complement for point in wanted[chosen]]
            ),
            len(wanted),
            divergence=cell.kl,
        )
        known.update(zip(wanted, measured.metric, strict=True))
        if measured.divergence is not None:
            divergences.update(zip(wanted, measured.divergence, strict=True))
    rows = [known[point].tolist() for point in points]
    errors = [ranking.error_count(size) for size in sizes]
    return GroupCurve(
        full=full.tolist(),
        empty=empty.tolist(),
        circuit=rows[: len(sizes)],
        complement=rows[len(sizes) :],
        feature_nodes=[min(size, ranking.nodes) - error for size, error in zip(sizes, errors, strict=True)],
        error_nodes=errors,
        units=[ranking.distinct_units(size) for size in sizes],
        divergence=[divergences[point].tolist() for point in points[: len(sizes)]] if cell.kl else None,
        halves=[_halves(cell, basis, group, ranking, size) for size in cell.subset_sizes],
    )


def _halves(cell: CellConfig, basis: Basis, group: GroupPair, ranking: Ranking, size: int) -> list[list[float]]:
    generator = group.evaluation.generator("random halves", size)
    mask = ranking.mask_with_random_halves(size, cell.subset_draws, generator)
    halves: list[list[float]] = evaluate(group, basis, cell.ablation, mask.circuits, len(mask)).metric.tolist()
    return halves
