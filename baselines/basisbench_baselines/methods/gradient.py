"""Gradient methods: a shared gradient field, projected on the basis, times the change of coordinates."""

from __future__ import annotations

from dataclasses import dataclass

from basisbench.attribution.projection import projected_scores
from basisbench.protocols import Basis, Method, ScoringContext
from basisbench.types import Scores


@dataclass(frozen=True)
class GradientMethod:
    """Score nodes by one of the harness's gradient rules (see `basisbench.attribution.gradients`).

    Attributes:
        name: name of the method and of the rule.
        summary: one line for listings.
    """

    name: str
    summary: str

    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        """Return gradient times difference, averaged over the pairs of the group."""
        return projected_scores(context, basis, self.name)


PROVIDES: tuple[Method, ...] = (
    GradientMethod("ixg", "input x gradient, attribution patching: gradient at the clean run (arXiv 2310.10348)"),
    GradientMethod("ig", "integrated gradients, 10 steps, one layer's site at a time (arXiv 2403.19647)"),
    GradientMethod("ig_inputs", "integrated gradients over the embeddings, 10 steps (arXiv 2403.17806)"),
    GradientMethod("relp", "relevance patching: gradient at the clean run under LRP rules (arXiv 2508.21258)"),
)
