"""Gradient methods: a shared gradient field, projected on the basis, times the change of coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from basisbench.attribution.projection import projected_scores
from basisbench.protocols import ORDER, Basis, Method, ScoringContext
from basisbench.types import Passes, Scores, Style


@dataclass(frozen=True)
class GradientMethod:
    """Score nodes by one of the harness's gradient rules (see `basisbench.attribution.gradients`).

    Attributes:
        name: name of the method and of the rule.
        summary: one line for listings.
        order: place in tables.
        style: how pictures draw it.
        passes: what its gradient field takes.
        mean_over_pairs: scores are means over pairs.
    """

    name: str
    summary: str
    order: float = ORDER
    style: Style | None = None
    passes: Passes | None = None
    mean_over_pairs: ClassVar[bool] = True

    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        """Return gradient times difference, averaged over the pairs of the group."""
        return projected_scores(context, basis, self.name)


PROVIDES: tuple[Method, ...] = (
    GradientMethod(
        "ixg",
        "input x gradient, attribution patching: gradient at the clean run (arXiv 2310.10348)",
        order=4,
        style=Style("green", "dash-dot", "D"),
        passes=Passes(per_prompt=3, shared="task"),
    ),
    GradientMethod(
        "ig",
        "integrated gradients, 10 steps, one layer's site at a time (arXiv 2403.19647)",
        order=2,
        style=Style("vermillion", "dashed", "s"),
        passes=Passes(per_prompt=2, per_layer=30, shared="family"),
    ),
    GradientMethod(
        "ig_inputs",
        "integrated gradients over the embeddings, 10 steps (arXiv 2403.17806)",
        order=3,
        style=Style("orange", "long-dash", "v"),
        passes=Passes(per_prompt=30, shared="task"),
    ),
    GradientMethod(
        "relp",
        "relevance patching: gradient at the clean run under LRP rules (arXiv 2508.21258)",
        order=1,
        style=Style("blue", "solid", "o"),
        passes=Passes(per_prompt=3, shared="task"),
    ),
)
