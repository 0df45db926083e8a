"""Exact activation patching: one run per node, the ground truth for small models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from basisbench.protocols import Basis, Method, ScoringContext
from basisbench.types import WITHOUT_ERROR_NODES, Passes, Scores, Site, Style

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ActivationPatching:
    """Score a node by the metric with that node alone moved to its target, minus the clean metric.

    Nodes whose value is the same there in every pair have no effect and are not run.
    """

    name: str = "patching"
    summary: str = "exact activation patching, one run per node: for small models and oracles"
    order: ClassVar[int] = 5
    style: ClassVar[Style] = Style("black", "solid", "P")
    passes: ClassVar[Passes] = Passes(per_node=1)
    mean_over_pairs: ClassVar[bool] = True

    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        """Return the mean effect of each node over the pairs of the group."""
        import torch

        with torch.no_grad():
            scores = [self._site_scores(context, basis, site) for site in basis.sites]
        errors = None if basis.exact else tuple(error for _, error in scores)
        return Scores(tuple(units for units, _ in scores), errors)

    def _site_scores(self, context: ScoringContext, basis: Basis, site: Site) -> tuple[Tensor, Tensor]:
        clean, clean_error = context.coordinates(basis, site, "clean")
        other, other_error = context.target(basis, site)
        units = clean.new_zeros(clean.shape[1:])
        errors = clean.new_zeros(clean.shape[1], 0)
        nodes: list[tuple[int, int]] = [
            (position, unit) for position, unit in (clean != other).any(0).nonzero().tolist()
        ]
        if clean_error is not None and other_error is not None and context.error_policy not in WITHOUT_ERROR_NODES:
            differs = (context.error_nodes(site, other_error - clean_error) != 0).any(0)
            if context.error_policy == "node":
                differs = differs.any(-1, keepdim=True)
            errors = clean.new_zeros(differs.shape)
            nodes += [(position, -1 - index) for position, index in differs.nonzero().tolist()]
        if not nodes:
            return units, errors
        baseline = context.clean_metric()
        positions, indices = zip(*nodes, strict=True)
        effects = (context.patched_metric(basis, site, positions, indices) - baseline).mean(1)
        for (position, unit), effect in zip(nodes, effects, strict=True):
            if unit < 0:
                errors[position, -1 - unit] = effect
            else:
                units[position, unit] = effect
        return units, errors


PROVIDES: tuple[Method, ...] = (ActivationPatching(),)
