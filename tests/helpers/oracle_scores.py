"""Slow scores: the metric's gradient at one place, or through an explicitly spliced basis, pair by pair."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from basisbench.types import Pairs
from helpers.oracle_evaluator import LAYERS, Naive, NaiveBasis, Node, Where, all_nodes


def place_gradient(slow: Naive, pairs: Pairs, index: int, place: Where, value: Tensor | None = None) -> Tensor:
    """Return the metric's gradient at one place in the clean run of one pair, ``pos d``.

    Args:
        slow: the model.
        pairs: the group.
        index: the pair.
        place: where.
        value: what to put at the place instead of what arrives there, ``pos d``.
    """
    leaves: list[Tensor] = []

    def edit(activation: Tensor) -> Tensor:
        start = activation if value is None else value.unsqueeze(0)
        leaves.append(start.detach().clone().requires_grad_())
        return leaves[0]

    with torch.enable_grad():
        # Parameters have no gradient, so that the graph starts at the leaf.
        metric = slow.metric(pairs, index, slow.logits(pairs.clean[index], {place: edit})).sum()
        (gradient,) = torch.autograd.grad(metric, leaves)
    return gradient[0]


@dataclass(frozen=True)
class NaiveScores:
    """Mean scores over the pairs of a group: per layer, ``pos unit`` and ``pos``."""

    units: list[Tensor]
    errors: list[Tensor]

    def as_mapping(self, twin: NaiveBasis, *, errors: bool) -> dict[Node, float]:
        """Return the score of each node."""
        found: dict[Node, float] = {}
        for layer, position, unit in all_nodes(twin, len(self.units[0]), errors=errors):
            row = self.errors[layer] if unit == "error" else self.units[layer][position]
            found[layer, position, unit] = float(row[position if unit == "error" else int(unit)])
        return found


def spliced_scores(slow: Naive, twin: NaiveBasis, pairs: Pairs) -> NaiveScores:
    """Score by gradient times difference, the gradient taken through the basis spliced into the model.

    At one layer at a time the activation y becomes decode(f) + e with f and e leaves that hold the clean
    coordinates and the clean error: its value does not change, and the leaves' gradients are the nodes' own.
    """
    units = [torch.zeros(pairs.length, size, dtype=torch.float64) for size in twin.units]
    errors = [torch.zeros(pairs.length, dtype=torch.float64) for _ in twin.units]
    for index, layer in itertools.product(range(len(pairs)), range(LAYERS)):
        clean = slow.values(twin, pairs.clean[index])
        other = slow.values(twin, pairs.counterfactual[index])
        coordinates = clean.units[layer].clone().requires_grad_()
        error = clean.errors[layer].clone().requires_grad_()
        with torch.enable_grad():
            spliced = twin.decode(layer, coordinates) + error
            edits = {slow.where(twin.write, layer): lambda _, value=spliced: value.unsqueeze(0)}
            metric = slow.metric(pairs, index, slow.logits(pairs.clean[index], edits)).sum()
            by_unit, by_error = torch.autograd.grad(metric, [coordinates, error])
        units[layer] += by_unit * (other.units[layer] - clean.units[layer]) / len(pairs)
        errors[layer] += (by_error * (other.errors[layer] - clean.errors[layer])).sum(-1) / len(pairs)
    return NaiveScores(units, errors)
