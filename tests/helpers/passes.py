"""Circuits run through the harness in the ways that tests compare: as defined, fast, and in passes of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from basisbench.attribution.context import GroupContext
from basisbench.circuits.circuit import CircuitMask
from basisbench.circuits.curve import GroupCurve, GroupMeasurement
from basisbench.circuits.evaluate import evaluate
from basisbench.circuits.fast.fast_pass import FastPass
from basisbench.circuits.fast.shared_work import NO_PREFIX, SharedWork
from basisbench.circuits.group import GroupPair
from basisbench.circuits.plain import PlainPass, site_edits
from basisbench.circuits.ranking import Ranking, rank
from basisbench.models.hooks import Edit, Place
from basisbench.models.model import Model
from basisbench.protocols import Basis
from basisbench.results.record import CellConfig
from basisbench.types import Ablation, ErrorPolicy, Pairs, ScoreReference, Scores

Points = Sequence[tuple[int, bool]]
"""Sizes of circuits, each with whether its complement is meant."""


def masks_of(ranking: Ranking, points: Points) -> Callable[[slice], CircuitMask]:
    """Return what `evaluate` asks for its masks."""
    return lambda chosen: ranking.mask([size for size, _ in points[chosen]], [flip for _, flip in points[chosen]])


def measured(
    group: GroupPair, basis: Basis, ablation: Ablation, ranking: Ranking, points: Points, *, fast: bool = True
) -> Tensor:
    """Return the metric of circuits of a ranking."""
    return evaluate(group, basis, ablation, masks_of(ranking, points), len(points), fast=fast).metric


def twice(
    model: Model,
    pairs: Pairs,
    ablation: Ablation = "mean",
    score_reference: ScoreReference = "ablation",
    error_policy: ErrorPolicy = "coordinates",
) -> GroupPair:
    """Return the same pairs as both splits, at a cell."""
    parts = [GroupContext(model, pairs, 0), GroupContext(model, pairs, 0)]
    for part in parts:
        part.start(ablation, score_reference, error_policy)
    return GroupPair(*parts)


def metric_of_nodes(
    group: GroupPair,
    basis: Basis,
    nodes: Sequence[tuple[int, int, int]],
    ablation: Ablation = "mean",
    error_policy: ErrorPolicy = "coordinates",
) -> Tensor:
    """Return the metric of a circuit of nodes (layer, position, unit or -1 - coordinate), by the plain definition."""
    reference, length = group.reference(basis, ablation), group.attribution.pairs.length
    units = [torch.zeros(length, part.shape[-1]) for part in reference.units]
    errors = None if basis.exact else [torch.zeros(length, part.shape[-1]) for part in reference.errors or ()]
    for layer, position, unit in nodes:
        if unit >= 0:
            units[layer][position, unit] = 1
        else:
            assert errors is not None
            errors[layer][position, -1 - unit] = 1
    scores = Scores(tuple(units), None if errors is None else tuple(errors))
    masks = rank(scores, policy=error_policy).mask([len(nodes)], [False])
    return evaluate(group, basis, ablation, masks.circuits, 1, fast=False).metric[0]


def measure_group(
    cell: CellConfig, basis: Basis, group: GroupPair, ranking: Ranking, sizes: Sequence[int]
) -> GroupCurve:
    """Return the curve of one aligned group at some sizes, complements among them."""
    measurement = GroupMeasurement(cell, basis, group, ranking)
    measurement.measure(sizes, complements=True)
    return measurement.curve(sizes, sizes)


def circuits_and_complements(curve: GroupCurve) -> Tensor:
    """Return the rows of a curve whose every complement is measured: the circuit of each size, then the complements."""
    rows = curve.circuit + [row for row in curve.complement if row is not None]
    assert len(rows) == 2 * len(curve.circuit)
    return torch.tensor(rows, dtype=torch.float64)


def error_masks(circuits: int, rows: int, nodes: int, generator: torch.Generator) -> Tensor:
    """Return which error nodes circuits keep, ``circuit row node``: in each row all, none, or any share of them."""
    share = 1.5 * torch.rand(circuits, rows, 1, generator=generator) - 0.25
    return torch.rand(circuits, rows, nodes, generator=generator) < share


def edits_of(
    group: GroupPair, basis: Basis, ablation: Ablation, mask: CircuitMask, *, fast: bool = False
) -> Mapping[Place, Edit]:
    """Return the edits of one pass over all evaluation pairs, which shares no work with others."""
    model, batch = group.evaluation.model, group.evaluation.batch
    with torch.inference_mode(False):  # whoever asks: the group keeps what it computes for others
        reference = group.reference(basis, ablation)
    if fast:
        nothing = SharedWork(model, batch.clean, NO_PREFIX, ())
        return site_edits(model, basis, FastPass(model, basis, batch, reference, nothing).writers(mask))
    return site_edits(model, basis, PlainPass(model, basis, batch, reference).writers(mask))


@contextmanager
def tokens_to_a_pass(model: Model, most: int) -> Iterator[None]:
    """Let passes of circuits hold so many tokens, one prompt at least, as if memory had run out before."""
    before = dict(model.batching.bounds)
    model.batching.bounds["circuits"] = most
    try:
        yield
    finally:
        model.batching.bounds.clear()
        model.batching.bounds.update(before)
