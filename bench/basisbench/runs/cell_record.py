"""The record of a cell, put together from what was measured in its aligned groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from pydantic import ValidationError

from basisbench.circuits.curve import GroupCurve, mean_of
from basisbench.circuits.ranking import Ranking, node_name
from basisbench.models.sites import SITES
from basisbench.protocols import UNTOLD, training_of
from basisbench.results.record import CellConfig, Identities, Record
from basisbench.results.record_fields import (
    Cost,
    Counts,
    Curve,
    Dropped,
    Endpoints,
    Group,
    Guard,
    SubsetCheck,
    SuiteTasks,
    TopNode,
    Training,
    Tuning,
    WeightsFile,
)
from basisbench.runs.environment import describe_environment

if TYPE_CHECKING:
    from basisbench.attribution.fit import Fit
    from basisbench.circuits.group import GroupPair
    from basisbench.models.model import Model
    from basisbench.protocols import Basis

_TOP_NODES = 20

_ALL_GROUPS = "all groups"


def make_record(
    cell: CellConfig,
    identities: Identities,
    model: Model,
    groups: Sequence[GroupPair],
    dropped: Dropped,
    basis: Basis,
    fit: Fit | None,
    rankings: Sequence[Ranking],
    curves: Sequence[GroupCurve],
    sizes: Sequence[int],
    cost: Cost,
    *,
    control: bool,
    suite: SuiteTasks | None,
) -> Record:
    """Put a cell's record together; what was measured comes group by group, in the order of the record's examples.

    Args:
        cell: what was asked.
        identities: what it was run on.
        model: the model.
        groups: the aligned groups.
        dropped: candidate pairs left out of both splits.
        basis: the basis.
        fit: its fit on the attribution split; None for an exact basis.
        rankings: of each group.
        curves: of each group.
        sizes: circuit sizes.
        cost: what it took.
        control: whether the basis declares itself a control.
        suite: the suite that the cell was run for.
    """
    weights = [group.evaluation.pair_count for group in groups]
    full = [value for part in curves for value in part.full]
    nodes_mean = sum(ranking.nodes * weight for ranking, weight in zip(rankings, weights, strict=True))
    return Record(
        schema_version=2,
        cell=cell,
        identities=identities,
        groups=tuple(
            Group(
                key=group.attribution.pairs.group,
                attribution_pairs=group.attribution.pair_count,
                evaluation_pairs=group.evaluation.pair_count,
                positions=group.evaluation.pairs.length,
                tokens=group.evaluation.pairs.token_texts,
                nodes=ranking.nodes,
                error_nodes=ranking.error_nodes,
                scored_nodes=ranking.scored_nodes,
            )
            for group, ranking in zip(groups, rankings, strict=True)
        ),
        counts=Counts(
            nodes_mean=nodes_mean / sum(weights),
            nodes_max=max(ranking.nodes for ranking in rankings),
            layers=len(basis.sites),
            units_per_layer=tuple(places.shape[1] for places in rankings[0].units),
            area_end=_area_end(cell, basis, groups),
        ),
        dropped=dropped,
        clusters=clusters_of_groups(groups),
        endpoints=Endpoints(
            full=tuple(full),
            empty=tuple(value for part in curves for value in part.empty),
            accuracy=sum(value > 0 for value in full) / len(full),
            empty_at="nodes" if cell.ablation == "zero" else "output",
            gate_empty=tuple(
                value for group in groups for value in group.empty_at_output(basis, cell.ablation).tolist()
            )
            if cell.ablation == "zero"
            else None,
            family_empty=mean_of(
                [value for group in groups for value in group.empty_everywhere(basis.family, cell.ablation).tolist()]
            )
            if cell.layers is not None
            else None,
        ),
        curve=pooled_curve(curves, weights, sizes, rankings),
        subset_checks=pooled_subset_checks(curves, cell.subset_sizes),
        guard=None
        if fit is None
        else Guard(fvu=fit.fvu, l0=fit.l0, slope=fit.slope, loss_recovered=fit.loss_recovered),
        error_share=pooled_error_share(rankings, weights),
        control=control,
        suite=suite,
        top_nodes=_top_nodes(cell, basis, groups, rankings),
        cost=cost,
        environment=describe_environment(model),
        sources={**model.sources, **getattr(basis, "sources", {})},
        training=None if (trained := training_of(basis)) == UNTOLD else Training(**asdict(trained)),
        tuning=_tuning(model),
        weights_file=None if model.file is None else WeightsFile(**asdict(model.file)),
    )


def _tuning(model: Model) -> Tuning | None:
    """Return what a checkpoint says of its tuning; None where it says nothing, or something else under that name."""
    try:
        return None if model.tuning is None else Tuning.model_validate(dict(model.tuning))
    except ValidationError:
        return None


def _top_nodes(
    cell: CellConfig, basis: Basis, groups: Sequence[GroupPair], rankings: Sequence[Ranking]
) -> tuple[TopNode, ...]:
    by_unit = cell.granularity == "unit"
    nodes = []
    for group, ranking in list(zip(groups, rankings, strict=True))[: 1 if by_unit else None]:
        pairs = group.attribution.pairs
        for index, position, unit, score in ranking.top(_TOP_NODES):
            name, coordinate = node_name(unit, cell.error_policy)
            nodes.append(
                TopNode(
                    group=_ALL_GROUPS if by_unit else pairs.group,
                    layer=basis.sites[index].layer,
                    position=None if by_unit else position,
                    role=None if by_unit else pairs.roles[position],
                    unit=name,
                    coordinate=coordinate,
                    score=score,
                )
            )
    return tuple(sorted(nodes, key=lambda node: -abs(node.score))[:_TOP_NODES])


def _area_end(cell: CellConfig, basis: Basis, groups: Sequence[GroupPair]) -> int:
    """Return the circuit size at which areas of the family end, whatever bases are present."""
    context = groups[0].attribution.few()
    layers = [site.layer for site in basis.sites]
    kinds = [kind for kind in context.model.kinds() if SITES[kind].family == basis.family]
    widths = [
        sum(context.activation(context.model.hook(kind, layer), "clean")[0, 0].numel() for layer in layers)
        for kind in kinds
    ]
    positions = max(group.evaluation.pairs.length for group in groups)
    return max(widths) * (1 if cell.granularity == "unit" else positions)


def clusters_of_groups(groups: Sequence[GroupPair]) -> dict[str, tuple[int, ...]]:
    """Number the levels of each factor in the order in which the examples have them."""
    factors = groups[0].evaluation.pairs.clusters
    levels = {
        factor: [level for group in groups for level in group.evaluation.pairs.clusters[factor]] for factor in factors
    }
    numbers = {factor: {level: at for at, level in enumerate(dict.fromkeys(named))} for factor, named in levels.items()}
    return {factor: tuple(numbers[factor][level] for level in named) for factor, named in levels.items()}


def pooled_curve(
    curves: Sequence[GroupCurve], weights: Sequence[int], sizes: Sequence[int], rankings: Sequence[Ranking]
) -> Curve:
    """Pool the groups: examples stand side by side, node counts are means weighted by evaluation pairs."""
    import torch

    def mean(name: str) -> tuple[float, ...]:
        columns = zip(*(getattr(curve, name) for curve in curves), strict=True)
        return tuple(
            sum(count * weight for count, weight in zip(column, weights, strict=True)) / sum(weights)
            for column in columns
        )

    def side_by_side(name: str) -> tuple[tuple[float, ...], ...]:
        rows = zip(*(getattr(curve, name) for curve in curves), strict=True)
        return tuple(tuple(value for part in row for value in part) for row in rows if None not in row)

    complements = iter(side_by_side("complement"))
    first = torch.stack([ranking.first_places for ranking in rankings]).amin(0)
    divergence = [mean_of(row) for row in side_by_side("divergence")] if curves[0].divergence is not None else None
    return Curve(
        sizes=tuple(sizes),
        feature_nodes=mean("feature_nodes"),
        error_nodes=mean("error_nodes"),
        units=mean("units"),
        all_units=tuple(int((first < size).sum()) for size in sizes),
        circuit=side_by_side("circuit"),
        complement=tuple(None if row is None else next(complements) for row in curves[0].complement),
        kl=None if divergence is None else tuple(divergence),
    )


def pooled_error_share(rankings: Sequence[Ranking], weights: Sequence[int]) -> float | None:
    """Return the share of attribution in errors over groups, weighted by evaluation pairs.

    Args:
        rankings: of each group; one in which no node has a score says nothing.
        weights: evaluation pairs of each group.

    Returns:
        None where no errors are ranked, and where no group says anything.
    """
    if not any(ranking.error_nodes for ranking in rankings):
        return None
    shares = [(ranking.error_share, weight) for ranking, weight in zip(rankings, weights, strict=True)]
    known = [(share, weight) for share, weight in shares if share is not None]
    return sum(share * weight for share, weight in known) / sum(weight for _, weight in known) if known else None


def pooled_subset_checks(curves: Sequence[GroupCurve], sizes: Sequence[int]) -> tuple[SubsetCheck, ...]:
    """Pool the halves of all groups: for each size and half, the mean metric over all examples."""

    def means(parts: Sequence[Sequence[Sequence[float]]]) -> tuple[float, ...]:
        return tuple(mean_of([value for part in half for value in part]) for half in zip(*parts, strict=True))

    checks = []
    for index, size in enumerate(sizes):
        draws = means([curve.halves[index] for curve in curves])
        searched = means([curve.adversarial[index] for curve in curves]) if curves[0].adversarial else None
        checks.append(SubsetCheck(size=size, draws=draws, adversarial=searched))
    return tuple(checks)
