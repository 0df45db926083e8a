"""Exact activation patching: one run per node, the ground truth for small models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from basisbench.protocols import Basis, Method, ScoringContext
from basisbench.types import Passes, Scores, Site, Style

if TYPE_CHECKING:
    from torch import Tensor

_ERROR = -1


@dataclass(frozen=True)
class ActivationPatching:
    """Score a node by the metric with that node alone at its counterfactual value, minus the clean metric.

    Nodes whose value is the same in both runs of every pair have no effect and are not run.
    """

    name: str = "patching"
    summary: str = "exact activation patching, one run per node: for small models and oracles"
    order: ClassVar[int] = 5
    style: ClassVar[Style] = Style("black", "solid", "P")
    passes: ClassVar[Passes] = Passes(per_node=1)

    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        """Return the mean effect of each node over the pairs of the group."""
        import torch

        with torch.no_grad():
            scores = [self._site_scores(context, basis, site) for site in basis.sites]
        errors = None if basis.exact else tuple(error for _, error in scores)
        return Scores(tuple(units for units, _ in scores), errors)

    def _site_scores(self, context: ScoringContext, basis: Basis, site: Site) -> tuple[Tensor, Tensor]:
        clean, clean_error = context.coordinates(basis, site, "clean")
        other, other_error = context.coordinates(basis, site, "counterfactual")
        units = clean.new_zeros(clean.shape[1:])
        errors = clean.new_zeros(clean.shape[1])
        nodes: list[tuple[int, int]] = [
            (position, unit) for position, unit in (clean != other).any(0).nonzero().tolist()
        ]
        if clean_error is not None and other_error is not None:
            nodes += [
                (position, _ERROR) for (position,) in (clean_error != other_error).any(2).any(0).nonzero().tolist()
            ]
        if not nodes:
            return units, errors
        baseline = context.clean_metric()
        positions, indices = zip(*nodes, strict=True)
        effects = (context.patched_metric(basis, site, positions, indices) - baseline).mean(1)
        for (position, unit), effect in zip(nodes, effects, strict=True):
            if unit == _ERROR:
                errors[position] = effect
            else:
                units[position, unit] = effect
        return units, errors


PROVIDES: tuple[Method, ...] = (ActivationPatching(),)
